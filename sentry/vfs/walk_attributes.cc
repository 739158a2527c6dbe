// Changing and reading attributes of a resolved path (Linux: fs/open.c, fs/attr.c, fs/utimes.c,
// fs/xattr.c), each with its permission checks.
#include <linux/capability.h>
#include <sys/mount.h>
#include <sys/xattr.h>

#include "sentry/vfs/permission.h"
#include "sentry/vfs/walk.h"

namespace skep::vfs {
namespace {

Result<void> WantWrite(const Path& path) {
  if (path.mount && path.mount->read_only()) return Fail(EROFS);
  return {};
}

}  // namespace

Result<void> Walker::Access(const Path& path, int mask, const auth::Credentials& creds) {
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

Result<void> Walker::Chmod(const Path& path, uint32_t mode) {
  TRY(WantWrite(path));
  Inode& inode = *path.inode();
  if (inode.IsSymlink()) return Fail(EOPNOTSUPP);
  const Attributes attributes = TRY(inode.GetAttributes());
  if (!IsOwnerOrCapable(attributes, creds())) return Fail(EPERM);
  mode &= 07777;
  if (!creds().InGroup(attributes.gid) && !creds().Has(CAP_FSETID)) mode &= ~uint32_t{S_ISGID};
  AttributeChange change;
  change.mode = mode;
  return inode.SetAttributes(change);
}

Result<void> Walker::Chown(const Path& path, std::optional<uint32_t> uid,
                           std::optional<uint32_t> gid) {
  TRY(WantWrite(path));
  Inode& inode = *path.inode();
  const Attributes attributes = TRY(inode.GetAttributes());
  const bool owner = creds().fsuid == attributes.uid;
  const bool capable = creds().Has(CAP_CHOWN);
  if (uid && !(owner && *uid == attributes.uid) && !capable) return Fail(EPERM);
  if (gid && !(owner && (*gid == attributes.gid || creds().InGroup(*gid))) && !capable) {
    return Fail(EPERM);
  }
  AttributeChange change;
  change.uid = uid;
  change.gid = gid;
  if (!attributes.IsDir()) {
    const uint32_t lost = PrivilegeBits(attributes, creds());
    if (lost != 0) change.mode = attributes.mode & 07777 & ~lost;
  }
  return inode.SetAttributes(change);
}

Result<void> Walker::SetTimes(const Path& path, std::optional<Timestamp> atime,
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

Result<void> Walker::Truncate(const Path& path, uint64_t size) {
  Inode& inode = *path.inode();
  if (inode.IsDir()) return Fail(EISDIR);
  if (inode.type() != S_IFREG) return Fail(EINVAL);
  TRY(WantWrite(path));
  TRY(inode.CheckPermission(creds(), kMayWrite));
  const Attributes attributes = TRY(inode.GetAttributes());
  if (size > attributes.size) TRY(CheckFileSize(caller_, size));
  AttributeChange change;
  change.size = size;
  if (!creds().Has(CAP_FSETID)) {
    const uint32_t lost = PrivilegeBits(attributes, creds());
    if (lost != 0) change.mode = attributes.mode & 07777 & ~lost;
  }
  TRY(inode.TakeWriteAccess());
  Result<void> done = inode.SetAttributes(change);
  inode.DropWriteAccess();
  return done;
}

Result<std::string> Walker::ReadLink(const Path& path) {
  if (!path.inode()->IsSymlink()) return Fail(EINVAL);
  return path.inode()->ReadLink(caller_);
}

namespace {

// Linux: xattr_permission.
Result<void> XattrPermission(Inode& inode, std::string_view name, int mask,
                             const auth::Credentials& creds) {
  const bool write = (mask & kMayWrite) != 0;
  if (name.starts_with("security.") || name.starts_with("system.")) {
    if (write && name.starts_with("security.") && name != "security.capability" &&
        !creds.Has(CAP_SYS_ADMIN)) {
      return Fail(EPERM);
    }
    return {};
  }
  if (name.starts_with("trusted.")) {
    if (!creds.Has(CAP_SYS_ADMIN)) return Fail(write ? EPERM : ENODATA);
    return {};
  }
  if (name.starts_with("user.")) {
    if (inode.type() != S_IFREG && !inode.IsDir()) return Fail(write ? EPERM : ENODATA);
    if (write && inode.IsDir()) {
      const Attributes attributes = TRY(inode.GetAttributes());
      if ((attributes.mode & S_ISVTX) != 0 && !IsOwnerOrCapable(attributes, creds)) {
        return Fail(EPERM);
      }
    }
  }
  return inode.CheckPermission(creds, mask);
}

}  // namespace

Result<std::string> Walker::GetXattr(const Path& path, std::string_view name) {
  TRY(XattrPermission(*path.inode(), name, kMayRead, creds()));
  return path.inode()->GetXattr(name);
}

Result<void> Walker::SetXattr(const Path& path, std::string_view name, std::string_view value,
                              int flags) {
  TRY(WantWrite(path));
  TRY(XattrPermission(*path.inode(), name, kMayWrite, creds()));
  return path.inode()->SetXattr(name, value, flags);
}

Result<void> Walker::RemoveXattr(const Path& path, std::string_view name) {
  TRY(WantWrite(path));
  TRY(XattrPermission(*path.inode(), name, kMayWrite, creds()));
  return path.inode()->RemoveXattr(name);
}

Result<std::vector<std::string>> Walker::ListXattrs(const Path& path) {
  std::vector<std::string> names = TRY(path.inode()->ListXattrs());
  if (!creds().Has(CAP_SYS_ADMIN)) {
    std::erase_if(names, [](const std::string& name) { return name.starts_with("trusted."); });
  }
  return names;
}

}  // namespace skep::vfs
