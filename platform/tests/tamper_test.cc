// Hostile guests against the stub that they live in. Whatever they do, they harm their own process
// only: each test ends with a look at a bystander.
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <csignal>
#include <cstring>
#include <thread>

#include "platform/common/map_call.h"
#include "platform/notify/address_space.h"
#include "platform/notify/context.h"
#include "platform/notify/filters.h"
#include "platform/stub/notify_stub.h"
#include "platform/tests/test_guest.h"

namespace skep::platform::notify {
namespace {

const NotifyAddresses kStub = AddressesOfNotifyStub();

GUEST_CODE(kInt80Loop, "1: int $0x80; jmp 1b");
GUEST_CODE(kSysenter, "1: mov %esp, %ebp; sysenter; jmp 1b");
// Far return to a 32-bit code segment, and calls from there.
GUEST_CODE(kInt80From32,
           "pushq $0x23; lea 1f(%rip), %rcx; push %rcx; lretq\n"
           ".code32; 1: int $0x80; jmp 1b; .code64");
GUEST_CODE(kSyscallFrom32,
           "pushq $0x23; lea 1f(%rip), %rcx; push %rcx; lretq\n"
           ".code32; 1: syscall; jmp 1b; .code64");
GUEST_CODE(kCallRbx, "call *%rbx; syscall; jmp .");
GUEST_CODE(kScribble,
           "1: mov %rcx, %rax; mov %rbx, %rdi; mov %rdx, %rcx; rep stosq\n"
           "mov %rax, %rcx; add $0x11, %rcx; jmp 1b");

GUEST_CODE(kUndefined, "ud2");

GUEST_CODE(kFill,
           "mov $0x5ec5e7, %rax; wrfsbase %rax; wrgsbase %rax; vmovq %rax, %xmm3\n"
           "mov %rax, %r15; mov $39, %eax; syscall; jmp .");

GUEST_CODE(kShow,
           "rdfsbase %rdi; rdgsbase %rsi; vmovq %xmm3, %rdx; mov %r15, %r10; mov $39, %eax\n"
           "syscall; jmp .");

constexpr uint64_t kUretprobe = 335, kUprobe = 336;  // calls (Linux 6.11, 6.18)

class NotifyTamper : public ::testing::Test {
 protected:
  NotifyTamper() {
    bystander_space_ = world_.NewSpace(kSyscallLoop);
    bystander_ = world_.NewGuest(*bystander_space_, {.rax = 1});
  }
  ~NotifyTamper() override {
    guest_.reset();
    space_.reset();
    for (uint64_t i = 2; i < 50; ++i) {
      bystander_->SetReturn(i);
      EXPECT_EQ(SyscallOf(world_.Next(*bystander_)).number, i);
    }
  }
  void NewVictim(const Code& code, const Registers& registers = {}) {
    guest_.reset();
    space_.reset();
    space_ = world_.NewSpace(code);
    guest_ = world_.NewGuest(*space_, registers);
  }
  // How the victim's next run ends: a stop, or nothing if it died.
  std::optional<Stop> Run(uint64_t limit_ns = 20'000 * kMs) {
    guest_->Resume();
    return Outcome(limit_ns);
  }
  std::optional<Stop> Outcome(uint64_t limit_ns = 20'000 * kMs) {
    const uint64_t deadline = host::MonotonicNs() + limit_ns;
    for (;;) {
      Event event = world_.Wait(deadline);
      if (const auto* died = std::get_if<Died>(&event)) {
        EXPECT_EQ(died->space, space_.get());
        why_ = died->why;
        return std::nullopt;
      }
      if (const auto* stopped = std::get_if<Stopped>(&event)) {
        EXPECT_EQ(stopped->context, guest_.get());
        return stopped->context->stop();
      }
      EXPECT_LT(host::MonotonicNs(), deadline);
      if (host::MonotonicNs() >= deadline) return std::nullopt;
    }
  }
  // A frame for rt_sigreturn in the guest's memory, and what leads there.
  Registers ToForgedFrame(const Frame& frame) {
    EXPECT_TRUE(host::PWrite(world_.files.fd(world_.data), std::as_bytes(std::span(&frame, 1)), 0));
    Registers registers = {};
    registers.rip = kStub.after_sigreturn - 2;
    registers.rax = SYS_rt_sigreturn;
    registers.rsp = kDataAt;
    return registers;
  }
  static Frame Forged() {
    Frame frame = {};
    frame.uc_flags = 6;
    frame.cs = 0x33;
    frame.ss = 0x2b;
    frame.rip = kCodeAt;
    frame.rsp = kDataEnd;
    frame.rflags = 0x202;
    frame.stack_flags = 2;  // SS_DISABLE
    return frame;
  }

