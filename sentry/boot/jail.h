// The sentry's own jail (docs/threat-model.md): an empty root, no capabilities, an allow-list of
// host system calls.
#pragma once

#include <string>

#include "base/result.h"
#include "platform/platform.h"

namespace skep::boot {

// Before any thread: an empty read-only root (in the mount namespace the CLI has made), no
// capabilities, no_new_privs, not dumpable. Descriptors that are open stay open.
HostResult<void> EnterEmptyRoot();
HostResult<void> DropPrivileges();
// Last: seccomp on all threads. Every row has its reason. `errno_instead`: refused calls answer
// EPERM instead of killing the sandbox (the jail's self-test).
HostResult<void> InstallFilter(platform::EngineKind engine, bool errno_instead);

// From inside, with `errno_instead`: tries ways out, each of which the filter must refuse.
struct JailTrial {
  int attempts = 0;
  std::string breaches;  // what was not refused; empty if the jail holds
};
JailTrial JailSelfTest();

}  // namespace skep::boot
