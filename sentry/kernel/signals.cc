#include "sentry/kernel/signals.h"

#include <linux/capability.h>
#include <algorithm>

#include "sentry/kernel/container.h"
#include "sentry/kernel/posix_timer.h"
#include "sentry/kernel/signal_source.h"

namespace skep::kernel {
namespace {

// Where a signal comes from, seen from the receiver's pid namespace.
enum class Origin : uint8_t { kInside, kAncestor, kOutside };

Origin OriginOf(const Task& sender, const ThreadGroup& receiver) {
  return receiver.NumberOf(*sender.group->pid) == 0 ? Origin::kAncestor : Origin::kInside;
}

// Linux: sig_task_ignored + the unkillable init of a pid namespace.
bool IsIgnored(const Task& task, int signo, Origin origin) REQUIRES(tasks) {
  const ThreadGroup& group = *task.group;
  const SignalAction& action = group.handlers->Of(signo);
  // Blocked signals are never ignored: the disposition may have changed when they are taken.
  if (task.blocked.Get().Has(signo) || task.sigwait_set.Has(signo)) return false;
  const bool reaches_init =
      origin == Origin::kOutside || (origin == Origin::kAncestor && kUnblockable.Has(signo));
  if (group.unkillable && action.IsDefault() && !reaches_init) return true;
  if (action.IsIgnored()) return true;
  if (!action.IsDefault()) return false;
  const DefaultAction d = DefaultActionOf(signo);
  return d == DefaultAction::kIgnore || d == DefaultAction::kContinue;
}

bool Wants(const Task& task, int signo) REQUIRES(tasks) {
  if (task.exited) return false;
  if (task.stopped && signo != SIGKILL) return false;  // it waits for SIGCONT
  if (task.sigwait_set.Has(signo)) return true;
  return !task.blocked.Get().Has(signo);
}

// Linux: prepare_signal: what stop signals and SIGCONT do at once, whatever the disposition.
void PrepareSignal(ThreadGroup& group, int signo) REQUIRES(tasks) {
  if (kStopSignals.Has(signo)) {
    group.pending.Discard(SignalSet::Of(SIGCONT));
    for (Task* t : group.threads) t->pending.Discard(SignalSet::Of(SIGCONT));
    return;
  }
  if (signo != SIGCONT) return;
  group.pending.Discard(kStopSignals);
  for (Task* t : group.threads) t->pending.Discard(kStopSignals);
  if (!group.stop.under_way()) return;
  const bool was_complete = group.stop.Continue();
  for (Task* t : group.threads) t->fiber->Unpark();
  if (was_complete) NotifyParentOfStop(group, true);
}

// The default action of `signo` ends the process without a core and nothing catches it
// (Linux: complete_signal's sig_fatal): the group exits at once.
bool IsFatalNow(const Task& task, int signo) REQUIRES(tasks) {
  const SignalAction& action = task.group->handlers->Of(signo);
  if (signo == SIGKILL) return true;
  if (!action.IsDefault() || task.blocked.Get().Has(signo) || task.sigwait_set.Has(signo))
    return false;
  return DefaultActionOf(signo) == DefaultAction::kTerminate;
}

size_t QueueLimit(const ThreadGroup& group) {
  return static_cast<size_t>(std::min<uint64_t>(group.limits.Soft(RLIMIT_SIGPENDING), 1 << 20));
}

void Complete(ThreadGroup& group, Task* chosen, int signo) REQUIRES(tasks) {
  if (chosen == nullptr) return;
  if (IsFatalNow(*chosen, signo)) {
    StartGroupExit(group, signo);
    return;
  }
  NotifyWork(*chosen);
}

}  // namespace

void NotifyWork(Task& task) {
  task.work_pending.store(true, std::memory_order_seq_cst);
  if (task.fiber) task.fiber->Interrupt();
}

bool HasDeliverable(const Task& task) {
  const SignalSet pending = task.pending.set() | task.group->pending.set();
  return !(pending & ~task.blocked.Get()).empty() || task.group->exiting ||
         (task.group->stop.under_way() && !task.stopped);
}

namespace {

Result<void> SendToTaskAs(Task& task, const siginfo_t& info, Origin origin) REQUIRES(tasks) {
  const int signo = info.si_signo;
  ThreadGroup& group = *task.group;
  if (group.exiting || task.exited) return {};
  PrepareSignal(group, signo);
  if (IsIgnored(task, signo, origin)) return {};
  if (task.pending.Add(info, QueueLimit(group)) == PendingSignals::Added::kFull)
    return Fail(EAGAIN);
  task.kernel.signal_source->Arrivals().WakeAll(EPOLLIN);
  if (Wants(task, signo)) Complete(group, &task, signo);
  return {};
}

Result<void> SendToGroupAs(ThreadGroup& group, const siginfo_t& info, Ref<PosixTimer> timer,
                           Origin origin) REQUIRES(tasks) {
  const int signo = info.si_signo;
  if (group.exiting || group.zombie || group.threads.empty()) return {};
  PrepareSignal(group, signo);
  // The leader first, then whoever takes it (Linux: complete_signal).
  Task* chosen = nullptr;
  if (group.leader && Wants(*group.leader, signo)) chosen = group.leader.get();
  for (Task* t : group.threads) {
    if (chosen != nullptr) break;
    if (Wants(*t, signo)) chosen = t;
  }
  Task& judge = chosen != nullptr ? *chosen : *group.threads.front();
  if (IsIgnored(judge, signo, origin)) return {};
  if (group.pending.Add(info, QueueLimit(group), std::move(timer)) ==
      PendingSignals::Added::kFull) {
    return Fail(EAGAIN);
  }
  group.kernel.signal_source->Arrivals().WakeAll(EPOLLIN);
  Complete(group, chosen, signo);
  return {};
}

// What a sender claims of itself (sigqueue) is in its own numbers (Linux: send_signal_locked). What
// MakeInfoFrom has made is in the receiver's already.
void Translate(const Task& sender, const ThreadGroup& receiver, Origin origin, siginfo_t& info)
    REQUIRES(tasks) {
  const bool claims = info.si_code < 0 && info.si_code != SI_TKILL && info.si_code != SI_TIMER &&
                      info.si_code != SI_SIGIO;
  if (!claims) return;
  if (origin == Origin::kAncestor) info.si_pid = 0;
  const auth::Credentials& from = *sender.credentials.Get();
  const auth::Credentials& to = *receiver.leader->credentials.Get();
  if (from.user_namespace != to.user_namespace) {
    info.si_uid = to.ShownUser(from.KernelUser(info.si_uid));
  }
}

}  // namespace

Result<void> SendToTask(Task& task, const siginfo_t& info) {
  return SendToTaskAs(task, info, Origin::kInside);
}

Result<void> SendToGroup(ThreadGroup& group, const siginfo_t& info, Ref<PosixTimer> timer) {
  return SendToGroupAs(group, info, std::move(timer), Origin::kInside);
}

Result<void> SendFrom(const Task& sender, Task& task, siginfo_t info) {
  const Origin origin = OriginOf(sender, *task.group);
  Translate(sender, *task.group, origin, info);
  return SendToTaskAs(task, info, origin);
}

Result<void> SendFrom(const Task& sender, ThreadGroup& group, siginfo_t info) {
  const Origin origin = OriginOf(sender, group);
  Translate(sender, group, origin, info);
  return SendToGroupAs(group, info, {}, origin);
}

Result<void> SendFromOperator(ThreadGroup& group, int signo) {
  return SendToGroupAs(group, MakeInfo(signo, SI_USER), {}, Origin::kOutside);
}

Result<void> SendFromTerminal(ThreadGroup& group, int signo) {
  return SendToGroupAs(group, MakeInfo(signo, SI_KERNEL), {}, Origin::kOutside);
}

void ForceSignal(Task& task, siginfo_t info) {
  ThreadGroup& group = *task.group;
  const int signo = info.si_signo;
  SignalAction& action = group.handlers->Of(signo);
  // Linux: force_sig_info_to_task: a blocked or ignored fault takes the default action.
  if (task.blocked.Get().Has(signo) || action.IsIgnored()) {
    action.handler = SignalAction::kDefault;
    task.blocked.Set(task.blocked.Get() & ~SignalSet::Of(signo));
  }
  if (signo == SIGKILL) {
    StartGroupExit(group, SIGKILL);
    return;
  }
  task.pending.Add(info, ~size_t{0});
  NotifyWork(task);
}

siginfo_t MakeInfoFrom(const Task& sender, const ThreadGroup& receiver, int signo, int code) {
  return MakeUserInfo(signo, code, receiver.NumberOf(*sender.group->pid),
                      receiver.leader->credentials.Get()->ShownUser(sender.credentials.Get()->uid));
}

uint32_t UserOf(const ThreadGroup& process, const ThreadGroup& seen_by) {
  return seen_by.leader->credentials.Get()->ShownUser(process.leader->credentials.Get()->uid);
}

Result<void> MayKill(const Task& sender, const ThreadGroup& target, int signo) {
  const auth::Credentials& from = *sender.credentials;
  const auth::Credentials& to = *target.leader->credentials.Get();
  if (sender.group.get() == &target || from.HasIn(to.user_namespace.get(), CAP_KILL)) return {};
  if (from.euid == to.suid || from.euid == to.uid || from.uid == to.suid || from.uid == to.uid) {
    return {};
  }
  if (signo == SIGCONT && &sender.group->session() == &target.session()) return {};
  return Fail(EPERM);
}

void StartGroupExit(ThreadGroup& group, int wait_status) {
  if (!group.exiting) {
    group.exiting = true;
    group.exit_status = wait_status;
  }
  (void)group.stop.End();
  for (Task* t : group.threads) {
    t->work_pending.store(true, std::memory_order_seq_cst);
    if (t->fiber) t->fiber->Kill();
  }
  group.exec_queue.Wake();
}

void NotifyParentOfStop(ThreadGroup& group, bool continued) {
  ThreadGroup* parent = group.parent;
  if (parent == nullptr) {
    if (group.started && group.started->job_control()) {
      group.started->NoteStop(continued ? 0 : group.stop.signal());
    }
    return;
  }
  const SignalAction& action = parent->handlers->Of(SIGCHLD);
  if (!action.IsIgnored() && (action.flags & SA_NOCLDSTOP) == 0) {
    siginfo_t info = MakeInfo(SIGCHLD, continued ? CLD_CONTINUED : CLD_STOPPED);
    info.si_pid = parent->NumberOf(*group.pid);
    info.si_uid = UserOf(group, *parent);
    info.si_status = continued ? SIGCONT : group.stop.signal();
    (void)SendToGroup(*parent, info);
  }
  parent->child_queue.WakeAll();
}

void StartGroupStop(Task& by, int signo) {
  ThreadGroup& group = *by.group;
  if (group.exiting || group.stop.under_way()) return;
  group.stop.Begin(signo);
  for (Task* t : group.threads) {
    if (t != &by) NotifyWork(*t);
  }
}

void CompleteStop(ThreadGroup& group) {
  const bool all =
      std::all_of(group.threads.begin(), group.threads.end(),
                  [](const Task* t) REQUIRES(tasks) { return t->stopped || t->exited; });
  if (all && group.stop.under_way() && group.stop.Complete()) NotifyParentOfStop(group, false);
}

void SleepStopped(Task& task) {
  ThreadGroup& group = *task.group;
  Kernel& kernel = task.kernel;
  {
    TasksLock lock(kernel);
    if (!group.stop.under_way() || group.exiting) return;
    task.stopped = true;
    task.state_letter = 'T';
    CompleteStop(group);
  }
  const auto ended = [&] {
    TasksLock lock(kernel);
    return !group.stop.under_way() || group.exiting;
  };
  sched::WaitUntil(group.stop.sleepers(), sched::kAllEvents, std::nullopt, sched::Sleep::kKillable,
                   ended);
  TasksLock lock(kernel);
  task.stopped = false;
  task.state_letter = 'R';
}

void SetBlocked(Task& task, SignalSet blocked) {
  TasksLock lock(task.kernel);
  const SignalSet newly = blocked & ~task.blocked.Get() & ~kUnblockable;
  task.blocked.Set(blocked & ~kUnblockable);
  // Signals of the group that this thread no longer takes go to another (Linux:
  // retarget_shared_pending).
  const SignalSet orphaned = task.group->pending.set() & newly;
  if (!orphaned.empty()) {
    for (Task* t : task.group->threads) {
      if (t != &task && !(orphaned & ~t->blocked.Get()).empty()) NotifyWork(*t);
    }
  }
  if (HasDeliverable(task)) NotifyWork(task);
}

}  // namespace skep::kernel
