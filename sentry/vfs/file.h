// File: an open file description (Linux: struct file). What read, write, poll, ioctl, mmap and
// getdents act on; shared by dup, fork and SCM_RIGHTS.
//
// Operations never block on readiness: where Linux would sleep they answer EAGAIN, and the syscall
// layer waits on Waiters() as wait_policy() says (vfs/blocking.h). They may suspend the fiber for
// I/O.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <new>
#include <string_view>

#include "sentry/mm/mappable.h"
#include "sentry/sched/sleep_lock.h"
#include "sentry/sched/wait_queue.h"
#include "sentry/vfs/path.h"
#include "sentry/vfs/types.h"

namespace skep::vfs {

using sched::EventMask;

// One directory entry, as getdents64 tells it.
struct DirEntry {
  std::string_view name;
  uint64_t ino;
  uint8_t type;          // DT_*
  uint64_t next_cookie;  // d_off: position after this entry
};
// Returns false when the caller's buffer is full (the entry was not taken).
using DirSink = std::function<bool(const DirEntry&)>;

// How a call sleeps until a file is ready.
struct WaitPolicy {
  sched::Deadline deadline;       // none: for ever
  int at_deadline = EAGAIN;       // errno when it has passed
  int interrupted = kRestartSys;  // errno when a signal ended the sleep
};
enum class Direction : uint8_t { kRead, kWrite };

// Told once when a file has lost its last reference, before it is destroyed: the lists of those who
// watch it without holding it (sentry/anon/epoll).
class FileObserver : public RefCounted<FileObserver> {
 public:
  virtual ~FileObserver() = default;
  virtual void OnLastReference() = 0;
};

// Who gets a file's signals (Linux: struct fown_struct). `type`: F_OWNER_*; null: nobody.
struct FileOwner {
  Ref<ProcessId> id;
  int type = 0;
};

class File : public RefCounted<File> {
 private:
  sched::SleepLock position_lock_{LockRank::kFilePosition};

 public:
  // flags: O_ACCMODE and status flags as open(2) got them (without O_CREAT, O_EXCL, O_NOCTTY,
  // O_TRUNC, O_CLOEXEC).
  File(Path path, uint32_t flags) : path_(std::move(path)), flags_(flags) {}
  virtual ~File();
  // Tells the observer first, while the derived class (its wait queue) is still whole. A file that
  // goes because of the destruction of another (it lay in a socket's queue) waits until that one is
  // gone: a guest chooses how long such chains are, and the stack is short.
  static void operator delete(File* file, std::destroying_delete_t);
  // The file's one observer, made by `make` at the first call.
  Ref<FileObserver> Observer(const std::function<Ref<FileObserver>()>& make);

  // The name it was opened by; anonymous files have a dentry of the anon file system ("pipe:[7]").
  const Path& path() const { return path_; }
  Inode* inode() const { return path_.inode(); }
  uint32_t flags() const { return flags_.load(std::memory_order_relaxed); }
  void SetFlags(uint32_t flags) { flags_.store(flags, std::memory_order_relaxed); }
  bool nonblocking() const { return (flags() & O_NONBLOCK) != 0; }
  bool readable() const {
    return (flags() & O_ACCMODE) == O_RDONLY || (flags() & O_ACCMODE) == O_RDWR;
  }
  bool writable() const {
    return (flags() & O_ACCMODE) == O_WRONLY || (flags() & O_ACCMODE) == O_RDWR;
  }
  bool is_path() const { return (flags() & O_PATH) != 0; }

  // Streams (pipes, sockets, ttys, eventfd) have no position: pread answers ESPIPE.
  virtual bool seekable() const { return true; }
  // A blocking write goes on after a partial one (pipes, sockets, ttys).
  virtual bool stream() const { return !seekable(); }

