// Futexes with an owner: FUTEX_LOCK_PI and its family (Linux: kernel/futex/pi.c, requeue.c).
//
// The word holds the owner's thread id, so the kernel can hand the lock over and see that the owner
// died. Priorities are not lent: all waiters are of one class, which Linux serves first come first
// served as well.
//
// Every change that the kernel makes to a word, and to who waits for it, is made under the
// SleepLock of its bucket, over faults of the guest's memory. User space changes a word by itself
// only while FUTEX_WAITERS is not set in it; hence compare-and-exchange here.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <vector>

#include "base/mutex.h"
#include "sentry/ipc/futex.h"
#include "sentry/sched/sleep_lock.h"

namespace skep::ipc {

class PiFutexTable {
 public:
  // Whether a thread of this id lives and has not let go of its futexes. Called with a bucket's
  // lock.
  using IsAlive = std::function<bool(uint32_t tid)>;

  PiFutexTable() = default;
  PiFutexTable(const PiFutexTable&) = delete;
  PiFutexTable& operator=(const PiFutexTable&) = delete;

  // FUTEX_LOCK_PI, FUTEX_LOCK_PI2. EDEADLK, ESRCH (the owner is no thread), EINVAL (the word is not
  // what it was), ETIMEDOUT, kRestartNoIntr.
  Result<void> Lock(const FutexAt& futex, uint32_t tid, const IsAlive& alive,
                    sched::Deadline deadline);
  // FUTEX_TRYLOCK_PI: EAGAIN instead of waiting.
  Result<void> TryLock(const FutexAt& futex, uint32_t tid, const IsAlive& alive);
  // FUTEX_UNLOCK_PI. EPERM: the caller does not own it.
  Result<void> Unlock(const FutexAt& futex, uint32_t tid);

  // FUTEX_WAIT_REQUEUE_PI: waits on `futex` until a requeue moves it to `lock` and it gets that.
  // EAGAIN, ETIMEDOUT, kRestartNoIntr.
  Result<void> WaitRequeue(const FutexAt& futex, uint32_t expected, const FutexAt& lock,
                           uint32_t tid, sched::Deadline deadline);
  // FUTEX_CMP_REQUEUE_PI: the first waiter gets `lock` if it is free, the others (at most `move`)
  // wait for it. How many in all.
  Result<int> Requeue(const FutexAt& futex, uint32_t expected, const FutexAt& lock, int wake,
                      int move, const IsAlive& alive);

  // The thread dies or executes another program: what it owns and others wait for goes to these,
  // with FUTEX_OWNER_DIED (Linux: exit_pi_state_list). After its robust list, and after IsAlive
  // says no.
  void OwnerLeaves(uint32_t tid);

 private:
  struct Bucket;
  struct Waiter;
  struct State;  // of a lock that somebody waits for
  struct Bucket {
    // tidy: allow(guards) states, requeues: TwoLocks takes two buckets' locks in their order
    sched::SleepLock lock{LockRank::kPiFutex};
    std::vector<std::unique_ptr<State>> states;
    std::vector<Waiter*> requeues;  // those of WaitRequeue, before they are moved; oldest first
    ~Bucket();
    Bucket();
  };
  class TwoLocks;
  static constexpr size_t kBuckets = 64;

  Bucket& BucketOf(const FutexKey& key);
  static State* Find(Bucket& bucket, const FutexKey& key);
  void DropIfUnused(Bucket& bucket, State& state);
  // On behalf of `tid`. True: it has the lock; false: it must wait, `*state` is what for.
  Result<bool> Take(Bucket& bucket, const FutexKey& key, const FutexAt& futex, uint32_t tid,
                    const IsAlive& alive, State** state);
  Result<bool> TakeFree(Bucket& bucket, const FutexKey& key, const FutexAt& futex, uint32_t tid,
                        const IsAlive& alive, State** state);
  Result<void> LockOrTry(const FutexAt& futex, uint32_t tid, const IsAlive& alive,
                         sched::Deadline deadline, bool wait);
  void Enqueue(Bucket& bucket, State& state, Waiter& waiter);
  static void Grant(Waiter& waiter, int how);
  void HandOver(State& state, int how);
  Result<void> Sleep(Waiter& waiter, const FutexAt& lock, sched::Deadline deadline);
  Result<void> TakeOver(Waiter& waiter, const FutexAt& lock);
  bool Leave(Waiter& waiter);
  void SetBlockedOn(uint32_t tid, uint32_t owner);
  bool WouldDeadlock(uint32_t tid, uint32_t owner);

  std::array<Bucket, kBuckets> buckets_;
  std::atomic<size_t> state_count_{0};
  Mutex mutex_{LockRank::kFutex};
  std::map<uint32_t, uint32_t> blocked_on_ GUARDED_BY(mutex_);  // waiting thread -> owner
};

}  // namespace skep::ipc
