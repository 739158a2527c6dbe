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

// What a timer whose signal is ignored is set to at least (Linux: TICK_NSEC).
constexpr uint64_t kTickNs = 4'000'000;

// Moves the deadline of an interval timer past `now`; how many periods that are (Linux:
// hrtimer_forward).
uint64_t Forward(uint64_t& deadline, uint64_t interval, uint64_t now) {
  if (now < deadline) return 0;
  const uint64_t periods = 1 + (now - deadline) / interval;
  const uint64_t step = periods * interval;  // <= now - deadline + interval
  if (step < interval || __builtin_add_overflow(deadline, step, &deadline)) deadline = ~uint64_t{0};
  return periods;
}

int Clamped(uint64_t overruns) { return static_cast<int>(std::min<uint64_t>(overruns, 1 << 30)); }

void CountOverruns(PosixTimer& timer, uint64_t periods) REQUIRES(tasks) {
  timer.overrun = Clamped(static_cast<uint64_t>(timer.overrun + 1) + periods) - 1;
}

// Its signal is pending afterwards, unless it is ignored or the thread has gone.
void SendSignalOf(PosixTimer& timer) REQUIRES(tasks) {
  siginfo_t info = MakeInfo(timer.signo, SI_TIMER);
  info.si_timerid = timer.id;
  info.si_value = timer.value;
  if (timer.notify != SIGEV_THREAD_ID) {
    (void)SendToGroup(*timer.group, info, Ref<PosixTimer>(&timer));
    return;
  }
  Task* thread = timer.group->pid_namespace().FindTask(timer.thread);
  if (thread == nullptr || thread->group.get() != timer.group) return;
  (void)thread->pending.Add(info, ~size_t{0}, Ref<PosixTimer>(&timer));
  if (!thread->blocked.Get().Has(timer.signo) || thread->sigwait_set.Has(timer.signo))
    NotifyWork(*thread);
}

// Linux: posix_timer_fn. While its signal is pending an interval timer stands still: SignalTaken
// sets it going again and counts the periods that went by, so a short period floods nobody.
void FireLocked(PosixTimer& timer, uint64_t now) REQUIRES(tasks) {
  const uint64_t interval = timer.interval_ns;
  if (timer.cpu_clock) {  // goes on whether its signal is taken or not
    if (!timer.queued) timer.overrun = -1;
    CountOverruns(timer, interval == 0 ? 1 : Forward(timer.deadline_ns, interval, now));
    if (interval == 0) timer.deadline_ns = 0;
    if (timer.notify != SIGEV_NONE && !timer.queued) SendSignalOf(timer);
    return;
  }
  if (interval == 0) timer.deadline_ns = 0;
  if (timer.queued) {  // set anew before its last signal was taken
    CountOverruns(timer, 1);
    return;
  }
  timer.overrun = -1;
  SendSignalOf(timer);
  if (timer.queued || interval == 0) return;
  (void)Forward(timer.deadline_ns, interval, interval < kTickNs ? now + kTickNs : now);
  timer.timer->Arm(timer.deadline_ns);
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

// Linux: common_timer_get.
TimerSpec CurrentLocked(Kernel& kernel, PosixTimer& timer) REQUIRES(tasks) {
  TimerSpec spec{timer.interval_ns, 0};
  if (timer.deadline_ns == 0) return spec;
  const uint64_t now = NowFor(kernel, timer);
  const bool silent = timer.notify == SIGEV_NONE;
  if (timer.timer && timer.interval_ns != 0 && (timer.queued || silent)) {
    CountOverruns(timer, Forward(timer.deadline_ns, timer.interval_ns, now));
  }
  spec.value_ns = timer.deadline_ns > now ? timer.deadline_ns - now : silent ? 0 : 1;
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
  const Task* target = task.pid_namespace().FindTask(clock.id);
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
    Task* thread = timer.group->pid_namespace().FindTask(timer.cpu_clock->id);
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
      Task* thread = task.pid_namespace().FindTask(timer->thread);
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
  timer->overrun = -1;
  timer->overrun_last = 0;
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
  if (timer->cpu_clock) {
    WatchCpuTime(*task.group);
  } else if (timer->notify != SIGEV_NONE) {  // or there is nothing to do at its expiry
    timer->timer->Arm(deadline);
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

void SignalTaken(ThreadGroup& group, PosixTimer* timer, siginfo_t& info) {
  const uint64_t now = group.kernel.scheduler.clock().MonotonicNs();
  // Linux: dequeue_signal.
  ThreadGroup::IntervalTimer& real = group.itimers[ITIMER_REAL];
  if (info.si_signo == SIGALRM && real.timer && real.interval_ns != 0 && real.deadline_ns != 0 &&
      real.deadline_ns <= now) {
    (void)Forward(real.deadline_ns, real.interval_ns, now);
    real.timer->Arm(real.deadline_ns);
  }
  if (timer == nullptr) return;
  // Linux: posixtimer_rearm.
  timer->queued = false;
  if (timer->group != nullptr && timer->timer && timer->interval_ns != 0 &&
      timer->deadline_ns != 0) {
    CountOverruns(*timer, Forward(timer->deadline_ns, timer->interval_ns, now));
    timer->timer->Arm(timer->deadline_ns);
  }
  timer->overrun_last = std::max(timer->overrun, 0);
  timer->overrun = -1;
  info.si_overrun = timer->overrun_last;
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
  if (itimer.interval_ns == 0) itimer.deadline_ns = 0;
  (void)SendToGroup(group, MakeInfo(SIGALRM, SI_KERNEL));
  // Else it stands still until the signal is taken (Linux: it_real_fn).
  if (itimer.interval_ns == 0 || group.pending.set().Has(SIGALRM)) return;
  const uint64_t now = kernel.scheduler.clock().MonotonicNs();
  (void)Forward(itimer.deadline_ns, itimer.interval_ns, now + kTickNs);
  itimer.timer->Arm(itimer.deadline_ns);
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
  if (itimer.deadline_ns > now) {
    old.value_ns = itimer.deadline_ns - now;
  } else if (itimer.deadline_ns != 0 && !group.pending.set().Has(SIGALRM)) {
    old.value_ns = 1000;
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
