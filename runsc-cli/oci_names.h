// Names of the OCI runtime specification: capabilities and resource limits.
#pragma once

#include <optional>
#include <string_view>

namespace skep::cli {

// "CAP_KILL" -> 5.
std::optional<int> CapabilityByName(std::string_view name);
// "RLIMIT_NOFILE" -> 7.
std::optional<int> RlimitByName(std::string_view name);

}  // namespace skep::cli