  // Streams have no offset; what a write to one finds there is how much of it was written before.
  // Access mode was checked by the caller. Advance the sequence.
  virtual Result<size_t> Read(Caller& caller, mm::IoSequence& to, uint64_t offset);  // EINVAL
  // O_APPEND is the file's business: it sets *offset to where it wrote (the start).
  virtual Result<size_t> Write(Caller& caller, mm::IoSequence& from, uint64_t* offset);  // EINVAL
  // Directories: entries from `cookie` on until the sink is full. Returns the cookie to go on from.
  virtual Result<uint64_t> ReadDir(Caller& caller, uint64_t cookie,
                                   const DirSink& sink);  // ENOTDIR
  // lseek whole, under position_lock(); the default serves regular files (SEEK_DATA/SEEK_HOLE
  // through FindData).
  virtual Result<uint64_t> Seek(int64_t offset, int whence) REQUIRES(position_lock_);
  virtual Result<uint64_t> FindData(uint64_t offset, bool hole);  // SEEK_DATA / SEEK_HOLE

  virtual Result<uint64_t> Ioctl(Caller& caller, uint64_t command, uint64_t argument);  // ENOTTY
  virtual Result<Ref<mm::Mappable>> Mappable();                                         // ENODEV
  virtual Result<void> Truncate(Caller& caller, uint64_t size);                         // EINVAL
  virtual Result<void> Allocate(Caller& caller, int mode, uint64_t offset,
                                uint64_t size);  // EOPNOTSUPP
  virtual Result<void> Sync(bool data_only);     // EINVAL
  // Each close(2).
  virtual Result<void> Flush(Caller&) { return {}; }

  // Readiness now (EPOLLIN | EPOLLOUT | ...). Regular files are always ready. A file backed by a
  // host descriptor arms its watch for what of `wanted` is not ready.
  virtual EventMask Poll(EventMask wanted);
  // Whom readiness changes are told to; null: readiness never changes.
  virtual sched::WaitQueue* Waiters() { return nullptr; }
  // How a read or write that blocks sleeps on them, from now on.
  virtual WaitPolicy wait_policy(Direction) const { return {}; }

  // f_pos and its lock (Linux: f_pos_lock), for read, write, lseek, getdents.
  sched::SleepLock& position_lock() RETURN_CAPABILITY(position_lock_) { return position_lock_; }
  uint64_t position GUARDED_BY(position_lock_) = 0;
  // A look without the lock, where Linux takes none either (fdinfo, l_whence of SEEK_CUR).
  virtual uint64_t PeekPosition() const NO_THREAD_SAFETY_ANALYSIS {
    return __atomic_load_n(&position, __ATOMIC_RELAXED);
  }
  // The position belongs to the host's description, which strangers move too. Read and Write at the
  // position get kHostsPosition, and `position` means nothing.
  static constexpr uint64_t kHostsPosition = ~uint64_t{0};
  virtual bool position_is_hosts() const { return false; }

  // The opener's, for checks that Linux makes against file->f_cred.
  auth::CredentialsRef opener;

  // F_SETOWN and F_SETSIG, kept and told back.
  FileOwner owner() const;
  void SetOwner(FileOwner owner);
  std::atomic<int> signal{0};

  // The inode's write access (ETXTBSY) is held since open and goes with the file.
  void SetHoldsWriteAccess() { holds_write_access_ = true; }
  // For a program that runs: an open of the inode for writing is ETXTBSY while this file lives, or
  // until AllowWrites. Fails with ETXTBSY if it is open for writing already.
  Result<void> DenyWrites();
  void AllowWrites();

 private:
  class ReleaseList;
  void Destroy();

  const Path path_;
  File* next_released_ = nullptr;  // in a ReleaseList
  std::atomic<uint32_t> flags_;
  bool holds_write_access_ = false;
  mutable Mutex owner_mutex_{LockRank::kFile};
  FileOwner owner_ GUARDED_BY(owner_mutex_);
  std::atomic<bool> denies_writes_{false};
  std::atomic<FileObserver*> observer_{nullptr};  // counted
};

// "." and ".." for a directory whose own entries have cookies from kFirstEntryCookie on. False: the
// sink is full. *cookie is left at what to go on from.
inline constexpr uint64_t kFirstEntryCookie = 3;
bool EmitDots(const File& directory, uint64_t* cookie, const DirSink& sink);

// DT_* of a mode.
constexpr uint8_t DirEntryType(uint32_t mode) {
  return static_cast<uint8_t>((mode & S_IFMT) >> 12);
}

// Whether reading a file moves its atime (Linux: relatime_need_update).
bool NeedsAtime(const File& file, const Attributes& attributes);

}  // namespace skep::vfs
