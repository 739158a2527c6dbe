// Mounts: which file system is seen where.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/mutex.h"
#include "sentry/vfs/path.h"

namespace skep::vfs {

class MountNamespace : public RefCounted<MountNamespace> {
 public:
  explicit MountNamespace(Ref<FileSystem> root, uint64_t flags = 0);
  ~MountNamespace();
  Path root() const;

  // Mounts fs over `at`. The root of what is mounted; `subtree`: bind (none: the file system's
  // root).
  Result<Ref<Mount>> Add(const Path& at, Ref<FileSystem> fs, uint64_t flags,
                         Ref<Dentry> subtree = {});
  Result<void> Remove(const Path& mount_root, int flags);  // umount2

  // The topmost mount on `path`, repeatedly; or `path` itself.
  Path Cross(Path path) const;
  std::vector<Ref<Mount>> List() const;  // in mount order, for /proc/mounts

 private:
  friend class Mount;
  mutable Mutex mutex_{LockRank::kMounts};
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace skep::vfs
