// rename(2) (Linux: do_renameat2, vfs_rename).
#include <fcntl.h>
#include <linux/fs.h>
#include <cstdio>
#include <optional>

#include "sentry/vfs/dentry_cache.h"
#include "sentry/vfs/new_name.h"
#include "sentry/vfs/permission.h"

namespace skep::vfs {
namespace {

// One side of a rename: a walk that stands in the directory, and what the last name is.
struct Side {
  Path parent;
  std::string_view name;
  bool trailing_slash = false;
  Ref<Dentry> dentry;

  Inode& directory() const { return *parent.inode(); }
  bool IsDir() const { return !dentry->negative() && dentry->raw_inode()->IsDir(); }
};

bool IsAncestor(const Ref<Dentry>& above, Ref<Dentry> below) {
  while (below) {
    if (below == above) return true;
    below = below->parent();
  }
  return false;
}

// The directory locks of a rename, ancestor first (Linux: lock_rename).
class RenameLocks {
 public:
  RenameLocks(const Path& from, const Path& to) {
    if (from.dentry == to.dentry) {
      first_.emplace(from.inode()->directory_lock());
      return;
    }
    rename_.emplace(from.inode()->fs().rename_lock());
    const bool from_first = IsAncestor(from.dentry, to.dentry) ||
                            (!IsAncestor(to.dentry, from.dentry) && from.inode() < to.inode());
    first_.emplace((from_first ? from : to).inode()->directory_lock());
    second_.emplace((from_first ? to : from).inode()->directory_lock());
  }

 private:
  // Released in the opposite order.
  std::optional<sched::SleepLockHold> rename_, first_, second_;
};

Result<void> CheckNames(const Side& from, const Side& to, uint32_t flags) {
  const bool exchange = (flags & RENAME_EXCHANGE) != 0;
  if (from.dentry->negative()) return Fail(ENOENT);
  if ((flags & RENAME_NOREPLACE) != 0 && !to.dentry->negative()) return Fail(EEXIST);
  if (exchange) {
    if (to.dentry->negative()) return Fail(ENOENT);
    if (!to.IsDir() && to.trailing_slash) return Fail(ENOTDIR);
  }
  if (!from.IsDir()) {
    if (from.trailing_slash) return Fail(ENOTDIR);
    if (!exchange && to.trailing_slash) return Fail(ENOTDIR);
  }
  if (from.parent.dentry == to.parent.dentry) return {};
  // The source may not be an ancestor of the target, nor the target one of the source.
  if (IsAncestor(from.dentry, to.parent.dentry)) return Fail(EINVAL);
  if (!to.dentry->negative() && IsAncestor(to.dentry, from.parent.dentry)) {
    return Fail(exchange ? EINVAL : ENOTEMPTY);
  }
  return {};
}

// Linux: the checks of vfs_rename.
Result<void> CheckPermissions(const Side& from, const Side& to, uint32_t flags,
                              const auth::Credentials& creds) {
  const bool exchange = (flags & RENAME_EXCHANGE) != 0;
  const bool is_dir = from.IsDir();
  TRY(MayDelete(from.directory(), *from.parent.dentry, *from.dentry, is_dir, creds));
  if (to.dentry->negative()) {
    if (to.parent.dentry->unlinked()) return Fail(ENOENT);
    TRY(to.directory().CheckPermission(creds, kMayWrite | kMayExec));
  } else {
    TRY(MayDelete(to.directory(), *to.parent.dentry, *to.dentry, exchange ? to.IsDir() : is_dir,
                  creds));
  }
  if (from.parent.dentry != to.parent.dentry) {
    // Its ".." changes.
    if (is_dir) TRY(from.dentry->raw_inode()->CheckPermission(creds, kMayWrite));
    if (exchange && to.IsDir()) TRY(to.dentry->raw_inode()->CheckPermission(creds, kMayWrite));
  }
  if (from.dentry->IsMountpoint() || to.dentry->IsMountpoint()) return Fail(EBUSY);
  return {};
}

void RenameDentries(const Side& from, const Side& to, uint32_t flags) {
  DentryCache& cache = from.directory().fs().cache();
  if ((flags & RENAME_EXCHANGE) != 0) {
    cache.Exchange(*from.dentry, *to.dentry);
    return;
  }
  if (!to.dentry->negative()) cache.Remove(*to.dentry);
  cache.Move(*from.dentry, to.parent.dentry, to.name);
  if ((flags & RENAME_WHITEOUT) == 0) cache.AddNegative(from.parent.dentry, from.name);
}

}  // namespace

Result<void> NameOps::Rename(std::string_view path, NameOps& to_walker, std::string_view new_path,
                             uint32_t flags) {
  constexpr uint32_t kKnown = RENAME_NOREPLACE | RENAME_EXCHANGE | RENAME_WHITEOUT;
  if ((flags & ~kKnown) != 0) return Fail(EINVAL);
  const bool exchange = (flags & RENAME_EXCHANGE) != 0;
  if (exchange && (flags & (RENAME_NOREPLACE | RENAME_WHITEOUT)) != 0) return Fail(EINVAL);
  PathWalk from_walk(*this, 0);
  TRY(from_walk.Start(path));
  TRY(from_walk.ToParent());
  PathWalk to_walk(to_walker, 0);
  TRY(to_walk.Start(new_path));
  TRY(to_walk.ToParent());
  Side from{.parent = from_walk.directory(),
            .name = from_walk.last(),
            .trailing_slash = from_walk.trailing_slash()};
  Side to{.parent = to_walk.directory(),
          .name = to_walk.last(),
          .trailing_slash = to_walk.trailing_slash()};
  if (from.parent.mount != to.parent.mount) return Fail(EXDEV);
  if (from_walk.last_type() != LastType::kNormal) return Fail(EBUSY);
  if (to_walk.last_type() != LastType::kNormal) {
    return Fail((flags & RENAME_NOREPLACE) != 0 ? EEXIST : EBUSY);
  }
  if (from.parent.mount && from.parent.mount->read_only()) return Fail(EROFS);

  Ref<Dentry> victim;  // outlives the locks
  RenameLocks locks(from.parent, to.parent);
  from.dentry = TRY(LookupLocked(from.parent.dentry, from.name));
  to.dentry = TRY(LookupLocked(to.parent.dentry, to.name));
  victim = to.dentry;
  TRY(CheckNames(from, to, flags));
  Inode& moved = *from.dentry->raw_inode();
  Inode* target = to.dentry->raw_inode();
  if (target == &moved) return {};
  TRY(CheckPermissions(from, to, flags, creds()));
  TRY(from.directory().Rename(from.name, moved, to.directory(), to.name, target, flags));
  RenameDentries(from, to, flags);
  return {};
}

}  // namespace skep::vfs
