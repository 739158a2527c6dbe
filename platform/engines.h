// The table of engines: all that is to be known of one from outside of platform/.
#pragma once

#include <array>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/owned_fd.h"
#include "platform/engine_group.h"
#include "platform/platform.h"

namespace skep::platform {

struct EngineInfo {
  EngineKind kind;
  const char* name;  // of --platform
  const char* what;  // for people
  // A device that the command line opens for it (EngineOptions::device_fd): the sentry has no
  // files.
  const char* device;
  // Whether it works on this host: nullopt, or why not (for people). Quick: it may still fail to
  // start.
  std::optional<std::string> (*WhyUnavailable)();
  // As MakeEngineGroup. nullptr: not part of this build.
  HostResult<std::unique_ptr<EngineGroup>> (*MakeGroup)(const EngineOptions& options);
  // What its engines call after start-up.
  std::vector<FilterRow> (*HostSyscalls)();
};

// In the order in which `auto` prefers them.
extern const std::array<EngineInfo, 3> kEngines;

const EngineInfo& InfoOf(EngineKind kind);
// nullptr: there is none of this name.
const EngineInfo* FindEngine(std::string_view name);
// For the command line, before there is a sentry: the device of the first engine of this build that
// `name` ("auto": any) may choose and that needs one; empty if none does, or it cannot be opened.
OwnedFd OpenDeviceFor(std::string_view name);

}  // namespace skep::platform
