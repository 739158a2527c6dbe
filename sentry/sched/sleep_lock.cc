#include "sentry/sched/sleep_lock.h"

#include "base/check.h"
#include "sentry/sched/fiber_state.h"

namespace skep::sched {

// On the stack of the fiber that waits.
struct SleepLock::Waiter {
  Fiber* fiber;
  Waiter* next = nullptr;
  std::atomic<bool> granted{false};
};

SleepLock::~SleepLock() { CHECK(word_.load(std::memory_order_relaxed) == 0); }

void SleepLock::Lock() {
  NoteAcquire();
  uint32_t expected = 0;
  if (!word_.compare_exchange_strong(expected, 1, std::memory_order_acquire)) {
    LockSlow(Sleep::kUninterruptible);
  }
}

bool SleepLock::LockKillable() {
  NoteAcquire();
  uint32_t expected = 0;
  if (word_.compare_exchange_strong(expected, 1, std::memory_order_acquire)) return true;
  if (LockSlow(Sleep::kKillable)) return true;
  NoteRelease();
  return false;
}

bool SleepLock::TryLock() {
  uint32_t expected = 0;
  if (!word_.compare_exchange_strong(expected, 1, std::memory_order_acquire)) return false;
  NoteAcquire();
  return true;
}

// The lock is handed from fiber to fiber in the order they came: word_ stays 2 meanwhile.
bool SleepLock::LockSlow(Sleep sleep) {
  Waiter waiter{&Fiber::Current()};
  {
    MutexLock lock(mutex_);
    if (word_.exchange(2, std::memory_order_acquire) == 0) {
      if (first_ == nullptr) word_.store(1, std::memory_order_relaxed);
      return true;
    }
    (last_ != nullptr ? last_->next : first_) = &waiter;
    last_ = &waiter;
  }
  while (!waiter.granted.load(std::memory_order_acquire)) {
    if (Suspend(std::nullopt, sleep) != WakeReason::kInterrupted) continue;
    MutexLock lock(mutex_);
    if (waiter.granted.load(std::memory_order_acquire)) return true;
    Waiter* previous = nullptr;
    for (Waiter* w = first_; w != &waiter; w = w->next) previous = w;
    (previous != nullptr ? previous->next : first_) = waiter.next;
    if (last_ == &waiter) last_ = previous;
    return false;
  }
  return true;
}

void SleepLock::Unlock() {
  NoteRelease();
  uint32_t expected = 1;
  if (word_.compare_exchange_strong(expected, 0, std::memory_order_release)) return;
  CHECK(expected == 2);
  Ref<Fiber> next;
  {
    MutexLock lock(mutex_);
    Waiter* waiter = first_;
    if (waiter == nullptr) {
      word_.store(0, std::memory_order_release);
      return;
    }
    first_ = waiter->next;
    if (first_ == nullptr) last_ = nullptr;
    // Once granted, the waiter and its fiber may be gone.
    next = Ref<Fiber>(waiter->fiber);
    waiter->granted.store(true, std::memory_order_release);
  }
  next->Unpark();
}

void SleepLock::NoteAcquire() {
  if (!Mutex::order_checked()) return;
  Fiber* fiber = Fiber::CurrentOrNull();
  if (fiber == nullptr) return;
  auto& held = FiberAccess::StateOf(*fiber).sleep_locks;
  const auto rank = static_cast<size_t>(rank_);
  CHECK(rank < held.size());
  for (size_t i = rank + 1; i < held.size(); ++i) CHECK(held[i] == 0 && "order of SleepLocks");
  ++held[rank];
}

void SleepLock::NoteRelease() {
  if (!Mutex::order_checked()) return;
  Fiber* fiber = Fiber::CurrentOrNull();
  if (fiber == nullptr) return;
  auto& count = FiberAccess::StateOf(*fiber).sleep_locks[static_cast<size_t>(rank_)];
  CHECK(count > 0);
  --count;
}

}  // namespace skep::sched
