#include "gofer/server/host_file.h"

#include <fcntl.h>
#include <linux/magic.h>
#include <linux/openat2.h>
#include <linux/stat.h>
#include <sys/syscall.h>
#include <sys/vfs.h>
#include <algorithm>
#include <charconv>
#include <iterator>

#include "base/host_call.h"
#include "base/limits.h"
#include "gofer/server/unmapped_ids.h"

namespace skep::gofer {
namespace {

Result<FileInfo> Statx(int fd, const char* name, int flags) {
  struct statx s;
  constexpr uint64_t kMask = STATX_BASIC_STATS | STATX_BTIME | STATX_MNT_ID;
  TRY(host::Call(SYS_statx, fd, name, flags | AT_NO_AUTOMOUNT, kMask, &s));
  FileInfo info;
  const uint64_t dev = (uint64_t{s.stx_dev_major} << 32) | s.stx_dev_minor;
  info.identity = {dev, s.stx_ino, (s.stx_mask & STATX_MNT_ID) != 0 ? s.stx_mnt_id : 0};
  Attributes& a = info.attributes;
  a.ino = s.stx_ino;
  a.size = s.stx_size;
  a.blocks = s.stx_blocks;
  a.atime_sec = s.stx_atime.tv_sec;
  a.mtime_sec = s.stx_mtime.tv_sec;
  a.ctime_sec = s.stx_ctime.tv_sec;
  a.atime_nsec = s.stx_atime.tv_nsec;
  a.mtime_nsec = s.stx_mtime.tv_nsec;
  a.ctime_nsec = s.stx_ctime.tv_nsec;
  if ((s.stx_mask & STATX_BTIME) != 0) {
    a.btime_sec = s.stx_btime.tv_sec;
    a.btime_nsec = s.stx_btime.tv_nsec;
  }
  a.mode = s.stx_mode;
  a.nlink = s.stx_nlink;
  a.uid = s.stx_uid;
  a.gid = s.stx_gid;
  a.blksize = s.stx_blksize;
  a.dev_major = s.stx_dev_major;
  a.dev_minor = s.stx_dev_minor;
  a.rdev_major = s.stx_rdev_major;
  a.rdev_minor = s.stx_rdev_minor;
  ReplaceUnmappedIds(fd, name, flags, a);
  return info;
}

Result<OwnedFd> OpenAt2(int dir, const char* name, int flags, uint32_t mode, uint64_t resolve) {
  const open_how how = {static_cast<uint64_t>(flags) | O_CLOEXEC, mode, resolve};
  for (;;) {
    Result<OwnedFd> fd = host::CallFd(SYS_openat2, dir, name, &how, sizeof how);
    if (fd || fd.error() != Errno(EINTR)) return fd;
  }
}

constexpr uint64_t kLocal[] = {
    EXT4_SUPER_MAGIC,      XFS_SUPER_MAGIC,
    BTRFS_SUPER_MAGIC,     F2FS_SUPER_MAGIC,
    TMPFS_MAGIC,           RAMFS_MAGIC,
    OVERLAYFS_SUPER_MAGIC, SQUASHFS_MAGIC,
    EROFS_SUPER_MAGIC_V1,  ISOFS_SUPER_MAGIC,
    MSDOS_SUPER_MAGIC,     0x2011bab0 /* exfat */,
    0x2fc12fc1 /* zfs */,  0xca451a4e /* bcachefs */,
};

// File systems that show the host itself: from linux/magic.h, and those of the kernel that have no
// public constant.
constexpr uint64_t kHostViews[] = {
    PROC_SUPER_MAGIC,
    SYSFS_MAGIC,
    DEVPTS_SUPER_MAGIC,
    CGROUP_SUPER_MAGIC,
    CGROUP2_SUPER_MAGIC,
    DEBUGFS_MAGIC,
    TRACEFS_MAGIC,
    SECURITYFS_MAGIC,
    BPF_FS_MAGIC,
    PSTOREFS_MAGIC,
    NSFS_MAGIC,
    SELINUX_MAGIC,
    BINFMTFS_MAGIC,
    EFIVARFS_MAGIC,
    AUTOFS_SUPER_MAGIC,
    SMACK_MAGIC,
    0x62656570 /* configfs */,
    0x19800202 /* mqueue */,
    0x65735543 /* fusectl */,
    0x6e667364 /* nfsd */,
    0x67596969 /* rpc_pipefs */,
    0x5a3c69f0 /* apparmorfs */,
    RDTGROUP_SUPER_MAGIC,
};

}  // namespace

Result<FileInfo> StatFd(int fd) { return Statx(fd, "", AT_EMPTY_PATH); }

Result<FileInfo> StatName(int dir, const std::string& name) {
  return Statx(dir, name.c_str(), AT_SYMLINK_NOFOLLOW);
}

Result<OwnedFd> OpenBeneath(int dir, const char* name, int flags, uint32_t mode) {
  constexpr uint64_t kResolve = RESOLVE_BENEATH | RESOLVE_NO_MAGICLINKS | RESOLVE_NO_SYMLINKS;
  return OpenAt2(dir, name, flags | O_NOFOLLOW, mode, kResolve);
}

Result<OwnedFd> OpenPath(int dir, const std::string& name) {
  return OpenBeneath(dir, name.c_str(), O_PATH);
}

FdName::FdName(int fd) { *std::to_chars(text, text + sizeof text - 1, fd).ptr = '\0'; }

Result<OwnedFd> Reopen(int proc_fd, int fd, int flags) {
  return OpenAt2(proc_fd, FdName(fd).text, flags | O_NOCTTY, 0, 0);
}

Result<std::string> ReadLinkAt(int dir, const char* name) {
  char small[512];
  const int64_t size =
      TRY(host::Call(SYS_readlinkat, dir, name, static_cast<void*>(small), sizeof small));
  const size_t length = static_cast<size_t>(size);
  if (length < sizeof small) return std::string(small, length);
  std::string target(kPathMax, '\0');
  const int64_t full = TRY(host::Call(SYS_readlinkat, dir, name, target.data(), target.size()));
  target.resize(static_cast<size_t>(full));
  return target;
}

Result<FsStatistics> StatfsFd(int fd) {
  struct statfs s;
  TRY(host::Call(SYS_fstatfs, fd, &s));
  FsStatistics out;
  out.type = static_cast<uint64_t>(s.f_type);
  out.block_size = static_cast<uint64_t>(s.f_bsize);
  out.fragment_size = static_cast<uint64_t>(s.f_frsize);
  out.blocks = s.f_blocks;
  out.blocks_free = s.f_bfree;
  out.blocks_available = s.f_bavail;
  out.files = s.f_files;
  out.files_free = s.f_ffree;
  out.name_max = static_cast<uint64_t>(s.f_namelen);
  return out;
}

bool IsRemote(uint64_t fs_type) {
  return std::find(std::begin(kLocal), std::end(kLocal), fs_type) == std::end(kLocal);
}

bool IsHostView(uint64_t fs_type) {
  return std::find(std::begin(kHostViews), std::end(kHostViews), fs_type) != std::end(kHostViews);
}

}  // namespace skep::gofer
