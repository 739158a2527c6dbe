// Locks on files: POSIX record locks (owned by an FdTable), open-file-description locks (owned by a
// File) and flock(2) locks (Linux: fs/locks.c).
//
// An inode's FileLocks is made at the first lock. Waiting is a loop around the conflict: every
// change wakes all waiters, who look again.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <map>
#include <optional>
#include <unordered_map>
#include <utility>
#include <vector>

#include "base/mutex.h"
#include "base/ref.h"
#include "base/result.h"
#include "sentry/sched/wait_queue.h"
#include "sentry/vfs/process_id.h"

namespace skep::vfs {

class FdTable;
class File;

enum class LockType : uint8_t { kRead, kWrite, kUnlock };
enum class LockWait : bool { kNo, kYes };

inline constexpr uint64_t kLockEnd = INT64_MAX;  // OFFSET_MAX: "to the end of the file"

struct RecordLock {
  LockType type = LockType::kUnlock;
  uint64_t start = 0;
  uint64_t end = kLockEnd;  // inclusive
  Ref<ProcessId> process;   // whom F_GETLK tells of; null: an OFD lock
};

// Who owns a record lock: a table of descriptors (F_SETLK) or an open file (F_OFD_SETLK).
class LockOwner {
 public:
  explicit LockOwner(FdTable& table) : key_(&table), table_(&table) {}
  explicit LockOwner(const File& file) : key_(&file) {}
  const void* key() const { return key_; }
  FdTable* table() const { return table_; }  // null: OFD

 private:
  const void* key_;
  FdTable* table_ = nullptr;
};

// Which table waits for which: shared by the tables that fork made from one, for EDEADLK.
class LockWaits {
 public:
  // False: `holder` waits for `waiter` already, directly or through others.
  bool Enter(const FdTable* waiter, const FdTable* holder);
  void Leave(const FdTable* waiter, const FdTable* holder);

 private:
  struct Edge {
    const FdTable* waiter;
    const FdTable* holder;
  };
  bool Leads(const FdTable* from, const FdTable* to) const REQUIRES(mutex_);
  Mutex mutex_{LockRank::kInode};
  std::vector<Edge> edges_ GUARDED_BY(mutex_);
};

// The record locks that are held on one file. Those of one owner do not overlap. Every operation
// costs the logarithm of their number, and what it changes.
class RecordTable {
 public:
  struct Record {
    const void* key;
    FdTable* table;
    RecordLock lock;
  };
  // A record of another owner that the lock cannot be together with: the first in the file.
  const Record* Conflict(const LockOwner& owner, const RecordLock& lock) const;
  // Cuts the owner's records out of the range, adds the new one (unless it is an unlock) and joins
  // it with equal neighbours.
  void Apply(const LockOwner& owner, const RecordLock& lock);
  bool Erase(const void* owner_key);  // all of this owner; false: there were none
  // Whether an unlock leaves something on both sides of it.
  bool Splits(const LockOwner& owner, const RecordLock& lock) const;
  size_t size() const { return records_.size(); }
  std::vector<RecordLock> All() const;  // by start

 private:
  using Records = std::map<std::pair<const void*, uint64_t>, Record>;  // by owner and start
  void Insert(const Record& record);
  Records::iterator Erase(Records::iterator it);
  const Record* ReaderIn(const void* key, uint64_t start, uint64_t end) const;

  Records records_;
  // Write locks overlap no other's lock; by start.
  std::map<uint64_t, const Record*> writers_;
  // Read locks may overlap. Those of length [2^n, 2^(n+1)) that reach into a range start less than
  // 2^(n+1) before it.
  static constexpr size_t kLengths = 64;
  std::array<std::map<std::pair<uint64_t, const void*>, const Record*>, kLengths> readers_;
};

class FileLocks {
 public:
  // F_SETLK(W), F_OFD_SETLK(W). EAGAIN; EDEADLK (POSIX); ENOLCK; kRestartSys when interrupted.
  Result<void> SetRecord(const LockOwner& owner, const RecordLock& lock, LockWait wait);
  // F_GETLK: the first lock in the way, if any.
  std::optional<RecordLock> TestRecord(const LockOwner& owner, const RecordLock& lock);
  // flock(2). EAGAIN; kRestartSys.
  Result<void> SetFlock(const File& file, LockType type, LockWait wait);

  void ReleaseRecords(const void* owner_key);  // close(2) by this owner
  void ReleaseFile(const File& file);          // the open file dies: OFD locks and flock

  // For /proc/locks and tests.
  std::vector<RecordLock> Records();

 private:
  Result<void> ApplyRecord(const LockOwner& owner, const RecordLock& lock) REQUIRES(mutex_);
  bool FlockConflict(const File& file, LockType type) const REQUIRES(mutex_);
  bool WaitForChange(uint64_t seen);
  void Changed();

  Mutex mutex_{LockRank::kInode};
  RecordTable records_ GUARDED_BY(mutex_);
  std::unordered_map<const File*, LockType> flocks_ GUARDED_BY(mutex_);
  size_t exclusive_flocks_ GUARDED_BY(mutex_) = 0;  // how many of them are kWrite
  std::atomic<uint64_t> changes_{0};
  sched::WaitQueue waiters_;
};

}  // namespace skep::vfs
