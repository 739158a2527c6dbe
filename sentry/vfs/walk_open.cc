// Opening by name and by path (Linux: path_openat, do_open, may_open).
#include <fcntl.h>
#include <linux/capability.h>
#include <sys/mount.h>

#include "sentry/vfs/dentry_cache.h"
#include "sentry/vfs/file.h"
#include "sentry/vfs/path_walk.h"
#include "sentry/vfs/permission.h"
#include "sentry/vfs/walk.h"

namespace skep::vfs {
namespace {

constexpr uint32_t kTmpFileBit = O_TMPFILE & ~O_DIRECTORY;
constexpr uint32_t kLargeFile = 0100000;  // the kernel's O_LARGEFILE, which 64-bit open(2) sets
constexpr uint32_t kPathFlags = O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC;
// What open(2) acts on and F_GETFL does not show.
constexpr uint32_t kCreationFlags = O_CREAT | O_EXCL | O_NOCTTY | O_TRUNC | O_CLOEXEC;

// A descriptor of O_PATH: a place, not an open file.
class PathFile final : public File {
 public:
  using File::File;
  Result<uint64_t> Seek(int64_t, int) override { return Fail(EBADF); }
  EventMask Poll(EventMask) override { return 0; }
};

}  // namespace

struct Walker::OpenFlags {
  uint32_t flags = 0;
  int access = 0;  // kMay*
  uint32_t mode = 0;
  uint64_t resolve = 0;

