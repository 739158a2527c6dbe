// CallerWatch: notices that the CLI which a sandbox belongs to was stopped (SIGSTOP cannot be
// caught), so that its guests stop as those of a stopped shell job do.
//
// It looks while guests run, and only then: an idle sandbox has no timer.
#pragma once

#include <atomic>
#include <functional>

#include "base/result.h"
#include "sentry/arena/host_table.h"
#include "sentry/sched/scheduler.h"
#include "sentry/sched/wait_queue.h"

namespace skep::boot {

class CallerWatch final : public sched::GuestWatch {
 public:
  // `stat`: /proc/<pid>/stat of the CLI. `next`: who else watches guests, or null.
  CallerWatch(arena::HostFd stat, sched::GuestWatch* next) : stat_(stat), next_(next) {}

  // `stopped` is called on a fiber each time the CLI has been seen to stop.
  Result<void> Start(sched::Scheduler& scheduler, std::function<void()> stopped);
  // sched::GuestWatch
  uint64_t Look(uint64_t now_ns) override;

 private:
  bool IsStopped() const;

  const arena::HostFd stat_;
  sched::GuestWatch* const next_;
  uint64_t due_ns_ = 0, next_due_ns_ = 0;  // Look only, which one worker at a time calls
  std::atomic<bool> was_stopped_{false}, tell_{false};
  sched::WaitQueue queue_;
};

// The state letter of a line of /proc/<pid>/stat; 0: it is none.
char StateInStat(std::string_view line);

}  // namespace skep::boot
