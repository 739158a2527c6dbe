// FsContext: a task's root, working directory and umask (Linux: struct fs_struct); shared with
// CLONE_FS.
#pragma once

#include "base/mutex.h"
#include "sentry/vfs/mount.h"
#include "sentry/vfs/path.h"

namespace skep::vfs {

class FsContext : public RefCounted<FsContext> {
 public:
  FsContext(Ref<MountNamespace> mounts, Path root, Path cwd, uint32_t umask);
  Ref<FsContext> Clone() const;  // clone without CLONE_FS
  // A copy in a copy of the mount namespace: the same places, in mounts of its own (Linux:
  // copy_mnt_ns).
  Ref<FsContext> CloneMounts(uint64_t number, Ref<auth::UserNamespace> owner) const;

  Path root() const;
  Path cwd() const;
  void SetRoot(Path root);
  void SetCwd(Path cwd);
  uint32_t umask() const;
  uint32_t ExchangeUmask(uint32_t umask);
  Ref<MountNamespace> mounts() const;

 private:
  mutable Mutex mutex_{LockRank::kFsContext};
  Ref<MountNamespace> mounts_;
  Path root_ GUARDED_BY(mutex_);
  Path cwd_ GUARDED_BY(mutex_);
  uint32_t umask_ GUARDED_BY(mutex_);
};

}  // namespace skep::vfs
