#include "gofer/jail/jail.h"

#include <fcntl.h>
#include <linux/capability.h>
#include <linux/mount.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <cstring>

#include "base/host_call.h"

namespace skep::gofer {
namespace {

constexpr uint64_t kDetach = 2;  // MNT_DETACH of <sys/mount.h>, which clashes with linux/mount.h

Result<OwnedFd> CloneTree(int dir, const char* path, bool recursive) {
  const unsigned flags = OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC |
                         (recursive ? static_cast<unsigned>(AT_RECURSIVE) : 0U) |
                         (*path == '\0' ? static_cast<unsigned>(AT_EMPTY_PATH) : 0U);
  return host::CallFd(SYS_open_tree, dir, path, flags);
}

Result<void> Mount(const char* at, const char* type, uint64_t flags, const char* data) {
  TRY(host::Call(SYS_mount, "none", at, type, flags, data));
  return {};
}

}  // namespace

Result<OwnedFd> IsolateTree(int root, bool read_only) {
  OwnedFd tree = TRY(CloneTree(root, "", true));
  mount_attr attributes{};
  attributes.attr_set = MOUNT_ATTR_NODEV | MOUNT_ATTR_NOSUID;
  if (read_only) attributes.attr_set |= MOUNT_ATTR_RDONLY;
  TRY(host::Call(SYS_mount_setattr, tree.get(), "", AT_EMPTY_PATH | AT_RECURSIVE, &attributes,
                 sizeof attributes));
  return tree;
}

Result<OwnedFd> OpenProcSelfFd() {
  Result<OwnedFd> detached = CloneTree(AT_FDCWD, "/proc/self/fd", false);
  if (detached) return detached;
  return host::Open("/proc/self/fd", O_PATH | O_DIRECTORY);
}

Result<void> EmptyRoot() {
  if (!Mount("/", nullptr, MS_REC | MS_PRIVATE, nullptr) ||
      // /proc is the one directory that is there: OpenProcSelfFd needed it.
      !Mount("/proc", "tmpfs", MS_NOSUID | MS_NODEV | MS_NOEXEC, "size=4k,nr_inodes=2,mode=0555")) {
    // Without a mount namespace the root is /proc/self/fdinfo: it shows our own descriptors only.
    TRY(host::Call(SYS_chroot, "/proc/self/fdinfo"));
    TRY(host::Call(SYS_chdir, "/"));
    return {};
  }
  TRY(host::Call(SYS_chdir, "/proc"));
  TRY(host::Call(SYS_pivot_root, ".", "."));
  TRY(host::Call(SYS_umount2, ".", kDetach));
  TRY(host::Call(SYS_chdir, "/"));
  constexpr uint64_t kReadOnly = MS_REMOUNT | MS_BIND | MS_RDONLY;
  return Mount("/", nullptr, kReadOnly | MS_NOSUID | MS_NODEV | MS_NOEXEC, nullptr);
}

Result<void> DropCapabilities() {
  // Owners and modes of files are the guest's matter, which the sentry has judged; making device
  // nodes (CAP_MKNOD) and giving files capabilities (CAP_SETFCAP) is nobody's.
  constexpr unsigned kKept[] = {CAP_CHOWN, CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH, CAP_FOWNER,
                                CAP_FSETID};
  uint64_t kept = 0;
  for (unsigned capability : kKept) kept |= uint64_t{1} << capability;
  TRY(host::Call(SYS_prctl, PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0));
  __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
  __user_cap_data_struct data[2] = {};
  TRY(host::Call(SYS_capget, &header, data));
  if ((data[0].effective & (1U << CAP_SETPCAP)) != 0) {
    for (uint64_t i = 0; i < 64; ++i) {
      if ((kept >> i & 1) != 0) continue;
      if (!host::Call(SYS_prctl, PR_CAPBSET_DROP, i)) break;  // past the last one
    }
  }
  for (unsigned i = 0; i < 2; ++i) {
    data[i].permitted &= static_cast<uint32_t>(kept >> (32 * i));
    data[i].effective = data[i].permitted;
    data[i].inheritable = 0;
  }
  TRY(host::Call(SYS_capset, &header, data));
  return {};
}

}  // namespace skep::gofer
