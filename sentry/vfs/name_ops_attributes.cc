// Changing and reading attributes of a resolved path (Linux: fs/open.c, fs/attr.c, fs/utimes.c),
// each with its permission checks.
#include <linux/capability.h>
#include <sys/mount.h>

#include "sentry/vfs/name_ops.h"
#include "sentry/vfs/permission.h"

namespace skep::vfs {
namespace {

Result<void> WantWrite(const Path& path) {
  if (path.mount && path.mount->read_only()) return Fail(EROFS);
  return {};
}

}  // namespace

Result<void> NameOps::Access(const Path& path, int mask, const auth::Credentials& creds) {
  Inode& inode = *path.inode();
  const uint64_t mount_flags = path.mount ? path.mount->flags() : 0;
  const uint32_t type = inode.type();
  if ((mask & kMayExec) != 0 && type == S_IFREG && (mount_flags & MS_NOEXEC) != 0) {
    return Fail(EACCES);
  }
  if (mask != 0) TRY(inode.CheckPermission(creds, mask));
  const bool special = type == S_IFCHR || type == S_IFBLK || type == S_IFIFO || type == S_IFSOCK;
  if ((mask & kMayWrite) != 0 && !special) TRY(WantWrite(path));
  return {};
}

Result<void> NameOps::Chmod(const Path& path, uint32_t mode) {
  TRY(WantWrite(path));
  Inode& inode = *path.inode();
  if (inode.IsSymlink()) return Fail(EOPNOTSUPP);
  const Attributes attributes = TRY(inode.GetAttributes());
  if (!IsOwnerOrCapable(attributes, creds())) return Fail(EPERM);
  mode &= 07777;
  if (!creds().InGroup(attributes.gid) && !IsCapableOver(attributes, creds(), CAP_FSETID)) {
    mode &= ~uint32_t{S_ISGID};
  }
  AttributeChange change;
  change.mode = mode;
  return inode.SetAttributes(change);
}

namespace {

// Linux: chown_ok and chgrp_ok.
Result<void> MayChown(const Attributes& attributes, std::optional<uint32_t> uid,
                      std::optional<uint32_t> gid, const auth::Credentials& creds) {
  if (IsCapableOver(attributes, creds, CAP_CHOWN)) return {};
  const bool owner = creds.fsuid == attributes.uid;
  if (uid && !(owner && *uid == attributes.uid)) return Fail(EPERM);
  if (gid && !(owner && (*gid == attributes.gid || creds.InGroup(*gid)))) return Fail(EPERM);
  return {};
}

}  // namespace

// Linux: chown_common, notify_change, setattr_prepare. Set-id bits and capabilities go with any
// change of the owner, even one that changes nothing; that is a chmod, which the owner may do.
Result<void> NameOps::Chown(const Path& path, std::optional<uint32_t> uid,
                            std::optional<uint32_t> gid) {
  TRY(WantWrite(path));
  Inode& inode = *path.inode();
  const Attributes attributes = TRY(inode.GetAttributes());
  TRY(MayChown(attributes, uid, gid, creds()));
  AttributeChange change;
  change.uid = uid;
  change.gid = gid;
  if (!attributes.IsDir()) {
    const uint32_t lost = PrivilegeBits(attributes, creds());
    if (lost != 0) {
      if (!IsOwnerOrCapable(attributes, creds())) return Fail(EPERM);
      change.mode = attributes.mode & 07777 & ~lost;
      if (!creds().InGroup(gid.value_or(attributes.gid)) &&
          !IsCapableOver(attributes, creds(), CAP_FSETID)) {
        *change.mode &= ~uint32_t{S_ISGID};
      }
    }
    TRY(inode.RemoveFileCapabilities());
  }
  return inode.SetAttributes(change);
}

Result<void> NameOps::SetTimes(const Path& path, std::optional<Timestamp> atime,
                               std::optional<Timestamp> mtime, bool both_now) {
  if (!atime && !mtime) return {};
  TRY(WantWrite(path));
  Inode& inode = *path.inode();
  const Attributes attributes = TRY(inode.GetAttributes());
  if (!IsOwnerOrCapable(attributes, creds())) {
    if (!both_now) return Fail(EPERM);
    TRY(inode.CheckPermission(creds(), kMayWrite));
  }
  AttributeChange change;
  change.atime = atime;
  change.mtime = mtime;
  return inode.SetAttributes(change);
}

Result<void> NameOps::Truncate(const Path& path, uint64_t size) {
  Inode& inode = *path.inode();
  if (inode.IsDir()) return Fail(EISDIR);
  if (inode.type() != S_IFREG) return Fail(EINVAL);
  TRY(WantWrite(path));
  TRY(inode.CheckPermission(creds(), kMayWrite));
  const Attributes attributes = TRY(inode.GetAttributes());
  TRY(CheckNewSize(caller_, inode, attributes.size, size));
  AttributeChange change;
  change.size = size;
  if (!creds().HasInFirst(CAP_FSETID)) {
    const uint32_t lost = PrivilegeBits(attributes, creds());
    if (lost != 0) change.mode = attributes.mode & 07777 & ~lost;
  }
  TRY(inode.TakeWriteAccess());
  Result<void> done = inode.RemoveFileCapabilities();
  if (done) done = inode.SetAttributes(change);
  inode.DropWriteAccess();
  return done;
}

Result<std::string> NameOps::ReadLink(const Path& path) {
  if (!path.inode()->IsSymlink()) return Fail(EINVAL);
  return path.inode()->ReadLink(caller_);
}

}  // namespace skep::vfs
