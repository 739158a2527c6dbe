// DentryCache: the names a file system has been asked for, hashed by parent and name, and a bounded
// list of recently used ones that keeps them alive between uses (Linux: fs/dcache.c).
//
// The table points at dentries without owning them; a dentry takes itself out when it dies.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>
#include <vector>

#include "base/mutex.h"
#include "sentry/vfs/path.h"

namespace skep::vfs {

class DentryCache {
 public:
  // `capacity`: how many dentries that nobody uses are kept.
  explicit DentryCache(size_t capacity);
  ~DentryCache();

  // What `name` in `parent` is known to be: positive, negative, or none (not known). No allocation.
  Ref<Dentry> Find(const Dentry& parent, std::string_view name);
  // From now on `name` in `parent` is `inode`. The directory lock is held.
  Ref<Dentry> Add(const Ref<Dentry>& parent, std::string_view name, Ref<Inode> inode);
  // The same, for a name that does not exist.
  void AddNegative(const Ref<Dentry>& parent, std::string_view name);
  // The file lost this name (unlink, rmdir, replaced by a rename).
  void Remove(Dentry& dentry);
  // What is cached may no longer be true: ask the file system next time.
  void Forget(Dentry& dentry);
  // rename: `dentry` gets another name, in place of whatever was cached for it.
  void Move(Dentry& dentry, const Ref<Dentry>& parent, std::string_view name);
  void Exchange(Dentry& a, Dentry& b);

  // Lets go of everything nobody else uses (umount, tests).
  void DropUnused();
  // Before the file system is destroyed.
  void Shutdown();

  size_t hashed_count() const;
  // Guards names and parents of all dentries of the file system.
  Mutex& mutex() { return mutex_; }

 private:
  friend class Dentry;
  friend class FileSystem;
  static uint32_t HashOf(const Dentry* parent, std::string_view name);
  Dentry** BucketOf(uint32_t hash) REQUIRES(mutex_);
  void Hash(Dentry& dentry) REQUIRES(mutex_);
  void Unhash(Dentry& dentry) REQUIRES(mutex_);
  void Grow() REQUIRES(mutex_);
  void AddToList(Dentry& dentry) REQUIRES(mutex_);
  // Takes it out of the list; the list's reference goes to the caller.
  Ref<Dentry> TakeFromList(Dentry& dentry) REQUIRES(mutex_);
  Ref<Dentry> Evict() REQUIRES(mutex_);
  void OnDestroy(Dentry& dentry);

  const size_t capacity_;
  mutable Mutex mutex_{LockRank::kDentry};
  std::vector<Dentry*> buckets_ GUARDED_BY(mutex_);
  size_t hashed_ GUARDED_BY(mutex_) = 0;
  Dentry* oldest_ GUARDED_BY(mutex_) = nullptr;
  Dentry* newest_ GUARDED_BY(mutex_) = nullptr;
  size_t listed_ GUARDED_BY(mutex_) = 0;
  Ref<Dentry> root_ GUARDED_BY(mutex_);
};

}  // namespace skep::vfs
