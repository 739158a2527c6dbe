// FdTable: a process's descriptors (Linux: struct files_struct); shared with CLONE_FILES.
//
// Numbers are reserved first and published last, so no other thread of the guest can see, use or
// close one before its call has succeeded, and there is nothing to roll back.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "base/mutex.h"
#include "base/ref.h"
#include "base/result.h"
#include "sentry/vfs/file.h"
#include "sentry/vfs/locks.h"

namespace skep::vfs {

class FdTable;
enum class CloseOnExec : bool { kNo, kYes };

class [[nodiscard]] FdReservation {
 public:
  FdReservation(FdReservation&& other) noexcept;
  FdReservation& operator=(FdReservation&&) = delete;
  ~FdReservation();  // gives the number back unless committed
  int fd() const { return fd_; }
  int Commit(Ref<File> file, CloseOnExec cloexec) &&;  // returns the number

 private:
  friend class FdTable;
  FdReservation(FdTable& table, int fd) : table_(&table), fd_(fd) {}
  FdTable* table_;
  int fd_;
};

class FdTable : public RefCounted<FdTable> {
 public:
  FdTable();
  ~FdTable();
  Ref<FdTable> Clone() const;  // fork

  // The lowest free number >= least; EMFILE at `limit` (RLIMIT_NOFILE).
  Result<FdReservation> Reserve(uint64_t limit, int least = 0);
  // EBADF. Get() refuses O_PATH descriptors, GetAny() does not.
  Result<Ref<File>> Get(int fd) const;
  Result<Ref<File>> GetAny(int fd) const;

  // The file that was there; the caller calls FinishClose on it.
  Result<Ref<File>> Remove(int fd);
  // dup2/dup3 onto `to`: the file it displaced, if any. EBUSY if `to` is reserved; EBADF over
  // limit.
  Result<Ref<File>> Replace(int to, Ref<File> file, CloseOnExec cloexec, uint64_t limit);
  Result<bool> GetCloexec(int fd) const;
  Result<void> SetCloexec(int fd, CloseOnExec cloexec);
  // close_range, execve: removes those for which `which` holds and gives them back.
  std::vector<Ref<File>> RemoveIf(const std::function<bool(int fd, bool cloexec)>& which);
  void SetCloexecRange(uint32_t first, uint32_t last);
  std::vector<int> Numbers() const;  // for /proc/<pid>/fd

  LockWaits& lock_waits() const { return *lock_waits_; }

 private:
  friend class FdReservation;
  struct Slot;
  Result<Slot*> SlotAt(int fd) REQUIRES(mutex_);
  void NoteFree(int fd) REQUIRES(mutex_);
  void EnsureSize(int size) REQUIRES(mutex_);
  struct Slot {
    Ref<File> file;
    bool cloexec = false;
    bool reserved = false;
  };
  mutable Mutex mutex_{LockRank::kFdTable};
  std::vector<Slot> slots_ GUARDED_BY(mutex_);
  int lowest_free_ GUARDED_BY(mutex_) = 0;  // no smaller number is free
  std::shared_ptr<LockWaits> lock_waits_;   // constant; shared with the tables made by Clone
};

// What close(2) does beyond forgetting the number: flush, POSIX locks of this table.
Result<void> FinishClose(Caller& caller, FdTable& table, File& file);

}  // namespace skep::vfs
