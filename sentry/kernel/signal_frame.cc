#include "sentry/kernel/signal_frame.h"

#include <algorithm>
#include <cstring>

#include "base/limits.h"
#include "base/missing_defs.h"
#include "platform/exceptions.h"
#include "platform/xsave.h"
#include "sentry/kernel/kernel.h"
#include "sentry/kernel/signals.h"

namespace skep::kernel {
namespace {

namespace xsave = platform::xsave;

constexpr uint64_t kUcFpXstate = 1, kUcSigcontextSs = 2, kUcStrictRestoreSs = 4;
constexpr uint64_t kAlwaysThere = xsave::kX87 | xsave::kSse;
constexpr uint64_t kRedZone = 128;
constexpr uint16_t kUserCs = 0x33, kUserSs = 0x2b;
constexpr uint64_t kFlagsFixed = 0x202, kFlagsUser = 0x250dd5;  // what sigreturn may change
constexpr uint64_t kFlagsClear = 0x100 | 0x400 | 0x10000;       // TF, DF, RF at handler entry

// struct sigcontext of x86-64.
struct SigContext {
  uint64_t r8, r9, r10, r11, r12, r13, r14, r15, rdi, rsi, rbp, rbx, rdx, rax, rcx, rsp, rip,
      rflags;
  uint16_t cs, gs, fs, ss;
  uint64_t err, trapno, oldmask, cr2, fpstate;
  uint64_t reserved[8];
};
struct AltStack {
  uint64_t sp;
  uint32_t flags, pad;
  uint64_t size;
};
struct Frame {  // struct rt_sigframe
  uint64_t return_address;
  uint64_t uc_flags, uc_link;
  AltStack uc_stack;
  SigContext context;
  uint64_t mask;
  siginfo_t info;
};
static_assert(sizeof(Frame) == 440);

}  // namespace
}  // namespace skep::kernel

template <>
inline constexpr bool skep::mm::kAbiSafe<skep::kernel::Frame> = true;

