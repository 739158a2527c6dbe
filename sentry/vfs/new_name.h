// What the operations on names share. NewName: the start of every operation that makes a name
// (Linux: filename_create): walks to the directory, takes its lock and makes sure that the name is
// free.
#pragma once

#include <optional>
#include <string_view>

#include "sentry/vfs/path_walk.h"

namespace skep::vfs {

class NameOps::NewName {
 public:
  explicit NewName(NameOps& walker) : walker_(walker), walk_(walker, 0) {}

  // EEXIST, ENOENT (a trailing slash on what is no directory), EROFS. The lock is held afterwards.
  Result<void> Prepare(std::string_view path, bool directory);
  // Linux: may_create.
  Result<void> MayCreate();

  const Path& parent() const { return walk_.directory(); }
  Inode& directory() const { return *walk_.directory().inode(); }
  std::string_view name() const { return walk_.last(); }
  Result<Inode::NewNode> Node(uint32_t mode);
  Path Add(Ref<Inode> inode);

 private:
  NameOps& walker_;
  PathWalk walk_;
  std::optional<sched::SleepLockHold> hold_;
};

// Linux: may_delete: whether `victim` may be taken out of `directory` (of dentry `parent`).
Result<void> MayDelete(Inode& directory, Dentry& parent, const Dentry& victim, bool as_directory,
                       const auth::Credentials& creds);

}  // namespace skep::vfs
