#include "platform/notify/context.h"

#include <linux/audit.h>
#include <sys/syscall.h>
#include <algorithm>
#include <csignal>
#include <cstring>

#include "base/check.h"
#include "base/host_call.h"
#include "base/missing_defs.h"
#include "platform/common/waker.h"
#include "platform/notify/address_space.h"
#include "platform/notify/engine.h"

namespace skep::platform::notify {
namespace {

constexpr uint16_t kCode64 = 0x33, kCode32 = 0x23, kData = 0x2b;  // Linux: __USER_CS and others
constexpr uint64_t kFrameFlags = 7;  // UC_FP_XSTATE, UC_SIGCONTEXT_SS, UC_STRICT_RESTORE_SS
constexpr int kSeccompCode = 1;      // SYS_SECCOMP
constexpr uint32_t kGeneralProtection = 13;

// Results for which the host would restart a call of its own if a signal came in between.
bool IsHostRestart(uint64_t rax) {
  const auto value = static_cast<int64_t>(rax);
  return value >= -kRestartBlock && value <= -kRestartSys;
}

// Whether a segment base may be set. A guest may have made others with wrfsbase; nobody else can.
bool IsSegmentBase(uint64_t value) { return value < kUserEnd; }

bool IsEvent(const seccomp_notif& call) {
  static const uint64_t after_event = AddressesOfNotifyStub().after_event;
  return call.data.instruction_pointer == after_event &&
         call.data.nr == static_cast<int>(kEventCall);
}

}  // namespace

NotifyContext::NotifyContext(NotifyEngine& engine, NotifySpace& space,
                             std::unique_ptr<GuestThread> thread, const Registers& registers,
                             std::span<const std::byte> xsave)
    : engine_(&engine),
      space_(space),
      thread_(std::move(thread)),
      loaded_(true),
      xsave_touched_(true),
      frame_{},
      registers_(registers),
      xsave_(xsave.begin(), xsave.end()) {
  thread_->fs_base = thread_->gs_base = 0;
  frame_.cs = kCode64;
  engine_->Adopt(*thread_);
  watch_ = engine_->Watch({&space_, this}, thread_->listener.fd());
}

NotifyContext::~NotifyContext() {
  const bool parked = StopForGood();
  engine_->Unwatch(watch_, thread_->listener.fd());
  engine_->Drop(*this);
  if (parked) space_.stub().stubs().Park(std::move(thread_));
}

// True: the thread waits in an event, and can be another guest's.
bool NotifyContext::StopForGood() {
  if (space_.dead()) {
    if (running()) engine_->NoteNotRunning(*this);
    return false;
  }
  if (running()) {
    space_.stub().Signal(*thread_);
    seccomp_notif call;
    for (;;) {
      const auto got = space_.stub().AwaitCall(*thread_, call);
      if (got != Listener::Received::kCall) {
        got == Listener::Received::kGone ? space_.Ended()
                                         : space_.Tampered("a guest cannot be interrupted");
      } else {
        state_.fetch_or(kInterrupt);
        if (!OnCall(call) && !space_.dead()) continue;
      }
      break;
    }
    if (running()) engine_->NoteNotRunning(*this);
  }
  return BringIntoEvent().has_value();
}

// From a call's notification into the signal handler: a signal, then the end of the call. The host
// keeps the signal until then (WAIT_KILLABLE_RECV), and takes it before the guest goes on.
Result<void> NotifyContext::BringIntoEvent() {
  if (space_.dead()) return Fail(EIO);
  if (thread_->in_event) return {};
  Stub& stub = space_.stub();
  stub.Signal(*thread_);
  seccomp_notif call;
  auto got = Listener::Received::kGone;
  if (thread_->listener.Answer(thread_->id, 0)) got = stub.AwaitCall(*thread_, call);
  if (got == Listener::Received::kGone) {
    space_.Ended();
    return Fail(EIO);
  }
  if (got != Listener::Received::kCall || !IsEvent(call) ||
      !stub.TakeEvent(*thread_, call, frame_) || frame_.info.si_signo != kInterruptSignal) {
    space_.Tampered("a guest thread does not take signals");
    return Fail(EIO);
  }
  const auto* stop = std::get_if<SyscallStop>(&stop_);
  frame_.rax = return_ ? *return_ : stop != nullptr ? stop->number : -uint64_t{ENOSYS};
  return_.reset();
  return {};
}

Result<void> NotifyContext::Load(LoadXsave xsave) {
  if (space_.dead()) return Fail(EIO);
  CHECK(!running());
  TRY(BringIntoEvent());
  if (!loaded_) {
    registers_ = RegistersOf(frame_, thread_->fs_base, thread_->gs_base);
    loaded_ = true;
  }
  if (xsave == LoadXsave::kYes && !xsave_loaded_ && !xsave_touched_) {
    // SAFETY: shared with the guest: read once; whatever it holds becomes valid.
    const auto area = space_.stub().XsaveOf(*thread_).first(xsave_.size());
    std::copy(area.begin(), area.end(), xsave_.begin());
    space_.stub().stubs().xsave().Normalise(xsave_);
    xsave_loaded_ = true;
  }
  return {};
}

Registers& NotifyContext::registers() {
  CHECK(loaded_);
  return registers_;
}

std::span<std::byte> NotifyContext::xsave() {
  xsave_touched_ = true;
  return xsave_;
}

void NotifyContext::SetReturn(uint64_t rax) {
  if (loaded_) {
    registers_.rax = rax;
  } else if (thread_->in_event) {
    frame_.rax = rax;
  } else {
    return_ = rax;
  }
}

void NotifyContext::CommitRegisters() {
  if (!loaded_) return;
  loaded_ = false;
  // Where the sentry sends a guest, it runs 64-bit code.
  if (registers_.rip != frame_.rip) frame_.cs = kCode64;
  SetRegisters(frame_, registers_);
  // A base that could not be set was made by the guest itself: it stays as it is.
  if (IsSegmentBase(registers_.fs_base)) thread_->fs_base = registers_.fs_base;
  if (IsSegmentBase(registers_.gs_base)) thread_->gs_base = registers_.gs_base;
}

bool NotifyContext::CommitXsave() {
  xsave_loaded_ = false;
  if (!xsave_touched_) return true;
  xsave_touched_ = false;
  const XsaveLayout& layout = space_.stub().stubs().xsave();
  if (!layout.IsValid(xsave_)) return false;
  layout.WriteTo(space_.stub().XsaveOf(*thread_), xsave_);
  return true;
}

void NotifyContext::Answer() {
  uint64_t reply = 0;
  if (thread_->in_event) {
    const Stub& stub = space_.stub();
    frame_.uc_flags = kFrameFlags;
    frame_.uc_link = thread_->gs_base;
    frame_.stack_base = stub.StackBase(*thread_);
    frame_.stack_flags = SS_AUTODISARM;
    frame_.stack_size = space_.stub().StackOf(*thread_).size();
    if (frame_.cs != kCode32) frame_.cs = kCode64;
    frame_.ss = kData;
    frame_.gs = frame_.fs = 0;
    frame_.fpstate = thread_->fpstate;
    frame_.mask = 0;
    memcpy(space_.stub().StackOf(*thread_).data() + thread_->frame_at, &frame_,
           offsetof(Frame, info));
    reply = thread_->fs_base;
  } else {
    reply = return_.value_or(-uint64_t{ENOSYS});
  }
  if (!thread_->listener.Answer(thread_->id, reply)) space_.Ended();
}

void NotifyContext::Resume() {
  if (space_.dead()) {
    engine_->Announce(space_);
    return;
  }
  CHECK(!running() && !stop_link.is_ready);
  const bool needs_frame = xsave_touched_ || (return_ && IsHostRestart(*return_));
  if (needs_frame && !BringIntoEvent()) {
    engine_->Announce(space_);
    return;
  }
  CommitRegisters();
  if (!CommitXsave()) {
    // Linux: a signal frame whose vector state is bad ends in SIGSEGV (signal_64.c, badframe).
    stop_ = FaultStop{SIGSEGV, SI_KERNEL, 0, kGeneralProtection, 0};
    engine_->PushReady(*this);
    return;
  }
  if ((state_.fetch_or(kRunning) & kInterrupt) != 0) {
    state_.fetch_and(~uint32_t{kRunning | kInterrupt});
    if (!thread_->in_event && !return_) return_ = -uint64_t{ENOSYS};
    stop_ = Interrupted{};
    engine_->PushReady(*this);
    return;
  }
  engine_->NoteRunning(*this);
  Answer();
}

void NotifyContext::Interrupt() {
  const uint32_t before = state_.fetch_or(kInterrupt);
  if (before != kRunning || space_.dead()) return;
  space_.stub().Signal(*thread_);
  engine_->WatchInterrupts();
}

Result<void> NotifyContext::MoveTo(Engine& engine) {
  if (&engine == engine_) return {};
  auto* to = dynamic_cast<NotifyEngine*>(&engine);
  if (to == nullptr) return Fail(ENOTSUP);
  CHECK(!running() && !stop_link.is_ready);
  engine_->Unwatch(watch_, thread_->listener.fd());
  engine_->HandOver(*to);
  engine_ = to;
  watch_ = engine_->Watch({&space_, this}, thread_->listener.fd());
  engine_->Adopt(*thread_);
  return {};
}

bool NotifyContext::Stopped(Stop stop) {
  state_.fetch_and(~uint32_t{kRunning});
  engine_->NoteNotRunning(*this);
  stop_ = stop;
  loaded_ = xsave_loaded_ = xsave_touched_ = false;
  return_.reset();
  return true;
}

bool NotifyContext::OnCall(const seccomp_notif& call) {
  if (IsEvent(call)) {
    if (space_.stub().TakeEvent(*thread_, call, frame_)) return OnEvent();
    space_.Tampered("a guest has forged a signal frame");
    return false;
  }
  thread_->id = call.id;
  thread_->in_event = false;
  SyscallStop stop = {.number = static_cast<uint64_t>(int64_t{call.data.nr}),
                      .args = {},
                      .ip = call.data.instruction_pointer,
                      .compat = false};
  std::copy(std::begin(call.data.args), std::end(call.data.args), stop.args.begin());
  return Stopped(stop);
}

bool NotifyContext::OnEvent() {
  const siginfo_t& info = frame_.info;
  switch (info.si_signo) {
    case kInterruptSignal:
      // Without the flag it is what an earlier Interrupt left behind, or a stranger's.
      if ((state_.fetch_and(~uint32_t{kInterrupt}) & kInterrupt) != 0) {
        return Stopped(Interrupted{});
      }
      break;
    case SIGSYS:
      if (info.si_code == kSeccompCode) return Stopped(SyscallOf(frame_));
      break;
    case SIGSEGV:
    case SIGBUS:
    case SIGFPE:
    case SIGILL:
    case SIGTRAP:
      if (info.si_code > 0) return Stopped(FaultOf(frame_));  // else somebody's kill(2)
      break;
    default:
      space_.Tampered("a guest has forged a signal");
      return false;
  }
  Answer();  // it runs on
  return false;
}

}  // namespace skep::platform::notify
