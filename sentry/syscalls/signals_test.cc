// Signals: every default action, handlers and their frames, and what becomes of the call that a
// signal interrupts.
#include <sys/wait.h>

#include "sentry/syscalls/abi.h"
#include "sentry/syscalls/test_kernel.h"

namespace skep::syscalls {
namespace {

using Guest = TestKernel::Guest;

constexpr uint64_t kHandler = TestKernel::kProgram + 0x800;
constexpr uint64_t kRestorer = TestKernel::kProgram + 0x900;
constexpr uint64_t kSaRestorer = 0x04000000;
constexpr uint64_t kSetSize = 8;
constexpr uint64_t kAnyChild = ~uint64_t{0};

enum class Action : uint8_t { kEnd, kIgnore, kStop, kContinue };

// signal(7).
Action DefaultOf(int signo) {
  switch (signo) {
    case SIGCHLD:
    case SIGURG:
    case SIGWINCH:
      return Action::kIgnore;
    case SIGSTOP:
    case SIGTSTP:
    case SIGTTIN:
    case SIGTTOU:
      return Action::kStop;
    case SIGCONT:
      return Action::kContinue;
    default:
      return Action::kEnd;
  }
}

uint64_t Number(int value) { return static_cast<uint64_t>(value); }

void SetHandler(Guest& guest, int signo, uint64_t handler, uint64_t flags = 0, uint64_t mask = 0) {
  const uint64_t at = guest.Allocate(sizeof(AbiSigaction));
  guest.Put(at, AbiSigaction{handler, flags | kSaRestorer, kRestorer, mask});
  ASSERT_EQ(guest.Run(SYS_rt_sigaction, {Number(signo), at, 0, kSetSize}), 0) << signo;
}
void Block(Guest& guest, uint64_t set) {
  const uint64_t at = guest.Allocate(8);
  guest.Put(at, set);
  ASSERT_EQ(guest.Run(SYS_rt_sigprocmask, {SIG_SETMASK, at, 0, kSetSize}), 0);
}
uint64_t Pending(Guest& guest) {
  const uint64_t at = guest.Allocate(8);
  EXPECT_EQ(guest.Run(SYS_rt_sigpending, {at, kSetSize}), 0);
  return guest.Get<uint64_t>(at);
}
constexpr uint64_t Bit(int signo) { return uint64_t{1} << (signo - 1); }
bool InHandler(Guest& guest) {
  return TestKernel::WaitFor([&] { return guest.IsDone(); }) && guest.registers().rip == kHandler;
}
// What the handler's `ret` and the restorer do.
void ReturnFromHandler(Guest& guest) {
  guest.registers().rsp += 8;
  guest.registers().rip = kRestorer;
  guest.Begin(SYS_rt_sigreturn);
  ASSERT_TRUE(TestKernel::WaitFor([&] { return guest.IsDone(); }));
}

TEST(Signals, DefaultActions) {
  TestKernel kernel;
  Guest init = kernel.init();
  const uint64_t status = init.Allocate(4);
  for (int signo = 1; signo <= 64; ++signo) {
    Guest child = init.Fork();
    const uint64_t pid = Number(child.tid());
    ASSERT_EQ(child.Run(SYS_setpgid, {0, 0}),
              0);  // init's own group is orphaned: no terminal stops
    ASSERT_EQ(init.Run(SYS_kill, {pid, Number(signo)}), 0) << signo;
    switch (DefaultOf(signo)) {
      case Action::kEnd:
        EXPECT_EQ(init.Run(SYS_wait4, {kAnyChild, status, 0, 0}), child.tid()) << signo;
        EXPECT_EQ(init.Get<int32_t>(status) & 0x7f, signo);
        continue;
      case Action::kStop:
        EXPECT_EQ(init.Run(SYS_wait4, {kAnyChild, status, WUNTRACED, 0}), child.tid()) << signo;
        EXPECT_EQ(init.Get<int32_t>(status), signo << 8 | 0x7f);
        ASSERT_EQ(init.Run(SYS_kill, {pid, SIGCONT}), 0);
        EXPECT_EQ(init.Run(SYS_wait4, {kAnyChild, status, WCONTINUED, 0}), child.tid()) << signo;
        EXPECT_EQ(init.Get<int32_t>(status), 0xffff);
        break;
      case Action::kIgnore:
      case Action::kContinue:
        break;
    }
    EXPECT_EQ(child.Run(SYS_getpid), child.tid()) << signo;
    EXPECT_EQ(init.Run(SYS_wait4, {kAnyChild, status, WNOHANG, 0}), 0) << signo;
    child.Begin(SYS_exit_group, {0});
    EXPECT_EQ(init.Run(SYS_wait4, {kAnyChild, status, 0, 0}), child.tid());
  }
}

TEST(Signals, IgnoredOrCaughtTheyLeaveTheProcessAlone) {
  TestKernel kernel;
  Guest init = kernel.init();
  for (int signo = 1; signo <= 64; ++signo) {
    if (signo == SIGKILL || signo == SIGSTOP) continue;
    Guest child = init.Fork();
    const uint64_t pid = Number(child.tid());
    SetHandler(child, signo, 1);  // SIG_IGN
    ASSERT_EQ(init.Run(SYS_kill, {pid, Number(signo)}), 0);
    EXPECT_EQ(child.Run(SYS_getpid), child.tid()) << signo;
    SetHandler(child, signo, kHandler);
    const platform::Registers before = child.registers();
    ASSERT_EQ(init.Run(SYS_kill, {pid, Number(signo)}), 0);
    ASSERT_TRUE(InHandler(child)) << signo;
    EXPECT_EQ(child.registers().rdi, Number(signo));
    EXPECT_EQ(child.Get<uint64_t>(child.registers().rsp), kRestorer);
    ReturnFromHandler(child);
    EXPECT_EQ(child.registers().rip, before.rip) << signo;
    EXPECT_EQ(child.registers().rsp, before.rsp) << signo;
    child.Begin(SYS_exit_group, {0});
    EXPECT_EQ(init.Run(SYS_wait4, {kAnyChild, 0, 0, 0}), child.tid());
  }
}

TEST(Signals, KillAndStopCannotBeCaughtOrBlocked) {
  TestKernel kernel;
  Guest init = kernel.init();
  const uint64_t at = init.Allocate(sizeof(AbiSigaction));
  init.Put(at, AbiSigaction{kHandler, kSaRestorer, kRestorer, 0});
  EXPECT_EQ(init.Run(SYS_rt_sigaction, {SIGKILL, at, 0, kSetSize}), -EINVAL);
  EXPECT_EQ(init.Run(SYS_rt_sigaction, {SIGSTOP, at, 0, kSetSize}), -EINVAL);
  EXPECT_EQ(init.Run(SYS_rt_sigaction, {0, at, 0, kSetSize}), -EINVAL);
  EXPECT_EQ(init.Run(SYS_rt_sigaction, {65, at, 0, kSetSize}), -EINVAL);
  Guest child = init.Fork();
  Block(child, ~uint64_t{0});
  ASSERT_EQ(init.Run(SYS_kill, {Number(child.tid()), SIGKILL}), 0);
  const uint64_t status = init.Allocate(4);
  EXPECT_EQ(init.Run(SYS_wait4, {kAnyChild, status, 0, 0}), child.tid());
  EXPECT_EQ(init.Get<int32_t>(status), SIGKILL);
}

TEST(Signals, BlockedOnesArePendingAndComeLater) {
  TestKernel kernel;
  Guest init = kernel.init();
  Guest child = init.Fork();
  const uint64_t pid = Number(child.tid());
  SetHandler(child, SIGUSR1, kHandler);
  Block(child, Bit(SIGUSR1) | Bit(SIGTERM));
  ASSERT_EQ(init.Run(SYS_kill, {pid, SIGUSR1}), 0);
  ASSERT_EQ(init.Run(SYS_tgkill, {pid, pid, SIGTERM}), 0);
  EXPECT_EQ(Pending(child), Bit(SIGUSR1) | Bit(SIGTERM));
  SetHandler(child, SIGTERM, 1);  // ignoring a pending signal throws it away
  EXPECT_EQ(Pending(child), Bit(SIGUSR1));
  const uint64_t at = child.Allocate(8);
  child.Begin(SYS_rt_sigprocmask, {SIG_SETMASK, at, 0, kSetSize});
  EXPECT_TRUE(InHandler(child));
  ReturnFromHandler(child);
  EXPECT_EQ(child.registers().rax, 0U) << "what rt_sigprocmask answered";
  EXPECT_EQ(Pending(child), 0U);
}

// While a handler runs its signal is blocked, and those of sa_mask are; SA_NODEFER and
// SA_RESETHAND.
TEST(Signals, MasksOfHandlers) {
  TestKernel kernel;
  Guest init = kernel.init();
  Guest child = init.Fork();
  const uint64_t pid = Number(child.tid());
  SetHandler(child, SIGUSR1, kHandler, 0, Bit(SIGUSR2));
  SetHandler(child, SIGUSR2, kHandler);
  ASSERT_EQ(init.Run(SYS_kill, {pid, SIGUSR1}), 0);
  ASSERT_TRUE(InHandler(child));
  const platform::Registers inside = child.registers();
  ASSERT_EQ(init.Run(SYS_kill, {pid, SIGUSR2}), 0);
  EXPECT_EQ(Pending(child), Bit(SIGUSR2));
  child.registers() = inside;
  ReturnFromHandler(child);
  ASSERT_TRUE(InHandler(child)) << "SIGUSR2 comes when SIGUSR1's handler returns";
  EXPECT_EQ(child.registers().rdi, Number(SIGUSR2));
  ReturnFromHandler(child);
  constexpr uint64_t kOnce = SA_NODEFER | SA_RESETHAND;
  SetHandler(child, SIGUSR1, kHandler, kOnce);
  ASSERT_EQ(init.Run(SYS_kill, {pid, SIGUSR1}), 0);
  ASSERT_TRUE(InHandler(child));
  ASSERT_EQ(init.Run(SYS_kill, {pid, SIGUSR1}), 0);  // reset: the default action ends it
  const uint64_t status = init.Allocate(4);
  EXPECT_EQ(init.Run(SYS_wait4, {kAnyChild, status, 0, 0}), child.tid());
  EXPECT_EQ(init.Get<int32_t>(status), SIGUSR1);
}

// --- restart codes
// --------------------------------------------------------------------------------

struct Interrupted {
  uint64_t rip, rax;  // after the handler has returned; rip relative to the call's instruction
};

// A child that blocks in the call is sent SIGUSR1, whose handler has these flags.
Interrupted Interrupt(uint64_t number, std::array<uint64_t, 6> args, uint64_t flags) {
  TestKernel kernel;
  Guest init = kernel.init();
  Guest child = init.Fork();
  const uint64_t fds = child.Allocate(8);
  EXPECT_EQ(child.Run(SYS_pipe2, {fds, 0}), 0);
  const uint64_t hour = child.Allocate(16);
  child.Put(hour, timespec{3600, 0});
  for (uint64_t& arg : args) {
    if (arg == 'p') arg = Number(child.Get<int32_t>(fds));
    if (arg == 't') arg = hour;
    if (arg == 'b') arg = hour + 16;
  }
  SetHandler(child, SIGUSR1, kHandler, flags);
  const uint64_t rip = child.registers().rip;
  child.Begin(number, args);
  EXPECT_EQ(init.Run(SYS_getpid), 1);  // the worker has served the call by now
  EXPECT_FALSE(child.IsDone()) << "call " << number << " does not block";
  EXPECT_EQ(init.Run(SYS_kill, {Number(child.tid()), SIGUSR1}), 0);
  EXPECT_TRUE(InHandler(child)) << number;
  ReturnFromHandler(child);
  return {child.registers().rip - rip, child.registers().rax};
}

constexpr uint64_t kRestarts = 0, kReturns = 2;  // where rip is
constexpr uint64_t kEintr = static_cast<uint64_t>(-EINTR);

TEST(Restart, ReadsRestartIfTheHandlerSaysSo) {  // ERESTARTSYS
  Interrupted seen = Interrupt(SYS_read, {'p', 'b', 16}, SA_RESTART);
  EXPECT_EQ(seen.rip, kRestarts);
  EXPECT_EQ(seen.rax, Number(SYS_read));
  seen = Interrupt(SYS_read, {'p', 'b', 16}, 0);
  EXPECT_EQ(seen.rip, kReturns);
  EXPECT_EQ(seen.rax, kEintr);
}

TEST(Restart, SleepsEndWithEintr) {  // ERESTART_RESTARTBLOCK, ERESTARTNOHAND
  for (const uint64_t flags : {uint64_t{0}, uint64_t{SA_RESTART}}) {
    for (const uint64_t number : {SYS_nanosleep, SYS_pause}) {
      const Interrupted seen = Interrupt(number, {'t', 0}, flags);
      EXPECT_EQ(seen.rip, kReturns) << number;
      EXPECT_EQ(seen.rax, kEintr) << number;
    }
    const Interrupted polled = Interrupt(SYS_poll, {0, 0, ~uint64_t{0}}, flags);
    EXPECT_EQ(polled.rip, kReturns);
    EXPECT_EQ(polled.rax, kEintr);
  }
}

// A stop and SIGCONT without a handler: the call goes on, a sleep by restart_syscall with what is
// left.
TEST(Restart, StoppedCallsGoOn) {
  TestKernel kernel;
  Guest init = kernel.init();
  Guest child = init.Fork();
  const uint64_t pid = Number(child.tid());
  const uint64_t hour = child.Allocate(16);
  child.Put(hour, timespec{3600, 0});
  child.Begin(SYS_nanosleep, {hour, 0});
  ASSERT_EQ(init.Run(SYS_kill, {pid, SIGSTOP}), 0);
  EXPECT_EQ(init.Run(SYS_wait4, {pid, 0, WUNTRACED, 0}), child.tid());
  ASSERT_EQ(init.Run(SYS_kill, {pid, SIGCONT}), 0);
  ASSERT_TRUE(TestKernel::WaitFor([&] { return child.IsDone(); }));
  EXPECT_EQ(child.registers().rax, Number(SYS_restart_syscall));
  ASSERT_EQ(init.Run(SYS_kill, {pid, SIGKILL}), 0);
  EXPECT_EQ(init.Run(SYS_wait4, {pid, 0, 0, 0}), child.tid());
}

}  // namespace
}  // namespace skep::syscalls
