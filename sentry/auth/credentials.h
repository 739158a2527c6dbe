// Who a task is (Linux: struct cred): ids, groups, capabilities. A value; tasks replace theirs
// whole, files keep the opener's.
//
// All ids are the kernel's numbers (auth/user_namespace.h). A capability is asked for *somewhere*:
// there is no question "has it CAP_X?" without the namespace that it is to hold in.
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

  // In which the capabilities hold; null: the kernel's first (boot, unit tests of files).
  Ref<UserNamespace> user_namespace;

  bool InFirstNamespace() const { return !user_namespace || user_namespace->parent() == nullptr; }

  // In the kernel's first user namespace, for what belongs to all (Linux: capable).
  bool HasInFirst(int capability) const { return Effective(capability) && InFirstNamespace(); }
  // In the task's own (Linux: ns_capable(current_user_ns())).
  bool HasInOwn(int capability) const { return Effective(capability); }
  // In the one that something belongs to; null: the first (Linux: ns_capable, cap_capable).
  bool HasIn(const UserNamespace* space, int capability) const;
  // Over an inode with this owner and group, which must have names in the task's own namespace
  // (Linux: capable_wrt_inode_uidgid).
  bool HasOver(uint32_t user, uint32_t group, int capability) const {
    return Effective(capability) && (InFirstNamespace() || (MapsUser(user) && MapsGroup(group)));
  }

  // The task's namespace has a name for the kernel's number.
  bool MapsUser(uint32_t user) const {
    return InFirstNamespace() || user_namespace->users().FromKernel(user) != kNoId;
  }
  bool MapsGroup(uint32_t group) const {
    return InFirstNamespace() || user_namespace->groups().FromKernel(group) != kNoId;
  }
  // What the task calls the kernel's number (Linux: from_kuid_munged).
  uint32_t ShownUser(uint32_t user) const;
  uint32_t ShownGroup(uint32_t group) const;
  // The kernel's number for what the task calls so (Linux: make_kuid); kNoId: there is none.
  uint32_t KernelUser(uint32_t id) const {
    return InFirstNamespace() ? id : user_namespace->users().ToKernel(id);
  }
  uint32_t KernelGroup(uint32_t id) const {
    return InFirstNamespace() ? id : user_namespace->groups().ToKernel(id);
  }

  bool InGroup(uint32_t group) const;  // fsgid or a supplementary group

 private:
  bool Effective(int capability) const { return (effective >> capability & 1) != 0; }
};

// Shared and immutable once published.
using CredentialsRef = std::shared_ptr<const Credentials>;

// Linux: cap_emulate_setxuid: what setuid and friends do to capabilities.
void AfterUidChange(const Credentials& old, Credentials& changed);
// fsuid alone changed (setfsuid): the file capabilities follow.
void AfterFsuidChange(const Credentials& old, Credentials& changed);

}  // namespace skep::auth
