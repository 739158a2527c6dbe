// Mounts: which file system is seen where.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/mutex.h"
#include "sentry/vfs/path.h"

namespace skep::vfs {

class MountNamespace;

class Mount : public RefCounted<Mount> {
 public:
  Ref<FileSystem> fs() const { return fs_; }
  Ref<Dentry> root() const { return root_; }  // of a bind mount: a directory (or file) inside
  uint64_t flags() const { return flags_.load(std::memory_order_relaxed); }  // MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC
  void SetFlags(uint64_t flags) { flags_.store(flags, std::memory_order_relaxed); }
  bool read_only() const;
  int id() const { return id_; }
  // Where it is mounted: none for the namespace's root.
  Path point() const;

 private:
  friend class MountNamespace;
  friend class RefCounted<Mount>;
  Mount(Ref<FileSystem> fs, Ref<Dentry> root, uint64_t flags, int id);
  ~Mount();
  Ref<FileSystem> fs_;
  Ref<Dentry> root_;
  std::atomic<uint64_t> flags_;
  int id_;
  MountNamespace* space_ = nullptr;
  Ref<Mount> parent_;
  Ref<Dentry> point_;
};

class MountNamespace : public RefCounted<MountNamespace> {
 public:
  explicit MountNamespace(Ref<FileSystem> root, uint64_t flags = 0);
  ~MountNamespace();
  Path root() const;

  // Mounts fs over `at`. The root of what is mounted; `subtree`: bind (none: the file system's root).
  Result<Ref<Mount>> Add(const Path& at, Ref<FileSystem> fs, uint64_t flags, Ref<Dentry> subtree = {});
  Result<void> Remove(const Path& mount_root, int flags);  // umount2

  // The topmost mount on `path`, repeatedly; or `path` itself.
  Path Cross(Path path) const;
  std::vector<Ref<Mount>> List() const;  // in mount order, for /proc/mounts

 private:
  mutable Mutex mutex_{LockRank::kMounts};
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace skep::vfs
