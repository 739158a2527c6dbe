#include "platform/ptrace/context.h"

#include <linux/audit.h>
#include <sys/syscall.h>
#include <algorithm>
#include <csignal>
#include <cstring>

#include "base/check.h"
#include "base/host_call.h"
#include "platform/common/waker.h"
#include "platform/exceptions.h"
#include "platform/ptrace/address_space.h"
#include "platform/ptrace/calls.h"
#include "platform/ptrace/engine.h"
#include "platform/ptrace/registers.h"

namespace skep::platform::ptrace {
namespace {

constexpr int kSyscallStop = SIGTRAP | 0x80;  // PTRACE_O_TRACESYSGOOD
constexpr int kEventStop = 128;               // PTRACE_EVENT_STOP
constexpr uint64_t kX32Bit = 0x4000'0000;

// Results for which the host would restart a call of its own.
bool IsHostRestart(uint64_t rax) {
  const auto value = static_cast<int64_t>(rax);
  return value >= -kRestartBlock && value <= -kRestartSys;
}

// The host describes an exception by siginfo, as to a signal handler, without the error code. So
// kFaultWrite is never set, whatever the guest did.
FaultStop FaultOf(const siginfo_t& info) {
  FaultStop fault = {.signo = info.si_signo,
                     .code = info.si_code,
                     .address = reinterpret_cast<uint64_t>(info.si_addr),
                     .vector = kGeneralProtectionVector,
                     .error_code = 0};
  switch (info.si_signo) {
    case SIGSEGV:
      if (info.si_code == SI_KERNEL) break;
      fault.vector = kPageFaultVector;
      fault.error_code = kFaultUser | (info.si_code == SEGV_MAPERR ? 0 : kFaultPresent);
      break;
    case SIGBUS:
      if (info.si_code == SI_KERNEL) {
        fault.vector = kStackSegmentVector;
      } else if (info.si_code == BUS_ADRALN) {
        fault.vector = kAlignmentVector;
      } else {
        fault.vector = kPageFaultVector;
        fault.error_code = kFaultUser;
      }
      break;
    case SIGFPE:
      fault.vector = info.si_code == FPE_INTDIV ? kDivideVector : kSimdVector;
      break;
    case SIGILL:
      fault.vector = kInvalidOpcodeVector;
      break;
    default:  // SIGTRAP: SI_KERNEL for int3, TRAP_TRACE or TRAP_BRKPT for #DB, as Linux has it
      fault.vector = info.si_code == SI_KERNEL ? kBreakpointVector : kDebugVector;
      break;
  }
  if (info.si_code == SI_KERNEL) fault.address = 0;
  return fault;
}

}  // namespace

PtraceContext::PtraceContext(PtraceEngine& engine, PtraceSpace& space, pid_t tid,
                             const Registers& registers)
    : engine_(engine),
      space_(space),
      tid_(tid),
      loaded_(true),
      code_segment_(kCodeSegment64),
      registers_(registers),
      xsave_(engine.xsave_size()),
      host_xsave_(engine.xsave_size()) {}

PtraceContext::~PtraceContext() { engine_.Drop(*this); }

Result<void> PtraceContext::SetFirstXsave(std::span<const std::byte> xsave) {
  if (xsave.size() != xsave_.size()) return Fail(EINVAL);
  return SetXsave(tid_, xsave);
}

Result<void> PtraceContext::Load(LoadXsave xsave) {
  if (space_.dead()) return Fail(EIO);
  CHECK(!running());
  if (!loaded_) {
    Result<user_regs_struct> host = GetRegisters(tid_);
    if (!host) return Fail(EIO);
    host_registers_ = FromHost(*host);
    host_registers_known_ = true;
    registers_ = host_registers_;
    code_segment_ = host->cs;
    // The host has put -ENOSYS into rax already.
    if (const auto* call = std::get_if<SyscallStop>(&stop_)) registers_.rax = call->number;
    if (return_set_) registers_.rax = return_;
    return_set_ = false;
    loaded_ = true;
  }
  if (xsave == LoadXsave::kYes && !xsave_loaded_ && !xsave_touched_) {
    if (!GetXsave(tid_, xsave_)) return Fail(EIO);
    std::copy(xsave_.begin(), xsave_.end(), host_xsave_.begin());
    xsave_loaded_ = true;
  }
  return {};
}

Registers& PtraceContext::registers() {
  CHECK(loaded_);
  return registers_;
}

std::span<std::byte> PtraceContext::xsave() {
  xsave_touched_ = true;
  return xsave_;
}

void PtraceContext::SetReturn(uint64_t rax) {
  if (loaded_) {
    registers_.rax = rax;
  } else {
    return_ = rax;
    return_set_ = true;
  }
}

Result<void> PtraceContext::WriteReturn(uint64_t rax) {
  TRY(PokeRegister(tid_, offsetof(user_regs_struct, rax), rax));
  if (IsHostRestart(rax)) {
    TRY(PokeRegister(tid_, offsetof(user_regs_struct, orig_rax), ~uint64_t{0}));
  }
  return {};
}

Result<void> PtraceContext::WriteRegisters() {
  Registers& now = registers_;
  Registers& host = host_registers_;
  // A base that the host rejects was not made by the host's rules: it stays as it is.
  if ((!host_registers_known_ || now.fs_base != host.fs_base) && IsSegmentBase(now.fs_base)) {
    TRY(PokeRegister(tid_, offsetof(user_regs_struct, fs_base), now.fs_base));
  }
  if ((!host_registers_known_ || now.gs_base != host.gs_base) && IsSegmentBase(now.gs_base)) {
    TRY(PokeRegister(tid_, offsetof(user_regs_struct, gs_base), now.gs_base));
  }
  host.fs_base = now.fs_base;
  host.gs_base = now.gs_base;
  const uint64_t rax = now.rax;
  if (host_registers_known_) {
    now.rax = host.rax;
    const bool only_rax = memcmp(&now, &host, sizeof(now)) == 0;
    now.rax = rax;
    if (only_rax) return rax == host.rax ? Result<void>() : WriteReturn(rax);
  }
  // Where the sentry sends a guest, it runs 64-bit code.
  const bool moved = !host_registers_known_ || now.rip != host.rip;
  return SetRegisters(tid_, ToHost(now, moved ? kCodeSegment64 : code_segment_), kWrittenPrefix);
}

// Everything that was changed goes to the host. EINVAL: the host rejects the XSAVE area.
Result<void> PtraceContext::WriteBack() {
  if (loaded_) {
    TRY(WriteRegisters());
  } else {
    if (return_set_) TRY(WriteReturn(return_));
    if (engine_.poisons() && std::holds_alternative<SyscallStop>(stop_)) {
      TRY(PokeRegister(tid_, offsetof(user_regs_struct, rcx), kPoison));
      TRY(PokeRegister(tid_, offsetof(user_regs_struct, r11), kPoison));
    }
  }
  if (xsave_touched_ && (!xsave_loaded_ || xsave_ != host_xsave_)) TRY(SetXsave(tid_, xsave_));
  return {};
}

void PtraceContext::Resume() {
  if (space_.dead()) {
    engine_.AnnounceAgain(space_);
    return;
  }
  CHECK(!running() && !stop_link.is_ready);
  if (Result<void> written = WriteBack(); !written && written.error() == Errno(EINVAL)) {
    // Linux: a signal frame whose vector state is bad ends in SIGSEGV (signal_64.c, badframe).
    Stopped(FaultStop{SIGSEGV, SI_KERNEL, 0, kGeneralProtectionVector, 0});
    engine_.PushReady(*this);
    return;
  }
  loaded_ = xsave_loaded_ = xsave_touched_ = return_set_ = host_registers_known_ = false;
  if ((state_.fetch_or(kRunning) & kInterrupt) != 0) {
    state_.fetch_and(~uint32_t{kRunning | kInterrupt});
    Stopped(Interrupted{});
    engine_.PushReady(*this);
    return;
  }
  engine_.NoteRunning(*this);
  // If it was killed, its exit status says so later.
  (void)Emulate(tid_);
}

void PtraceContext::Interrupt() {
  const uint32_t before = state_.fetch_or(kInterrupt);
  if (before != kRunning || space_.dead()) return;
  (void)host::Call(SYS_tgkill, space_.pid(), tid_, kInterruptSignal);
}

Result<void> PtraceContext::MoveTo(Engine& engine) {
  if (&engine == &engine_) return {};
  return Fail(ENOTSUP);  // a tracee belongs to the thread that traces it
}

void PtraceContext::Stopped(Stop stop) {
  engine_.NoteNotRunning(*this);
  stop_ = stop;
  loaded_ = xsave_loaded_ = xsave_touched_ = return_set_ = host_registers_known_ = false;
  if (!engine_.poisons()) return;
  uint64_t words[sizeof(Registers) / sizeof(uint64_t)];
  std::fill(std::begin(words), std::end(words), kPoison);
  memcpy(&registers_, words, sizeof(registers_));
  memset(xsave_.data(), 0xb5, xsave_.size());
}

bool PtraceContext::RunOn() {
  (void)Emulate(tid_);
  return false;
}

bool PtraceContext::OnHostStop(int status) {
  const int signo = WSTOPSIG(status);
  if (signo == kSyscallStop) return OnSyscall();
  if (status >> 16 == kEventStop) return RunOn();  // a group stop: not for guests
  return OnSignal(signo);
}

bool PtraceContext::OnSyscall() {
  Result<SyscallInfo> info = GetSyscallInfo(tid_);
  if (!info) return false;  // killed meanwhile
  if (info->op != PTRACE_SYSCALL_INFO_ENTRY) return RunOn();
  SyscallStop stop = {.number = info->entry.nr, .args = {}, .ip = info->instruction_pointer};
  std::copy(std::begin(info->entry.args), std::end(info->entry.args), stop.args.begin());
  const auto number = static_cast<int32_t>(stop.number);
  stop.compat = info->arch != AUDIT_ARCH_X86_64 || (number >= 0 && (stop.number & kX32Bit) != 0);
  state_.fetch_and(~uint32_t{kRunning});
  Stopped(stop);
  return true;
}

bool PtraceContext::OnSignal(int signo) {
  if (signo == kInterruptSignal) {
    // Without the flag it is what an earlier Interrupt left behind, or a stranger's.
    if ((state_.load() & kInterrupt) == 0) return RunOn();
    state_.fetch_and(~uint32_t{kRunning | kInterrupt});
    Stopped(Interrupted{});
    return true;
  }
  switch (signo) {
    case SIGSEGV:
    case SIGBUS:
    case SIGFPE:
    case SIGILL:
    case SIGTRAP:
    case SIGSYS:
      break;
    default:
      return RunOn();
  }
  Result<siginfo_t> info = GetSignal(tid_);
  if (!info) return false;
  if (info->si_code <= 0) return RunOn();  // somebody's kill(2)
  if (signo == SIGSYS) {
    // A call in the vsyscall page: the host emulates it, SYSEMU does not see it, the filter does.
    // The host has made the guest return from it; only its result is missing.
    Result<user_regs_struct> host = GetRegisters(tid_);
    if (!host) return false;
    state_.fetch_and(~uint32_t{kRunning});
    Stopped(SyscallStop{.number = static_cast<uint64_t>(info->si_syscall),
                        .args = {host->rdi, host->rsi, host->rdx, host->r10, host->r8, host->r9},
                        .ip = host->rip,
                        .compat = info->si_arch != AUDIT_ARCH_X86_64});
    return true;
  }
  state_.fetch_and(~uint32_t{kRunning});
  Stopped(FaultOf(*info));
  return true;
}

}  // namespace skep::platform::ptrace
