// Inode, Dentry, Mount and Path: names and what they lead to.
//
// Who holds whom: Path -> Mount, Dentry; Dentry -> Inode, parent Dentry; Mount -> FileSystem,
// parent Mount. Nothing points down by Ref, except a file system's bounded list of recently used
// dentries (the cache) and pinned ones (tmpfs, proc: their directories hold their inodes).
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/mutex.h"
#include "base/ref.h"
#include "sentry/sched/sleep_lock.h"
#include "sentry/sched/wait_queue.h"
#include "sentry/vfs/types.h"

namespace skep::vfs {

class Dentry;
class File;
class FileSystem;
class Inode;
class Mount;
class MountNamespace;
class FileLocks;  // vfs/locks.h

struct Path;         // below: a name in a mount
class SpecialFiles;  // vfs/special_files.h
class DentryCache;   // vfs/dentry_cache.h

// A file of a file system (Linux: struct inode with its i_op). Operations may suspend the fiber;
// permissions have been checked by the vfs; directory operations are called with the directory's
// kDirectory lock held.
class Inode : public RefCounted<Inode> {
 public:
  Inode(FileSystem& fs, uint64_t ino, uint32_t type);
  virtual ~Inode();

  FileSystem& fs() const { return fs_; }
  uint64_t ino() const { return ino_; }
  uint32_t type() const { return type_; }  // S_IFMT bits; never changes
  bool IsDir() const { return type_ == S_IFDIR; }
  bool IsSymlink() const { return type_ == S_IFLNK; }

  virtual Result<Attributes> GetAttributes() = 0;
  virtual Result<void> SetAttributes(const AttributeChange& change);  // EPERM

  // Directories. ENOENT; ENOTDIR.
  virtual Result<Ref<Inode>> Lookup(std::string_view name);
  // A hint that this whole chain of names will be looked up from here, and the last one perhaps be
  // opened for reading: a remote file system may fetch it all in one message.
  enum class LastName : bool { kLookedUp, kOpened };
  virtual void PrefetchWalk(std::span<const std::string_view> names, LastName last) {
    (void)names;
    (void)last;
  }
  struct NewNode {
    uint32_t mode;
    uint32_t uid, gid;
    uint32_t rdev_major = 0, rdev_minor = 0;
  };
  virtual Result<Ref<Inode>> Create(std::string_view name,
                                    const NewNode& node);  // any S_IFMT but LNK
  virtual Result<Ref<Inode>> Symlink(std::string_view name, std::string_view target,
                                     const NewNode& node);
  virtual Result<void> Link(std::string_view name, Inode& existing);
  virtual Result<void> Unlink(std::string_view name, Inode& victim);
  virtual Result<void> Rmdir(std::string_view name, Inode& victim);
  // flags: RENAME_NOREPLACE, RENAME_EXCHANGE, RENAME_WHITEOUT; target: what is there now, or null.
  virtual Result<void> Rename(std::string_view name, Inode& moved, Inode& new_directory,
                              std::string_view new_name, Inode* target, uint32_t flags);
  virtual Result<Ref<Inode>> TemporaryFile(const NewNode& node);  // O_TMPFILE: EOPNOTSUPP

  virtual Result<std::string> ReadLink(Caller& caller);  // EINVAL
  // Magic links (/proc/<pid>/exe, fd/N): where they lead, not by name. nullopt: an ordinary link.
  virtual Result<std::optional<Path>> FollowMagic(Caller& caller);

  // An open file. flags as open(2)'s; O_CREAT/O_EXCL/O_TRUNC have been dealt with.
  virtual Result<Ref<File>> Open(Caller& caller, const Path& path, uint32_t flags) = 0;

  virtual Result<std::string> GetXattr(std::string_view name);  // EOPNOTSUPP
  virtual Result<void> SetXattr(std::string_view name, std::string_view value, int flags);
  virtual Result<void> RemoveXattr(std::string_view name);
  virtual Result<std::vector<std::string>> ListXattrs();

