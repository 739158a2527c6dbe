// Who the caller is, and the namespace that an ordinary user's sandbox lives in.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/result.h"

namespace skep::runtime {

struct Caller {
  uint32_t uid = 0, gid = 0;
  std::vector<uint32_t> groups;
  // Root with CAP_SYS_ADMIN over this mount namespace: no user namespace is needed.
  bool privileged = false;
};
Caller WhoCalls();

// Moves this (single-threaded) process into a user and a mount namespace of its own, in which its
// user and group are `uid` and `gid`. Nothing else of it changes; files of other users show as
// nobody's.
HostResult<void> EnterUserNamespace(const Caller& caller, uint32_t uid, uint32_t gid);

}  // namespace skep::runtime
