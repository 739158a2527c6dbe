#include "sentry/sched/wait_queue.h"

#include <limits>

#include "base/check.h"

namespace skep::sched {

WaitEntry::~WaitEntry() { CHECK(!queued()); }

WaitQueue::~WaitQueue() { CHECK(empty()); }

bool WaitQueue::empty() const { return first_.load(std::memory_order_relaxed) == nullptr; }

void WaitQueue::Add(WaitEntry& entry, EventMask mask, bool exclusive) {
  CHECK(!entry.queued());
  MutexLock lock(mutex_);
  entry.mask_ = mask;
  entry.exclusive_ = exclusive;
  WaitEntry* first = first_.load(std::memory_order_relaxed);
  if (exclusive) {
    entry.previous_ = last_;
    entry.next_ = nullptr;
  } else {
    entry.previous_ = nullptr;
    entry.next_ = first;
  }
  (entry.next_ != nullptr ? entry.next_->previous_ : last_) = &entry;
  if (entry.previous_ != nullptr) {
    entry.previous_->next_ = &entry;
  } else {
    first_.store(&entry, std::memory_order_relaxed);
  }
  entry.queue_.store(this, std::memory_order_relaxed);
}

void WaitQueue::Remove(WaitEntry& entry) {
  MutexLock lock(mutex_);
  if (!entry.queued()) return;
  CHECK(entry.queue_.load(std::memory_order_relaxed) == this);
  (entry.next_ != nullptr ? entry.next_->previous_ : last_) = entry.previous_;
  if (entry.previous_ != nullptr) {
    entry.previous_->next_ = entry.next_;
  } else {
    first_.store(entry.next_, std::memory_order_relaxed);
  }
  entry.next_ = entry.previous_ = nullptr;
  entry.queue_.store(nullptr, std::memory_order_relaxed);
}

void WaitQueue::Wake(EventMask events, int max_exclusive) {
  MutexLock lock(mutex_);
  WaitEntry* next = nullptr;
  for (WaitEntry* e = first_.load(std::memory_order_relaxed); e != nullptr; e = next) {
    next = e->next_;
    if ((e->mask_ & events) == 0) continue;
    if (e->OnWake(events) && e->exclusive_ && --max_exclusive == 0) return;
  }
}

void WaitQueue::WakeAll(EventMask events) { Wake(events, std::numeric_limits<int>::max()); }

// As Linux's autoremove_wake_function: a waiter that has been woken and has not run yet does not
// use up another wake-up.
bool FiberWaiter::OnWake(EventMask) {
  const bool first = !woken_.exchange(true, std::memory_order_acq_rel);
  fiber_.Unpark();
  return first;
}

}  // namespace skep::sched
