#include "sentry/kernel/cpu_timer.h"

#include <sys/time.h>
#include <algorithm>

#include "sentry/kernel/cpu_time.h"
#include "sentry/kernel/signals.h"

namespace skep::kernel {
namespace {

constexpr uint64_t kSecondNs = 1'000'000'000;
// As exact as Linux with its tick.
constexpr uint64_t kTickNs = 1'000'000;
constexpr uint64_t kNever = ~uint64_t{0};

// One interval timer; returns how much CPU time is left.
uint64_t CheckInterval(ThreadGroup& group, int which, int signo, uint64_t now) REQUIRES(tasks) {
  ThreadGroup::IntervalTimer& timer = group.itimers[static_cast<size_t>(which)];
  if (timer.deadline_ns == 0) return kNever;
  if (now >= timer.deadline_ns) {
    timer.deadline_ns = timer.interval_ns == 0 ? 0 : timer.deadline_ns + timer.interval_ns;
    (void)SendToGroup(group, MakeInfo(signo, SI_KERNEL));
    if (timer.deadline_ns == 0) return kNever;
  }
  return timer.deadline_ns - std::min(now, timer.deadline_ns);
}

// Linux: check_process_timers. The soft limit moves on by a second with each signal.
uint64_t CheckLimit(ThreadGroup& group, uint64_t now) REQUIRES(tasks) {
  rlimit limit = group.limits.Get(RLIMIT_CPU);
  const auto ns = [](rlim_t seconds) {
    return seconds > kNever / kSecondNs ? kNever : seconds * kSecondNs;
  };
  if (limit.rlim_max != RLIM_INFINITY && now >= ns(limit.rlim_max)) {
    StartGroupExit(group, SIGKILL);
    return kNever;
  }
  if (limit.rlim_cur == RLIM_INFINITY) return kNever;
  if (now >= ns(limit.rlim_cur)) {
    ++limit.rlim_cur;
    group.limits.Set(RLIMIT_CPU, limit);
    (void)SendToGroup(group, MakeInfo(SIGXCPU, SI_KERNEL));
  }
  // A limit may have been set below what was used before.
  const uint64_t next = ns(std::min(limit.rlim_cur, limit.rlim_max));
  return next - std::min(next, now);
}

uint64_t CheckPosixTimers(ThreadGroup& group, const Usage& process) REQUIRES(tasks) {
  uint64_t left = kNever;
  // Sending a signal may not change the list.
  for (const Ref<PosixTimer>& timer : group.posix_timers) {
    if (!timer || !timer->cpu_clock || timer->deadline_ns == 0) continue;
    const uint64_t now = CpuTimeFor(*timer, process);
    if (now >= timer->deadline_ns) FireCpuTimer(*timer, now);
    if (timer->deadline_ns != 0) left = std::min(left, timer->deadline_ns - now);
  }
  return left;
}

// Sends what is due; how much CPU time is left to what comes next, kNever: nothing comes.
uint64_t Check(ThreadGroup& group, const Usage& used) REQUIRES(tasks) {
  const uint64_t all = used.user_ns + used.system_ns;
  return std::min({CheckInterval(group, ITIMER_VIRTUAL, SIGVTALRM, used.user_ns),
                   CheckInterval(group, ITIMER_PROF, SIGPROF, all), CheckLimit(group, all),
                   CheckPosixTimers(group, used)});
}

void CheckAndArm(ThreadGroup& group) REQUIRES(tasks) {
  const Usage used = UsageOf(group);
  group.cpu_seen_ns = used.user_ns + used.system_ns;
  const uint64_t left = Check(group, used);
  if (left == kNever || group.exiting || !group.cpu_timer) return;
  const uint64_t threads = std::max<size_t>(group.threads.size(), 1);
  const uint64_t wait = std::max(left / threads, kTickNs);
  const uint64_t now = group.kernel.scheduler.clock().MonotonicNs();
  group.cpu_timer->Arm(wait > kNever - now ? kNever : now + wait);
}

bool AnyInGuest(const ThreadGroup& group) REQUIRES(tasks) {
  return std::any_of(group.threads.begin(), group.threads.end(),
                     [](const Task* t) { return t->in_guest.load(std::memory_order_seq_cst); });
}

void OnTimer(ThreadGroup& group) {
  TasksLock lock(group.kernel);
  if (group.exiting || group.threads.empty()) return;
  const Usage used = UsageOf(group);
  if (used.user_ns + used.system_ns == group.cpu_seen_ns) {
    // Set the flag, then check for running guests. A thread checks in the opposite order, so one of
    // the two sees the other.
    group.cpu_watch_wanted.store(true, std::memory_order_seq_cst);
    if (!AnyInGuest(group)) return;
    group.cpu_watch_wanted.store(false, std::memory_order_seq_cst);
  }
  CheckAndArm(group);
}

}  // namespace

void WatchCpuTime(ThreadGroup& group) {
  group.cpu_watch_wanted.store(true, std::memory_order_seq_cst);
  // A thread whose guest is running does not come here by itself: interrupt it.
  for (Task* task : group.threads) {
    if (task->in_guest.load(std::memory_order_seq_cst)) {
      task->fiber->StopGuest();
      return;
    }
  }
}

void ArmCpuTimer(Task& task) {
  ThreadGroup& group = *task.group;
  TasksLock lock(group.kernel);
  if (!group.cpu_watch_wanted.exchange(false)) return;
  if (!group.cpu_timer) {
    group.cpu_timer =
        std::make_unique<sched::Timer>(group.kernel.scheduler, [&group] { OnTimer(group); });
  }
  CheckAndArm(group);
}

void EndCpuTimer(ThreadGroup& group) {
  std::unique_ptr<sched::Timer> timer;
  {
    TasksLock lock(group.kernel);
    timer = std::move(group.cpu_timer);
    group.cpu_watch_wanted = false;
  }
}

}  // namespace skep::kernel
