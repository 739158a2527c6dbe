#include "sentry/kernel/posix_timer.h"

#include <algorithm>

#include "sentry/kernel/kernel.h"
#include "sentry/kernel/signals.h"
#include "sentry/kernel/vdso_clock.h"

namespace skep::kernel {
namespace {

constexpr int kMaxTimers = 4096;

bool IsWallClock(clockid_t clock) {
  return clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_ALARM;
}

uint64_t CpuTime(const Task& task) {
  if (!task.mm) return 0;
  const auto* space = arena::HostTable::Get().Get(task.mm->space());
  return space == nullptr ? 0 : space->CpuTimeNs();
}

// Expirations of an interval timer that have passed since `deadline`, at least one.
uint64_t Expirations(uint64_t now, uint64_t deadline, uint64_t interval) {
  if (interval == 0 || now < deadline) return 1;
  return 1 + (now - deadline) / interval;
}

void FireLocked(PosixTimer& timer) REQUIRES(timer.group->kernel.tasks_mutex) {
  Kernel& kernel = timer.group->kernel;
  const uint64_t now = kernel.scheduler.clock().MonotonicNs();
  const uint64_t count = Expirations(now, timer.deadline_ns, timer.interval_ns);
  if (timer.interval_ns != 0) {
    timer.deadline_ns += count * timer.interval_ns;
    timer.timer->Arm(timer.deadline_ns);
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
    kernel.tasks_mutex.AssertHeld();
    Task* thread = kernel.FindTask(timer.thread);
    if (thread == nullptr || thread->group.get() != timer.group) return;
    timer.queued = true;
    if (thread->pending.Add(info, ~size_t{0}, Ref<PosixTimer>(&timer)) ==
        PendingSignals::Added::kQueued) {
      if (!thread->blocked.Has(timer.signo) || thread->sigwait_set.Has(timer.signo))
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

Ref<PosixTimer> Find(Task& task, int id) REQUIRES(task.kernel.tasks_mutex) {
  auto& timers = task.group->posix_timers;
  if (id < 0 || static_cast<size_t>(id) >= timers.size()) return {};
  return timers[static_cast<size_t>(id)];
}

TimerSpec CurrentLocked(Kernel& kernel, const PosixTimer& timer) {
  TimerSpec spec{timer.interval_ns, 0};
  if (timer.deadline_ns != 0) {
    const uint64_t now = kernel.scheduler.clock().MonotonicNs();
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
    case CLOCK_PROCESS_CPUTIME_ID:
    case CLOCK_THREAD_CPUTIME_ID:
      return true;
    default:
      return false;
  }
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
    case CLOCK_PROCESS_CPUTIME_ID:
    case CLOCK_THREAD_CPUTIME_ID:
      return CpuTime(task);
    default:
      break;
  }
  if (clock >= 0) return Fail(EINVAL);
  // A dynamic CPU clock (clock_getcpuclockid): ~pid << 3 | which.
  const int pid = ~(clock >> 3);
  const int which = clock & 7;
  if ((which & 3) == 3) return Fail(EINVAL);
  MutexLock lock(task.kernel.tasks_mutex);
  Task* target = pid == 0 ? &task : task.kernel.FindTask(pid);
  if (target == nullptr) return Fail(EINVAL);
  return CpuTime(*target);
}

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
  if (!IsTimerClock(clock)) return Fail(EINVAL);
  auto timer = MakeRef<PosixTimer>();
  timer->clock = clock;
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
      MutexLock lock(kernel.tasks_mutex);
      Task* thread = kernel.FindTask(timer->thread);
      if (thread == nullptr || thread->group != task.group) return Fail(EINVAL);
    }
  }
  PosixTimer* raw = timer.get();
  timer->timer = std::make_unique<sched::Timer>(kernel.scheduler, [raw, &kernel] {
    MutexLock lock(kernel.tasks_mutex);
    if (raw->group == nullptr || raw->deadline_ns == 0) return;
    raw->group->kernel.tasks_mutex.AssertHeld();
    FireLocked(*raw);
  });
  MutexLock lock(kernel.tasks_mutex);
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
  const uint64_t now = kernel.scheduler.clock().MonotonicNs();
  MutexLock lock(kernel.tasks_mutex);
  task.kernel.tasks_mutex.AssertHeld();
  const Ref<PosixTimer> timer = Find(task, id);
  if (!timer) return Fail(EINVAL);
  const TimerSpec old = CurrentLocked(kernel, *timer);
  timer->timer->Cancel();
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
  timer->timer->Arm(deadline);
  return old;
}

Result<TimerSpec> GetPosixTimer(Task& task, int id) {
  MutexLock lock(task.kernel.tasks_mutex);
  const Ref<PosixTimer> timer = Find(task, id);
  if (!timer) return Fail(EINVAL);
  return CurrentLocked(task.kernel, *timer);
}

Result<int> GetPosixTimerOverrun(Task& task, int id) {
  MutexLock lock(task.kernel.tasks_mutex);
  const Ref<PosixTimer> timer = Find(task, id);
  if (!timer) return Fail(EINVAL);
  return timer->overrun_last;
}

Result<void> DeletePosixTimer(Task& task, int id) {
  Ref<PosixTimer> timer;
  {
    MutexLock lock(task.kernel.tasks_mutex);
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
    MutexLock lock(group.kernel.tasks_mutex);
    timers = std::move(group.posix_timers);
    group.posix_timers.clear();
    for (const Ref<PosixTimer>& timer : timers) {
      if (timer) timer->group = nullptr;
    }
  }
  for (const Ref<PosixTimer>& timer : timers) {
    if (timer) timer->timer.reset();
  }
  if (!group.exiting) return;
  for (ThreadGroup::IntervalTimer& itimer : group.itimers) itimer.timer.reset();
}

void TimerSignalTaken(PosixTimer& timer, siginfo_t& info) {
  timer.queued = false;
  timer.overrun_last = timer.overrun;
  timer.overrun = 0;
  info.si_overrun = timer.overrun_last;
}

Result<TimerSpec> SetIntervalTimer(Task& task, int which, const TimerSpec* spec) {
  if (which < 0 || which > 2) return Fail(EINVAL);
  constexpr int kSignalsOf[] = {SIGALRM, SIGVTALRM, SIGPROF};
  Kernel& kernel = task.kernel;
  ThreadGroup& group = *task.group;
  ThreadGroup::IntervalTimer& itimer = group.itimers[static_cast<size_t>(which)];
  if (!itimer.timer) {
    if (spec == nullptr || (spec->value_ns == 0 && spec->interval_ns == 0)) return TimerSpec{};
    const int signo = kSignalsOf[which];
    ThreadGroup* raw = &group;
    ThreadGroup::IntervalTimer* self = &itimer;
    itimer.timer = std::make_unique<sched::Timer>(kernel.scheduler, [raw, self, signo, &kernel] {
      MutexLock lock(kernel.tasks_mutex);
      if (self->deadline_ns == 0) return;
      if (self->interval_ns != 0) {
        const uint64_t now = kernel.scheduler.clock().MonotonicNs();
        self->deadline_ns +=
            Expirations(now, self->deadline_ns, self->interval_ns) * self->interval_ns;
        self->timer->Arm(self->deadline_ns);
      } else {
        self->deadline_ns = 0;
      }
      (void)SendToGroup(*raw, MakeInfo(signo, SI_KERNEL));
    });
  }
  const uint64_t now = kernel.scheduler.clock().MonotonicNs();
  MutexLock lock(kernel.tasks_mutex);
  TimerSpec old{itimer.interval_ns, 0};
  if (itimer.deadline_ns != 0)
    old.value_ns = itimer.deadline_ns > now ? itimer.deadline_ns - now : 1000;
  if (spec == nullptr) return old;
  itimer.timer->Cancel();
  itimer.interval_ns = spec->interval_ns;
  itimer.deadline_ns = 0;
  if (spec->value_ns != 0) {
    if (__builtin_add_overflow(now, spec->value_ns, &itimer.deadline_ns))
      itimer.deadline_ns = ~uint64_t{0};
    itimer.timer->Arm(itimer.deadline_ns);
  }
  return old;
}

}  // namespace skep::kernel
