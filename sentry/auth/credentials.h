// Who a task is (Linux: struct cred): ids, groups, capabilities. A value; tasks replace theirs
// whole, files keep the opener's.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <vector>

#include "base/ref.h"
#include "sentry/auth/user_namespace.h"

namespace skep::auth {

using CapabilitySet = uint64_t;  // bit n: CAP_n of <linux/capability.h>
inline constexpr CapabilitySet kAllCapabilities = (uint64_t{1} << 41) - 1;  // CAP_LAST_CAP is 40

struct Credentials {
  uint32_t uid = 0, euid = 0, suid = 0, fsuid = 0;
  uint32_t gid = 0, egid = 0, sgid = 0, fsgid = 0;
  std::vector<uint32_t> groups;  // sorted
  CapabilitySet permitted = 0, effective = 0, inheritable = 0, bounding = kAllCapabilities,
                ambient = 0;
  uint32_t securebits = 0;
  bool keep_caps = false;     // PR_SET_KEEPCAPS
  bool no_new_privs = false;  // PR_SET_NO_NEW_PRIVS

  // In which the capabilities hold; null: there are no namespaces (boot, unit tests of files).
  Ref<UserNamespace> user_namespace;

  // In its own user namespace.
  bool Has(int capability) const { return (effective >> capability & 1) != 0; }
  // Over what belongs to another one (Linux: cap_capable).
  bool HasIn(const UserNamespace& space, int capability) const;
  bool InGroup(uint32_t group) const;  // fsgid or a supplementary group
};

// Shared and immutable once published.
using CredentialsRef = std::shared_ptr<const Credentials>;

// Linux: cap_emulate_setxuid: what setuid and friends do to capabilities.
void AfterUidChange(const Credentials& old, Credentials& changed);
// fsuid alone changed (setfsuid): the file capabilities follow.
void AfterFsuidChange(const Credentials& old, Credentials& changed);

}  // namespace skep::auth