namespace skep::kernel {
namespace {

SigContext ToContext(const platform::Registers& r) {
  SigContext c{};
  c.r8 = r.r8, c.r9 = r.r9, c.r10 = r.r10, c.r11 = r.r11, c.r12 = r.r12, c.r13 = r.r13;
  c.r14 = r.r14, c.r15 = r.r15, c.rdi = r.rdi, c.rsi = r.rsi, c.rbp = r.rbp, c.rbx = r.rbx;
  c.rdx = r.rdx, c.rax = r.rax, c.rcx = r.rcx, c.rsp = r.rsp, c.rip = r.rip, c.rflags = r.rflags;
  c.cs = kUserCs, c.ss = kUserSs;
  return c;
}

void FromContext(const SigContext& c, platform::Registers& r) {
  r.r8 = c.r8, r.r9 = c.r9, r.r10 = c.r10, r.r11 = c.r11, r.r12 = c.r12, r.r13 = c.r13;
  r.r14 = c.r14, r.r15 = c.r15, r.rdi = c.rdi, r.rsi = c.rsi, r.rbp = c.rbp, r.rbx = c.rbx;
  r.rdx = c.rdx, r.rax = c.rax, r.rcx = c.rcx, r.rsp = c.rsp, r.rip = c.rip;
  r.rflags = (r.rflags & ~kFlagsUser) | (c.rflags & kFlagsUser) | kFlagsFixed;
}

// Writes the xsave area with Linux's software bytes at `at`.
Result<void> PushXsave(Task& task, std::span<const std::byte> area, uint64_t at) {
  std::vector<std::byte> image(area.begin(), area.end());
  // x87 and SSE are always in the frame.
  const uint64_t features = xsave::ReadAt<uint64_t>(image, xsave::kHeaderAt) | kAlwaysThere;
  xsave::SoftwareBytes software{};
  software.magic1 = xsave::kMagic1;
  software.extended_size = static_cast<uint32_t>(image.size() + sizeof xsave::kMagic2);
  // The frame may hold what the CPU has enabled (XCR0). Linux keeps XCR0 in this same place.
  software.features = xsave::ReadAt<uint64_t>(area, xsave::kSoftwareAt);
  if (software.features == 0) software.features = features;
  software.xstate_size = static_cast<uint32_t>(image.size());
  xsave::WriteAt(image, xsave::kHeaderAt, features);
  xsave::WriteAt(image, xsave::kSoftwareAt, software);
  image.resize(image.size() + sizeof xsave::kMagic2);
  xsave::WriteAt(image, image.size() - sizeof xsave::kMagic2, xsave::kMagic2);
  if (task.mm->CopyOut(mm::UserAddr{at}, image).fault != 0) return Fail(EFAULT);
  return {};
}

// Restores from the guest's frame at `at` into `area`; a frame without extended state restores the
// legacy part only.
Result<void> PopXsave(Task& task, uint64_t at, std::span<std::byte> area) {
  std::vector<std::byte> image(area.size());
  const auto legacy = std::span(image).first(xsave::kLegacySize);
  if (task.mm->CopyIn(mm::UserAddr{at}, legacy).fault != 0) return Fail(EFAULT);
  const auto software = xsave::ReadAt<xsave::SoftwareBytes>(image, xsave::kSoftwareAt);
  bool extended = software.magic1 == xsave::kMagic1 && software.xstate_size >= xsave::kMinSize &&
                  software.xstate_size <= area.size() &&
                  software.extended_size >= software.xstate_size;
  if (extended) {
    uint32_t magic2 = 0;
    const mm::UserAddr tail{at + software.xstate_size};
    if (task.mm->CopyIn(tail, std::as_writable_bytes(std::span(&magic2, 1))).fault != 0) {
      return Fail(EFAULT);
    }
    extended = magic2 == xsave::kMagic2;
  }
  const auto allowed = xsave::ReadAt<uint64_t>(area, xsave::kSoftwareAt);
  uint64_t features = kAlwaysThere;
  if (extended) {
    const auto rest =
        std::span(image).subspan(xsave::kLegacySize, software.xstate_size - xsave::kLegacySize);
    if (task.mm->CopyIn(mm::UserAddr{at + xsave::kLegacySize}, rest).fault != 0)
      return Fail(EFAULT);
    features = xsave::ReadAt<uint64_t>(image, xsave::kHeaderAt) & software.features;
  }
  if (allowed != 0) features &= allowed;
  memset(image.data() + xsave::kHeaderAt, 0, xsave::kHeaderSize);
  xsave::WriteAt(image, xsave::kHeaderAt, features);
  // MXCSR: only bits that exist, as restore refuses others.
  const auto mask = xsave::ReadAt<uint32_t>(area, xsave::kMxcsrMaskAt);
  xsave::WriteAt(image, xsave::kMxcsrAt,
                 xsave::ReadAt<uint32_t>(image, xsave::kMxcsrAt) &
                     (mask != 0 ? mask : xsave::kDefaultMxcsrMask));
  xsave::WriteAt(image, xsave::kSoftwareAt,
                 xsave::ReadAt<xsave::SoftwareBytes>(area, xsave::kSoftwareAt));
  memcpy(area.data(), image.data(), image.size());
  return {};
}

}  // namespace

bool OnAltStack(const Task& task, uint64_t sp) {
  const stack_t& s = task.alt_stack;
  const auto base = reinterpret_cast<uint64_t>(s.ss_sp);
  if ((static_cast<uint32_t>(s.ss_flags) & SS_AUTODISARM) != 0) return false;
  return s.ss_size != 0 && sp > base && sp - base <= s.ss_size;
}

stack_t CurrentAltStack(const Task& task, uint64_t sp) {
  stack_t s = task.alt_stack;
  if (s.ss_size == 0) {
    s.ss_flags |= SS_DISABLE;
  } else if (OnAltStack(task, sp)) {
    s.ss_flags |= SS_ONSTACK;
  }
  return s;
}

Result<void> SetAltStack(Task& task, const stack_t& stack, uint64_t sp, size_t min_size) {
  if (OnAltStack(task, sp)) return Fail(EPERM);
  const auto flags = static_cast<uint32_t>(stack.ss_flags);
  const uint32_t mode = flags & ~SS_AUTODISARM;
  if (mode != SS_DISABLE && mode != SS_ONSTACK && mode != 0) return Fail(EINVAL);
  stack_t s{};
  if (mode == SS_DISABLE) {
    s.ss_flags = static_cast<int>(flags & SS_AUTODISARM);
  } else {
    if (stack.ss_size < min_size) return Fail(ENOMEM);
    s = stack;
    s.ss_flags = static_cast<int>(flags & SS_AUTODISARM);
  }
  task.alt_stack = s;
  return {};
}

Result<void> PushSignalFrame(Task& task, platform::Registers& r, const siginfo_t& info,
                             const SignalAction& action, SignalSet mask) {
  // x86-64 has no other way back (Linux: x64_setup_rt_frame).
  if ((action.flags & kSaRestorer) == 0) return Fail(EFAULT);
  const std::span<const std::byte> area = task.context().xsave();
  const stack_t& alt = task.alt_stack;
  uint64_t sp = r.rsp - kRedZone;
  const bool on_alt = OnAltStack(task, r.rsp);
  const bool enter_alt = (action.flags & SA_ONSTACK) != 0 && alt.ss_size != 0 && !on_alt;
  const auto alt_base = reinterpret_cast<uint64_t>(alt.ss_sp);
  if (enter_alt) sp = alt_base + alt.ss_size;
  const uint64_t fpstate = (sp - area.size() - sizeof xsave::kMagic2) & ~uint64_t{63};
  const uint64_t at = ((fpstate - sizeof(Frame)) & ~uint64_t{15}) - 8;
  if ((on_alt || enter_alt) && at <= alt_base) return Fail(EFAULT);

  Frame frame;
  memset(&frame, 0, sizeof frame);
  frame.return_address = action.restorer;
  frame.uc_flags = kUcFpXstate | kUcSigcontextSs | kUcStrictRestoreSs;
  const stack_t shown = CurrentAltStack(task, r.rsp);
  frame.uc_stack = {reinterpret_cast<uint64_t>(shown.ss_sp), static_cast<uint32_t>(shown.ss_flags),
                    0, shown.ss_size};
  frame.context = ToContext(r);
  if (const auto* fault = std::get_if<platform::FaultStop>(&task.last_stop)) {
    frame.context.err = fault->error_code;
    frame.context.trapno = fault->vector;
    if (fault->vector == platform::kPageFaultVector) frame.context.cr2 = fault->address;
  }
  frame.context.oldmask = mask.bits();
  frame.context.fpstate = fpstate;
  frame.mask = mask.bits();
  if ((action.flags & SA_SIGINFO) != 0) frame.info = info;
  TRY(PushXsave(task, area, fpstate));
  TRY(task.mm->CopyOut(mm::UserPtr<Frame>(at), frame));

  if ((static_cast<uint32_t>(alt.ss_flags) & SS_AUTODISARM) != 0) task.alt_stack = {};
  r.rdi = static_cast<uint64_t>(info.si_signo);
  r.rsi = at + offsetof(Frame, info);
  r.rdx = at + offsetof(Frame, uc_flags);
  r.rax = 0;
  r.rip = action.handler;
  r.rsp = at;
  r.rflags = (r.rflags & ~kFlagsClear) | kFlagsFixed;
  return {};
}

Result<void> PopSignalFrame(Task& task, platform::Registers& r) {
  const Frame frame = TRY(task.mm->CopyIn(mm::UserPtr<const Frame>(r.rsp - 8)));
  SetBlocked(task, SignalSet(frame.mask));
  FromContext(frame.context, r);
  std::span<std::byte> area = task.context().xsave();
  if (frame.context.fpstate != 0) {
    TRY(PopXsave(task, frame.context.fpstate, area));
  } else {
    xsave::Clear(area);  // Linux: fpu__clear_user_states
  }
  stack_t stack{};
  stack.ss_sp = reinterpret_cast<void*>(frame.uc_stack.sp);
  stack.ss_flags = static_cast<int>(frame.uc_stack.flags);
  stack.ss_size = frame.uc_stack.size;
  // Linux ignores what restore_altstack answers, EPERM included.
  (void)SetAltStack(task, stack, r.rsp, 0);
  return {};
}

}  // namespace skep::kernel
