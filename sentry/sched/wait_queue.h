// Wait queues: who wants to hear that an object's state changed (Linux: wait_queue_head_t).
//
// An entry carries a mask of poll events; Wake(mask) calls entries whose mask intersects. Entries
// live with the waiter (a fiber's stack, an epoll item), never with the queue.
#pragma once

#include <atomic>
#include <cstdint>

#include "base/mutex.h"
#include "sentry/sched/fiber.h"

namespace skep::sched {

using EventMask = uint32_t;  // EPOLLIN, EPOLLOUT, ... of <sys/epoll.h>
inline constexpr EventMask kAllEvents = ~EventMask{0};

class WaitQueue;

class WaitEntry {
 public:
  WaitEntry(const WaitEntry&) = delete;
  WaitEntry& operator=(const WaitEntry&) = delete;
  bool queued() const { return queue_.load(std::memory_order_relaxed) != nullptr; }

 protected:
  WaitEntry() = default;
  ~WaitEntry();  // CHECKs that it is in no queue
  // Called with the queue's Mutex held: may take only locks from LockRank::kRunQueue on, must not
  // call back into the queue. True: this counts as one of the `max_exclusive` woken.
  virtual bool OnWake(EventMask events) = 0;

 private:
  friend class WaitQueue;
  std::atomic<WaitQueue*> queue_{nullptr};  // its Mutex guards the rest
  WaitEntry* previous_ = nullptr;
  WaitEntry* next_ = nullptr;
  EventMask mask_ = 0;
  bool exclusive_ = false;
};

class WaitQueue {
 public:
  WaitQueue() = default;
  ~WaitQueue();  // CHECKs that it is empty
  WaitQueue(const WaitQueue&) = delete;
  WaitQueue& operator=(const WaitQueue&) = delete;

  // Exclusive entries go last and are woken at most `max_exclusive` per Wake.
  void Add(WaitEntry& entry, EventMask mask, bool exclusive = false);
  void Remove(WaitEntry& entry);  // no effect if it is in no queue; waits for a running OnWake
  // Any thread.
  void Wake(EventMask events = kAllEvents, int max_exclusive = 1);
  void WakeAll(EventMask events = kAllEvents);  // exclusive entries too
  bool empty() const;                           // a hint without the lock

 private:
  Mutex mutex_{LockRank::kWaitQueue};
  std::atomic<WaitEntry*> first_{nullptr};
  WaitEntry* last_ GUARDED_BY(mutex_) = nullptr;
};

// The usual entry: unparks the fiber that made it.
class FiberWaiter final : public WaitEntry {
 public:
  FiberWaiter() : fiber_(Fiber::Current()) {}
  FiberWaiter(WaitQueue& queue, EventMask mask, bool exclusive = false) : FiberWaiter() {
    queue.Add(*this, mask, exclusive);
    joined_ = &queue;
  }
  ~FiberWaiter() {
    if (joined_ != nullptr) joined_->Remove(*this);
  }
  bool woken() const { return woken_.load(std::memory_order_acquire); }
  // For a loop that looks at its condition next and may sleep again: the next wake-up counts anew.
  void ForgetWake() { woken_.exchange(false, std::memory_order_acq_rel); }

 private:
  bool OnWake(EventMask events) override;
  Fiber& fiber_;
  WaitQueue* joined_ = nullptr;
  std::atomic<bool> woken_{false};
};

// Sleeps on `queue` until condition() is true. kWoken: it is. The condition is checked before the
// first sleep and after every wake-up, without locks of ours.
template <class Condition>
WakeReason WaitUntil(WaitQueue& queue, EventMask mask, Deadline deadline, Sleep sleep,
                     Condition condition) {
  FiberWaiter waiter(queue, mask);
  for (;;) {
    if (condition()) return WakeReason::kWoken;
    const WakeReason reason = Suspend(deadline, sleep);
    if (reason != WakeReason::kWoken) return condition() ? WakeReason::kWoken : reason;
  }
}

}  // namespace skep::sched
