#include "sentry/auth/credentials.h"

#include <linux/capability.h>
#include <linux/securebits.h>
#include <algorithm>

namespace skep::auth {
namespace {

constexpr CapabilitySet Bit(int capability) { return uint64_t{1} << capability; }

// Linux: CAP_FS_SET, what follows fsuid.
constexpr CapabilitySet kFileSystemCapabilities =
    Bit(CAP_CHOWN) | Bit(CAP_MKNOD) | Bit(CAP_DAC_OVERRIDE) | Bit(CAP_DAC_READ_SEARCH) |
    Bit(CAP_FOWNER) | Bit(CAP_FSETID) | Bit(CAP_LINUX_IMMUTABLE) | Bit(CAP_MAC_OVERRIDE);

}  // namespace

uint32_t IdMap::ToKernel(uint32_t id) const {
  for (const Extent& extent : extents_) {
    if (id - extent.first < extent.count) return extent.kernel_first + (id - extent.first);
  }
  return kNoId;
}

uint32_t IdMap::FromKernel(uint32_t id) const {
  for (const Extent& extent : extents_) {
    if (id - extent.kernel_first < extent.count) return extent.first + (id - extent.kernel_first);
  }
  return kNoId;
}

bool Credentials::HasIn(const UserNamespace* space, int capability) const {
  if (space == nullptr) return HasInFirst(capability);
  if (!user_namespace) return Effective(capability);
  for (const UserNamespace* s = space; s != nullptr; s = s->parent()) {
    if (s == user_namespace.get()) return Effective(capability);
    // Not below the own one.
    if (s->level() <= user_namespace->level()) return false;
    // The user who made a namespace has all capabilities in it.
    if (s->parent() == user_namespace.get() && s->owner() == euid) return true;
  }
  return false;
}

uint32_t Credentials::ShownUser(uint32_t user) const {
  const uint32_t id = InFirstNamespace() ? user : user_namespace->users().FromKernel(user);
  return id == kNoId ? kOverflowId : id;
}

uint32_t Credentials::ShownGroup(uint32_t group) const {
  const uint32_t id = InFirstNamespace() ? group : user_namespace->groups().FromKernel(group);
  return id == kNoId ? kOverflowId : id;
}

bool Credentials::InGroup(uint32_t group) const {
  return group == fsgid || std::binary_search(groups.begin(), groups.end(), group);
}

void AfterUidChange(const Credentials& old, Credentials& changed) {
  if ((changed.securebits & SECBIT_NO_SETUID_FIXUP) != 0) return;
  const uint32_t root = old.KernelUser(0);
  const bool had_root = old.uid == root || old.euid == root || old.suid == root;
  const bool has_root = changed.uid == root || changed.euid == root || changed.suid == root;
  if (had_root && !has_root) {
    if (!old.keep_caps) {
      changed.permitted = 0;
      changed.effective = 0;
    }
    changed.ambient = 0;
  }
  if (old.euid == root && changed.euid != root) changed.effective = 0;
  if (old.euid != root && changed.euid == root) changed.effective = changed.permitted;
}

void AfterFsuidChange(const Credentials& old, Credentials& changed) {
  if ((changed.securebits & SECBIT_NO_SETUID_FIXUP) != 0) return;
  const uint32_t root = old.KernelUser(0);
  if (old.fsuid == root && changed.fsuid != root) changed.effective &= ~kFileSystemCapabilities;
  if (old.fsuid != root && changed.fsuid == root) {
    changed.effective |= changed.permitted & kFileSystemCapabilities;
  }
}

}  // namespace skep::auth
