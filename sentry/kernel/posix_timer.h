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
#include "sentry/sched/timer.h"

namespace skep::kernel {

class Kernel;
class Task;
class ThreadGroup;
struct Usage;

class PosixTimer final : public RefCounted<PosixTimer> {
 public:
  int id = 0;
  clockid_t clock = 0;
  std::optional<CpuClock> cpu_clock;  // with its id; then `timer` is null: kernel/cpu_timer.h
  int notify = 0;                     // SIGEV_*
  int signo = 0;
  sigval value{};
  int thread = 0;                // SIGEV_THREAD_ID: tid
  ThreadGroup* group = nullptr;  // owns it; null once deleted (tasks_mutex)

  // -- tasks_mutex --
  uint64_t interval_ns = 0;
  uint64_t deadline_ns = 0;  // monotonic, or of the CPU clock; 0: disarmed
  bool queued = false;       // its signal is pending: more expirations count as overruns
  int overrun = 0;           // since the signal was queued
  int overrun_last = 0;      // of the signal last taken: timer_getoverrun
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
// exec and exit: all timers of the group go; at exit its interval timers, too. Not under
// tasks_mutex.
void DeleteAllTimers(ThreadGroup& group);
void DeleteIntervalTimers(ThreadGroup& group);
// The signal of a timer was dequeued: counts overruns and re-arms. Under tasks_mutex.
void TimerSignalTaken(PosixTimer& timer, siginfo_t& info);

// Of a timer with a cpu_clock, under tasks_mutex: the clock's time (`process`: what the process has
// used), and its expiry.
uint64_t CpuTimeFor(const PosixTimer& timer, const Usage& process);
void FireCpuTimer(PosixTimer& timer, uint64_t now);

// ITIMER_REAL, ITIMER_VIRTUAL, ITIMER_PROF.
Result<TimerSpec> SetIntervalTimer(Task& task, int which, const TimerSpec* spec);  // the old value

// Nanoseconds of a guest clock now. EINVAL for a clock that does not exist.
Result<uint64_t> ClockNow(Task& task, clockid_t clock);
// A point of `clock` as a point of the monotonic clock.
uint64_t ToMonotonic(Kernel& kernel, clockid_t clock, uint64_t ns);

}  // namespace skep::kernel
