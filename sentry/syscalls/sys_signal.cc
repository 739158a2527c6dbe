// Signals.
#include <csignal>

#include "sentry/kernel/kernel.h"
#include "sentry/kernel/signal_frame.h"
#include "sentry/kernel/signals.h"
#include "sentry/syscalls/abi.h"
#include "sentry/syscalls/families.h"
#include "sentry/syscalls/util.h"

namespace skep::syscalls {
namespace {

using kernel::SignalSet;
using kernel::ThreadGroup;

constexpr uint64_t kMaskSize = sizeof(uint64_t);
constexpr uint64_t kKnownFlags = SA_NOCLDSTOP | SA_NOCLDWAIT | SA_SIGINFO | SA_ONSTACK |
                                 SA_RESTART | SA_NODEFER | SA_RESETHAND | kernel::kSaRestorer |
                                 0x800;

// Linux: do_sigaction.
Result<void> RtSigaction(Task& task, int32_t signo, UserPtr<const AbiSigaction> act,
                         UserPtr<AbiSigaction> old, uint64_t size) {
  if (size != kMaskSize) return Fail(EINVAL);
  AbiSigaction wanted{};
  if (!act.is_null()) wanted = TRY(task.mm->CopyIn(act));
  if (signo < 1 || signo > kernel::kSignals) return Fail(EINVAL);
  if (!act.is_null() && kernel::kUnblockable.Has(signo)) return Fail(EINVAL);
  AbiSigaction previous{};
  {
    TasksLock lock(task.kernel);
    kernel::SignalAction& action = task.group->handlers->Of(signo);
    previous = {action.handler, action.flags, action.restorer, action.mask};
    if (!act.is_null()) {
      action = {wanted.handler, wanted.flags & kKnownFlags, wanted.restorer,
                wanted.mask & ~kernel::kUnblockable.bits()};
      // POSIX: a pending signal that is ignored from now on is discarded.
      const auto d = kernel::DefaultActionOf(signo);
      const bool ignored =
          action.IsIgnored() || (action.IsDefault() && (d == kernel::DefaultAction::kIgnore ||
                                                        d == kernel::DefaultAction::kContinue));
      if (ignored) {
        task.group->pending.Discard(SignalSet::Of(signo));
        for (Task* t : task.group->threads) t->pending.Discard(SignalSet::Of(signo));
      }
    }
  }
  if (!old.is_null()) TRY(task.mm->CopyOut(old, previous));
  return {};
}

Result<void> RtSigprocmask(Task& task, int32_t how, UserPtr<const uint64_t> set,
                           UserPtr<uint64_t> old, uint64_t size) {
  if (size != kMaskSize) return Fail(EINVAL);
  const SignalSet previous = task.blocked.Mine();
  if (!set.is_null()) {
    const SignalSet wanted(TRY(task.mm->CopyIn(set)));
    switch (how) {
      case SIG_BLOCK:
        kernel::SetBlocked(task, previous | wanted);
        break;
      case SIG_UNBLOCK:
        kernel::SetBlocked(task, previous & ~wanted);
        break;
      case SIG_SETMASK:
        kernel::SetBlocked(task, wanted);
        break;
      default:
        return Fail(EINVAL);
    }
  }
  if (!old.is_null()) TRY(task.mm->CopyOut(old, previous.bits()));
  return {};
}

Result<void> RtSigpending(Task& task, UserPtr<uint64_t> set, uint64_t size) {
  if (size > kMaskSize) return Fail(EINVAL);
  uint64_t pending = 0;
  {
    TasksLock lock(task.kernel);
    pending = ((task.pending.set() | task.group->pending.set()) & task.blocked.Get()).bits();
  }
  const auto bytes = std::as_bytes(std::span(&pending, 1)).first(size);
  if (task.mm->CopyOut(set.addr(), bytes).fault != 0) return Fail(EFAULT);
  return {};
}

Result<void> RtSigsuspend(Task& task, UserPtr<const uint64_t> set, uint64_t size) {
  if (size != kMaskSize) return Fail(EINVAL);
  const uint64_t mask = TRY(task.mm->CopyIn(set));
  task.mask_to_restore = task.blocked.Mine();
  task.restore_mask = true;
  kernel::SetBlocked(task, SignalSet(mask));
  for (;;) {
    const auto reason = sched::Suspend(std::nullopt, sched::Sleep::kInterruptible);
    if (reason == sched::WakeReason::kInterrupted) return Fail(kRestartNoHand);
  }
}

Result<void> Pause(Task&) {
  for (;;) {
    const auto reason = sched::Suspend(std::nullopt, sched::Sleep::kInterruptible);
    if (reason == sched::WakeReason::kInterrupted) return Fail(kRestartNoHand);
  }
}

// Linux: do_sigtimedwait.
Result<int32_t> RtSigtimedwait(Task& task, UserPtr<const uint64_t> set, UserPtr<siginfo_t> info,
                               UserPtr<const timespec> timeout, uint64_t size) {
  if (size != kMaskSize) return Fail(EINVAL);
  const uint64_t bits = TRY(task.mm->CopyIn(set));
  const SignalSet wanted = SignalSet(bits) & ~kernel::kUnblockable;
  sched::Deadline deadline;
  bool poll = false;
  if (!timeout.is_null()) {
    const timespec limit = TRY(task.mm->CopyIn(timeout));
    const uint64_t ns = TRY(ToNs(limit));
    poll = ns == 0;
    deadline = After(task, ns);
  }
  kernel::Kernel& kernel = task.kernel;
  std::optional<kernel::PendingSignals::Item> item;
  const auto take = [&] {
    TasksLock lock(kernel);
    item = task.pending.Take(wanted);
    if (!item) item = task.group->pending.Take(wanted);
    if (item) kernel::SignalTaken(*task.group, item->timer.get(), item->info);
    task.sigwait_set = item || poll ? SignalSet() : wanted;
    return item.has_value();
  };
  bool interrupted = false;
  while (!take() && !poll) {
    const auto reason = sched::Suspend(deadline, sched::Sleep::kInterruptible);
    if (reason == sched::WakeReason::kWoken) continue;
    interrupted = reason == sched::WakeReason::kInterrupted;
    poll = true;  // one last look
    if (take()) break;
    break;
  }
  {
    TasksLock lock(kernel);
    task.sigwait_set = SignalSet();
  }
  if (!item) return Fail(interrupted ? EINTR : EAGAIN);
  if (!info.is_null()) TRY(task.mm->CopyOut(info, item->info));
  return item->info.si_signo;
}

Result<KeepRegisters> RtSigreturn(Task& task) {
  platform::Registers* r = task.LoadRegisters(platform::LoadXsave::kYes);
  if (r == nullptr) return Fail(kKilled);
  if (!kernel::PopSignalFrame(task, *r)) {
    TasksLock lock(task.kernel);
    kernel::ForceSignal(task, kernel::MakeInfo(SIGSEGV, SI_KERNEL));
  }
  return KeepRegisters{};
}

Result<void> Sigaltstack(Task& task, UserPtr<const AbiStack> stack, UserPtr<AbiStack> old) {
  AbiStack wanted{};
  if (!stack.is_null()) wanted = TRY(task.mm->CopyIn(stack));
  platform::Registers* r = task.LoadRegisters();
  if (r == nullptr) return Fail(kKilled);
  const stack_t before = kernel::CurrentAltStack(task, r->rsp);
  if (!stack.is_null()) {
    stack_t s{};
    s.ss_sp = reinterpret_cast<void*>(wanted.sp);
    s.ss_flags = wanted.flags;
    s.ss_size = wanted.size;
    TRY(kernel::SetAltStack(task, s, r->rsp, 2048));
  }
  if (old.is_null()) return {};
  return task.mm->CopyOut(
      old, AbiStack{reinterpret_cast<uint64_t>(before.ss_sp), before.ss_flags, 0, before.ss_size});
}

bool IsSignal(int32_t signo) { return signo >= 0 && signo <= kernel::kSignals; }

// `info`: what the sender says; null: as kill(2) says it.
Result<void> SendTo(Task& task, ThreadGroup& group, int signo, const siginfo_t* info = nullptr)
    REQUIRES(tasks) {
  TRY(kernel::MayKill(task, group, signo));
  if (signo == 0) return {};
  return kernel::SendFrom(
      task, group, info != nullptr ? *info : kernel::MakeInfoFrom(task, group, signo, SI_USER));
}

// The process with a thread of this number, as the caller sees it.
ThreadGroup* ProcessOfThread(const Task& task, int32_t pid) REQUIRES(tasks) {
  const Task* thread = task.pid_namespace().FindTask(pid);
  return thread != nullptr ? thread->group.get() : task.pid_namespace().FindGroup(pid);
}

// All that the caller may signal, but itself and its namespace's init.
Result<void> KillAll(Task& task, int32_t signo) REQUIRES(tasks) {
  int found = 0;
  Result<void> last{};
  task.pid_namespace().ForEachGroup([&](ThreadGroup& group) REQUIRES(tasks) {
    if (task.NumberOf(*group.pid) == 1 || &group == task.group.get()) return;
    ++found;
    if (!IsSignal(signo)) return;
    const auto sent = SendTo(task, group, signo);
    if (!sent && sent.error().code() != EPERM) last = sent;
  });
  if (found == 0) return Fail(ESRCH);
  if (!IsSignal(signo)) return Fail(EINVAL);
  return last;
}

Result<void> KillProcessGroup(Task& task, const kernel::ProcessGroup* group, int32_t signo)
    REQUIRES(tasks) {
  if (group == nullptr) return Fail(ESRCH);
  if (!IsSignal(signo)) return Fail(EINVAL);
  bool sent_one = false;
  Result<void> last{};
  group->ForEach([&](ThreadGroup& member) REQUIRES(tasks) {
    const auto sent = SendTo(task, member, signo);
    sent_one = sent_one || sent.has_value();
    if (!sent) last = sent;
  });
  if (sent_one) return {};
  return last;
}

// Linux: kill_something_info.
Result<void> Kill(Task& task, int32_t pid, SignalNumber signo) {
  TasksLock lock(task.kernel);
  if (pid > 0) {
    ThreadGroup* group = ProcessOfThread(task, pid);
    if (group == nullptr) return Fail(ESRCH);
    if (!IsSignal(signo.value)) return Fail(EINVAL);
    return SendTo(task, *group, signo.value);
  }
  if (pid == INT32_MIN) return Fail(ESRCH);
  if (pid == -1) return KillAll(task, signo.value);
  const kernel::ProcessGroup* group =
      pid == 0 ? task.group->process_group.get() : task.pid_namespace().FindProcessGroup(-pid);
  return KillProcessGroup(task, group, signo.value);
}

// `info`: null: as tkill(2) says it.
Result<void> SendToThread(Task& task, int32_t tgid, int32_t tid, int32_t signo,
                          const siginfo_t* info = nullptr) {
  TasksLock lock(task.kernel);
  Task* thread = task.pid_namespace().FindTask(tid);
  if (thread == nullptr || (tgid > 0 && task.NumberOf(*thread->group->pid) != tgid)) {
    return Fail(ESRCH);
  }
  if (!IsSignal(signo)) return Fail(EINVAL);
  ThreadGroup& group = *thread->group;
  TRY(kernel::MayKill(task, group, signo));
  if (signo == 0) return {};
  return kernel::SendFrom(
      task, *thread, info != nullptr ? *info : kernel::MakeInfoFrom(task, group, signo, SI_TKILL));
}

// Linux: only a process itself may forge what the kernel or tkill would say.
bool MayForge(Task& task, const siginfo_t& info, int32_t tgid) {
  return (info.si_code < 0 && info.si_code != SI_TKILL) || task.group->tgid == tgid;
}

Result<siginfo_t> CopyInInfo(Task& task, SignalNumber signo, UserPtr<const siginfo_t> address) {
  siginfo_t info = TRY(task.mm->CopyIn(address));
  info.si_signo = signo.value;
  return info;
}

Result<void> Tkill(Task& task, int32_t tid, SignalNumber signo) {
  if (tid <= 0) return Fail(EINVAL);
  return SendToThread(task, 0, tid, signo.value);
}

Result<void> Tgkill(Task& task, int32_t tgid, int32_t tid, SignalNumber signo) {
  if (tid <= 0 || tgid <= 0) return Fail(EINVAL);
  return SendToThread(task, tgid, tid, signo.value);
}

Result<void> RtSigqueueinfo(Task& task, int32_t tgid, SignalNumber signo,
                            UserPtr<const siginfo_t> address) {
  const siginfo_t info = TRY(CopyInInfo(task, signo, address));
  if (!MayForge(task, info, tgid)) return Fail(EPERM);
  TasksLock lock(task.kernel);
  ThreadGroup* group = ProcessOfThread(task, tgid);
  if (group == nullptr) return Fail(ESRCH);
  if (!IsSignal(signo.value)) return Fail(EINVAL);
  return SendTo(task, *group, signo.value, &info);
}

Result<void> RtTgsigqueueinfo(Task& task, int32_t tgid, int32_t tid, SignalNumber signo,
                              UserPtr<const siginfo_t> address) {
  const siginfo_t info = TRY(CopyInInfo(task, signo, address));
  if (tid <= 0 || tgid <= 0) return Fail(EINVAL);
  if (!MayForge(task, info, tgid)) return Fail(EPERM);
  return SendToThread(task, tgid, tid, signo.value, &info);
}

constexpr Row kRows[] = {
    Full<RtSigaction>(SYSCALL(rt_sigaction)),
    Full<RtSigprocmask>(SYSCALL(rt_sigprocmask)),
    Full<RtSigreturn>(SYSCALL(rt_sigreturn)),
    Full<Pause>(SYSCALL(pause)),
    Full<Kill>(SYSCALL(kill)),
    Full<RtSigpending>(SYSCALL(rt_sigpending)),
    Full<RtSigtimedwait>(SYSCALL(rt_sigtimedwait)),
    Full<RtSigqueueinfo>(SYSCALL(rt_sigqueueinfo)),
    Full<RtSigsuspend>(SYSCALL(rt_sigsuspend)),
    Full<Sigaltstack>(SYSCALL(sigaltstack)),
    Full<Tkill>(SYSCALL(tkill)),
    Full<Tgkill>(SYSCALL(tgkill)),
    Full<RtTgsigqueueinfo>(SYSCALL(rt_tgsigqueueinfo)),
};

}  // namespace

constinit const std::span<const Row> kSignalRows = kRows;

}  // namespace skep::syscalls
