// Values of the command line: sizes, durations, volumes.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "base/user_database.h"
#include "runtime/text.h"

namespace skep::cli {

using runtime::Split;

// Decimal digits only; nothing else.
std::optional<uint64_t> ParseNumber(std::string_view text);

// "4096", "64k", "512M", "2GiB", "1gb": bytes, in powers of 1024.
HostResult<uint64_t> ParseSize(const std::string& text);

// "500ms", "10s", "5m", "1h": ns. A bare number counts seconds. The error names the option.
HostResult<uint64_t> ParseDuration(std::string_view option, const std::string& text);

struct Volume {
  std::string host, guest;
  bool read_only = false;
};
// "HOST:GUEST[:ro|rw]"; GUEST is absolute and not "/".
HostResult<Volume> ParseVolume(const std::string& text);

// "/a//b/./c/" -> "/a/b/c". nullopt: relative, or with a ".." component.
std::optional<std::string> CleanAbsolutePath(std::string_view path);

}  // namespace skep::cli
