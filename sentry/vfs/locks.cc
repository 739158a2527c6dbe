#include "sentry/vfs/locks.h"

#include <algorithm>
#include <bit>

#include "sentry/vfs/fd_table.h"

namespace skep::vfs {
namespace {

constexpr size_t kMaxRecords = 1 << 16;  // per file: what a guest can make us hold
constexpr int kMaxDeadlockSteps = 64;

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

namespace {

size_t LengthClass(const RecordLock& lock) {
  return static_cast<size_t>(std::bit_width(lock.end - lock.start + 1)) - 1;
}

}  // namespace

void RecordTable::Insert(const Record& record) {
  const uint64_t start = record.lock.start;
  const Record& kept = records_.insert_or_assign({record.key, start}, record).first->second;
  if (record.lock.type == LockType::kWrite) {
    writers_[start] = &kept;
  } else {
    readers_[LengthClass(kept.lock)][{start, record.key}] = &kept;
  }
}

RecordTable::Records::iterator RecordTable::Erase(Records::iterator it) {
  const Record& record = it->second;
  if (record.lock.type == LockType::kWrite) {
    writers_.erase(record.lock.start);
  } else {
    readers_[LengthClass(record.lock)].erase({record.lock.start, record.key});
  }
  return records_.erase(it);
}

// The first read lock of another owner in the range.
const RecordTable::Record* RecordTable::ReaderIn(const void* key, uint64_t start,
                                                 uint64_t end) const {
  const Record* first = nullptr;
  for (size_t length = 0; length < kLengths; ++length) {
    const auto& readers = readers_[length];
    if (readers.empty()) continue;
    const uint64_t reach = (uint64_t{2} << length) - 2;  // of 2^64: all
    const uint64_t from = start > reach && length < kLengths - 1 ? start - reach : 0;
    for (auto it = readers.lower_bound({from, nullptr});
         it != readers.end() && it->first.first <= end; ++it) {
      const Record& record = *it->second;
      if (record.key == key || record.lock.end < start) continue;
      if (first == nullptr || record.lock.start < first->lock.start) first = &record;
      break;
    }
  }
  return first;
}

const RecordTable::Record* RecordTable::Conflict(const LockOwner& owner,
                                                 const RecordLock& lock) const {
  if (lock.type == LockType::kUnlock) return nullptr;
  const Record* first = nullptr;
  auto it = writers_.upper_bound(lock.start);
  if (it != writers_.begin() && std::prev(it)->second->lock.end >= lock.start) --it;
  for (; it != writers_.end() && it->first <= lock.end && first == nullptr; ++it) {
    if (it->second->key != owner.key()) first = it->second;
  }
  if (lock.type == LockType::kRead) return first;
  const Record* reader = ReaderIn(owner.key(), lock.start, lock.end);
  return first == nullptr || (reader != nullptr && reader->lock.start < first->lock.start) ? reader
                                                                                           : first;
}

void RecordTable::Apply(const LockOwner& owner, const RecordLock& lock) {
  Record added{owner.key(), owner.table(), lock};
  // From the record before the range, which may reach into it or touch it.
  auto it = records_.lower_bound({owner.key(), lock.start});
  if (it != records_.begin() && std::prev(it)->first.first == owner.key()) --it;
  std::vector<Record> cut;
  while (it != records_.end() && it->first.first == owner.key()) {
    const Record old = it->second;
    if (added.lock.end != kLockEnd && old.lock.start > added.lock.end + 1) break;
    if (old.lock.end != kLockEnd && old.lock.end + 1 < added.lock.start) {
      ++it;
      continue;
    }
    it = Erase(it);
    if (old.lock.type == lock.type) {
      added.lock.start = std::min(added.lock.start, old.lock.start);
      added.lock.end = std::max(added.lock.end, old.lock.end);
      continue;
    }
    if (old.lock.start < added.lock.start) {
      cut.push_back(old);
      cut.back().lock.end = std::min(old.lock.end, added.lock.start - 1);
    }
    if (old.lock.end > added.lock.end) {
      cut.push_back(old);
      cut.back().lock.start = std::max(old.lock.start, added.lock.end + 1);
    }
  }
  for (const Record& record : cut) Insert(record);
  if (lock.type != LockType::kUnlock) Insert(added);
}

bool RecordTable::Splits(const LockOwner& owner, const RecordLock& lock) const {
  const auto next = records_.upper_bound({owner.key(), lock.start});
  if (next == records_.begin()) return false;
  const Record& record = std::prev(next)->second;
  return record.key == owner.key() && record.lock.start < lock.start && record.lock.end > lock.end;
}

bool RecordTable::Erase(const void* owner_key) {
  auto it = records_.lower_bound({owner_key, 0});
  if (it == records_.end() || it->first.first != owner_key) return false;
  while (it != records_.end() && it->first.first == owner_key) it = Erase(it);
  return true;
}

std::vector<RecordLock> RecordTable::All() const {
  std::multimap<uint64_t, RecordLock> by_start;  // those of one start in the order of records_
  for (const auto& [key, record] : records_) by_start.emplace(record.lock.start, record.lock);
  std::vector<RecordLock> all;
  for (const auto& [start, lock] : by_start) all.push_back(lock);
  return all;
}

Result<void> FileLocks::ApplyRecord(const LockOwner& owner, const RecordLock& lock) {
  const bool adds = lock.type != LockType::kUnlock || records_.Splits(owner, lock);
  if (adds && records_.size() >= kMaxRecords) return Fail(ENOLCK);
  records_.Apply(owner, lock);
  return {};
}

void FileLocks::Changed() {
  changes_.fetch_add(1);
  waiters_.WakeAll(sched::kAllEvents);
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
      const RecordTable::Record* conflict = records_.Conflict(owner, lock);
      if (conflict == nullptr) {
        TRY(ApplyRecord(owner, lock));
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
  const RecordTable::Record* conflict = records_.Conflict(owner, lock);
  if (conflict == nullptr) return std::nullopt;
  return conflict->lock;
}

bool FileLocks::FlockConflict(const File& file, LockType type) const {
  const auto mine = flocks_.find(&file);
  const bool have = mine != flocks_.end();
  if (type == LockType::kWrite) return flocks_.size() > (have ? 1U : 0U);
  return exclusive_flocks_ > (have && mine->second == LockType::kWrite ? 1U : 0U);
}

Result<void> FileLocks::SetFlock(const File& file, LockType type, LockWait wait) {
  for (;;) {
    uint64_t seen = 0;
    bool done = false;
    {
      MutexLock hold(mutex_);
      const auto mine = flocks_.find(&file);
      if (mine != flocks_.end() && mine->second == type) return {};
      if (mine == flocks_.end() && type == LockType::kUnlock) return {};
      // A conversion is an unlock and a lock, as flock(2) says.
      const bool had = mine != flocks_.end();
      if (had) {
        exclusive_flocks_ -= mine->second == LockType::kWrite ? 1 : 0;
        flocks_.erase(mine);
      }
      if (type == LockType::kUnlock) {
        done = true;
      } else if (!FlockConflict(file, type)) {
        flocks_.emplace(&file, type);
        exclusive_flocks_ += type == LockType::kWrite ? 1 : 0;
        done = true;
      }
      if (had) changes_.fetch_add(1);
      seen = changes_.load();
      if (!had && done) return {};
    }
    waiters_.WakeAll(sched::kAllEvents);
    if (done) return {};
    if (wait == LockWait::kNo) return Fail(EAGAIN);
    if (!WaitForChange(seen)) return Fail(kRestartSys);
  }
}

void FileLocks::ReleaseRecords(const void* owner_key) {
  {
    MutexLock hold(mutex_);
    if (!records_.Erase(owner_key)) return;
  }
  Changed();
}

void FileLocks::ReleaseFile(const File& file) {
  ReleaseRecords(&file);
  {
    MutexLock hold(mutex_);
    const auto mine = flocks_.find(&file);
    if (mine == flocks_.end()) return;
    exclusive_flocks_ -= mine->second == LockType::kWrite ? 1 : 0;
    flocks_.erase(mine);
  }
  Changed();
}

std::vector<RecordLock> FileLocks::Records() {
  MutexLock hold(mutex_);
  return records_.All();
}

}  // namespace skep::vfs
