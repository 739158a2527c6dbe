// The ptrace engine as the rest of platform/ sees it.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "platform/engine_group.h"
#include "platform/platform.h"

namespace skep::platform::ptrace {

HostResult<std::unique_ptr<EngineGroup>> MakeGroup(const EngineOptions& options);
std::optional<std::string> WhyUnavailable();
std::vector<FilterRow> HostSyscalls();

}  // namespace skep::platform::ptrace
