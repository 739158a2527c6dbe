// Inode, Dentry, Mount and Path: names and what they lead to.
//
// Who holds whom: Path -> Mount, Dentry; Dentry -> Inode, parent Dentry; Mount -> FileSystem,
// parent Mount. Nothing points down by Ref, except a file system's bounded list of recently used
// dentries (the cache) and pinned ones (tmpfs, proc: their directories hold their inodes).
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
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
class FileLocks;  // vfs/locks.h

struct Path {
  Ref<Mount> mount;
  Ref<Dentry> dentry;

  explicit operator bool() const { return static_cast<bool>(dentry); }
  Inode* inode() const;
  friend bool operator==(const Path&, const Path&) = default;
};

// A file of a file system (Linux: struct inode with its i_op). Operations may suspend the fiber;
// permissions have been checked by the vfs; directory operations are called with the directory's
// kDirectory lock held.
class Inode : public RefCounted<Inode> {
 public:
  Inode(FileSystem& fs, uint64_t ino, uint32_t type) : fs_(fs), ino_(ino), type_(type) {}
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
  // A hint that this whole chain of names will be looked up from here: a remote file system may
  // fetch it in one message.
  virtual void PrefetchWalk(std::span<const std::string_view> names) { (void)names; }
  struct NewNode { uint32_t mode; uint32_t uid, gid; uint32_t rdev_major = 0, rdev_minor = 0; };
  virtual Result<Ref<Inode>> Create(std::string_view name, const NewNode& node);  // any S_IFMT but LNK
  virtual Result<Ref<Inode>> Symlink(std::string_view name, std::string_view target, const NewNode& node);
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

  virtual Result<std::string> GetXattr(std::string_view name);                    // EOPNOTSUPP
  virtual Result<void> SetXattr(std::string_view name, std::string_view value, int flags);
  virtual Result<void> RemoveXattr(std::string_view name);
  virtual Result<std::vector<std::string>> ListXattrs();

  // The default checks mode bits against GetAttributes (Linux: generic_permission). mask: MAY_*.
  virtual Result<void> CheckPermission(const auth::Credentials& creds, int mask);

  sched::SleepLock& directory_lock() { return directory_lock_; }
  FileLocks& locks();  // POSIX, OFD and flock locks; made at first use

  // Set by the kernel for named sockets and FIFOs: what connect/open finds behind this inode.
  Ref<RefCountedAny> attachment();
  void SetAttachment(Ref<RefCountedAny> object);

 private:
  FileSystem& fs_;
  const uint64_t ino_;
  const uint32_t type_;
  sched::SleepLock directory_lock_{LockRank::kDirectory};
  mutable Mutex mutex_{LockRank::kInode};
  std::unique_ptr<FileLocks> locks_;
  Ref<RefCountedAny> attachment_;
};

inline constexpr int kMayExec = 1, kMayWrite = 2, kMayRead = 4;

// A name in the cache. A dentry without an inode is negative: the name is known not to exist.
class Dentry : public RefCounted<Dentry> {
 public:
  static Ref<Dentry> MakeRoot(Ref<Inode> inode);                 // its name is "/"
  static Ref<Dentry> MakeAnonymous(Ref<Inode> inode, std::string name);  // "pipe:[7]", "memfd:x (deleted)"
  ~Dentry();

  Ref<Inode> inode() const;  // null: negative
  bool negative() const;
  Ref<Dentry> parent() const;    // null for roots and anonymous ones
  std::string name() const;
  bool unlinked() const;         // " (deleted)"
  bool IsMountpoint() const { return mounts_here.load(std::memory_order_relaxed) != 0; }
  FileSystem* fs() const;

  std::atomic<int> mounts_here{0};

 private:
  friend class DentryCache;
  friend class PathWalk;
  friend class RefCounted<Dentry>;
  struct State;
  Dentry();
  std::unique_ptr<State> state_;
};

// One mounted instance of what Linux calls a super block.
class FileSystem : public RefCounted<FileSystem> {
 public:
  virtual ~FileSystem();
  virtual const char* type_name() const = 0;  // "tmpfs", for /proc/mounts
  virtual Result<StatFs> GetStatFs() = 0;
  virtual Ref<Inode> RootInode() = 0;
  // Whether a cached dentry (positive or negative) may be used without asking again.
  virtual bool Revalidate(Dentry& dentry) { (void)dentry; return true; }
  virtual Result<void> SyncAll() { return {}; }
  uint32_t dev_minor() const { return dev_minor_; }  // of an anonymous device 0:N
  std::string source;   // /proc/mounts first field
  std::string options;  // what /proc/mounts shows after rw/ro

  // Linux: s_vfs_rename_mutex
  sched::SleepLock& rename_lock() { return rename_lock_; }
  // The root's dentry, alive as long as the file system.
  Ref<Dentry> root();

 protected:
  explicit FileSystem(uint32_t dev_minor);

 private:
  friend class DentryCache;
  const uint32_t dev_minor_;
  sched::SleepLock rename_lock_{LockRank::kRename};
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace skep::vfs
