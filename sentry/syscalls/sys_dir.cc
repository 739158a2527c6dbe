// Directories and names.
#include <fcntl.h>
#include <linux/capability.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <cstring>

#include "sentry/kernel/file_systems.h"
#include "sentry/kernel/kernel.h"
#include "sentry/syscalls/families.h"
#include "sentry/syscalls/util.h"
#include "sentry/vfs/mount.h"

namespace skep::syscalls {
namespace {

const Fd kCwd{AT_FDCWD};

// Packs entries as struct linux_dirent64 (or linux_dirent) into a buffer of the guest's size.
class DirentPacker {
 public:
  DirentPacker(size_t size, bool wide) : wide_(wide), limit_(size) {}

  bool Add(const vfs::DirEntry& entry) {
    const size_t header = wide_ ? 19 : 18;
    const size_t extra = wide_ ? 1 : 2;  // NUL; the old form keeps d_type in its last byte
    const size_t length = (header + entry.name.size() + extra + 7) & ~size_t{7};
    if (bytes_.size() + length > limit_) {
      full_ = true;
      return false;
    }
    const size_t at = bytes_.size();
    bytes_.resize(at + length);
    std::byte* p = bytes_.data() + at;
    const auto reclen = static_cast<uint16_t>(length);
    memcpy(p, &entry.ino, 8);
    memcpy(p + 8, &entry.next_cookie, 8);
    memcpy(p + 16, &reclen, 2);
    if (wide_) {
      p[18] = std::byte{entry.type};
      memcpy(p + 19, entry.name.data(), entry.name.size());
    } else {
      memcpy(p + 18, entry.name.data(), entry.name.size());
      p[length - 1] = std::byte{entry.type};
    }
    next_ = entry.next_cookie;
    return true;
  }
  const std::vector<std::byte>& bytes() const { return bytes_; }
  bool full() const { return full_; }

