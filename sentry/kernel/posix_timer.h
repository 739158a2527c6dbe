// POSIX timers (timer_create(2)) and interval timers (setitimer(2)).
#pragma once

#include <csignal>
#include <cstdint>
#include <ctime>
#include <memory>
#include <optional>

#include "base/ref.h"
#include "base/result.h"
#include "sentry/kernel/cpu_clock.h"
#include "sentry/kernel/tasks_lock.h"
#include "sentry/sched/timer.h"

namespace skep::kernel {

class Kernel;
class Task;
class ThreadGroup;
struct Usage;

class PosixTimer final : public RefCounted<PosixTimer> {
 public:
  // Constant.
  int id = 0;
  clockid_t clock = 0;
  std::optional<CpuClock> cpu_clock;  // with its id; then `timer` is null: kernel/cpu_timer.h
  int notify = 0;                     // SIGEV_*
  int signo = 0;
  sigval value{};
  int thread = 0;  // SIGEV_THREAD_ID: tid

  ThreadGroup* group GUARDED_BY(tasks) = nullptr;  // owns it; null once deleted
  uint64_t interval_ns GUARDED_BY(tasks) = 0;
  // Monotonic, or of the CPU clock; 0: disarmed.
  uint64_t deadline_ns GUARDED_BY(tasks) = 0;
  bool queued GUARDED_BY(tasks) = false;  // its signal is pending; PendingSignals::Add sets it
  // Periods since its signal was queued, less the one it tells of.
  int overrun GUARDED_BY(tasks) = -1;
  int overrun_last GUARDED_BY(tasks) = 0;  // of the signal last taken: timer_getoverrun
  // Set before the timer is published; reset once it is deleted.
  std::unique_ptr<sched::Timer> timer;
};

struct TimerSpec {
  uint64_t interval_ns = 0;
  uint64_t value_ns = 0;
};

Result<int> CreatePosixTimer(Task& task, clockid_t clock, const sigevent* event);
Result<TimerSpec> SetPosixTimer(Task& task, int id, int flags, const TimerSpec& spec);
Result<TimerSpec> GetPosixTimer(Task& task, int id);
Result<int> GetPosixTimerOverrun(Task& task, int id);
Result<void> DeletePosixTimer(Task& task, int id);
// exec and exit: all timers of the group go; at exit its interval timers, too. Waits for
// callbacks in progress.
void DeleteAllTimers(ThreadGroup& group) EXCLUDES(tasks);
void DeleteIntervalTimers(ThreadGroup& group) EXCLUDES(tasks);
// A signal for `group` or one of its threads was dequeued; `timer`: whose signal it was, or null.
// Interval timers that waited for that go on; overruns are told in `info`.
void SignalTaken(ThreadGroup& group, PosixTimer* timer, siginfo_t& info) REQUIRES(tasks);

// The time of a cpu_clock timer's clock (`process`: CPU time that the process has used), and its
// expiry.
uint64_t CpuTimeFor(const PosixTimer& timer, const Usage& process) REQUIRES(tasks);
void FireCpuTimer(PosixTimer& timer, uint64_t now) REQUIRES(tasks);

// ITIMER_REAL, ITIMER_VIRTUAL, ITIMER_PROF.
Result<TimerSpec> SetIntervalTimer(Task& task, int which, const TimerSpec* spec);  // the old value

// Nanoseconds of a guest clock now. EINVAL for a clock that does not exist.
Result<uint64_t> ClockNow(Task& task, clockid_t clock);
// A point of `clock` as a point of the monotonic clock.
uint64_t ToMonotonic(Kernel& kernel, clockid_t clock, uint64_t ns);

}  // namespace skep::kernel