  // Linux: build_open_flags.
  static Result<OpenFlags> From(const OpenRequest& request);
  bool Has(uint32_t flag) const { return (flags & flag) != 0; }
  Inode::LastName last_name() const {
    const bool reads = access == kMayRead && !Has(O_DIRECTORY);  // 0 for O_PATH
    return reads ? Inode::LastName::kOpened : Inode::LastName::kLookedUp;
  }
  FollowFinal follow() const {
    return Has(O_NOFOLLOW) || (Has(O_CREAT) && Has(O_EXCL)) ? FollowFinal::kNo : FollowFinal::kYes;
  }
};

Result<Walker::OpenFlags> Walker::OpenFlags::From(const OpenRequest& request) {
  OpenFlags open{.flags = request.flags, .mode = request.mode & 07777, .resolve = request.resolve};
  if (open.Has(O_PATH)) {
    open.flags &= kPathFlags;
    return open;
  }
  open.flags |= kLargeFile;
  constexpr int kAccess[] = {kMayRead, kMayWrite, kMayRead | kMayWrite, kMayRead | kMayWrite};
  open.access = kAccess[request.flags & O_ACCMODE];
  if (open.Has(kTmpFileBit)) {
    if (!open.Has(O_DIRECTORY) || (open.access & kMayWrite) == 0) return Fail(EINVAL);
    if (open.Has(O_CREAT)) return Fail(EINVAL);
  } else if (open.Has(O_CREAT) && open.Has(O_DIRECTORY)) {
    return Fail(EINVAL);
  }
  if (open.Has(O_TRUNC)) open.access |= kMayWrite;
  return open;
}

Result<void> Walker::MayOpen(const Path& path, const OpenFlags& open) {
  Inode& inode = *path.inode();
  const uint64_t mount_flags = path.mount ? path.mount->flags() : 0;
  switch (inode.type()) {
    case S_IFLNK:
      return Fail(ELOOP);
    case S_IFDIR:
      if ((open.access & kMayWrite) != 0) return Fail(EISDIR);
      break;
    case S_IFBLK:
    case S_IFCHR:
      if ((mount_flags & MS_NODEV) != 0) return Fail(EACCES);
      break;
    default:
      break;
  }
  if (open.access != 0) TRY(inode.CheckPermission(creds(), open.access));
  if (open.Has(O_NOATIME)) {
    const Attributes attributes = TRY(inode.GetAttributes());
    if (!IsOwnerOrCapable(attributes, creds())) return Fail(EPERM);
  }
  return {};
}

Result<Ref<File>> Walker::FinishOpen(const Path& path, const OpenFlags& open) {
  Inode& inode = *path.inode();
  if (open.Has(O_PATH)) return Ref<File>(MakeRef<PathFile>(path, open.flags & ~O_CLOEXEC));
  const bool regular = inode.type() == S_IFREG;
  const bool writes = (open.flags & O_ACCMODE) != O_RDONLY;
  const bool counted = regular && writes;
  if (counted) TRY(inode.TakeWriteAccess());
  const uint32_t flags = open.flags & ~(O_CREAT | O_EXCL | O_TRUNC | O_CLOEXEC | kTmpFileBit);
  Result<Ref<File>> file = inode.Open(caller_, path, flags);
  if (!file) {
    if (counted) inode.DropWriteAccess();
    return file;
  }
  if (counted) (*file)->SetHoldsWriteAccess();
  (*file)->SetFlags((*file)->flags() & ~kCreationFlags);
  (*file)->opener = caller_.shared_creds();
  return file;
}

// Linux: do_open.
Result<Ref<File>> Walker::OpenFound(const Path& path, const OpenFlags& open, bool created) {
  Inode& inode = *path.inode();
  if (open.Has(O_CREAT)) {
    if (open.Has(O_EXCL) && !created) return Fail(EEXIST);
    if (inode.IsDir()) return Fail(EISDIR);
  }
  if (open.Has(O_DIRECTORY) && !inode.IsDir()) return Fail(ENOTDIR);
  if (open.Has(O_PATH)) return FinishOpen(path, open);
  const bool regular = inode.type() == S_IFREG;
  const bool read_only = path.mount && path.mount->read_only();
  if (created) return FinishOpen(path, open);
  if (regular && open.Has(O_TRUNC) && read_only) return Fail(EROFS);
  TRY(MayOpen(path, open));
  const bool writes = (open.flags & O_ACCMODE) != O_RDONLY;
  if (regular && writes && read_only) return Fail(EROFS);
  if (!regular || !open.Has(O_TRUNC)) return FinishOpen(path, open);

  // Emptied before it is opened: a copy-up then has nothing to copy.
  TRY(inode.TakeWriteAccess());
  AttributeChange change;
  change.size = 0;
  const Attributes attributes = TRY(inode.GetAttributes());
  if (!creds().Has(CAP_FSETID)) {
    if (const uint32_t lost = PrivilegeBits(attributes, creds())) {
      change.mode = attributes.mode & 07777 & ~lost;
    }
  }
  Result<void> truncated = inode.SetAttributes(change);
  inode.DropWriteAccess();
  if (!truncated) return std::unexpected(truncated.error());
  return FinishOpen(path, open);
}

// The last component does not exist. Sets *created unless somebody else was faster.
static Result<Path> CreateFile(Walker& walker, const Path& parent, std::string_view name,
                               uint32_t mode, bool* created) {
  Inode& directory = *parent.inode();
  sched::SleepLockHold hold(directory.directory_lock());
  Ref<Dentry> dentry = TRY(LookupLocked(parent.dentry, name));
  if (!dentry->negative()) return Path(parent.mount, std::move(dentry));
  if (parent.mount && parent.mount->read_only()) return Fail(EROFS);
  if (parent.dentry->unlinked()) return Fail(ENOENT);
  TRY(directory.CheckPermission(walker.creds(), kMayWrite | kMayExec));
  const Attributes attributes = TRY(directory.GetAttributes());
  Ref<Inode> inode =
      TRY(directory.Create(name, NewNodeIn(attributes, walker.creds(), S_IFREG | mode)));
  *created = true;
  return Path(parent.mount, directory.fs().cache().Add(parent.dentry, name, std::move(inode)));
}

Result<Ref<File>> Walker::OpenTemporary(std::string_view path, const OpenRequest& request,
                                        const OpenFlags& open) {
  const WalkOptions options{.follow = open.follow(), .directory = true, .resolve = request.resolve};
  const Path parent = TRY(Resolve(path, options));
  if (parent.mount && parent.mount->read_only()) return Fail(EROFS);
  Inode& directory = *parent.inode();
  TRY(directory.CheckPermission(creds(), kMayWrite | kMayExec));
  const Attributes attributes = TRY(directory.GetAttributes());
  Ref<Inode> inode =
      TRY(directory.TemporaryFile(NewNodeIn(attributes, creds(), S_IFREG | open.mode)));
  if (!open.Has(O_EXCL)) inode->SetLinkable(true);
  const Path place(parent.mount, Dentry::MakeTemporary(parent.dentry, std::move(inode)));
  return FinishOpen(place, open);
}

Result<Ref<File>> Walker::Open(std::string_view path, const OpenRequest& request) {
  const OpenFlags open = TRY(OpenFlags::From(request));
  if (open.Has(kTmpFileBit)) return OpenTemporary(path, request, open);
  PathWalk walk(*this, open.resolve, open.last_name());
  TRY(walk.Start(path));
  for (;;) {
    TRY(walk.ToParent());
    if (walk.last_type() != LastType::kNormal) {
      const Path found = TRY(walk.FinishDots());
      return OpenFound(found, open, false);
    }
    if (open.Has(O_CREAT) && walk.trailing_slash()) return Fail(EISDIR);
    bool created = false;
    Path found = TRY(walk.LookupLast());
    if (found.dentry->negative()) {
      if (!open.Has(O_CREAT)) return Fail(ENOENT);
      found = TRY(CreateFile(*this, walk.directory(), walk.last(), open.mode, &created));
    }
    const bool slash = walk.trailing_slash();
    if (found.inode()->IsSymlink() && (open.follow() == FollowFinal::kYes || slash)) {
      std::optional<Path> magic = TRY(walk.FollowLast(found));
      if (!magic) continue;
      found = std::move(*magic);
    }
    if (slash && !found.inode()->IsDir()) return Fail(ENOTDIR);
    return OpenFound(found, open, created);
  }
}

Result<Ref<File>> Walker::OpenPath(const Path& path, const OpenRequest& request) {
  OpenFlags open = TRY(OpenFlags::From(request));
  if (open.Has(kTmpFileBit)) return Fail(EINVAL);
  return OpenFound(path, open, false);
}

}  // namespace skep::vfs
