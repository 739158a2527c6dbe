// The deadlines of one worker: those of its sleeping fibers and of Timers that were armed there.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <vector>

#include "base/mutex.h"
#include "sentry/sched/fiber.h"

namespace skep::sched {

class Worker;
struct TimerState;

// Part of what has the deadline.
struct TimerNode {
  static constexpr uint32_t kNotQueued = ~uint32_t{0};
  uint64_t deadline = 0;
  uint64_t order = 0;           // equal deadlines pass in the order of their Add
  uint32_t index = kNotQueued;  // in the heap
  // One of the two:
  Fiber* fiber = nullptr;
  TimerState* timer = nullptr;

  bool queued() const { return index != kNotQueued; }
};

class TimerQueue {
 public:
  static constexpr uint64_t kNone = ~uint64_t{0};

  Mutex& mutex() RETURN_CAPABILITY(mutex_) { return mutex_; }

  // True: this is now the first deadline.
  bool Add(TimerNode& node, uint64_t deadline) REQUIRES(mutex_);
  void Remove(TimerNode& node) REQUIRES(mutex_);  // it is queued
  // The node with the first deadline, removed, if that is not after `now`.
  TimerNode* PopExpired(uint64_t now) REQUIRES(mutex_);
  // The first deadline, or kNone. Any thread, without the lock.
  uint64_t first() const { return first_.load(std::memory_order_seq_cst); }

  // Timers whose deadline has passed and whose callback has not begun, in that order.
  void AddDue(TimerState& timer) REQUIRES(mutex_);
  void RemoveDue(TimerState& timer) REQUIRES(mutex_);
  TimerState* first_due() const REQUIRES(mutex_) { return first_due_; }

 private:
  static bool Before(const TimerNode& a, const TimerNode& b) {
    return a.deadline != b.deadline ? a.deadline < b.deadline : a.order < b.order;
  }
  void Place(TimerNode& node, size_t index) REQUIRES(mutex_);
  void SiftUp(size_t index) REQUIRES(mutex_);
  void SiftDown(size_t index) REQUIRES(mutex_);
  void Publish() REQUIRES(mutex_);

  Mutex mutex_{LockRank::kTimers};
  std::vector<TimerNode*> heap_ GUARDED_BY(mutex_);
  uint64_t next_order_ GUARDED_BY(mutex_) = 0;
  TimerState* first_due_ GUARDED_BY(mutex_) = nullptr;
  TimerState* last_due_ GUARDED_BY(mutex_) = nullptr;
  std::atomic<uint64_t> first_{kNone};
};

struct TimerState {
  explicit TimerState(std::move_only_function<void()> f, Worker* worker)
      : callback(std::move(f)), home(worker) {
    node.timer = this;
  }
  std::move_only_function<void()> callback;
  // Changed with the old home's queue locked; the home's queue guards all below.
  std::atomic<Worker*> home;
  TimerNode node;
  bool due = false;
  bool running = false;  // the home stays while a callback runs
  bool dead = false;     // destroyed by its own callback: whoever runs that deletes it
  TimerState* next_due = nullptr;
  TimerState* previous_due = nullptr;
};

}  // namespace skep::sched
