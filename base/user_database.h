// Users and groups by name: the texts of /etc/passwd and /etc/group, which may be a guest's.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/result.h"

namespace skep {

struct User {
  uint32_t uid = 0, gid = 0;
  std::vector<uint32_t> groups;
};
// The contents of /etc/passwd and /etc/group that names may be looked up in.
struct UserDatabase {
  std::string passwd, group;
};
// "UID[:GID]", or names. Without a group it is the user's own, and his supplementary ones; a number
// that the database does not know gets the group of the same number. `database`: null: names are
// refused. The error names the option --user.
HostResult<User> ParseUser(const std::string& text, const UserDatabase* database);

}  // namespace skep
