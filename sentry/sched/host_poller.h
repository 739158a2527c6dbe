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
  // once, from a worker's system fiber.
  void Arm(EventMask events);

 private:
  friend class Scheduler;
  Scheduler& scheduler_;
  arena::HostFd fd_;
  WaitQueue& queue_;
  EventMask armed_ = 0;
  uint64_t id_ = 0;
};

}  // namespace skep::sched