  // The POSIX access ACL that a host's file has beside its mode, as the value of the extended
  // attribute; empty: none. Guests cannot see or change it; CheckPermission obeys it.
  virtual Result<std::string> AccessAcl();
  // The file's capabilities go, because it is changed (Linux: security_inode_killpriv). A file
  // system whose host does that by itself does nothing.
  virtual Result<void> RemoveFileCapabilities();

  // The default checks mode bits and ACL against GetAttributes (Linux: generic_permission). mask:
  // MAY_*.
  virtual Result<void> CheckPermission(const auth::Credentials& creds, int mask);

  // Something else stands in for this inode now (an overlay has copied it up): a file that was
  // opened through the overlay opens what its path leads to and goes on with that.
  bool superseded() const { return superseded_.load(std::memory_order_acquire); }
  void SetSuperseded() { superseded_.store(true, std::memory_order_release); }

  sched::SleepLock& directory_lock() { return directory_lock_; }
  FileLocks& locks();                // POSIX, OFD and flock locks; made at first use
  FileLocks* locks_or_null() const;  // null: nobody ever locked it

  // Linux: i_writecount. Open for writing and being executed exclude each other: ETXTBSY.
  Result<void> TakeWriteAccess();
  void DropWriteAccess();
  Result<void> DenyWriteAccess();  // execve: while the file runs
  void AllowWriteAccess();

  // A file of O_TMPFILE (without O_EXCL) may be given its first name.
  bool linkable() const { return linkable_.load(std::memory_order_relaxed); }
  void SetLinkable(bool on) { linkable_.store(on, std::memory_order_relaxed); }

  // What connect and open find behind a named socket and a FIFO; null: nothing of this type.
  template <class T>
  Ref<T> attachment() {
    return Ref<T>(dynamic_cast<T*>(attached().get()));
  }
  void SetAttachment(Ref<RefCountedAny> object);

 private:
  Ref<RefCountedAny> attached() const;

  FileSystem& fs_;
  const uint64_t ino_;
  const uint32_t type_;
  // tidy: allow(guards) the names in a directory, whose file system says where they are
  sched::SleepLock directory_lock_{LockRank::kDirectory};
  mutable Mutex mutex_{LockRank::kInode};
  std::atomic<FileLocks*> locks_{nullptr};
  std::atomic<int> writers_{0};  // < 0: that many deny writing
  std::atomic<bool> linkable_{false}, superseded_{false};
  Ref<RefCountedAny> attachment_ GUARDED_BY(mutex_);
};

inline constexpr int kMayExec = 1, kMayWrite = 2, kMayRead = 4;

// A name in the cache. A dentry without an inode is negative: the name is known not to exist. What
// a dentry leads to never changes: when a name comes to mean something else, it gets a new dentry.
class Dentry : public RefCounted<Dentry> {
 public:
  static Ref<Dentry> MakeRoot(Ref<Inode> inode);  // its name is "/"
  static Ref<Dentry> MakeAnonymous(Ref<Inode> inode,
                                   std::string name);  // "pipe:[7]", "memfd:x (deleted)"
  // A file without a name in directory `parent` (O_TMPFILE): "#7", unlinked.
  static Ref<Dentry> MakeTemporary(Ref<Dentry> parent, Ref<Inode> inode);
  ~Dentry();

  Ref<Inode> inode() const { return inode_; }  // null: negative
  Inode* raw_inode() const { return inode_.get(); }
  bool negative() const { return !inode_; }
  Ref<Dentry> parent() const;  // null for roots and anonymous ones
  std::string name() const;
  bool unlinked() const { return unlinked_.load(std::memory_order_relaxed); }  // " (deleted)"
  bool anonymous() const { return kind_ == Kind::kAnonymous; }
  bool IsMountpoint() const { return mounts_here.load(std::memory_order_relaxed) != 0; }
  FileSystem* fs() const { return fs_; }

  std::atomic<int> mounts_here{0};

 private:
  friend class DentryCache;
  enum class Kind : uint8_t { kRoot, kAnonymous, kNamed };
  Dentry(FileSystem* fs, Ref<Inode> inode, Ref<Dentry> parent, std::string_view name, Kind kind);

