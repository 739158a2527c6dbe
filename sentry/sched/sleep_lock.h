// SleepLock: a lock that belongs to a fiber and may be held over I/O, guest-memory copies and
// suspensions (Linux: struct mutex). FIFO; waiting is not interruptible, LockKillable is by a kill.
#pragma once

#include "base/lock_rank.h"
#include "base/thread_annotations.h"
#include "sentry/sched/wait_queue.h"

namespace skep::sched {

class CAPABILITY("sleep lock") SleepLock {
 public:
  explicit SleepLock(LockRank rank) : rank_(rank) {}
  void Lock() ACQUIRE();
  void Unlock() RELEASE();
  bool TryLock() TRY_ACQUIRE(true);

 private:
  Mutex mutex_{LockRank::kWaitQueue};
  WaitQueue waiters_;
  bool held_ = false;
  const LockRank rank_;
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
