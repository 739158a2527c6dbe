#include "sentry/vfs/locks.h"

#include <algorithm>

#include "sentry/vfs/fd_table.h"

namespace skep::vfs {
namespace {

constexpr size_t kMaxRecords = 1 << 16;  // per file: what a guest can make us hold
constexpr int kMaxDeadlockSteps = 64;

bool Overlap(const RecordLock& a, const RecordLock& b) {
  return a.start <= b.end && b.start <= a.end;
}

}  // namespace

bool LockWaits::Leads(const FdTable* from, const FdTable* to) const {
  std::vector<const FdTable*> reached{from};
  for (size_t i = 0; i < reached.size() && i < kMaxDeadlockSteps; i++) {
    for (const Edge& edge : edges_) {
      if (edge.waiter != reached[i]) continue;
      if (edge.holder == to) return true;
      if (std::find(reached.begin(), reached.end(), edge.holder) == reached.end()) {
        reached.push_back(edge.holder);
      }
    }
  }
  return false;
}

bool LockWaits::Enter(const FdTable* waiter, const FdTable* holder) {
  MutexLock lock(mutex_);
  if (Leads(holder, waiter)) return false;
  edges_.push_back({waiter, holder});
  return true;
}

void LockWaits::Leave(const FdTable* waiter, const FdTable* holder) {
  MutexLock lock(mutex_);
  const auto it = std::find_if(edges_.begin(), edges_.end(), [&](const Edge& edge) {
    return edge.waiter == waiter && edge.holder == holder;
  });
  if (it != edges_.end()) edges_.erase(it);
}

const FileLocks::Record* FileLocks::Conflict(const LockOwner& owner, const RecordLock& lock) const {
  if (lock.type == LockType::kUnlock) return nullptr;
  for (const Record& record : records_) {
    if (record.key == owner.key() || !Overlap(record.lock, lock)) continue;
    if (record.lock.type == LockType::kWrite || lock.type == LockType::kWrite) return &record;
  }
  return nullptr;
}

// Cuts the owner's records out of the range, adds the new one, joins equal neighbours.
Result<void> FileLocks::Apply(const LockOwner& owner, const RecordLock& lock) {
  if (lock.type != LockType::kUnlock && records_.size() >= kMaxRecords) return Fail(ENOLCK);
  std::vector<Record> kept;
  kept.reserve(records_.size() + 2);
  RecordLock added = lock;
  for (const Record& record : records_) {
    const RecordLock& old = record.lock;
    const bool touches = old.start <= (added.end == kLockEnd ? kLockEnd : added.end + 1) &&
                         added.start <= (old.end == kLockEnd ? kLockEnd : old.end + 1);
    if (record.key != owner.key() || !touches) {
      kept.push_back(record);
      continue;
    }
    if (old.type == added.type) {
      added.start = std::min(added.start, old.start);
      added.end = std::max(added.end, old.end);
      continue;
    }
    if (old.start < added.start) {
      Record left = record;
      left.lock.end = std::min(old.end, added.start - 1);
      kept.push_back(left);
    }
    if (old.end > added.end) {
      Record right = record;
      right.lock.start = std::max(old.start, added.end + 1);
      kept.push_back(right);
    }
  }
  if (added.type != LockType::kUnlock) kept.push_back({owner.key(), owner.table(), added});
  std::stable_sort(kept.begin(), kept.end(),
                   [](const Record& a, const Record& b) { return a.lock.start < b.lock.start; });
  records_.swap(kept);
  return {};
}

void FileLocks::Changed() {
  changes_.fetch_add(1);
  waiters_.Wake(sched::kAllEvents, INT32_MAX);
}

bool FileLocks::WaitForChange(uint64_t seen) {
  return sched::WaitUntil(waiters_, sched::kAllEvents, std::nullopt, sched::Sleep::kInterruptible,
                          [&] { return changes_.load() != seen; }) == sched::WakeReason::kWoken;
}

Result<void> FileLocks::SetRecord(const LockOwner& owner, const RecordLock& lock, LockWait wait) {
  for (;;) {
    uint64_t seen = 0;
    FdTable* holder = nullptr;
    {
      MutexLock hold(mutex_);
      seen = changes_.load();
      const Record* conflict = Conflict(owner, lock);
      if (conflict == nullptr) {
        TRY(Apply(owner, lock));
        break;
      }
      holder = conflict->table;
    }
    if (wait == LockWait::kNo) return Fail(EAGAIN);
    // Linux looks for deadlocks among POSIX locks only.
    const bool tracked = owner.table() != nullptr && holder != nullptr;
    if (tracked && !owner.table()->lock_waits().Enter(owner.table(), holder)) {
      return Fail(EDEADLK);
    }
    const bool woken = WaitForChange(seen);
    if (tracked) owner.table()->lock_waits().Leave(owner.table(), holder);
    if (!woken) return Fail(kRestartSys);
  }
  Changed();
  return {};
}

std::optional<RecordLock> FileLocks::TestRecord(const LockOwner& owner, const RecordLock& lock) {
  MutexLock hold(mutex_);
  const Record* conflict = Conflict(owner, lock);
  if (conflict == nullptr) return std::nullopt;
  return conflict->lock;
}

bool FileLocks::FlockConflict(const File& file, LockType type) const {
  return std::any_of(flocks_.begin(), flocks_.end(), [&](const Flock& other) {
    return other.file != &file && (other.type == LockType::kWrite || type == LockType::kWrite);
  });
}

Result<void> FileLocks::SetFlock(const File& file, LockType type, LockWait wait) {
  for (;;) {
    uint64_t seen = 0;
    bool done = false;
    {
      MutexLock hold(mutex_);
      const auto mine = std::find_if(flocks_.begin(), flocks_.end(),
                                     [&](const Flock& flock) { return flock.file == &file; });
      if (mine != flocks_.end() && mine->type == type) return {};
      if (mine == flocks_.end() && type == LockType::kUnlock) return {};
      // A conversion is an unlock and a lock, as flock(2) says.
      const bool had = mine != flocks_.end();
      if (had) flocks_.erase(mine);
      if (type == LockType::kUnlock) {
        done = true;
      } else if (!FlockConflict(file, type)) {
        flocks_.push_back({&file, type});
        done = true;
      }
      if (had) changes_.fetch_add(1);
      seen = changes_.load();
      if (!had && done) return {};
    }
    waiters_.Wake(sched::kAllEvents, INT32_MAX);
    if (done) return {};
    if (wait == LockWait::kNo) return Fail(EAGAIN);
    if (!WaitForChange(seen)) return Fail(kRestartSys);
  }
}

void FileLocks::ReleaseRecords(const void* owner_key) {
  {
    MutexLock hold(mutex_);
    if (std::erase_if(records_, [&](const Record& r) { return r.key == owner_key; }) == 0) return;
  }
  Changed();
}

void FileLocks::ReleaseFile(const File& file) {
  ReleaseRecords(&file);
  {
    MutexLock hold(mutex_);
    if (std::erase_if(flocks_, [&](const Flock& f) { return f.file == &file; }) == 0) return;
  }
  Changed();
}

std::vector<RecordLock> FileLocks::Records() {
  MutexLock hold(mutex_);
  std::vector<RecordLock> all;
  for (const Record& record : records_) all.push_back(record.lock);
  return all;
}

}  // namespace skep::vfs
