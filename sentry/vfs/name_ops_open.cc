// Opening by name and by path (Linux: path_openat, do_open, may_open).
#include <fcntl.h>
#include <linux/capability.h>
#include <sys/mount.h>

#include "sentry/vfs/dentry_cache.h"
#include "sentry/vfs/file.h"
#include "sentry/vfs/name_ops.h"
#include "sentry/vfs/path_walk.h"
#include "sentry/vfs/permission.h"

namespace skep::vfs {
namespace {

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

namespace {

FollowFinal FollowsLast(const OpenFlags& open) {
  return open.FollowsLast() ? FollowFinal::kYes : FollowFinal::kNo;
}

// What the file system may do about the last name on the way.
Inode::LastName LastNameOf(const OpenFlags& open) {
  const bool reads = open.access() == kMayRead && !open.Has(O_DIRECTORY);
  return reads ? Inode::LastName::kOpened : Inode::LastName::kLookedUp;
}

}  // namespace

Result<void> NameOps::MayOpen(const Path& path, const OpenFlags& open) {
  Inode& inode = *path.inode();
  const uint64_t mount_flags = path.mount ? path.mount->flags() : 0;
  switch (inode.type()) {
    case S_IFLNK:
      return Fail(ELOOP);
    case S_IFDIR:
      if ((open.access() & kMayWrite) != 0) return Fail(EISDIR);
      break;
    case S_IFBLK:
    case S_IFCHR:
      if ((mount_flags & MS_NODEV) != 0) return Fail(EACCES);
      break;
    default:
      break;
  }
  if (open.access() != 0) TRY(inode.CheckPermission(creds(), open.access()));
  if (open.Has(O_NOATIME)) {
    const Attributes attributes = TRY(inode.GetAttributes());
    if (!IsOwnerOrCapable(attributes, creds())) return Fail(EPERM);
  }
  return {};
}

Result<Ref<File>> NameOps::FinishOpen(const Path& path, const OpenFlags& open) {
  Inode& inode = *path.inode();
  if (open.Has(O_PATH)) {
    auto named = MakeRef<PathFile>(path, open.OfFile());
    named->opener = caller_.shared_creds();
    return Ref<File>(std::move(named));
  }
  const bool regular = inode.type() == S_IFREG;
  const bool counted = regular && open.Writes();
  if (counted) TRY(inode.TakeWriteAccess());
  Result<Ref<File>> file = inode.Open(caller_, path, open.OfFile());
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
Result<Ref<File>> NameOps::OpenFound(const Path& path, const OpenFlags& open, bool created) {
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
  if (regular && open.Writes() && read_only) return Fail(EROFS);
  if (!regular || !open.Has(O_TRUNC)) return FinishOpen(path, open);

  // Emptied before it is opened: a copy-up then has nothing to copy.
  TRY(inode.TakeWriteAccess());
  AttributeChange change;
  change.size = 0;
  const Attributes attributes = TRY(inode.GetAttributes());
  if (!creds().HasInFirst(CAP_FSETID)) {
    if (const uint32_t lost = PrivilegeBits(attributes, creds())) {
      change.mode = attributes.mode & 07777 & ~lost;
    }
  }
  Result<void> truncated = inode.RemoveFileCapabilities();
  if (truncated) truncated = inode.SetAttributes(change);
  inode.DropWriteAccess();
  if (!truncated) return std::unexpected(truncated.error());
  return FinishOpen(path, open);
}

// The last component does not exist. Sets *created unless somebody else was faster.
static Result<Path> CreateFile(NameOps& walker, const Path& parent, std::string_view name,
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

Result<Ref<File>> NameOps::OpenTemporary(std::string_view path, const OpenFlags& open) {
  const WalkOptions options{
      .follow = FollowsLast(open), .directory = true, .resolve = open.resolve()};
  const Path parent = TRY(Resolve(path, options));
  if (parent.mount && parent.mount->read_only()) return Fail(EROFS);
  Inode& directory = *parent.inode();
  TRY(directory.CheckPermission(creds(), kMayWrite | kMayExec));
  const Attributes attributes = TRY(directory.GetAttributes());
  Ref<Inode> inode =
      TRY(directory.TemporaryFile(NewNodeIn(attributes, creds(), S_IFREG | open.mode())));
  if (!open.Has(O_EXCL)) inode->SetLinkable(true);
  const Path place(parent.mount, Dentry::MakeTemporary(parent.dentry, std::move(inode)));
  return FinishOpen(place, open);
}

Result<Ref<File>> NameOps::Open(std::string_view path, const OpenHow& how) {
  const OpenFlags open = TRY(OpenFlags::From(how, Strictness::kOpen));
  return Open(path, open);
}

Result<Ref<File>> NameOps::Open(std::string_view path, const OpenFlags& open) {
  if (open.IsTemporary()) return OpenTemporary(path, open);
  PathWalk walk(*this, open.resolve(), LastNameOf(open));
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
      found = TRY(CreateFile(*this, walk.directory(), walk.last(), open.mode(), &created));
    }
    const bool slash = walk.trailing_slash();
    if (found.inode()->IsSymlink() && (open.FollowsLast() || slash)) {
      std::optional<Path> magic = TRY(walk.FollowLast(found));
      if (!magic) continue;
      found = std::move(*magic);
    }
    if (slash && !found.inode()->IsDir()) return Fail(ENOTDIR);
    return OpenFound(found, open, created);
  }
}

}  // namespace skep::vfs
