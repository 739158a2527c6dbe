// TaskStart: how a new task and its maker wait for each other.
//
// The fiber may run on another worker before its maker has published the task: it waits for that.
// The maker waits until the new guest thread is there, or cannot be made.
#pragma once

#include <atomic>

#include "sentry/sched/wait_queue.h"

namespace skep::kernel {

class TaskStart {
 public:
  // -- the maker --
  void Allow() { Set(Permission::kGiven); }
  void GiveUp() { Set(Permission::kRefused); }  // nobody knows the task
  // Until SetReady. 0, or the errno.
  int AwaitReady() {
    Await([&] { return ready_.load() != kUnknown; });
    return ready_.load();
  }

  // -- the new task's fiber --
  // False: it was given up.
  bool AwaitPermission() {
    Await([&] { return permission_.load() != Permission::kNone; });
    return permission_.load() == Permission::kGiven;
  }

  // Called by the fiber or the maker, whichever makes the guest thread: 0, or an errno.
  void SetReady(int error) {
    ready_.store(error, std::memory_order_release);
    queue_.Wake();
  }
  bool succeeded() const { return ready_.load() == 0; }
  bool failed() const { return ready_.load(std::memory_order_acquire) > 0; }

 private:
  enum class Permission : uint8_t { kNone, kGiven, kRefused };
  static constexpr int kUnknown = -1;

  void Set(Permission permission) {
    permission_ = permission;
    queue_.Wake();
  }
  template <class F>
  void Await(const F& condition) {
    (void)sched::WaitUntil(queue_, sched::kAllEvents, std::nullopt, sched::Sleep::kUninterruptible,
                           condition);
  }

  std::atomic<Permission> permission_{Permission::kNone};
  std::atomic<int> ready_{kUnknown};
  sched::WaitQueue queue_;
};

// vfork(2): the child uses its parent's memory, and the parent waits until it no longer does.
class MemoryLoan {
 public:
  void Begin() { lent_ = true; }
  void End() {
    if (lent_.exchange(false)) queue_.Wake();
  }
  void AwaitEnd() {
    (void)sched::WaitUntil(queue_, sched::kAllEvents, std::nullopt, sched::Sleep::kKillable,
                           [&] { return !lent_.load(); });
  }

 private:
  std::atomic<bool> lent_{false};
  sched::WaitQueue queue_;
};

}  // namespace skep::kernel
