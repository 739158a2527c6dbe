// FdTable: a process's descriptors (Linux: struct files_struct); shared with CLONE_FILES.
//
// Numbers are reserved first and published last, so no other thread of the guest can see, use or
// close one before its call has succeeded, and there is nothing to roll back.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <utility>
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
  // EBADF. Get() refuses O_PATH descriptors, GetIncludingPath() does not.
  Result<Ref<File>> Get(int fd) const;
  Result<Ref<File>> GetIncludingPath(int fd) const;

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
  friend class FdTableHold;
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
  std::atomic<int> holds_{0};
};

// A task's hold on its table (Linux: files_struct::count). A Ref alone keeps a table in memory, but
// with the last hold its descriptors are closed. Used by one thread at a time.
class FdTableHold {
 public:
  FdTableHold() = default;
  explicit FdTableHold(Ref<FdTable> table) : table_(std::move(table)) {
    if (table_) ++table_->holds_;
  }
  FdTableHold(const FdTableHold& other) : FdTableHold(other.table_) {}
  FdTableHold(FdTableHold&& other) noexcept : table_(std::exchange(other.table_, {})) {}
  FdTableHold& operator=(FdTableHold other) noexcept {
    std::swap(table_, other.table_);
    return *this;
  }
  ~FdTableHold() { (void)Release(); }

  explicit operator bool() const { return static_cast<bool>(table_); }
  FdTable& operator*() const { return *table_; }
  FdTable* operator->() const { return table_.get(); }
  const Ref<FdTable>& ref() const { return table_; }
  bool shared() const { return table_->holds_ > 1; }

  // Lets go. The table, if this was the last hold: its files are the caller's to close.
  Ref<FdTable> Release() {
    Ref<FdTable> table = std::exchange(table_, {});
    return table && --table->holds_ == 0 ? table : Ref<FdTable>();
  }

 private:
  Ref<FdTable> table_;
};

// What close(2) does beyond forgetting the number: flush, POSIX locks of this table.
Result<void> FinishClose(Caller& caller, FdTable& table, File& file);

}  // namespace skep::vfs