  World world_{EngineKind::kNotify};
  std::unique_ptr<AddressSpace> bystander_space_, space_;
  std::unique_ptr<Context> bystander_, guest_;
  std::string why_;
};

TEST_F(NotifyTamper, NoCallAtAnyGadget) {
  const uint64_t gadgets[] = {
      kStub.after_futex,      kStub.after_call,           kStub.after_send,
      kStub.after_exit_group, kStub.after_send_listener,  kStub.after_wait_listener,
      kStub.after_wake,       kStub.after_close_listener, kStub.after_sigaltstack,
      kStub.after_seccomp,    kStub.after_manager,        kStub.after_event,
      kStub.after_sigreturn};
  for (const uint64_t gadget : gadgets) {
    std::vector<uint64_t> numbers = {kEventCall, kManagerCall};
    for (uint64_t n = 0; n <= 600; ++n) numbers.push_back(n);
    for (const uint64_t number : numbers) {
      const bool is_return = gadget == kStub.after_sigreturn && number == SYS_rt_sigreturn;
      Registers start = {};
      start.rip = gadget - 2;
      start.rax = number;
      start.rdi = kCodeAt, start.rsi = kPageSize, start.rdx = 7;
      NewVictim(kSyscallLoop, start);
      const std::optional<Stop> stop = Run();
      if (is_return) continue;
      // The host lets uprobe calls pass every filter, takes them from its own pages only (SIGILL,
      // ENXIO), and the guest goes on into whatever follows the gadget.
      const bool is_probe = number == kUretprobe || number == kUprobe;
      if (is_probe && stop) {
        EXPECT_TRUE(std::holds_alternative<FaultStop>(*stop)) << number;
        continue;
      }
      EXPECT_FALSE(stop) << number;
      const bool is_event = gadget == kStub.after_event && number == kEventCall;
      EXPECT_NE(why_.find(is_event ? "forged" : "signal 31"), std::string::npos)
          << number << " at " << gadget - kStub.begin << ": " << why_;
    }
  }
}

// As stub code makes it, argument by argument, but by a guest.
TEST_F(NotifyTamper, NoCallOfTheStubsOwn) {
  struct {
    uint64_t at, number, args[6];
  } const calls[] = {
      {kStub.after_call, SYS_mmap, {kCodeAt, kPageSize, 7, kMapFlags, kStubMemory, 0}},
      {kStub.after_call, SYS_munmap, {kCodeAt, kPageSize}},
      {kStub.after_call, SYS_clone, {kCloneThread}},
      {kStub.after_call, SYS_prctl, {PR_SET_PDEATHSIG, SIGKILL}},
      {kStub.after_send, SYS_sendto, {kStubSocket, kNotifyShared + 0xb00, 1, 0x4000}},
      {kStub.after_send_listener, SYS_sendmsg, {kStubSocket, kNotifyShared + 0xa00, 0x4000}},
      {kStub.after_close_listener, SYS_close, {kListenerSlot}},
      {kStub.after_seccomp, SYS_seccomp, {1, 40, kNotifyShared}},
      {kStub.after_manager, kManagerCall, {62, 0}},
      {kStub.after_exit_group, SYS_exit_group, {0}},
  };
  for (const auto& call : calls) {
    Registers start = {};
    start.rip = call.at - 2;
    start.rax = call.number;
    start.rdi = call.args[0], start.rsi = call.args[1], start.rdx = call.args[2];
    start.r10 = call.args[3], start.r8 = call.args[4], start.r9 = call.args[5];
    NewVictim(kSyscallLoop, start);
    EXPECT_FALSE(Run()) << call.number;
    EXPECT_NE(why_.find("signal 31"), std::string::npos) << call.number << ": " << why_;
  }
}

// Wherever in the stub's code a guest goes, with wild registers.
TEST_F(NotifyTamper, NoEntryIntoTheStubsCode) {
  for (uint64_t at = kStub.begin; at < kStub.end; ++at) {
    Registers start = {};
    start.rip = at;
    start.rax = SYS_getpid;
    start.rbx = start.rdx = start.rdi = kDataAt;
    start.rbp = 1;
    NewVictim(kSyscallLoop, start);
    const std::optional<Stop> stop = Run();
    if (stop) {
      EXPECT_TRUE(std::holds_alternative<FaultStop>(*stop)) << at - kStub.begin;
    }
  }
}

TEST_F(NotifyTamper, OtherAbisAreStops) {
  for (const Code& code : {kInt80Loop, kSysenter, kInt80From32, kSyscallFrom32}) {
    for (uint64_t number = 0; number <= 600; number += 1) {
      if (number == 0) NewVictim(code, {.rax = number});
      const std::optional<Stop> stop = Run();
      ASSERT_TRUE(stop) << why_;
      const auto* call = std::get_if<SyscallStop>(&*stop);
      if (call == nullptr) break;  // not in this CPU: an exception
      EXPECT_TRUE(call->compat);
      EXPECT_EQ(call->number, number);
      ASSERT_TRUE(guest_->Load(LoadXsave::kNo));
      // sysenter returns to where the host's vDSO would be.
      if (&code == &kSysenter || number == 0) guest_->registers().rip = kCodeAt;
      guest_->registers().rsp = kDataEnd;
      guest_->registers().rip = kCodeAt;
      guest_->registers().rax = number + 1;
    }
  }
}

TEST_F(NotifyTamper, TheVsyscallPageIsNoWayOut) {
  for (uint64_t at = 0xffff'ffff'ff60'0000; at < 0xffff'ffff'ff60'0c00; at += 0x100) {
    Registers start = {};
    start.rbx = at;
    start.rdi = start.rsi = kDataAt;
    NewVictim(kCallRbx, start);
    const std::optional<Stop> stop = Run();
    ASSERT_TRUE(stop);
    if (const auto* call = std::get_if<SyscallStop>(&*stop)) {
      EXPECT_EQ(call->args[0], kDataAt);
      EXPECT_EQ(call->ip, kCodeAt + 2);
    }
  }
}

TEST_F(NotifyTamper, AForgedEventIsTheGuestsOwnHarm) {
  for (const uint64_t frame : {uint64_t{0}, kDataAt, kNotifyStacks - 16, kNotifyStacks + 8,
                               kNotifyStacks + 64, ~uint64_t{15}, kNotifyStacks + (1 << 20)}) {
    for (const uint64_t signo : {SIGUSR1, SIGSEGV, SIGSYS, SIGKILL, 0, 1000}) {
      Registers start = {};
      start.rip = kStub.after_event - 2;
      start.rax = kEventCall;
      start.rdi = signo;
      start.rdx = frame;
      start.rsi = frame + offsetof(Frame, info);
      NewVictim(kSyscallLoop, start);
      EXPECT_FALSE(Run()) << frame;
      EXPECT_NE(why_.find("forged"), std::string::npos) << why_;
    }
  }
}

// A mask that blocks everything: its calls are still ours, and it cannot make Load wait.
TEST_F(NotifyTamper, AForgedMaskEndsTheGuest) {
  NewVictim(kSyscallLoop);
  Frame frame = Forged();
  frame.mask = ~uint64_t{0};
  frame.rax = SYS_getpid;
  guest_.reset();
  guest_ = world_.NewGuest(*space_, ToForgedFrame(frame));
  const std::optional<Stop> stop = Run();
  ASSERT_TRUE(stop);
  EXPECT_EQ(SyscallOf(*stop).number, uint64_t{SYS_getpid});
  const uint64_t start = host::MonotonicNs();
  EXPECT_EQ(guest_->Load(LoadXsave::kNo).error(), Errno(EIO));
  EXPECT_LT(host::MonotonicNs() - start, 20'000 * kMs);
  EXPECT_FALSE(Outcome());
}

TEST_F(NotifyTamper, AForgedMaskAndNoCallsEndsTheGuest) {
  NewVictim(kSpin);
  Frame frame = Forged();
  frame.mask = ~uint64_t{0};
  guest_.reset();
  guest_ = world_.NewGuest(*space_, ToForgedFrame(frame));
  guest_->Resume();
  EXPECT_TRUE(std::holds_alternative<Woken>(world_.Wait(host::MonotonicNs() + 10 * kMs)));
  guest_->Interrupt();
  EXPECT_TRUE(std::holds_alternative<Woken>(world_.Wait(host::MonotonicNs() + 10 * kMs)));
  space_->Kill();
  EXPECT_FALSE(Outcome());
}

TEST_F(NotifyTamper, AForgedStackEndsTheGuest) {
  NewVictim(kUndefined);
  Frame frame = Forged();
  frame.stack_base = kDataAt;
  frame.stack_size = kDataSize;
  frame.stack_flags = 0;
  guest_.reset();
  guest_ = world_.NewGuest(*space_, ToForgedFrame(frame));
  EXPECT_FALSE(Run());
  EXPECT_NE(why_.find("forged"), std::string::npos) << why_;
}

TEST_F(NotifyTamper, AWildFrameIsAFault) {
  for (int i = 0; i < 64; ++i) {
    NewVictim(kSyscallLoop);
    Frame frame = Forged();
    frame.cs = static_cast<uint16_t>(i * 8 + 3);
    frame.ss = static_cast<uint16_t>(i * 16);
    frame.rflags = ~uint64_t{0} & ~uint64_t{0x100};
    frame.fpstate = kDataAt + 64 * static_cast<uint64_t>(i);
    guest_.reset();
    guest_ = world_.NewGuest(*space_, ToForgedFrame(frame));
    (void)Run();  // a stop of some kind, or its end
  }
}

// One thread changes the frames of another all the time.
TEST_F(NotifyTamper, ScribblingOverFrames) {
  int died = 0;
  for (int round = 0; round < 30; ++round) {
    NewVictim(kSyscallLoop, {.rax = SYS_getpid});
    Registers scribbler = {};
    const HostFileId text = world_.files.NewMemory(kPageSize);
    ASSERT_TRUE(host::PWrite(world_.files.fd(text), std::as_bytes(std::span(kScribble)), 0));
    const MapOp op = {
        MapOp::Kind::kMap, PROT_READ | PROT_EXEC, false, 0x80'0000, kPageSize, text, 0};
    ASSERT_EQ(space_->Apply({&op, 1}).error, 0);
    scribbler.rip = 0x80'0000;
    scribbler.rbx = kNotifyStacks;
    scribbler.rdx = 4096 / 8;
    scribbler.rcx = static_cast<uint64_t>(round);
    auto other = world_.NewGuest(*space_, scribbler);
    other->Resume();
    bool dead = false;
    for (int i = 0; i < 200 && !dead; ++i) {
      guest_->Resume();
      for (;;) {
        const Event event = world_.Wait(host::MonotonicNs() + 500 * kMs);
        if (std::holds_alternative<Died>(event) || std::holds_alternative<Woken>(event)) {
          dead = true;
          break;
        }
        Context* const stopped = std::get<Stopped>(event).context;
        (void)stopped->Load(LoadXsave::kYes);
        if (stopped == guest_.get()) break;
        other->Resume();
      }
    }
    died += dead;
    space_->Kill();
    other.reset();
  }
  printf("%d of 30 died\n", died);
}

TEST_F(NotifyTamper, ADeadStubIsNotReused) {
  for (int i = 0; i < 20; ++i) {
    NewVictim(kSyscallLoop, {.rax = 7});
    EXPECT_EQ(SyscallOf(*Run()).number, 7u);
    const pid_t pid = static_cast<NotifySpace&>(*space_).stub().pid();
    guest_.reset();
    space_.reset();  // to the pool
    kill(pid, SIGKILL);
    siginfo_t info;
    ASSERT_EQ(waitid(P_PID, static_cast<id_t>(pid), &info, WEXITED | WNOWAIT), 0);
  }
}

// A thread that another process had is as new: registers, vectors, segment bases.
TEST_F(NotifyTamper, APooledStubTellsNothing) {
  NewVictim(kFill);
  (void)Run();
  const pid_t pid = static_cast<NotifySpace&>(*space_).stub().pid();
  NewVictim(kShow);
  const SyscallStop call = SyscallOf(*Run());
  EXPECT_EQ(static_cast<NotifySpace&>(*space_).stub().pid(), pid);  // it is the same
  for (const size_t arg : {0u, 1u, 2u, 3u}) EXPECT_EQ(call.args[arg], 0u) << arg;
}

}  // namespace
}  // namespace skep::platform::notify
