// The life of a guest thread, as seen by its fiber: run the guest, serve its stop, deal with
// signals, go on.
#include <sys/syscall.h>
#include <cstring>

#include "platform/exceptions.h"
#include "sentry/arena/arena.h"
#include "sentry/kernel/clone.h"
#include "sentry/kernel/cpu_time.h"
#include "sentry/kernel/cpu_timer.h"
#include "sentry/kernel/exit.h"
#include "sentry/kernel/job_control.h"
#include "sentry/kernel/kernel.h"
#include "sentry/kernel/oom.h"
#include "sentry/kernel/posix_timer.h"
#include "sentry/kernel/signal_frame.h"
#include "sentry/kernel/signals.h"
#include "sentry/kernel/vdso_clock.h"

namespace skep::kernel {
namespace {

constexpr uint64_t kSyscallInstruction = 2;  // bytes of `syscall`

bool IsRestart(int code) {
  return code == kRestartSys || code == kRestartNoIntr || code == kRestartNoHand ||
         code == kRestartBlock;
}

// Copied field by field: the variant's padding comes from the engine and may contain a host
// pointer.
void CopyStop(const platform::Stop& from, platform::Stop& to) {
  if (const auto* call = std::get_if<platform::SyscallStop>(&from)) {
    auto& copy = to.emplace<platform::SyscallStop>();
    copy.number = call->number;
    copy.args = call->args;
    copy.ip = call->ip;
    copy.compat = call->compat;
  } else if (const auto* fault = std::get_if<platform::FaultStop>(&from)) {
    to.emplace<platform::FaultStop>(*fault);
  } else {
    to.emplace<platform::Interrupted>();
  }
}

}  // namespace

Task& CurrentTask() {
  void* cookie = sched::Fiber::Current().cookie;
  CHECK(cookie != nullptr);
  return *static_cast<Task*>(cookie);
}

platform::Context& Task::context() const {
  platform::Context* context = arena::HostTable::Get().Get(context_ref);
  CHECK(context != nullptr);
  return *context;
}

platform::Registers* Task::LoadRegisters(platform::LoadXsave xsave) {
  platform::Context& c = context();
  bool loaded;
  {
    arena::HostHeapScope host;
    loaded = c.Load(xsave).has_value();
  }
  if (loaded) return &c.registers();
  TasksLock lock(kernel);
  StartGroupExit(*group, SIGKILL);
  return nullptr;
}

bool Task::Start() {
  if (start.failed()) return false;
  if (context_ref) {  // init, whose program is loaded already, or one that was made by its maker
    const arena::HostHeapScope host;
    return context().MoveTo(fiber->worker().engine()).has_value();
  }
  int error = 0;
  if (!mm->space()) {
    if (auto active = mm->Activate(fiber->worker()); !active) error = active.error().code();
    StartCpuAccount(*this);
  }
  if (error == 0) {
    auto made = mm->NewContext(fiber->worker().engine(), saved_registers, saved_xsave);
    if (made) {
      context_ref = *made;
    } else {
      error = made.error().code();
    }
  }
  saved_xsave = {};
  if (error != 0) Unpublish(*this);
  start.SetReady(error);
  return error == 0;
}

void Task::Main() {
  sched::Fiber::Current().cookie = this;
  if (Start()) {
    for (;;) {
      if (HasPendingWork()) {
        if (kernel.config.scrub_stacks) sched::ScrubStack();
        if (!HandlePendingWork()) break;
      }
      if (!RunToStop()) {
        TasksLock lock(kernel);
        StartGroupExit(*group, SIGKILL);
        break;
      }
      HandleStop(last_stop);
    }
  }
  ExitTask(*this);
}

// Not inlined, so that a fiber sleeping in a system call has no engine pointers in its frames: they
// would not survive a checkpoint.
[[gnu::noinline]] bool Task::RunToStop() {
  platform::Context& c = context();
  sched::MaybeMove(c);
  platform::AddressSpace* space = arena::HostTable::Get().Get(mm->space());
  CHECK(space != nullptr);
  guest_runs.fetch_add(1, std::memory_order_relaxed);
  in_guest.store(true, std::memory_order_seq_cst);
  if (group->cpu_watch_wanted.load(std::memory_order_seq_cst)) ArmCpuTimer(*this);
  const bool lives = sched::RunGuest(c, *space) == sched::GuestEnd::kStopped;
  in_guest.store(false, std::memory_order_seq_cst);
  kernel.barriers().NoteStop();
  if (lives) CopyStop(c.stop(), last_stop);
  if (kernel.config.scrub_stacks) sched::ScrubStack();
  return lives;
}

bool Task::HasPendingWork() const {
  return work_pending.load(std::memory_order_seq_cst) || fiber->interrupted() || fiber->killed() ||
         fiber->guest_stop_wanted() || kernel.freeze_gate().closed() ||
         (kernel.oom && kernel.oom->paused());
}

void Task::HandleStop(const platform::Stop& stop) {
  if (const auto* call = std::get_if<platform::SyscallStop>(&stop)) {
    HandleSyscall(platform::SyscallStop(*call));
  } else if (const auto* fault = std::get_if<platform::FaultStop>(&stop)) {
    HandleFault(platform::FaultStop(*fault));
  }
}

void Task::HandleFault(const platform::FaultStop& fault) {
  siginfo_t info;
  if (fault.vector == platform::kPageFaultVector || fault.signo == SIGBUS) {
    minor_faults.store(minor_faults.load(std::memory_order_relaxed) + 1, std::memory_order_relaxed);
    mm::FaultAccess access;
    // An engine that cannot tell leaves the bits clear.
    if ((fault.error_code & platform::kFaultWrite) != 0) access.write = mm::Did::kYes;
    if ((fault.error_code & platform::kFaultFetch) != 0) access.fetch = mm::Did::kYes;
    access.protection =
        (fault.error_code & platform::kFaultPresent) != 0 || fault.code == SEGV_ACCERR;
    const mm::FaultResult result = mm->HandleFault(fault.address, access, MemoryLimits());
    if (result.outcome == mm::FaultOutcome::kRetry) return;
    if (result.outcome == mm::FaultOutcome::kKilled) {
      TasksLock lock(kernel);
      StartGroupExit(*group, SIGKILL);
      return;
    }
    info = MakeFaultInfo(result.signo, result.code, fault.address);
    if (result.signo == SIGSEGV) CompleteErrorCode(result);
  } else {
    info = MakeFaultInfo(fault.signo, fault.code, fault.address);
  }
  TasksLock lock(kernel);
  ForceSignal(*this, info);
}

// The error code of a page fault, for its signal frame: what the engine did not see is derived from
// what refused the access. Whether nothing was to be read or to be written stays unknown.
void Task::CompleteErrorCode(const mm::FaultResult& result) {
  auto* fault = std::get_if<platform::FaultStop>(&last_stop);
  if (fault == nullptr || fault->vector != platform::kPageFaultVector) return;
  uint32_t code = fault->error_code & ~platform::kFaultPresent;
  if (result.readable) code |= platform::kFaultPresent;
  if ((code & (platform::kFaultWrite | platform::kFaultFetch)) == 0) {
    const platform::Registers* r = LoadRegisters();
    if (r != nullptr && r->rip == fault->address) {
      code |= platform::kFaultFetch;
    } else if (result.readable) {
      code |= platform::kFaultWrite;
    }
  }
  fault->error_code = code;
}

void Task::HandleSyscall(const platform::SyscallStop& stop) {
  in_syscall.store(true, std::memory_order_relaxed);
  syscall_number = stop.number;
  keep_registers = false;
  kernel.vdso_clock->RefreshIfStale();
  pending_result = kernel.hooks.syscall(*this, stop.number, stop.args, stop.compat);
  if (keep_registers) in_syscall.store(false, std::memory_order_relaxed);
  if (Calling() && !HasPendingWork()) FinishCall();
}

// The result becomes rax, or the call is restarted as if nothing had happened.
void Task::FinishCall() {
  if (!pending_result && IsRestart(pending_result.error().code())) {
    RestartWithoutHandler();
    return;
  }
  in_syscall.store(false, std::memory_order_relaxed);
  const uint64_t rax =
      pending_result ? *pending_result : -static_cast<uint64_t>(pending_result.error().code());
  context().SetReturn(rax);
}

void Task::ApplyRestart(platform::Registers& r, bool handler, bool restartable) {
  if (!Calling()) return;
  in_syscall.store(false, std::memory_order_relaxed);
  if (pending_result) {
    r.rax = *pending_result;
    return;
  }
  const int code = pending_result.error().code();
  if (!IsRestart(code)) {
    r.rax = -static_cast<uint64_t>(code == kKilled ? EINTR : code);
    return;
  }
  const bool again = code == kRestartNoIntr || (code == kRestartSys && restartable) || !handler;
  if (!again) {
    r.rax = -static_cast<uint64_t>(EINTR);
    return;
  }
  r.rip -= kSyscallInstruction;
  r.rax = code == kRestartBlock ? SYS_restart_syscall : syscall_number;
}

void Task::RestartWithoutHandler() {
  if (platform::Registers* r = LoadRegisters()) ApplyRestart(*r, false, true);
}

bool Task::HandlePendingWork() {
  for (;;) {
    fiber->ClearInterrupt();
    work_pending.store(false, std::memory_order_seq_cst);
    if (fiber->killed()) return false;
    if (kernel.freeze_gate().closed()) {
      // It goes on perhaps in another process (restore): the context is then made anew.
      kernel.freeze_gate().Pass();
      continue;
    }
    if (kernel.oom && kernel.oom->paused()) {
      kernel.oom->WaitWhilePaused();
      continue;
    }
    bool stop = false;
    {
      TasksLock lock(kernel);
      if (group->exiting) return false;
      stop = group->stop.under_way();
    }
    if (stop) {
      SleepStopped(*this);
      continue;
    }
    took_signal_ = false;
    if (!TakeSignal()) return false;
    if (!took_signal_) break;
  }
  if (Calling()) FinishCall();
  if (restore_mask) {
    restore_mask = false;
    SetBlocked(*this, mask_to_restore);
  }
  return !fiber->killed();
}

bool Task::TakeSignal() {
  std::optional<PendingSignals::Item> item;
  SignalAction action;
  bool orphaned = false;
  {
    TasksLock lock(kernel);
    item = pending.Take(~blocked.Get());
    if (!item) item = group->pending.Take(~blocked.Get());
    if (!item) return true;
    SignalTaken(*group, item->timer.get(), item->info);
    SignalAction& stored = group->handlers->Of(item->info.si_signo);
    action = stored;
    const bool caught = action.IsCaught();
    if (caught && (action.flags & SA_RESETHAND) != 0) stored.handler = SignalAction::kDefault;
    if (!caught) orphaned = IsOrphaned(*group->process_group, nullptr);
  }
  took_signal_ = true;
  const int signo = item->info.si_signo;
  if (kernel.strace) kernel.strace->Signal(*this, item->info);
  if (action.IsIgnored()) return true;
  if (!action.IsDefault()) return RunHandler(*item, action);
  switch (DefaultActionOf(signo)) {
    case DefaultAction::kIgnore:
    case DefaultAction::kContinue:
      return true;
    case DefaultAction::kStop: {
      // Linux: tty stops have no effect on an orphaned process group.
      if (signo != SIGSTOP && orphaned) return true;
      {
        TasksLock lock(kernel);
        StartGroupStop(*this, signo);
      }
      SleepStopped(*this);
      return true;
    }
    case DefaultAction::kTerminate:
    case DefaultAction::kCore:
      break;
  }
  TasksLock lock(kernel);
  StartGroupExit(*group, signo);
  return false;
}

bool Task::RunHandler(const PendingSignals::Item& item, const SignalAction& action) {
  platform::Registers* r = LoadRegisters(platform::LoadXsave::kYes);
  if (r == nullptr) return false;
  ApplyRestart(*r, true, (action.flags & SA_RESTART) != 0);
  const SignalSet to_restore = restore_mask ? mask_to_restore : blocked.Mine();
  restore_mask = false;
  const int signo = item.info.si_signo;
  if (!PushSignalFrame(*this, *r, item.info, action, to_restore)) {
    TasksLock lock(kernel);
    if (signo == SIGSEGV) group->handlers->Of(SIGSEGV).handler = SignalAction::kDefault;
    ForceSignal(*this, MakeInfo(SIGSEGV, SI_KERNEL));
    return true;
  }
  SignalSet now = blocked.Mine() | SignalSet(action.mask);
  if ((action.flags & SA_NODEFER) == 0) now.Add(signo);
  SetBlocked(*this, now);
  return true;
}

}  // namespace skep::kernel
