// Waking wait queues when host descriptors become ready: stdio, ptys of the CLI, brokered sockets.
#pragma once

#include <cstdint>

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

}  // namespace skep::sched
