// Mounts: which file system is seen where.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/mutex.h"
#include "sentry/vfs/path.h"

namespace skep::vfs {

class MountNamespace : public RefCounted<MountNamespace> {
 public:
  // `number`: as /proc/<pid>/ns/mnt shows it. `owner`: in which changes ask for CAP_SYS_ADMIN;
  // null: the kernel's first.
  explicit MountNamespace(Ref<FileSystem> root, uint64_t flags = 0, uint64_t number = 0,
                          Ref<auth::UserNamespace> owner = {});
  ~MountNamespace();
  Path root() const;
  uint64_t number() const { return number_; }
  bool MayChange(const auth::Credentials& creds) const;  // Linux: may_mount

  // Mounts fs over `at`. The root of what is mounted; `subtree`: bind (none: the file system's
  // root).
  Result<Ref<Mount>> Add(const Path& at, Ref<FileSystem> fs, uint64_t flags,
                         Ref<Dentry> subtree = {});
  Result<void> Remove(const Path& mount_root, int flags);  // umount2

  // A copy of the whole tree (Linux: copy_mnt_ns). `paths` in mounts of this one are moved to their
  // copies: the root and the working directory of whoever asks.
  Ref<MountNamespace> Clone(uint64_t number, Ref<auth::UserNamespace> owner,
                            std::span<Path* const> paths) const;

  // The topmost mount on `path`, repeatedly; or `path` itself.
  Path Cross(Path path) const;
  std::vector<Ref<Mount>> List() const;  // in mount order, for /proc/mounts

 private:
  friend class Mount;
  struct State;
  MountNamespace(uint64_t number, Ref<auth::UserNamespace> owner);  // without a mount
  void Attach(const Ref<Mount>& mount, const Path& point) REQUIRES(mutex_);
  Path CrossLocked(Path path) const REQUIRES(mutex_);

  const uint64_t number_;
  const Ref<auth::UserNamespace> owner_;
  mutable Mutex mutex_{LockRank::kMounts};
  std::unique_ptr<State> state_ GUARDED_BY(mutex_);
};

}  // namespace skep::vfs
