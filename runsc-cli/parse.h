// Values of the command line: sizes, volumes, users.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
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

struct User {
  uint32_t uid = 0, gid = 0;
  std::vector<uint32_t> groups;
};
// The contents of /etc/passwd and /etc/group that names may be looked up in; null: names are
// refused.
struct UserDatabase {
  std::string passwd, group;
};
// "UID[:GID]", or names. Without a group it is the user's own, and his supplementary ones; a number
// that the database does not know gets the group of the same number.
HostResult<User> ParseUser(const std::string& text, const UserDatabase* database);

// "/a//b/./c/" -> "/a/b/c". nullopt: relative, or with a ".." component.
std::optional<std::string> CleanAbsolutePath(std::string_view path);

}  // namespace skep::cli