 private:
  const bool wide_;
  const size_t limit_;
  std::vector<std::byte> bytes_;
  uint64_t next_ = 0;
  bool full_ = false;
};

Result<int64_t> DoGetdents(Task& task, Fd fd, UserPtr<void> to, uint32_t size, bool wide) {
  const Ref<vfs::File> file = TRY(task.files->Get(fd.value));
  if (file->inode() == nullptr || !file->inode()->IsDir()) return Fail(ENOTDIR);
  if (file->path().dentry->unlinked()) return Fail(ENOENT);
  sched::SleepLockHold hold(file->position_lock());
  DirentPacker packer(std::min<size_t>(size, 256 << 10), wide);
  const uint64_t next = TRY(file->ReadDir(
      task, file->position, [&](const vfs::DirEntry& entry) { return packer.Add(entry); }));
  if (packer.bytes().empty()) return packer.full() ? Result<int64_t>(Fail(EINVAL)) : 0;
  if (task.mm->CopyOut(to.addr(), packer.bytes()).fault != 0) return Fail(EFAULT);
  file->position = next;
  return static_cast<int64_t>(packer.bytes().size());
}

Result<int64_t> Getdents64(Task& task, Fd fd, UserPtr<void> to, uint32_t size) {
  return DoGetdents(task, fd, to, size, true);
}
Result<int64_t> Getdents(Task& task, Fd fd, UserPtr<void> to, uint32_t size) {
  return DoGetdents(task, fd, to, size, false);
}

Result<int64_t> Getcwd(Task& task, UserPtr<char> to, uint64_t size) {
  const vfs::Path cwd = task.fs->cwd();
  if (cwd.dentry->unlinked()) return Fail(ENOENT);
  const std::string name = vfs::NameOf(cwd, task.fs->root());
  if (name.size() + 1 > size) return Fail(ERANGE);
  TRY(task.mm->CopyOutArray(to, std::span<const char>(name.c_str(), name.size() + 1)));
  return static_cast<int64_t>(name.size() + 1);
}

Result<void> EnterDirectory(Task& task, const vfs::Path& path) {
  if (path.inode() == nullptr) return Fail(ENOENT);
  if (!path.inode()->IsDir()) return Fail(ENOTDIR);
  return path.inode()->CheckPermission(task.creds(), vfs::kMayExec);
}

Result<void> Chdir(Task& task, Path address) {
  const std::string path = TRY(CopyInPath(task, address));
  const vfs::Path found = TRY(NameOpsFor(task).Resolve(path, {.directory = true}));
  TRY(EnterDirectory(task, found));
  task.fs->SetCwd(found);
  return {};
}

Result<void> Fchdir(Task& task, Fd fd) {
  const Ref<vfs::File> file = TRY(task.files->GetIncludingPath(fd.value));
  TRY(EnterDirectory(task, file->path()));
  task.fs->SetCwd(file->path());
  return {};
}

Result<void> Chroot(Task& task, Path address) {
  const std::string path = TRY(CopyInPath(task, address));
  const vfs::Path found = TRY(NameOpsFor(task).Resolve(path, {.directory = true}));
  TRY(EnterDirectory(task, found));
  if (!task.creds().HasInOwn(CAP_SYS_CHROOT)) return Fail(EPERM);
  task.fs->SetRoot(found);
  return {};
}

Result<uint32_t> Umask(Task& task, uint32_t mask) { return task.fs->ExchangeUmask(mask & 0777); }

Result<void> Mkdirat(Task& task, Fd dir, Path address, FileMode mode) {
  const std::string path = TRY(CopyInPath(task, address));
  vfs::NameOps walker = TRY(WalkerAt(task, dir, path));
  return walker.Mkdir(path, mode.value & 01777 & ~task.fs->umask());
}
Result<void> Mkdir(Task& task, Path path, FileMode mode) { return Mkdirat(task, kCwd, path, mode); }

Result<void> Mknodat(Task& task, Fd dir, Path address, FileMode mode, uint64_t device) {
  const std::string path = TRY(CopyInPath(task, address));
  uint32_t wanted = mode.value;
  switch (wanted & S_IFMT) {
    case 0:
      wanted |= S_IFREG;
      break;
    case S_IFREG:
    case S_IFIFO:
    case S_IFSOCK:
      break;
    case S_IFCHR:
    case S_IFBLK:
      if (!task.creds().HasInFirst(CAP_MKNOD)) return Fail(EPERM);
      break;
    case S_IFDIR:
      return Fail(EPERM);
    default:
      return Fail(EINVAL);
  }
  wanted &= S_IFMT | (07777 & ~task.fs->umask());
  vfs::NameOps walker = TRY(WalkerAt(task, dir, path));
  return walker.Mknod(path, wanted, gnu_dev_major(device), gnu_dev_minor(device));
}
Result<void> Mknod(Task& task, Path path, FileMode mode, uint64_t device) {
  return Mknodat(task, kCwd, path, mode, device);
}

Result<void> Unlinkat(Task& task, Fd dir, Path address, int32_t flags) {
  if ((flags & ~AT_REMOVEDIR) != 0) return Fail(EINVAL);
  const std::string path = TRY(CopyInPath(task, address));
  vfs::NameOps walker = TRY(WalkerAt(task, dir, path));
  return flags != 0 ? walker.Rmdir(path) : walker.Unlink(path);
}
Result<void> Unlink(Task& task, Path path) { return Unlinkat(task, kCwd, path, 0); }
Result<void> Rmdir(Task& task, Path path) { return Unlinkat(task, kCwd, path, AT_REMOVEDIR); }

Result<void> Renameat2(Task& task, Fd from_dir, Path from, Fd to_dir, Path to, uint32_t flags) {
  constexpr uint32_t kKnown = RENAME_NOREPLACE | RENAME_EXCHANGE | RENAME_WHITEOUT;
  if ((flags & ~kKnown) != 0) return Fail(EINVAL);
  if ((flags & (RENAME_NOREPLACE | RENAME_WHITEOUT)) != 0 && (flags & RENAME_EXCHANGE) != 0) {
    return Fail(EINVAL);
  }
  const std::string old_path = TRY(CopyInPath(task, from));
  const std::string new_path = TRY(CopyInPath(task, to));
  vfs::NameOps walker = TRY(WalkerAt(task, from_dir, old_path));
  vfs::NameOps target = TRY(WalkerAt(task, to_dir, new_path));
  return walker.Rename(old_path, target, new_path, flags);
}
Result<void> Renameat(Task& task, Fd from_dir, Path from, Fd to_dir, Path to) {
  return Renameat2(task, from_dir, from, to_dir, to, 0);
}
Result<void> Rename(Task& task, Path from, Path to) {
  return Renameat2(task, kCwd, from, kCwd, to, 0);
}

// A descriptor alone names a file for whoever opened it, not for those whom it was passed to
// (Linux: path_init, LOOKUP_LINKAT_EMPTY).
Result<vfs::Path> ResolveLinked(Task& task, Fd dir, Path address, int32_t flags) {
  const std::string path = TRY(CopyInPath(task, address));
  vfs::NameOps walker = TRY(WalkerAt(task, dir, path));
  if ((flags & AT_EMPTY_PATH) != 0 && dir.value != AT_FDCWD && !path.starts_with('/')) {
    const Ref<vfs::File> file = TRY(task.files->GetIncludingPath(dir.value));
    const auth::UserNamespace* space = file->opener ? file->opener->user_namespace.get() : nullptr;
    if (file->opener != task.shared_creds() && !task.creds().HasIn(space, CAP_DAC_READ_SEARCH)) {
      return Fail(ENOENT);
    }
  }
  const auto follow =
      (flags & AT_SYMLINK_FOLLOW) != 0 ? vfs::FollowFinal::kYes : vfs::FollowFinal::kNo;
  return walker.Resolve(path, {.follow = follow, .empty_path = (flags & AT_EMPTY_PATH) != 0});
}

Result<void> Linkat(Task& task, Fd from_dir, Path from, Fd to_dir, Path to, int32_t flags) {
  if ((flags & ~(AT_SYMLINK_FOLLOW | AT_EMPTY_PATH)) != 0) return Fail(EINVAL);
  const vfs::Path existing = TRY(ResolveLinked(task, from_dir, from, flags));
  const std::string new_path = TRY(CopyInPath(task, to));
  vfs::NameOps walker = TRY(WalkerAt(task, to_dir, new_path));
  return walker.Link(existing, new_path);
}
Result<void> Link(Task& task, Path from, Path to) { return Linkat(task, kCwd, from, kCwd, to, 0); }

Result<void> Symlinkat(Task& task, Path target_address, Fd dir, Path address) {
  const std::string target = TRY(CopyInPath(task, target_address));
  if (target.empty()) return Fail(ENOENT);
  const std::string path = TRY(CopyInPath(task, address));
  vfs::NameOps walker = TRY(WalkerAt(task, dir, path));
  return walker.Symlink(target, path);
}
Result<void> Symlink(Task& task, Path target, Path path) {
  return Symlinkat(task, target, kCwd, path);
}

Result<int64_t> Readlinkat(Task& task, Fd dir, Path address, UserPtr<char> to, int32_t size) {
  if (size <= 0) return Fail(EINVAL);
  const std::string path = TRY(CopyInPath(task, address));
  vfs::NameOps walker = TRY(WalkerAt(task, dir, path));
  const vfs::Path found =
      TRY(walker.Resolve(path, {.follow = vfs::FollowFinal::kNo, .empty_path = true}));
  if (found.inode() == nullptr) return Fail(ENOENT);
  if (!found.inode()->IsSymlink()) return Fail(path.empty() ? ENOENT : EINVAL);
  const std::string target = TRY(walker.ReadLink(found));
  const size_t n = std::min(target.size(), static_cast<size_t>(size));
  TRY(task.mm->CopyOutArray(to, std::span<const char>(target.data(), n)));
  return static_cast<int64_t>(n);
}
Result<int64_t> Readlink(Task& task, Path path, UserPtr<char> to, int32_t size) {
  return Readlinkat(task, kCwd, path, to, size);
}

// Mounts are the sandbox's configuration; guests cannot change them yet (EOPNOTSUPP). The errors
// before that are Linux's: path_mount, do_new_mount, mount_capable.
Result<void> MountCall(Task& task, Path, Path target, Path type_name, uint64_t flags,
                       UserPtr<void>) {
  std::string name;
  if (!type_name.is_null()) name = TRY(CopyInPath(task, type_name));
  const std::string path = TRY(CopyInPath(task, target));
  TRY(NameOpsFor(task).Resolve(path, {}));
  const auth::Credentials& creds = task.creds();
  if (!task.fs->mounts()->MayChange(creds)) return Fail(EPERM);
  constexpr uint64_t kNoNewOnes =
      MS_REMOUNT | MS_BIND | MS_MOVE | MS_SHARED | MS_PRIVATE | MS_SLAVE | MS_UNBINDABLE;
  if ((flags & kNoNewOnes) != 0) return Fail(EOPNOTSUPP);
  if (name.empty()) return Fail(EINVAL);
  const kernel::FileSystemType* type = kernel::FindFileSystem(task.kernel, name);
  if (type == nullptr) return Fail(ENODEV);
  const bool in_first = type->capability == kernel::FileSystemType::Capability::kFirst;
  if (in_first && !creds.HasInFirst(CAP_SYS_ADMIN)) return Fail(EPERM);
  return Fail(EOPNOTSUPP);
}
Result<void> Umount2(Task& task, Path, int32_t) {
  return Fail(task.fs->mounts()->MayChange(task.creds()) ? EOPNOTSUPP : EPERM);
}

constexpr Row kRows[] = {
    Full<Getdents>(SYSCALL(getdents)),
    Full<Getcwd>(SYSCALL(getcwd)),
    Full<Chdir>(SYSCALL(chdir)),
    Full<Fchdir>(SYSCALL(fchdir)),
    Full<Rename>(SYSCALL(rename)),
    Full<Mkdir>(SYSCALL(mkdir)),
    Full<Rmdir>(SYSCALL(rmdir)),
    Full<Link>(SYSCALL(link)),
    Full<Unlink>(SYSCALL(unlink)),
    Full<Symlink>(SYSCALL(symlink)),
    Full<Readlink>(SYSCALL(readlink)),
    Full<Umask>(SYSCALL(umask)),
    Full<Mknod>(SYSCALL(mknod)),
    Refused(SYSCALL(pivot_root), EPERM, "mounts are the sandbox's configuration"),
    Full<Chroot>(SYSCALL(chroot)),
    Partial<MountCall>(SYSCALL(mount), "mounts are the sandbox's configuration"),
    Partial<Umount2>(SYSCALL(umount2), "mounts are the sandbox's configuration"),
    Full<Getdents64>(SYSCALL(getdents64)),
    Full<Mkdirat>(SYSCALL(mkdirat)),
    Full<Mknodat>(SYSCALL(mknodat)),
    Full<Unlinkat>(SYSCALL(unlinkat)),
    Full<Renameat>(SYSCALL(renameat)),
    Full<Linkat>(SYSCALL(linkat)),
    Full<Symlinkat>(SYSCALL(symlinkat)),
    Full<Readlinkat>(SYSCALL(readlinkat)),
    Full<Renameat2>(SYSCALL(renameat2)),
};

}  // namespace

constinit const std::span<const Row> kDirRows = kRows;

}  // namespace skep::syscalls