  FileSystem* const fs_;
  const Ref<Inode> inode_;
  const Kind kind_;
  // Guarded by the mutex of the file system's DentryCache.
  bool hashed_ = false;
  bool referenced_ = false;  // used since the LRU hand last passed
  bool in_lru_ = false;
  std::atomic<bool> unlinked_{false};
  uint32_t hash_ = 0;
  Ref<Dentry> parent_;
  std::string name_;
  Dentry* bucket_next_ = nullptr;
  Dentry* lru_next_ = nullptr;
  Dentry* lru_previous_ = nullptr;
};

// One mounted instance of what Linux calls a super block.
class FileSystem : public RefCounted<FileSystem> {
 public:
  virtual ~FileSystem();
  virtual const char* type_name() const = 0;  // "tmpfs", for /proc/mounts
  virtual Result<StatFs> GetStatFs() = 0;
  virtual Ref<Inode> RootInode() = 0;
  // Whether a cached dentry (positive or negative) may be used without asking again.
  virtual bool Revalidate(Dentry& dentry) {
    (void)dentry;
    return true;
  }
  virtual Result<void> SyncAll() { return {}; }
  // Linux: s_maxbytes: no position and no end of a file lies beyond.
  virtual uint64_t max_file_size() const { return INT64_MAX; }
  uint32_t dev_minor() const { return dev_minor_; }  // of an anonymous device 0:N
  std::string source;                                // /proc/mounts first field
  std::string options;                               // what /proc/mounts shows after rw/ro
  // Opens FIFOs and devices that have an inode here. Null: ENXIO.
  Ref<SpecialFiles> special_files;

  // Linux: s_vfs_rename_mutex
  sched::SleepLock& rename_lock() { return rename_lock_; }
  // The root's dentry, alive as long as the file system.
  Ref<Dentry> root();
  DentryCache& cache() { return *cache_; }

 protected:
  // `cached`: how many unused dentries are kept. A tree that programs scan over and over (git
  // status, a build) should fit.
  explicit FileSystem(uint32_t dev_minor, size_t cached = 32768);
  // Lets go of cached dentries and so of inodes. For destructors of file systems whose inodes refer
  // to them when they die.
  void DropCache();

 private:
  const uint32_t dev_minor_;
  // tidy: allow(guards) renames of directories, one at a time (s_vfs_rename_mutex)
  sched::SleepLock rename_lock_{LockRank::kRename};
  std::unique_ptr<DentryCache> cache_;
};

// A file system seen at a place. Made by MountNamespace (vfs/mount.h).
class Mount : public RefCounted<Mount> {
 public:
  Ref<FileSystem> fs() const { return fs_; }
  Ref<Dentry> root() const { return root_; }  // of a bind mount: a directory (or file) inside
  // MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC
  uint64_t flags() const { return flags_.load(std::memory_order_relaxed); }
  void SetFlags(uint64_t flags) { flags_.store(flags, std::memory_order_relaxed); }
  bool read_only() const;
  int id() const { return id_; }
  // Where it is mounted: none for the namespace's root (and after umount -l).
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
  // Guarded by the namespace's mutex.
  MountNamespace* space_ = nullptr;
  Ref<Mount> parent_;
  Ref<Dentry> point_;
};

// A place in the tree. Anonymous files (pipes, sockets) have no mount. The mount keeps the file
// system alive, so a dentry must be let go of before its mount.
struct Path {
  Ref<Mount> mount;
  Ref<Dentry> dentry;

  Path() = default;
  Path(Ref<Mount> m, Ref<Dentry> d) : mount(std::move(m)), dentry(std::move(d)) {}
  Path(const Path&) = default;
  Path(Path&&) noexcept = default;
  Path& operator=(Path other) noexcept {
    std::swap(dentry, other.dentry);
    std::swap(mount, other.mount);
    return *this;
  }

  explicit operator bool() const { return static_cast<bool>(dentry); }
  Inode* inode() const { return dentry ? dentry->raw_inode() : nullptr; }
  friend bool operator==(const Path&, const Path&) = default;
};

}  // namespace skep::vfs
