// What guests pass when they stop and before they go on: GuestBarriers (membarrier(2)) and
// FreezeGate (checkpoint).
#pragma once

#include <atomic>

#include "sentry/sched/wait_queue.h"

namespace skep::kernel {

// Those who wait until each guest that ran has stopped once.
class GuestBarriers {
 public:
  // A guest has stopped. Costs one load while nobody waits.
  void NoteStop() {
    if (waiting_.load(std::memory_order_seq_cst) != 0) queue_.WakeAll();
  }
  // From its construction on a stop wakes it.
  class Waiter {
   public:
    explicit Waiter(GuestBarriers& barriers) : barriers_(barriers) {
      barriers_.waiting_.fetch_add(1, std::memory_order_seq_cst);
    }
    ~Waiter() { barriers_.waiting_.fetch_sub(1, std::memory_order_seq_cst); }
    Waiter(const Waiter&) = delete;
    Waiter& operator=(const Waiter&) = delete;

    template <class F>
    void WaitUntil(const F& all_have_stopped) {
      (void)sched::WaitUntil(barriers_.queue_, sched::kAllEvents, std::nullopt,
                             sched::Sleep::kKillable, all_have_stopped);
    }

   private:
    GuestBarriers& barriers_;
  };

 private:
  std::atomic<int> waiting_{0};
  sched::WaitQueue queue_;
};

// Closed while the kernel freezes: tasks park before it.
class FreezeGate {
 public:
  bool closed() const { return closed_.load(); }
  void Close() { closed_ = true; }
  void Open() {
    closed_ = false;
    queue_.Wake();
  }
  void Pass() {
    (void)sched::WaitUntil(queue_, sched::kAllEvents, std::nullopt, sched::Sleep::kUninterruptible,
                           [&] { return !closed(); });
  }

 private:
  std::atomic<bool> closed_{false};
  sched::WaitQueue queue_;
};

}  // namespace skep::kernel
