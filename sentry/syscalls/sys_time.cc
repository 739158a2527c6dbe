// Clocks, sleeping, timers.
#include <sys/timerfd.h>
#include <algorithm>
#include <ctime>

#include "sentry/kernel/cpu_time.h"
#include "sentry/kernel/kernel.h"
#include "sentry/kernel/posix_timer.h"
#include "sentry/kernel/vdso_clock.h"
#include "sentry/syscalls/abi.h"
#include "sentry/syscalls/families.h"
#include "sentry/syscalls/util.h"

namespace skep::syscalls {
namespace {

using kernel::TimerSpec;

Result<void> ClockGettime(Task& task, int32_t clock, UserPtr<timespec> out) {
  const uint64_t now = TRY(kernel::ClockNow(task, clock));
  return task.mm->CopyOut(out, ToTimespec(now));
}

Result<void> ClockGetres(Task& task, int32_t clock, UserPtr<timespec> out) {
  TRY(kernel::ClockNow(task, clock));
  if (out.is_null()) return {};
  const bool coarse = clock == CLOCK_REALTIME_COARSE || clock == CLOCK_MONOTONIC_COARSE;
  return task.mm->CopyOut(out, timespec{0, coarse ? 4'000'000 : 1});
}

Result<void> ClockSettime(Task& task, int32_t clock, UserPtr<const timespec> time) {
  if (clock != CLOCK_REALTIME) return Fail(EINVAL);
  const timespec wanted = TRY(task.mm->CopyIn(time));
  TRY(ToNs(wanted));
  // The host's clock is not the guest's to set, whatever its capabilities inside.
  return Fail(EPERM);
}

// Until a CPU clock has come so far. Linux watches its ticks; here the clock is read
// again when it could have come that far.
Result<void> SleepUntilCpuTime(Task& task, const kernel::CpuClock& clock, uint64_t deadline,
                               bool absolute, UserPtr<timespec> remain) {
  constexpr uint64_t kLeastNs = 1'000'000;
  for (;;) {
    const uint64_t now = TRY(kernel::ReadCpuClock(task, clock));
    if (now >= deadline) return {};
    // No clock goes faster than all CPUs together.
    const auto cpus = static_cast<uint64_t>(task.kernel.scheduler.worker_count());
    const auto reason = sched::Suspend(After(task, std::max((deadline - now) / cpus, kLeastNs)),
                                       sched::Sleep::kInterruptible);
    if (reason != sched::WakeReason::kInterrupted) continue;
    if (absolute) return Fail(kRestartNoHand);
    if (!remain.is_null()) TRY(task.mm->CopyOut(remain, ToTimespec(deadline - now)));
    task.restart = {.kind = kernel::RestartBlock::Kind::kCpuSleep,
                    .deadline_ns = deadline,
                    .address = Raw(remain.addr()),
                    .value = static_cast<uint32_t>(clock.id),
                    .bits = (clock.thread ? 1u : 0u) | (clock.user_only ? 2u : 0u)};
    return Fail(kRestartBlock);
  }
}

// Sleeps until `deadline`; what is left goes to `remain` when interrupted.
Result<void> SleepUntil(Task& task, uint64_t deadline, bool absolute, UserPtr<timespec> remain) {
  for (;;) {
    const auto reason = sched::Suspend(deadline, sched::Sleep::kInterruptible);
    if (reason == sched::WakeReason::kTimedOut) return {};
    if (reason == sched::WakeReason::kWoken) {
      if (task.kernel.scheduler.clock().MonotonicNs() >= deadline) return {};
      continue;
    }
    if (absolute) return Fail(kRestartNoHand);
    const uint64_t now = task.kernel.scheduler.clock().MonotonicNs();
    if (now >= deadline) return {};
    if (!remain.is_null()) TRY(task.mm->CopyOut(remain, ToTimespec(deadline - now)));
    task.restart = {.kind = kernel::RestartBlock::Kind::kNanosleep,
                    .deadline_ns = deadline,
                    .address = Raw(remain.addr())};
    return Fail(kRestartBlock);
  }
}

Result<void> ClockNanosleep(Task& task, int32_t clock, int32_t flags,
                            UserPtr<const timespec> request, UserPtr<timespec> remain) {
  std::optional<kernel::CpuClock> cpu;
  switch (clock) {
    case CLOCK_REALTIME:
    case CLOCK_MONOTONIC:
    case CLOCK_BOOTTIME:
    case CLOCK_TAI:
      break;
    case CLOCK_MONOTONIC_RAW:
    case CLOCK_REALTIME_COARSE:
    case CLOCK_MONOTONIC_COARSE:
      return Fail(EOPNOTSUPP);
    default:
      cpu = kernel::CpuClockOf(clock);
      // Linux: posix_cpu_nsleep: a thread cannot wait for its own time.
      if (!cpu || (cpu->thread && (cpu->id == 0 || cpu->id == task.tid))) return Fail(EINVAL);
      break;
  }
  const timespec wanted = TRY(task.mm->CopyIn(request));
  const uint64_t ns = TRY(ToNs(wanted));
  const bool absolute = (flags & TIMER_ABSTIME) != 0;
  if (cpu) {
    const uint64_t now = TRY(kernel::ReadCpuClock(task, *cpu));
    const uint64_t until = absolute ? ns : (ns > UINT64_MAX - now ? UINT64_MAX : now + ns);
    return SleepUntilCpuTime(task, *cpu, until, absolute, remain);
  }
  const uint64_t deadline =
      absolute ? kernel::ToMonotonic(task.kernel, clock, ns) : After(task, ns).value_or(UINT64_MAX);
  return SleepUntil(task, deadline, absolute, remain);
}

Result<void> Nanosleep(Task& task, UserPtr<const timespec> request, UserPtr<timespec> remain) {
  return ClockNanosleep(task, CLOCK_MONOTONIC, 0, request, remain);
}

Result<int32_t> RestartSyscall(Task& task) {
  using Kind = kernel::RestartBlock::Kind;
  const kernel::RestartBlock block = task.restart;
  switch (block.kind) {
    case Kind::kNanosleep:
      TRY(SleepUntil(task, block.deadline_ns, false, UserPtr<timespec>(block.address)));
      return 0;
    case Kind::kCpuSleep:
      TRY(SleepUntilCpuTime(task,
                            {.id = static_cast<int>(block.value),
                             .thread = (block.bits & 1) != 0,
                             .user_only = (block.bits & 2) != 0},
                            block.deadline_ns, false, UserPtr<timespec>(block.address)));
      return 0;
    case Kind::kFutexWait:
      return static_cast<int32_t>(TRY(FutexRestart(task)));
    case Kind::kPoll:
      return PollRestart(task);
    case Kind::kNone:
      break;
  }
  return Fail(EINTR);
}

Result<void> Gettimeofday(Task& task, UserPtr<timeval> out, UserPtr<uint64_t> zone) {
  if (!out.is_null()) {
    TRY(task.mm->CopyOut(out, ToTimeval(task.kernel.vdso_clock->RealtimeNs())));
  }
  if (!zone.is_null()) TRY(task.mm->CopyOut(zone, uint64_t{0}));
  return {};
}

Result<void> Settimeofday(Task&, UserPtr<const timeval>, UserPtr<const uint64_t>) {
  return Fail(EPERM);
}

Result<int64_t> Time(Task& task, UserPtr<int64_t> out) {
  const auto now = static_cast<int64_t>(task.kernel.vdso_clock->RealtimeNs() / 1'000'000'000);
  if (!out.is_null()) TRY(task.mm->CopyOut(out, now));
  return now;
}

Result<int64_t> Times(Task& task, UserPtr<tms> out) {
  constexpr uint64_t kTickNs = 10'000'000;
  if (!out.is_null()) {
    tms times{};
    {
      TasksLock lock(task.kernel);
      const kernel::Usage own = kernel::UsageOf(*task.group);
      times.tms_utime = static_cast<clock_t>(own.user_ns / kTickNs);
      times.tms_stime = static_cast<clock_t>(own.system_ns / kTickNs);
      times.tms_cutime = static_cast<clock_t>(task.group->children_usage.user_ns / kTickNs);
      times.tms_cstime = static_cast<clock_t>(task.group->children_usage.system_ns / kTickNs);
    }
    TRY(task.mm->CopyOut(out, times));
  }
  return static_cast<int64_t>(task.kernel.scheduler.clock().MonotonicNs() / kTickNs);
}

uint64_t FromTimeval(const timeval& t) {
  return static_cast<uint64_t>(t.tv_sec) * 1'000'000'000 + static_cast<uint64_t>(t.tv_usec) * 1000;
}
itimerval ToItimerval(const TimerSpec& spec) {
  return {ToTimeval(spec.interval_ns), ToTimeval(spec.value_ns)};
}
itimerspec ToItimerspec(const TimerSpec& spec) {
  return {ToTimespec(spec.interval_ns), ToTimespec(spec.value_ns)};
}
bool IsValid(const timeval& t) { return t.tv_sec >= 0 && t.tv_usec >= 0 && t.tv_usec < 1'000'000; }

Result<TimerSpec> FromItimerspec(const itimerspec& spec) {
  TimerSpec out;
  out.interval_ns = TRY(ToNs(spec.it_interval));
  out.value_ns = TRY(ToNs(spec.it_value));
  return out;
}

Result<void> Getitimer(Task& task, int32_t which, UserPtr<itimerval> out) {
  const TimerSpec spec = TRY(kernel::SetIntervalTimer(task, which, nullptr));
  return task.mm->CopyOut(out, ToItimerval(spec));
}

Result<void> Setitimer(Task& task, int32_t which, UserPtr<const itimerval> value,
                       UserPtr<itimerval> old) {
  itimerval wanted{};
  if (!value.is_null()) wanted = TRY(task.mm->CopyIn(value));
  if (!IsValid(wanted.it_interval) || !IsValid(wanted.it_value)) return Fail(EINVAL);
  const TimerSpec spec{FromTimeval(wanted.it_interval), FromTimeval(wanted.it_value)};
  const TimerSpec before = TRY(kernel::SetIntervalTimer(task, which, &spec));
  if (!old.is_null()) TRY(task.mm->CopyOut(old, ToItimerval(before)));
  return {};
}

Result<uint32_t> Alarm(Task& task, uint32_t seconds) {
  const TimerSpec spec{0, uint64_t{seconds} * 1'000'000'000};
  const TimerSpec before = TRY(kernel::SetIntervalTimer(task, ITIMER_REAL, &spec));
  // Rounded to the nearest second, but never down to "not set".
  const uint64_t left =
      before.value_ns / 1'000'000'000 + (before.value_ns % 1'000'000'000 >= 500'000'000);
  return static_cast<uint32_t>(left == 0 && before.value_ns != 0 ? 1 : left);
}

Result<void> TimerCreate(Task& task, int32_t clock, UserPtr<const sigevent> event,
                         UserPtr<int32_t> id) {
  sigevent wanted{};
  if (!event.is_null()) wanted = TRY(task.mm->CopyIn(event));
  const int created =
      TRY(kernel::CreatePosixTimer(task, clock, event.is_null() ? nullptr : &wanted));
  if (auto copied = task.mm->CopyOut(id, created); !copied) {
    (void)kernel::DeletePosixTimer(task, created);
    return copied;
  }
  return {};
}

Result<void> TimerSettime(Task& task, int32_t id, int32_t flags, UserPtr<const itimerspec> value,
                          UserPtr<itimerspec> old) {
  if (value.is_null()) return Fail(EINVAL);
  const itimerspec wanted = TRY(task.mm->CopyIn(value));
  const TimerSpec spec = TRY(FromItimerspec(wanted));
  const TimerSpec before = TRY(kernel::SetPosixTimer(task, id, flags, spec));
  if (!old.is_null()) TRY(task.mm->CopyOut(old, ToItimerspec(before)));
  return {};
}

Result<void> TimerGettime(Task& task, int32_t id, UserPtr<itimerspec> out) {
  const TimerSpec spec = TRY(kernel::GetPosixTimer(task, id));
  return task.mm->CopyOut(out, ToItimerspec(spec));
}

Result<int32_t> TimerGetoverrun(Task& task, int32_t id) {
  return kernel::GetPosixTimerOverrun(task, id);
}
Result<void> TimerDelete(Task& task, int32_t id) { return kernel::DeletePosixTimer(task, id); }

constexpr Row kRows[] = {
    Full<Nanosleep>(SYSCALL(nanosleep)),
    Full<Getitimer>(SYSCALL(getitimer)),
    Full<Alarm>(SYSCALL(alarm)),
    Full<Setitimer>(SYSCALL(setitimer)),
    Full<Gettimeofday>(SYSCALL(gettimeofday)),
    Partial<Times>(SYSCALL(times), "system time is counted as user time"),
    Refused(SYSCALL(adjtimex), EPERM, "as without CAP_SYS_TIME"),
    Partial<Settimeofday>(SYSCALL(settimeofday), "always EPERM"),
    Full<Time>(SYSCALL(time)),
    Full<RestartSyscall>(SYSCALL(restart_syscall)),
    Partial<TimerCreate>(SYSCALL(timer_create), "no CPU clocks of other processes"),
    Full<TimerSettime>(SYSCALL(timer_settime)),
    Full<TimerGettime>(SYSCALL(timer_gettime)),
    Full<TimerGetoverrun>(SYSCALL(timer_getoverrun)),
    Full<TimerDelete>(SYSCALL(timer_delete)),
    Partial<ClockSettime>(SYSCALL(clock_settime), "always EPERM"),
    Full<ClockGettime>(SYSCALL(clock_gettime)),
    Full<ClockGetres>(SYSCALL(clock_getres)),
    Partial<ClockNanosleep>(SYSCALL(clock_nanosleep), "CPU-time clocks sleep on wall-clock time"),
    Refused(SYSCALL(clock_adjtime), EPERM, "as without CAP_SYS_TIME"),
};

}  // namespace

constinit const std::span<const Row> kTimeRows = kRows;

}  // namespace skep::syscalls
