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

bool Credentials::HasIn(const UserNamespace& space, int capability) const {
  if (!user_namespace) return Has(capability);
  for (const UserNamespace* s = &space; s != nullptr; s = s->parent()) {
    if (s == user_namespace.get()) return Has(capability);
    // Not below the own one.
    if (s->level() <= user_namespace->level()) return false;
    // Whoever made a namespace has all capabilities in it.
    if (s->parent() == user_namespace.get() && s->owner() == euid) return true;
  }
  return false;
}

bool Credentials::InGroup(uint32_t group) const {
  return group == fsgid || std::binary_search(groups.begin(), groups.end(), group);
}

void AfterUidChange(const Credentials& old, Credentials& changed) {
  if ((changed.securebits & SECBIT_NO_SETUID_FIXUP) != 0) return;
  const bool had_root = old.uid == 0 || old.euid == 0 || old.suid == 0;
  const bool has_root = changed.uid == 0 || changed.euid == 0 || changed.suid == 0;
  if (had_root && !has_root) {
    if (!old.keep_caps) {
      changed.permitted = 0;
      changed.effective = 0;
    }
    changed.ambient = 0;
  }
  if (old.euid == 0 && changed.euid != 0) changed.effective = 0;
  if (old.euid != 0 && changed.euid == 0) changed.effective = changed.permitted;
}

void AfterFsuidChange(const Credentials& old, Credentials& changed) {
  if ((changed.securebits & SECBIT_NO_SETUID_FIXUP) != 0) return;
  if (old.fsuid == 0 && changed.fsuid != 0) changed.effective &= ~kFileSystemCapabilities;
  if (old.fsuid != 0 && changed.fsuid == 0) {
    changed.effective |= changed.permitted & kFileSystemCapabilities;
  }
}

}  // namespace skep::auth
