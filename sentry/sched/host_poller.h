// Waking wait queues when host descriptors become ready: stdio, ptys of the CLI, brokered sockets.
#pragma once

#include <cstdint>
#include <functional>

#include "sentry/arena/host_table.h"
#include "sentry/sched/wait_queue.h"

namespace skep::sched {

class Scheduler;

// One-shot interest of a file in its host descriptor. A kernel object; re-armed after a restore.
class HostWatch {
 public:
  HostWatch(Scheduler& scheduler, arena::HostFd fd, WaitQueue& queue);
  ~HostWatch();
  // The next time one of `events` (EPOLLIN | EPOLLOUT | ...) is ready, queue.Wake(ready) is called
  // once, from a worker's system fiber. Adds to what was armed before; what is ready (or all of it,
  // on an error or hang-up) is no longer armed. A file that cannot be polled is always ready.
  void Arm(EventMask events);
  HostWatch(const HostWatch&) = delete;
  HostWatch& operator=(const HostWatch&) = delete;

 private:
  friend struct WatchAccess;
  Scheduler& scheduler_;
  const arena::HostFd fd_;
  WaitQueue& queue_;
  // Guarded by the scheduler's watch lock:
  uint64_t id_ = 0;
  int worker_ = 0;  // whose poller it is or was last armed on
  EventMask armed_ = 0;
  EventMask ready_ = 0;        // not delivered yet
  HostWatch* next_ = nullptr;  // all watches of the scheduler
  HostWatch* previous_ = nullptr;
  HostWatch* next_ready_ = nullptr;  // those of a worker with ready_ != 0
};

// For host code that wakes fibers itself, such as a connection whose replies are for many: tells it
// when its descriptor can be read. Not a kernel object. One worker's thread uses it, always the
// same one, and that worker's loop calls it.
class LoopWatch {
 public:
  // `ready` is called on the worker's own stack with malloc's heap. It may wake fibers and must not
  // wait. It may destroy nothing.
  LoopWatch(int fd, std::function<void()> ready) : fd_(fd), ready_(std::move(ready)) {}
  ~LoopWatch();
  LoopWatch(const LoopWatch&) = delete;
  LoopWatch& operator=(const LoopWatch&) = delete;
  // The next time that the descriptor can be read, or has been hung up, `ready` is called once.
  // False: the host has no memory for that now.
  [[nodiscard]] bool Arm();
  void Disarm();

 private:
  friend struct LoopWatchAccess;
  const int fd_;
  const std::function<void()> ready_;
  bool registered_ = false;  // its epoll entry is one-shot
  bool armed_ = false;
};

// As Offload. At most half of the helpers work for one owner (a file system): what hangs holds up
// only those who use it.
void OffloadFor(const void* owner, std::move_only_function<void()> work);

// While it lives, a host process is busy for the current fiber, which sleeps: Quiesce waits for its
// answer, as for an Offload.
class HostCallInProgress {
 public:
  HostCallInProgress();
  ~HostCallInProgress();
  HostCallInProgress(const HostCallInProgress&) = delete;
  HostCallInProgress& operator=(const HostCallInProgress&) = delete;
};

}  // namespace skep::sched
