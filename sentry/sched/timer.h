// Timers on the virtual monotonic clock. Callbacks run on a worker's system fiber (arena heap; may
// take Mutexes; must not sleep).
#pragma once

#include <cstdint>
#include <functional>

#include "sentry/sched/fiber.h"

namespace skep::sched {

class Scheduler;
struct TimerState;  // timer_queue.h; in the arena

class Timer {
 public:
  // `callback` may re-arm the timer.
  Timer(Scheduler& scheduler, std::move_only_function<void()> callback);
  ~Timer();  // cancels; waits for a callback that runs on another worker
  Timer(const Timer&) = delete;
  Timer& operator=(const Timer&) = delete;

  void Arm(uint64_t deadline_ns);  // replaces an earlier deadline. Any fiber.
  // True: the callback will not run for the earlier Arm. False: it was not armed, or is running.
  bool Cancel();
  Deadline deadline() const;

 private:
  TimerState* state_;
};

}  // namespace skep::sched
