// The sentry's own jail (docs/threat-model.md): an empty root, no capabilities, an allow-list of
// host system calls.
#pragma once

#include <string>
#include <vector>

#include "base/result.h"
#include "jail/filter.h"
#include "platform/platform.h"

namespace skep::boot {

// Before any thread: an empty read-only root (in the mount namespace the CLI has made), no
// capabilities, no_new_privs, not dumpable. Descriptors that are open stay open.
HostResult<void> EnterEmptyRoot();
HostResult<void> DropPrivileges();
// What the sentry may ask of the host once it has booted, with this engine.
std::vector<FilterRow> FilterRows(platform::EngineKind engine);

// From inside, with Refusal::kErrno: tries ways out, each of which the filter must refuse.
struct JailTrial {
  int attempts = 0;
  std::string breaches;  // what was not refused; empty if the jail holds
};
JailTrial JailSelfTest();

}  // namespace skep::boot
