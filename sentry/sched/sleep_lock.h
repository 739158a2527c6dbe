// SleepLock: a lock that belongs to a fiber and may be held over I/O, guest-memory copies and
// suspensions (Linux: struct mutex). FIFO; waiting is not interruptible, LockKillable is by a kill.
#pragma once

#include <atomic>
#include <cstdint>

#include "base/lock_rank.h"
#include "base/mutex.h"
#include "base/thread_annotations.h"
#include "sentry/sched/fiber.h"

namespace skep::sched {

class CAPABILITY("sleep lock") SleepLock {
 public:
  explicit SleepLock(LockRank rank) : rank_(rank) {}
  ~SleepLock();  // CHECKs that it is free
  SleepLock(const SleepLock&) = delete;
  SleepLock& operator=(const SleepLock&) = delete;

  // Debug builds check ranks for each fiber; two locks of one rank may be held, in an order that
  // the caller answers for.
  void Lock() ACQUIRE();
  void Unlock() RELEASE();
  bool TryLock() TRY_ACQUIRE(true);
  // False: the fiber was killed before it was its turn.
  [[nodiscard]] bool LockKillable() TRY_ACQUIRE(true);

 private:
  struct Waiter;
  bool LockSlow(Sleep sleep);
  void NoteAcquire();
  void NoteRelease();

  std::atomic<uint32_t> word_{0};  // 0 free, 1 held, 2 held and somebody may wait
  [[maybe_unused]] const LockRank rank_;
  Mutex mutex_{LockRank::kWaitQueue};
  Waiter* first_ GUARDED_BY(mutex_) = nullptr;
  Waiter* last_ GUARDED_BY(mutex_) = nullptr;
};

class SCOPED_CAPABILITY SleepLockHold {
 public:
  explicit SleepLockHold(SleepLock& lock) ACQUIRE(lock) : lock_(lock) { lock_.Lock(); }
  ~SleepLockHold() RELEASE() { lock_.Unlock(); }
  SleepLockHold(const SleepLockHold&) = delete;
  SleepLockHold& operator=(const SleepLockHold&) = delete;

 private:
  SleepLock& lock_;
};

}  // namespace skep::sched
