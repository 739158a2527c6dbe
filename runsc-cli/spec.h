// The config.json that `skep spec` writes.
#pragma once

#include <cstdint>
#include <string>

namespace skep::cli {

enum class SpecKind : uint8_t { kRoot, kRootless };
std::string DefaultSpec(SpecKind kind);

}  // namespace skep::cli
