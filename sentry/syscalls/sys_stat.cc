// Attributes of files: stat, access, permissions, owners, times, extended attributes.
#include <fcntl.h>
#include <linux/securebits.h>
#include <linux/xattr.h>
#include <sys/sysmacros.h>
#include <unistd.h>
#include <cstring>

#include "sentry/kernel/kernel.h"
#include "sentry/kernel/vdso_clock.h"
#include "sentry/syscalls/abi.h"
#include "sentry/syscalls/families.h"
#include "sentry/syscalls/util.h"
#include "sentry/vfs/mount.h"

namespace skep::syscalls {
namespace {

timespec ToTimespec(const vfs::Timestamp& t) { return {t.sec, static_cast<long>(t.nsec)}; }

struct stat ToStat(const Task& task, const vfs::Attributes& a) {
  struct stat out;
  memset(&out, 0, sizeof out);
  out.st_dev = makedev(a.dev_major, a.dev_minor);
  out.st_ino = a.ino;
  out.st_nlink = a.nlink;
  out.st_mode = a.mode;
  out.st_uid = task.creds().ShownUser(a.uid);
  out.st_gid = task.creds().ShownGroup(a.gid);
  out.st_rdev = makedev(a.rdev_major, a.rdev_minor);
  out.st_size = static_cast<off_t>(a.size);
  out.st_blksize = static_cast<blksize_t>(a.blksize);
  out.st_blocks = static_cast<blkcnt_t>(a.blocks);
  out.st_atim = ToTimespec(a.atime);
  out.st_mtim = ToTimespec(a.mtime);
  out.st_ctim = ToTimespec(a.ctime);
  return out;
}

Result<vfs::Attributes> AttributesOf(const vfs::Path& path) {
  if (path.inode() == nullptr) return Fail(ENOENT);
  return path.inode()->GetAttributes();
}

Result<void> StatPath(Task& task, const vfs::Path& path, UserPtr<struct stat> out) {
  const vfs::Attributes attributes = TRY(AttributesOf(path));
  return task.mm->CopyOut(out, ToStat(task, attributes));
}

vfs::FollowFinal FollowUnless(int32_t flags, int32_t nofollow) {
  return (flags & nofollow) != 0 ? vfs::FollowFinal::kNo : vfs::FollowFinal::kYes;
}

const Fd kCwd{AT_FDCWD};

Result<void> Stat(Task& task, Path path, UserPtr<struct stat> out) {
  const vfs::Path found = TRY(ResolveAt(task, kCwd, path, 0, vfs::FollowFinal::kYes));
  return StatPath(task, found, out);
}

Result<void> Lstat(Task& task, Path path, UserPtr<struct stat> out) {
  const vfs::Path found = TRY(ResolveAt(task, kCwd, path, 0, vfs::FollowFinal::kNo));
  return StatPath(task, found, out);
}

Result<void> Fstat(Task& task, Fd fd, UserPtr<struct stat> out) {
  const Ref<vfs::File> file = TRY(task.files->GetIncludingPath(fd.value));
  return StatPath(task, file->path(), out);
}

Result<void> Newfstatat(Task& task, Fd dir, Path path, UserPtr<struct stat> out, int32_t flags) {
  if ((flags & ~(AT_SYMLINK_NOFOLLOW | AT_NO_AUTOMOUNT | AT_EMPTY_PATH)) != 0) return Fail(EINVAL);
  const vfs::Path found =
      TRY(ResolveAt(task, dir, path, flags, FollowUnless(flags, AT_SYMLINK_NOFOLLOW)));
  return StatPath(task, found, out);
}

Result<void> StatxCall(Task& task, Fd dir, Path path, int32_t flags, uint32_t mask,
                       UserPtr<struct statx> address) {
  constexpr int32_t kSync = AT_STATX_FORCE_SYNC | AT_STATX_DONT_SYNC;
  if ((mask & 0x80000000u) != 0 || (flags & kSync) == kSync) return Fail(EINVAL);
  if ((flags & ~(AT_SYMLINK_NOFOLLOW | AT_NO_AUTOMOUNT | AT_EMPTY_PATH | kSync)) != 0)
    return Fail(EINVAL);
  const vfs::Path found =
      TRY(ResolveAt(task, dir, path, flags, FollowUnless(flags, AT_SYMLINK_NOFOLLOW)));
  const vfs::Attributes a = TRY(AttributesOf(found));
  struct statx out;
  memset(&out, 0, sizeof out);
  const auto stamp = [](const vfs::Timestamp& t) {
    statx_timestamp s{};
    s.tv_sec = t.sec;
    s.tv_nsec = t.nsec;
    return s;
  };
  out.stx_mask = STATX_BASIC_STATS | STATX_BTIME;
  out.stx_blksize = a.blksize;
  out.stx_nlink = a.nlink;
  out.stx_uid = task.creds().ShownUser(a.uid);
  out.stx_gid = task.creds().ShownGroup(a.gid);
  out.stx_mode = static_cast<uint16_t>(a.mode);
  out.stx_ino = a.ino;
  out.stx_size = a.size;
  out.stx_blocks = a.blocks;
  out.stx_atime = stamp(a.atime);
  out.stx_btime = stamp(a.btime);
  out.stx_ctime = stamp(a.ctime);
  out.stx_mtime = stamp(a.mtime);
  out.stx_rdev_major = a.rdev_major;
  out.stx_rdev_minor = a.rdev_minor;
  out.stx_dev_major = a.dev_major;
  out.stx_dev_minor = a.dev_minor;
  return task.mm->CopyOut(address, out);
}

Result<void> Faccessat2(Task& task, Fd dir, Path path, int32_t mode, int32_t flags) {
  if ((mode & ~7) != 0) return Fail(EINVAL);
  if ((flags & ~(AT_EACCESS | AT_SYMLINK_NOFOLLOW | AT_EMPTY_PATH)) != 0) return Fail(EINVAL);
  // Linux: access_override_creds: the real ids, with root's powers only for a real root.
  auth::Credentials creds = task.creds();
  if ((flags & AT_EACCESS) == 0) {
    creds.fsuid = creds.uid;
    creds.fsgid = creds.gid;
    if ((creds.securebits & SECBIT_NO_SETUID_FIXUP) == 0) {
      creds.effective = creds.uid == creds.KernelUser(0) ? creds.permitted : 0;
    }
  }
  const vfs::Path found =
      TRY(ResolveAt(task, dir, path, flags, FollowUnless(flags, AT_SYMLINK_NOFOLLOW)));
  if (found.inode() == nullptr) return Fail(ENOENT);
  return NameOpsFor(task).Access(found, mode, creds);
}

Result<void> Access(Task& task, Path path, int32_t mode) {
  return Faccessat2(task, kCwd, path, mode, 0);
}
Result<void> Faccessat(Task& task, Fd dir, Path path, int32_t mode) {
  return Faccessat2(task, dir, path, mode, 0);
}

Result<void> StatfsPath(Task& task, const vfs::Path& path, UserPtr<struct statfs> address) {
  if (!path.dentry || path.dentry->fs() == nullptr) return Fail(ENOSYS);
  const vfs::StatFs in = TRY(path.dentry->fs()->GetStatFs());
  struct statfs out;
  memset(&out, 0, sizeof out);
  out.f_type = static_cast<long>(in.type);
  out.f_bsize = static_cast<long>(in.block_size);
  out.f_frsize = out.f_bsize;
  out.f_blocks = in.blocks;
  out.f_bfree = in.blocks_free;
  out.f_bavail = in.blocks_available;
  out.f_files = in.files;
  out.f_ffree = in.files_free;
  out.f_namelen = static_cast<long>(in.name_max);
  memcpy(&out.f_fsid, &in.fsid, sizeof in.fsid);
  constexpr long kStValid = 0x20;
  const long mount_flags = path.mount ? static_cast<long>(path.mount->flags() & 0xf) : 0;
  out.f_flags = static_cast<long>(in.flags) | mount_flags | kStValid;
  return task.mm->CopyOut(address, out);
}

Result<void> StatfsCall(Task& task, Path path, UserPtr<struct statfs> out) {
  const vfs::Path found = TRY(ResolveAt(task, kCwd, path, 0, vfs::FollowFinal::kYes));
  return StatfsPath(task, found, out);
}

Result<void> Fstatfs(Task& task, Fd fd, UserPtr<struct statfs> out) {
  const Ref<vfs::File> file = TRY(task.files->GetIncludingPath(fd.value));
  return StatfsPath(task, file->path(), out);
}

Result<void> Fchmodat2(Task& task, Fd dir, Path path, FileMode mode, uint32_t flags) {
  if ((flags & ~uint32_t{AT_SYMLINK_NOFOLLOW | AT_EMPTY_PATH}) != 0) return Fail(EINVAL);
  const auto at = static_cast<int32_t>(flags);
  const vfs::Path found =
      TRY(ResolveAt(task, dir, path, at, FollowUnless(at, AT_SYMLINK_NOFOLLOW)));
  if (found.inode() != nullptr && found.inode()->IsSymlink()) return Fail(EOPNOTSUPP);
  return NameOpsFor(task).Chmod(found, mode.value & 07777);
}

Result<void> Fchmodat(Task& task, Fd dir, Path path, FileMode mode) {
  return Fchmodat2(task, dir, path, mode, 0);
}
Result<void> Chmod(Task& task, Path path, FileMode mode) {
  return Fchmodat2(task, kCwd, path, mode, 0);
}

Result<void> Fchmod(Task& task, Fd fd, FileMode mode) {
  const Ref<vfs::File> file = TRY(task.files->Get(fd.value));
  return NameOpsFor(task).Chmod(file->path(), mode.value & 07777);
}

// Linux: chown_common. EINVAL: ids that the caller's user namespace does not map.
Result<void> ChownPath(Task& task, const vfs::Path& path, uint32_t uid, uint32_t gid) {
  std::optional<uint32_t> user, group;
  if (uid != auth::kNoId) user = task.creds().KernelUser(uid);
  if (gid != auth::kNoId) group = task.creds().KernelGroup(gid);
  if (user == auth::kNoId || group == auth::kNoId) return Fail(EINVAL);
  return NameOpsFor(task).Chown(path, user, group);
}

Result<void> Fchownat(Task& task, Fd dir, Path path, uint32_t uid, uint32_t gid, int32_t flags) {
  if ((flags & ~(AT_SYMLINK_NOFOLLOW | AT_EMPTY_PATH)) != 0) return Fail(EINVAL);
  const vfs::Path found =
      TRY(ResolveAt(task, dir, path, flags, FollowUnless(flags, AT_SYMLINK_NOFOLLOW)));
  return ChownPath(task, found, uid, gid);
}

Result<void> Chown(Task& task, Path path, uint32_t uid, uint32_t gid) {
  return Fchownat(task, kCwd, path, uid, gid, 0);
}
Result<void> Lchown(Task& task, Path path, uint32_t uid, uint32_t gid) {
  return Fchownat(task, kCwd, path, uid, gid, AT_SYMLINK_NOFOLLOW);
}
Result<void> Fchown(Task& task, Fd fd, uint32_t uid, uint32_t gid) {
  const Ref<vfs::File> file = TRY(task.files->Get(fd.value));
  return ChownPath(task, file->path(), uid, gid);
}

struct WantedTimes {
  std::optional<vfs::Timestamp> atime, mtime;
  bool both_now = false;
  bool valid = true;
};

vfs::Timestamp Now(Task& task) {
  const uint64_t ns = task.kernel.vdso_clock->RealtimeNs();
  return {static_cast<int64_t>(ns / 1'000'000'000), static_cast<uint32_t>(ns % 1'000'000'000)};
}

Result<void> SetTimes(Task& task, const vfs::Path& path, const WantedTimes& times) {
  if (!times.valid) return Fail(EINVAL);  // Linux: vfs_utimes, when the file has been found
  if (!times.atime && !times.mtime) return {};
  return NameOpsFor(task).SetTimes(path, times.atime, times.mtime, times.both_now);
}

// A null pointer, UTIME_NOW and UTIME_OMIT (Linux: do_utimes).
Result<WantedTimes> TimesFrom(Task& task, UserPtr<const timespec> address) {
  WantedTimes out;
  const vfs::Timestamp now = Now(task);
  if (address.is_null()) return WantedTimes{now, now, true};
  std::array<timespec, 2> in{};
  TRY(task.mm->CopyInArray(address, std::span<timespec>(in)));
  for (const timespec& t : in) {
    if (t.tv_nsec != UTIME_NOW && t.tv_nsec != UTIME_OMIT &&
        (t.tv_nsec < 0 || t.tv_nsec > 999'999'999)) {
      out.valid = false;
    }
  }
  out.both_now = in[0].tv_nsec == UTIME_NOW && in[1].tv_nsec == UTIME_NOW;
  const auto convert = [&](const timespec& t) -> std::optional<vfs::Timestamp> {
    if (t.tv_nsec == UTIME_OMIT) return std::nullopt;
    if (t.tv_nsec == UTIME_NOW) return now;
    return vfs::Timestamp{t.tv_sec, static_cast<uint32_t>(t.tv_nsec)};
  };
  out.atime = convert(in[0]);
  out.mtime = convert(in[1]);
  return out;
}

Result<WantedTimes> TimesFromTimeval(Task& task, UserPtr<const timeval> address) {
  const vfs::Timestamp now = Now(task);
  if (address.is_null()) return WantedTimes{now, now, true};
  std::array<timeval, 2> in{};
  TRY(task.mm->CopyInArray(address, std::span<timeval>(in)));
  for (const timeval& t : in) {
    if (t.tv_usec < 0 || t.tv_usec >= 1'000'000) return Fail(EINVAL);
  }
  const auto convert = [](const timeval& t) {
    return vfs::Timestamp{t.tv_sec, static_cast<uint32_t>(t.tv_usec * 1000)};
  };
  return WantedTimes{convert(in[0]), convert(in[1]), false};
}

Result<void> Utimensat(Task& task, Fd dir, Path path, UserPtr<const timespec> address,
                       int32_t flags) {
  const WantedTimes times = TRY(TimesFrom(task, address));
  if (!times.atime && !times.mtime && times.valid) return {};
  if ((flags & ~(AT_SYMLINK_NOFOLLOW | AT_EMPTY_PATH)) != 0) return Fail(EINVAL);
  if (path.is_null() && dir.value != AT_FDCWD) {
    if (flags != 0) return Fail(EINVAL);
    const Ref<vfs::File> file = TRY(task.files->Get(dir.value));
    return SetTimes(task, file->path(), times);
  }
  const vfs::Path found =
      TRY(ResolveAt(task, dir, path, flags, FollowUnless(flags, AT_SYMLINK_NOFOLLOW)));
  return SetTimes(task, found, times);
}

Result<void> Futimesat(Task& task, Fd dir, Path path, UserPtr<const timeval> address) {
  const WantedTimes times = TRY(TimesFromTimeval(task, address));
  if (path.is_null() && dir.value != AT_FDCWD) {
    const Ref<vfs::File> file = TRY(task.files->Get(dir.value));
    return SetTimes(task, file->path(), times);
  }
  const vfs::Path found = TRY(ResolveAt(task, dir, path, 0, vfs::FollowFinal::kYes));
  return SetTimes(task, found, times);
}

Result<void> Utimes(Task& task, Path path, UserPtr<const timeval> times) {
  return Futimesat(task, kCwd, path, times);
}

Result<void> Utime(Task& task, Path path, UserPtr<const utimbuf> address) {
  const vfs::Timestamp now = Now(task);
  WantedTimes times{now, now, true};
  if (!address.is_null()) {
    const utimbuf in = TRY(task.mm->CopyIn(address));
    times = {vfs::Timestamp{in.actime, 0}, vfs::Timestamp{in.modtime, 0}, false};
  }
  const vfs::Path found = TRY(ResolveAt(task, kCwd, path, 0, vfs::FollowFinal::kYes));
  return SetTimes(task, found, times);
}

Result<std::string> CopyInXattrName(Task& task, Path address) {
  auto name = task.mm->CopyInString(address, XATTR_NAME_MAX + 1);
  if (!name && name.error().code() == ENAMETOOLONG) return Fail(ERANGE);
  if (name && name->empty()) return Fail(ERANGE);
  return name;
}

Result<int64_t> CopyOutSized(Task& task, UserPtr<void> to, uint64_t size, std::string_view data) {
  if (size == 0) return static_cast<int64_t>(data.size());
  if (data.size() > size) return Fail(ERANGE);
  if (task.mm->CopyOut(to.addr(), std::as_bytes(std::span(data))).fault != 0) return Fail(EFAULT);
  return static_cast<int64_t>(data.size());
}

// The arguments of a setxattr, copied in before anything is looked up, as Linux's setxattr_copy.
struct NewXattr {
  std::string name, value;
  int32_t flags = 0;
};
Result<NewXattr> CopyInXattr(Task& task, Path name, UserPtr<void> value, uint64_t size,
                             int32_t flags) {
  if ((flags & ~(XATTR_CREATE | XATTR_REPLACE)) != 0) return Fail(EINVAL);
  NewXattr xattr{.name = {}, .value = {}, .flags = flags};
  xattr.name = TRY(CopyInXattrName(task, name));
  if (size > XATTR_SIZE_MAX) return Fail(E2BIG);
  xattr.value.resize(size);
  const auto bytes = std::as_writable_bytes(std::span(xattr.value));
  if (task.mm->CopyIn(value.addr(), bytes).fault != 0) return Fail(EFAULT);
  return xattr;
}

// What the attribute calls name: by path, or by descriptor.
using Place = Result<vfs::Path>;
Place Follow(Task& task, Path path) {
  return ResolveAt(task, kCwd, path, 0, vfs::FollowFinal::kYes);
}
Place NoFollow(Task& task, Path path) {
  return ResolveAt(task, kCwd, path, 0, vfs::FollowFinal::kNo);
}
Place OfFd(Task& task, Fd fd) {
  const Ref<vfs::File> file = TRY(task.files->Get(fd.value));
  if (file->inode() == nullptr) return Fail(EOPNOTSUPP);
  return file->path();
}

template <class Target>
Result<int64_t> GetXattrAt(Task& task, Place (*find)(Task&, Target), Target target, Path name,
                           UserPtr<void> value, uint64_t size) {
  const std::string wanted = TRY(CopyInXattrName(task, name));
  const vfs::Path path = TRY(find(task, target));
  const std::string data = TRY(NameOpsFor(task).GetXattr(path, wanted));
  return CopyOutSized(task, value, size, data);
}

template <class Target>
Result<void> SetXattrAt(Task& task, Place (*find)(Task&, Target), Target target, Path name,
                        UserPtr<void> value, uint64_t size, int32_t flags) {
  const NewXattr xattr = TRY(CopyInXattr(task, name, value, size, flags));
  const vfs::Path path = TRY(find(task, target));
  return NameOpsFor(task).SetXattr(path, xattr.name, xattr.value, xattr.flags);
}

template <class Target>
Result<int64_t> ListXattrsAt(Task& task, Place (*find)(Task&, Target), Target target,
                             UserPtr<void> list, uint64_t size) {
  const vfs::Path path = TRY(find(task, target));
  const std::vector<std::string> names = TRY(NameOpsFor(task).ListXattrs(path));
  std::string text;
  for (const std::string& name : names) {
    text.append(name.c_str(), name.size() + 1);
  }
  return CopyOutSized(task, list, size, text);
}

template <class Target>
Result<void> RemoveXattrAt(Task& task, Place (*find)(Task&, Target), Target target, Path name) {
  const std::string wanted = TRY(CopyInXattrName(task, name));
  const vfs::Path path = TRY(find(task, target));
  return NameOpsFor(task).RemoveXattr(path, wanted);
}

Result<int64_t> Getxattr(Task& task, Path path, Path name, UserPtr<void> value, uint64_t size) {
  return GetXattrAt(task, Follow, path, name, value, size);
}
Result<int64_t> Lgetxattr(Task& task, Path path, Path name, UserPtr<void> value, uint64_t size) {
  return GetXattrAt(task, NoFollow, path, name, value, size);
}
Result<int64_t> Fgetxattr(Task& task, Fd fd, Path name, UserPtr<void> value, uint64_t size) {
  return GetXattrAt(task, OfFd, fd, name, value, size);
}
Result<void> Setxattr(Task& task, Path path, Path name, UserPtr<void> value, uint64_t size,
                      int32_t flags) {
  return SetXattrAt(task, Follow, path, name, value, size, flags);
}
Result<void> Lsetxattr(Task& task, Path path, Path name, UserPtr<void> value, uint64_t size,
                       int32_t flags) {
  return SetXattrAt(task, NoFollow, path, name, value, size, flags);
}
Result<void> Fsetxattr(Task& task, Fd fd, Path name, UserPtr<void> value, uint64_t size,
                       int32_t flags) {
  return SetXattrAt(task, OfFd, fd, name, value, size, flags);
}
Result<int64_t> Listxattr(Task& task, Path path, UserPtr<void> list, uint64_t size) {
  return ListXattrsAt(task, Follow, path, list, size);
}
Result<int64_t> Llistxattr(Task& task, Path path, UserPtr<void> list, uint64_t size) {
  return ListXattrsAt(task, NoFollow, path, list, size);
}
Result<int64_t> Flistxattr(Task& task, Fd fd, UserPtr<void> list, uint64_t size) {
  return ListXattrsAt(task, OfFd, fd, list, size);
}
Result<void> Removexattr(Task& task, Path path, Path name) {
  return RemoveXattrAt(task, Follow, path, name);
}
Result<void> Lremovexattr(Task& task, Path path, Path name) {
  return RemoveXattrAt(task, NoFollow, path, name);
}
Result<void> Fremovexattr(Task& task, Fd fd, Path name) {
  return RemoveXattrAt(task, OfFd, fd, name);
}

constexpr Row kRows[] = {
    Full<Stat>(SYSCALL(stat)),
    Full<Fstat>(SYSCALL(fstat)),
    Full<Lstat>(SYSCALL(lstat)),
    Full<Access>(SYSCALL(access)),
    Full<Chmod>(SYSCALL(chmod)),
    Full<Fchmod>(SYSCALL(fchmod)),
    Full<Chown>(SYSCALL(chown)),
    Full<Fchown>(SYSCALL(fchown)),
    Full<Lchown>(SYSCALL(lchown)),
    Full<Utime>(SYSCALL(utime)),
    Refused(SYSCALL(ustat), ENOSYS, "obsolete"),
    Full<StatfsCall>(SYSCALL(statfs)),
    Full<Fstatfs>(SYSCALL(fstatfs)),
    Partial<Setxattr>(SYSCALL(setxattr), "no POSIX ACLs; on host files user.* alone"),
    Partial<Lsetxattr>(SYSCALL(lsetxattr), "no POSIX ACLs; on host files user.* alone"),
    Partial<Fsetxattr>(SYSCALL(fsetxattr), "no POSIX ACLs; on host files user.* alone"),
    Full<Getxattr>(SYSCALL(getxattr)),
    Full<Lgetxattr>(SYSCALL(lgetxattr)),
    Full<Fgetxattr>(SYSCALL(fgetxattr)),
    Full<Listxattr>(SYSCALL(listxattr)),
    Full<Llistxattr>(SYSCALL(llistxattr)),
    Full<Flistxattr>(SYSCALL(flistxattr)),
    Full<Removexattr>(SYSCALL(removexattr)),
    Full<Lremovexattr>(SYSCALL(lremovexattr)),
    Full<Fremovexattr>(SYSCALL(fremovexattr)),
    Full<Utimes>(SYSCALL(utimes)),
    Full<Fchownat>(SYSCALL(fchownat)),
    Full<Futimesat>(SYSCALL(futimesat)),
    Full<Newfstatat>(SYSCALL(newfstatat)),
    Full<Fchmodat>(SYSCALL(fchmodat)),
    Full<Faccessat>(SYSCALL(faccessat)),
    Full<Utimensat>(SYSCALL(utimensat)),
    Full<StatxCall>(SYSCALL(statx)),
    Full<Faccessat2>(SYSCALL(faccessat2)),
    Full<Fchmodat2>(SYSCALL(fchmodat2)),
};

}  // namespace

constinit const std::span<const Row> kStatRows = kRows;

}  // namespace skep::syscalls
