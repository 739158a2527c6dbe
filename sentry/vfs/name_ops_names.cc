// Making and removing names (Linux: fs/namei.c from filename_create on).
#include <linux/capability.h>
#include <sys/mount.h>

#include "sentry/vfs/dentry_cache.h"
#include "sentry/vfs/new_name.h"
#include "sentry/vfs/permission.h"

namespace skep::vfs {

Result<void> NameOps::NewName::Prepare(std::string_view path, bool directory) {
  TRY(walk_.Start(path));
  TRY(walk_.ToParent());
  if (walk_.last_type() != LastType::kNormal) return Fail(EEXIST);
  hold_.emplace(walk_.directory().inode()->directory_lock());
  const Ref<Dentry> dentry = TRY(LookupLocked(parent().dentry, name()));
  if (!dentry->negative()) return Fail(EEXIST);
  if (walk_.trailing_slash() && !directory) return Fail(ENOENT);
  if (parent().mount && parent().mount->read_only()) return Fail(EROFS);
  return {};
}

Result<void> NameOps::NewName::MayCreate() {
  if (parent().dentry->unlinked()) return Fail(ENOENT);
  return this->directory().CheckPermission(walker_.creds(), kMayWrite | kMayExec);
}

Result<Inode::NewNode> NameOps::NewName::Node(uint32_t mode) {
  const Attributes attributes = TRY(this->directory().GetAttributes());
  return NewNodeIn(attributes, walker_.creds(), mode);
}

Path NameOps::NewName::Add(Ref<Inode> inode) {
  return Path(parent().mount,
              this->directory().fs().cache().Add(parent().dentry, name(), std::move(inode)));
}

Result<Path> NameOps::MakeAt(std::string_view path, uint32_t mode, uint32_t rdev_major,
                             uint32_t rdev_minor) {
  if ((mode & S_IFMT) == 0) mode |= S_IFREG;
  switch (mode & S_IFMT) {
    case S_IFREG:
    case S_IFCHR:
    case S_IFBLK:
    case S_IFIFO:
    case S_IFSOCK:
      break;
    case S_IFDIR:
      return Fail(EPERM);
    default:
      return Fail(EINVAL);
  }
  NewName created(*this);
  TRY(created.Prepare(path, false));
  TRY(created.MayCreate());
  const bool device = (mode & S_IFMT) == S_IFCHR || (mode & S_IFMT) == S_IFBLK;
  const bool whiteout = (mode & S_IFMT) == S_IFCHR && rdev_major == 0 && rdev_minor == 0;
  if (device && !whiteout && !creds().HasInFirst(CAP_MKNOD)) return Fail(EPERM);
  Inode::NewNode node = TRY(created.Node(mode));
  node.rdev_major = rdev_major;
  node.rdev_minor = rdev_minor;
  Ref<Inode> inode = TRY(created.directory().Create(created.name(), node));
  return created.Add(std::move(inode));
}

Result<void> NameOps::Mknod(std::string_view path, uint32_t mode, uint32_t rdev_major,
                            uint32_t rdev_minor) {
  TRY(MakeAt(path, mode, rdev_major, rdev_minor));
  return {};
}

Result<Path> NameOps::MakeNode(std::string_view path, uint32_t mode) {
  return MakeAt(path, mode, 0, 0);
}

Result<void> NameOps::Mkdir(std::string_view path, uint32_t mode) {
  NewName created(*this);
  TRY(created.Prepare(path, true));
  TRY(created.MayCreate());
  const Inode::NewNode node = TRY(created.Node(S_IFDIR | (mode & 01777)));
  Ref<Inode> inode = TRY(created.directory().Create(created.name(), node));
  created.Add(std::move(inode));
  return {};
}

Result<void> NameOps::Symlink(std::string_view target, std::string_view path) {
  if (target.empty()) return Fail(ENOENT);
  NewName created(*this);
  TRY(created.Prepare(path, false));
  TRY(created.MayCreate());
  const Inode::NewNode node = TRY(created.Node(S_IFLNK | 0777));
  Ref<Inode> inode = TRY(created.directory().Symlink(created.name(), target, node));
  created.Add(std::move(inode));
  return {};
}

namespace {

// Linux: may_linkat with fs.protected_hardlinks=1: others' files only if one could write them.
Result<void> MayLinkTo(Inode& inode, const Attributes& attributes, const auth::Credentials& creds) {
  if (IsOwnerOrCapable(attributes, creds)) return {};
  constexpr uint32_t kSetgidExec = S_ISGID | S_IXGRP;
  const bool safe = attributes.IsRegular() && (attributes.mode & S_ISUID) == 0 &&
                    (attributes.mode & kSetgidExec) != kSetgidExec &&
                    inode.CheckPermission(creds, kMayRead | kMayWrite).has_value();
  if (!safe) return Fail(EPERM);
  return {};
}

}  // namespace

Result<void> NameOps::Link(const Path& existing, std::string_view new_path) {
  NewName created(*this);
  TRY(created.Prepare(new_path, false));
  if (existing.mount != created.parent().mount) return Fail(EXDEV);
  Inode& inode = *existing.inode();
  Attributes attributes = TRY(inode.GetAttributes());
  TRY(MayLinkTo(inode, attributes, creds()));
  TRY(created.MayCreate());
  if (&inode.fs() != &created.directory().fs()) return Fail(EXDEV);
  if (inode.IsDir()) return Fail(EPERM);
  if (attributes.nlink == 0 && !inode.linkable()) return Fail(ENOENT);
  TRY(created.directory().Link(created.name(), inode));
  inode.SetLinkable(false);
  created.Add(existing.dentry->inode());
  return {};
}

Result<void> MayDelete(Inode& directory, Dentry& parent, const Dentry& victim, bool as_directory,
                       const auth::Credentials& creds) {
  if (victim.negative()) return Fail(ENOENT);
  TRY(directory.CheckPermission(creds, kMayWrite | kMayExec));
  const Attributes around = TRY(directory.GetAttributes());
  if ((around.mode & S_ISVTX) != 0) {
    const Attributes attributes = TRY(victim.raw_inode()->GetAttributes());
    if (StickyForbids(around, attributes, creds)) return Fail(EPERM);
  }
  if (as_directory && !victim.raw_inode()->IsDir()) return Fail(ENOTDIR);
  if (!as_directory && victim.raw_inode()->IsDir()) return Fail(EISDIR);
  if (parent.unlinked()) return Fail(ENOENT);
  return {};
}

namespace {

void ForgetName(Dentry& dentry, const Ref<Dentry>& parent, std::string_view name) {
  DentryCache& cache = parent->fs()->cache();
  cache.Remove(dentry);
  cache.AddNegative(parent, name);
}

}  // namespace

Result<void> NameOps::Unlink(std::string_view path) {
  PathWalk walk(*this, 0);
  TRY(walk.Start(path));
  TRY(walk.ToParent());
  if (walk.last_type() != LastType::kNormal) return Fail(EISDIR);
  const Path& parent = walk.directory();
  if (parent.mount && parent.mount->read_only()) return Fail(EROFS);
  Inode& directory = *parent.inode();
  Ref<Dentry> victim;  // outlives the lock: letting go of a file may take time
  sched::SleepLockHold hold(directory.directory_lock());
  victim = TRY(LookupLocked(parent.dentry, walk.last()));
  if (victim->negative()) return Fail(ENOENT);
  if (walk.trailing_slash()) return Fail(victim->raw_inode()->IsDir() ? EISDIR : ENOTDIR);
  TRY(MayDelete(directory, *parent.dentry, *victim, false, creds()));
  if (victim->IsMountpoint()) return Fail(EBUSY);
  TRY(directory.Unlink(walk.last(), *victim->raw_inode()));
  ForgetName(*victim, parent.dentry, walk.last());
  return {};
}

Result<void> NameOps::Rmdir(std::string_view path) {
  PathWalk walk(*this, 0);
  TRY(walk.Start(path));
  TRY(walk.ToParent());
  switch (walk.last_type()) {
    case LastType::kDotDot:
      return Fail(ENOTEMPTY);
    case LastType::kDot:
      return Fail(EINVAL);
    case LastType::kRoot:
      return Fail(EBUSY);
    case LastType::kNormal:
      break;
  }
  const Path& parent = walk.directory();
  if (parent.mount && parent.mount->read_only()) return Fail(EROFS);
  Inode& directory = *parent.inode();
  Ref<Dentry> victim;
  sched::SleepLockHold hold(directory.directory_lock());
  victim = TRY(LookupLocked(parent.dentry, walk.last()));
  if (victim->negative()) return Fail(ENOENT);
  TRY(MayDelete(directory, *parent.dentry, *victim, true, creds()));
  if (victim->IsMountpoint()) return Fail(EBUSY);
  // Nothing may appear in it meanwhile; a child's lock comes after its parent's.
  sched::SleepLockHold hold_victim(victim->raw_inode()->directory_lock());
  TRY(directory.Rmdir(walk.last(), *victim->raw_inode()));
  ForgetName(*victim, parent.dentry, walk.last());
  return {};
}

}  // namespace skep::vfs
