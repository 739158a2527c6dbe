#include "sentry/kernel/posix_timer.h"

#include <sys/time.h>
#include <algorithm>

#include "sentry/kernel/cpu_time.h"
#include "sentry/kernel/cpu_timer.h"
#include "sentry/kernel/kernel.h"
#include "sentry/kernel/signals.h"
#include "sentry/kernel/vdso_clock.h"

namespace skep::kernel {
namespace {

constexpr int kMaxTimers = 4096;

bool IsWallClock(clockid_t clock) {
  return clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_ALARM;
}

// Expirations of an interval timer that have passed since `deadline`, at least one.
uint64_t Expirations(uint64_t now, uint64_t deadline, uint64_t interval) {
  if (interval == 0 || now < deadline) return 1;
  return 1 + (now - deadline) / interval;
}

void FireLocked(PosixTimer& timer, uint64_t now) REQUIRES(tasks) {
  Kernel& kernel = timer.group->kernel;
  const uint64_t count = Expirations(now, timer.deadline_ns, timer.interval_ns);
  if (timer.interval_ns != 0) {
    timer.deadline_ns += count * timer.interval_ns;
    if (timer.timer) timer.timer->Arm(timer.deadline_ns);
  } else {
    timer.deadline_ns = 0;
  }
  if (timer.notify == SIGEV_NONE) return;
  if (timer.queued) {
    timer.overrun += static_cast<int>(std::min<uint64_t>(count, 1 << 30));
    return;
  }
  timer.overrun = static_cast<int>(std::min<uint64_t>(count - 1, 1 << 30));
  siginfo_t info = MakeInfo(timer.signo, SI_TIMER);
  info.si_timerid = timer.id;
  info.si_value = timer.value;
  if (timer.notify == SIGEV_THREAD_ID) {
    Task* thread = kernel.FindTask(timer.thread);
    if (thread == nullptr || thread->group.get() != timer.group) return;
    timer.queued = true;
    if (thread->pending.Add(info, ~size_t{0}, Ref<PosixTimer>(&timer)) ==
        PendingSignals::Added::kQueued) {
      if (!thread->blocked.Get().Has(timer.signo) || thread->sigwait_set.Has(timer.signo))
        MakeLook(*thread);
    } else {
      timer.queued = false;
    }
    return;
  }
  timer.queued = true;
  (void)SendToGroup(*timer.group, info, Ref<PosixTimer>(&timer));
  if (!timer.group->pending.set().Has(timer.signo)) timer.queued = false;  // ignored
}

Ref<PosixTimer> Find(Task& task, int id) REQUIRES(tasks) {
  auto& timers = task.group->posix_timers;
  if (id < 0 || static_cast<size_t>(id) >= timers.size()) return {};
  return timers[static_cast<size_t>(id)];
}

uint64_t NowFor(Kernel& kernel, const PosixTimer& timer) REQUIRES(tasks) {
  if (!timer.cpu_clock) return kernel.scheduler.clock().MonotonicNs();
  return CpuTimeFor(timer, timer.cpu_clock->thread ? Usage{} : UsageOf(*timer.group));
}

TimerSpec CurrentLocked(Kernel& kernel, const PosixTimer& timer) REQUIRES(tasks) {
  TimerSpec spec{timer.interval_ns, 0};
  if (timer.deadline_ns != 0) {
    const uint64_t now = NowFor(kernel, timer);
    spec.value_ns = timer.deadline_ns > now ? timer.deadline_ns - now : 1;
  }
  return spec;
}

bool IsTimerClock(clockid_t clock) {
  switch (clock) {
    case CLOCK_REALTIME:
    case CLOCK_MONOTONIC:
    case CLOCK_BOOTTIME:
    case CLOCK_TAI:
      return true;
    default:
      return false;
  }
}

// A clock of the caller's own process or of one of its threads. EINVAL: of another's (Linux has
// these), or none.
Result<CpuClock> OwnCpuClock(Task& task, clockid_t id) {
  const std::optional<CpuClock> found = CpuClockOf(id);
  if (!found) return Fail(EINVAL);
  CpuClock clock = *found;
  TasksLock lock(task.kernel);
  if (clock.id == 0) {
    clock.id = clock.thread ? task.tid.load() : task.group->tgid;
    return clock;
  }
  const Task* target = task.kernel.FindTask(clock.id);
  if (target == nullptr || target->group != task.group) return Fail(EINVAL);
  if (!clock.thread && clock.id != task.group->tgid) return Fail(EINVAL);
  return clock;
}

}  // namespace

Result<uint64_t> ClockNow(Task& task, clockid_t clock) {
  VdsoClock& source = *task.kernel.vdso_clock;
  switch (clock) {
    case CLOCK_REALTIME:
    case CLOCK_REALTIME_COARSE:
    case CLOCK_REALTIME_ALARM:
    case CLOCK_TAI:
      return source.RealtimeNs();
    case CLOCK_MONOTONIC:
    case CLOCK_MONOTONIC_RAW:
    case CLOCK_MONOTONIC_COARSE:
    case CLOCK_BOOTTIME:
    case CLOCK_BOOTTIME_ALARM:
      return source.MonotonicNs();
    default:
      break;
  }
  const std::optional<CpuClock> cpu = CpuClockOf(clock);
  if (!cpu) return Fail(EINVAL);
  return ReadCpuClock(task, *cpu);
}

uint64_t CpuTimeFor(const PosixTimer& timer, const Usage& process) {
  Usage usage = process;
  if (timer.cpu_clock->thread) {
    Task* thread = timer.group->kernel.FindTask(timer.cpu_clock->id);
    if (thread == nullptr || thread->group.get() != timer.group) return 0;
    usage = UsageOf(*thread);
  }
  return timer.cpu_clock->user_only ? usage.user_ns : usage.user_ns + usage.system_ns;
}

void FireCpuTimer(PosixTimer& timer, uint64_t now) { FireLocked(timer, now); }

uint64_t ToMonotonic(Kernel& kernel, clockid_t clock, uint64_t ns) {
  if (!IsWallClock(clock)) return ns;
  const uint64_t real = kernel.scheduler.clock().RealtimeNs();
  const uint64_t mono = kernel.scheduler.clock().MonotonicNs();
  if (ns >= real) {
    uint64_t sum = 0;
    return __builtin_add_overflow(mono, ns - real, &sum) ? ~uint64_t{0} : sum;
  }
  return real - ns > mono ? 0 : mono - (real - ns);
}

Result<int> CreatePosixTimer(Task& task, clockid_t clock, const sigevent* event) {
  auto timer = MakeRef<PosixTimer>();
  timer->clock = clock;
  if (!IsTimerClock(clock)) timer->cpu_clock = TRY(OwnCpuClock(task, clock));
  timer->notify = SIGEV_SIGNAL;
  timer->signo = SIGALRM;
  Kernel& kernel = task.kernel;
  if (event != nullptr) {
    timer->notify = event->sigev_notify;
    timer->signo = event->sigev_signo;
    timer->value = event->sigev_value;
    const int kind = event->sigev_notify;
    if (kind != SIGEV_NONE && kind != SIGEV_SIGNAL && kind != SIGEV_THREAD &&
        kind != SIGEV_THREAD_ID) {
      return Fail(EINVAL);
    }
    if (kind != SIGEV_NONE && (timer->signo <= 0 || timer->signo > kSignals)) return Fail(EINVAL);
    if (kind == SIGEV_THREAD_ID) {
      timer->thread = event->_sigev_un._tid;
      TasksLock lock(kernel);
      Task* thread = kernel.FindTask(timer->thread);
      if (thread == nullptr || thread->group != task.group) return Fail(EINVAL);
    }
  }
  PosixTimer* raw = timer.get();
  if (!timer->cpu_clock) {
    timer->timer = std::make_unique<sched::Timer>(kernel.scheduler, [raw, &kernel] {
      TasksLock lock(kernel);
      if (raw->group == nullptr || raw->deadline_ns == 0) return;
      FireLocked(*raw, kernel.scheduler.clock().MonotonicNs());
    });
  }
  TasksLock lock(kernel);
  auto& timers = task.group->posix_timers;
  auto slot = std::find_if(timers.begin(), timers.end(), [](const auto& t) { return !t; });
  if (slot == timers.end()) {
    if (timers.size() >= kMaxTimers) return Fail(EAGAIN);
    slot = timers.insert(timers.end(), Ref<PosixTimer>());
  }
  timer->id = static_cast<int>(slot - timers.begin());
  if (event == nullptr) timer->value.sival_int = timer->id;
  timer->group = task.group.get();
  *slot = timer;
  return timer->id;
}

Result<TimerSpec> SetPosixTimer(Task& task, int id, int flags, const TimerSpec& spec) {
  Kernel& kernel = task.kernel;
  TasksLock lock(kernel);
  const Ref<PosixTimer> timer = Find(task, id);
  if (!timer) return Fail(EINVAL);
  const TimerSpec old = CurrentLocked(kernel, *timer);
  const uint64_t now = NowFor(kernel, *timer);
  if (timer->timer) timer->timer->Cancel();
  timer->overrun = 0;
  timer->interval_ns = spec.interval_ns;
  timer->deadline_ns = 0;
  if (spec.value_ns == 0) return old;
  uint64_t deadline = 0;
  if ((flags & TIMER_ABSTIME) != 0) {
    deadline = std::max<uint64_t>(ToMonotonic(kernel, timer->clock, spec.value_ns), 1);
  } else if (__builtin_add_overflow(now, spec.value_ns, &deadline)) {
    deadline = ~uint64_t{0};
  }
  timer->deadline_ns = deadline;
  if (timer->timer) {
    timer->timer->Arm(deadline);
  } else {
    WatchCpuTime(*task.group);
  }
  return old;
}

Result<TimerSpec> GetPosixTimer(Task& task, int id) {
  TasksLock lock(task.kernel);
  const Ref<PosixTimer> timer = Find(task, id);
  if (!timer) return Fail(EINVAL);
  return CurrentLocked(task.kernel, *timer);
}

Result<int> GetPosixTimerOverrun(Task& task, int id) {
  TasksLock lock(task.kernel);
  const Ref<PosixTimer> timer = Find(task, id);
  if (!timer) return Fail(EINVAL);
  return timer->overrun_last;
}

Result<void> DeletePosixTimer(Task& task, int id) {
  Ref<PosixTimer> timer;
  {
    TasksLock lock(task.kernel);
    timer = Find(task, id);
    if (!timer) return Fail(EINVAL);
    timer->group = nullptr;
    task.group->posix_timers[static_cast<size_t>(id)] = {};
  }
  timer->timer.reset();  // waits for a callback in progress
  return {};
}

void DeleteAllTimers(ThreadGroup& group) {
  std::vector<Ref<PosixTimer>> timers;
  {
    TasksLock lock(group.kernel);
    timers = std::move(group.posix_timers);
    group.posix_timers.clear();
    for (const Ref<PosixTimer>& timer : timers) {
      if (timer) timer->group = nullptr;
    }
  }
  for (const Ref<PosixTimer>& timer : timers) {
    if (timer) timer->timer.reset();
  }
}

void DeleteIntervalTimers(ThreadGroup& group) {
  std::unique_ptr<sched::Timer> timer;
  {
    TasksLock lock(group.kernel);
    timer = std::move(group.itimers[ITIMER_REAL].timer);
  }
}

void TimerSignalTaken(PosixTimer& timer, siginfo_t& info) {
  timer.queued = false;
  timer.overrun_last = timer.overrun;
  timer.overrun = 0;
  info.si_overrun = timer.overrun_last;
}

namespace {

// ITIMER_VIRTUAL, ITIMER_PROF: kernel/cpu_timer.h sends their signals.
Result<TimerSpec> SetCpuInterval(ThreadGroup& group, int which, const TimerSpec* spec) {
  TasksLock lock(group.kernel);
  ThreadGroup::IntervalTimer& itimer = group.itimers[static_cast<size_t>(which)];
  const Usage used = UsageOf(group);
  const uint64_t now = which == ITIMER_VIRTUAL ? used.user_ns : used.user_ns + used.system_ns;
  TimerSpec old{itimer.interval_ns, 0};
  // Linux: get_cpu_itimer: about to fire is one tick.
  if (itimer.deadline_ns != 0)
    old.value_ns = itimer.deadline_ns > now ? itimer.deadline_ns - now : 1'000'000;
  if (spec == nullptr) return old;
  itimer.interval_ns = spec->interval_ns;
  itimer.deadline_ns = 0;
  if (spec->value_ns == 0) return old;
  if (__builtin_add_overflow(now, spec->value_ns, &itimer.deadline_ns))
    itimer.deadline_ns = ~uint64_t{0};
  WatchCpuTime(group);
  return old;
}

void OnRealTimer(ThreadGroup& group) {
  Kernel& kernel = group.kernel;
  TasksLock lock(kernel);
  ThreadGroup::IntervalTimer& itimer = group.itimers[ITIMER_REAL];
  if (itimer.deadline_ns == 0 || !itimer.timer) return;
  if (itimer.interval_ns != 0) {
    const uint64_t now = kernel.scheduler.clock().MonotonicNs();
    itimer.deadline_ns +=
        Expirations(now, itimer.deadline_ns, itimer.interval_ns) * itimer.interval_ns;
    itimer.timer->Arm(itimer.deadline_ns);
  } else {
    itimer.deadline_ns = 0;
  }
  (void)SendToGroup(group, MakeInfo(SIGALRM, SI_KERNEL));
}

Result<TimerSpec> SetRealInterval(ThreadGroup& group, const TimerSpec* spec) {
  Kernel& kernel = group.kernel;
  std::unique_ptr<sched::Timer> fresh;  // outlives the lock: another thread may have made one
  if (spec != nullptr && spec->value_ns != 0) {
    fresh = std::make_unique<sched::Timer>(kernel.scheduler, [&group] { OnRealTimer(group); });
  }
  const uint64_t now = kernel.scheduler.clock().MonotonicNs();
  TasksLock lock(kernel);
  ThreadGroup::IntervalTimer& itimer = group.itimers[ITIMER_REAL];
  TimerSpec old{itimer.interval_ns, 0};
  if (itimer.deadline_ns != 0) {
    old.value_ns = itimer.deadline_ns > now ? itimer.deadline_ns - now : 1000;
  }
  if (spec == nullptr) return old;
  if (itimer.timer) itimer.timer->Cancel();
  itimer.interval_ns = spec->interval_ns;
  itimer.deadline_ns = 0;
  if (spec->value_ns == 0) return old;
  if (__builtin_add_overflow(now, spec->value_ns, &itimer.deadline_ns)) {
    itimer.deadline_ns = ~uint64_t{0};
  }
  if (!itimer.timer) itimer.timer = std::move(fresh);
  itimer.timer->Arm(itimer.deadline_ns);
  return old;
}

}  // namespace

Result<TimerSpec> SetIntervalTimer(Task& task, int which, const TimerSpec* spec) {
  if (which < 0 || which > 2) return Fail(EINVAL);
  if (which == ITIMER_REAL) return SetRealInterval(*task.group, spec);
  return SetCpuInterval(*task.group, which, spec);
}

}  // namespace skep::kernel
