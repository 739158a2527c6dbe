// Mutex: a short critical section between workers, in one plain word so that it may live in the
// kernel arena (where it is unlocked whenever the sandbox is quiescent).
//
// Owned by a host thread. While one is held: no fiber suspension, no gofer call, no guest fault
// handling. Debug builds, and others after Mutex::CheckOrder, check the order of base/lock_rank.h.
#pragma once

#include <atomic>
#include <cstdint>

#include "base/check.h"
#include "base/lock_rank.h"
#include "base/thread_annotations.h"

namespace skep {

class CAPABILITY("mutex") Mutex {
 public:
  explicit constexpr Mutex(LockRank rank) : rank_(rank) {}
  Mutex(const Mutex&) = delete;
  Mutex& operator=(const Mutex&) = delete;

  // A test mode of release builds; before there is a second thread.
  static void CheckOrder() { order_checked_ = true; }
  static bool order_checked() { return order_checked_; }

  void Lock() ACQUIRE() {
    if (order_checked_) NoteAcquire();
    uint32_t expected = 0;
    if (!word_.compare_exchange_strong(expected, 1, std::memory_order_acquire)) LockSlow();
  }
  void Unlock() RELEASE() {
    if (word_.exchange(0, std::memory_order_release) == 2) WakeOne();
    if (order_checked_) NoteRelease();
  }
  // Tells the analysis that the caller holds it, where it cannot see that two names are one mutex.
  void AssertHeld() const ASSERT_CAPABILITY(this) {
    DCHECK(word_.load(std::memory_order_relaxed) != 0);
  }
  // For two locks of one rank, taken by a helper that orders them: only the first notes the rank.
  void LockNested() ACQUIRE() {
    uint32_t expected = 0;
    if (!word_.compare_exchange_strong(expected, 1, std::memory_order_acquire)) LockSlow();
  }
  void UnlockNested() RELEASE() {
    if (word_.exchange(0, std::memory_order_release) == 2) WakeOne();
  }

 private:
  void LockSlow();
  void WakeOne();
  void NoteAcquire();
  void NoteRelease();

#ifdef NDEBUG
  static inline bool order_checked_ = false;
#else
  static inline bool order_checked_ = true;
#endif
  std::atomic<uint32_t> word_{0};  // 0 free, 1 held, 2 held and somebody sleeps
  const LockRank rank_;
};

class SCOPED_CAPABILITY MutexLock {
 public:
  explicit MutexLock(Mutex& mutex) ACQUIRE(mutex) : mutex_(mutex) { mutex_.Lock(); }
  ~MutexLock() RELEASE() { mutex_.Unlock(); }
  MutexLock(const MutexLock&) = delete;
  MutexLock& operator=(const MutexLock&) = delete;

 private:
  Mutex& mutex_;
};

// While it lives, this thread may take a lock of `rank` although it holds one already: a wake-up
// that is passed on from one wait queue to another (an epoll file that is watched itself). The
// caller knows that the two are never taken in the other order.
class NestedRank {
 public:
  explicit NestedRank(LockRank rank);
  ~NestedRank();
  NestedRank(const NestedRank&) = delete;
  NestedRank& operator=(const NestedRank&) = delete;

 private:
  uint64_t hidden_ = 0;
};

// True if this host thread holds no Mutex, or the order is not checked. What every suspension point
// CHECKs.
bool HoldsNoMutex();

}  // namespace skep
