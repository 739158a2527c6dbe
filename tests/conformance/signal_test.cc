// Signals: dispositions, delivery order, masks, siginfo, queues and the kill family.
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/time.h>

#include <atomic>
#include <cstring>
#include <thread>
#include <vector>

#include "tests/util/matchers.h"
#include "tests/util/process.h"

namespace skep::test {
namespace {

volatile sig_atomic_t g_count = 0;
siginfo_t g_info;
int g_order[64];

void CountSignal(int) { g_count = g_count + 1; }
void NoteInfo(int, siginfo_t* info, void*) {
  g_info = *info;
  g_count = g_count + 1;
}
void NoteOrder(int signo) {
  g_order[g_count] = signo;
  g_count = g_count + 1;
}

bool Pending(int signo) {
  sigset_t set;
  sigpending(&set);
  return sigismember(&set, signo);
}
bool Blocked(int signo) {
  sigset_t set;
  pthread_sigmask(SIG_BLOCK, nullptr, &set);
  return sigismember(&set, signo);
}

TEST(Signal, DefaultActions) {
  for (int signo = 1; signo <= 64; ++signo) {
    if (signo == 32 || signo == 33) continue;  // libc's own
    const int status = ForkAndRun([signo] {
      signal(signo, SIG_DFL);
      const rlimit no_core = {0, 0};
      setrlimit(RLIMIT_CORE, &no_core);
      if (signo != SIGSTOP && signo != SIGTSTP && signo != SIGTTIN && signo != SIGTTOU) {
        kill(getpid(), signo);
      }
    });
    switch (signo) {
      case SIGCHLD:
      case SIGCONT:
      case SIGURG:
      case SIGWINCH:
      case SIGSTOP:
      case SIGTSTP:
      case SIGTTIN:
      case SIGTTOU:
        EXPECT_THAT(status, ExitsWith(0)) << signo;
        break;
      default:
        EXPECT_THAT(status, KilledBy(signo)) << signo;
    }
  }
}

TEST(Signal, EveryCatchableSignalIsCaught) {
  for (int signo = 1; signo <= 64; ++signo) {
    if (signo == 32 || signo == 33 || signo == SIGKILL || signo == SIGSTOP) continue;
    g_count = 0;
    const ScopedSignalHandler handler(signo, CountSignal);
    EXPECT_THAT(kill(getpid(), signo), Succeeds());
    EXPECT_EQ(g_count, 1) << signo;
  }
}

TEST(Signal, IgnoredSignalsVanish) {
  const ScopedSignalHandler ignore(SIGUSR1, SIG_IGN);
  raise(SIGUSR1);
  const ScopedSignalMask mask(SIG_BLOCK, {SIGUSR1});
  raise(SIGUSR1);
  EXPECT_TRUE(Pending(SIGUSR1)) << "blocked and ignored: kept until it is unblocked";
}

TEST(Signal, IgnoringDiscardsWhatIsPending) {
  const ScopedSignalMask mask(SIG_BLOCK, {SIGUSR1});
  const ScopedSignalHandler handler(SIGUSR1, CountSignal);
  raise(SIGUSR1);
  EXPECT_TRUE(Pending(SIGUSR1));
  signal(SIGUSR1, SIG_IGN);
  EXPECT_FALSE(Pending(SIGUSR1));
}

TEST(Signal, StandardSignalsDoNotQueue) {
  g_count = 0;
  const ScopedSignalHandler handler(SIGUSR1, CountSignal);
  {
    const ScopedSignalMask mask(SIG_BLOCK, {SIGUSR1});
    raise(SIGUSR1);
    raise(SIGUSR1);
    EXPECT_EQ(g_count, 0);
  }
  EXPECT_EQ(g_count, 1);
}

std::vector<int> g_values;
TEST(Signal, RealTimeSignalsQueueInOrder) {
  g_values.clear();
  const ScopedSignalHandler handler(
      SIGRTMIN, [](int, siginfo_t* info, void*) { g_values.push_back(info->si_value.sival_int); });
  {
    const ScopedSignalMask mask(SIG_BLOCK, {SIGRTMIN});
    for (int i = 0; i < 5; ++i) {
      EXPECT_THAT(sigqueue(getpid(), SIGRTMIN, sigval{.sival_int = i}), Succeeds());
    }
  }
  EXPECT_EQ(g_values, (std::vector<int>{0, 1, 2, 3, 4}));
}

TEST(Signal, LowestNumberIsDeliveredFirst) {
  g_count = 0;
  const std::initializer_list<int> all = {SIGRTMIN + 1, SIGRTMIN, SIGUSR2, SIGUSR1};
  const ScopedSignalHandler a(SIGRTMIN + 1, NoteOrder, 0, all);
  const ScopedSignalHandler b(SIGRTMIN, NoteOrder, 0, all);
  const ScopedSignalHandler c(SIGUSR2, NoteOrder, 0, all);
  const ScopedSignalHandler d(SIGUSR1, NoteOrder, 0, all);
  {
    const ScopedSignalMask mask(SIG_BLOCK, all);
    for (const int signo : all) syscall(SYS_tgkill, getpid(), GetTid(), signo);
  }
  ASSERT_EQ(g_count, 4);
  // Frames nest: without the handlers' masks the lowest would be on the stack first and run last.
  EXPECT_EQ(g_order[0], SIGUSR1);
  EXPECT_EQ(g_order[1], SIGUSR2);
  EXPECT_EQ(g_order[2], SIGRTMIN);
  EXPECT_EQ(g_order[3], SIGRTMIN + 1);
}

TEST(Signal, HandlerMaskHoldsWhileItRuns) {
  static bool self_blocked;
  static bool other_blocked;
  {
    const ScopedSignalHandler handler(SIGUSR1,
                                      [](int) {
                                        self_blocked = Blocked(SIGUSR1);
                                        other_blocked = Blocked(SIGHUP);
                                      },
                                      0, {SIGHUP});
    raise(SIGUSR1);
  }
  EXPECT_TRUE(self_blocked);
  EXPECT_TRUE(other_blocked);
  EXPECT_FALSE(Blocked(SIGUSR1));
  EXPECT_FALSE(Blocked(SIGHUP));
}

TEST(Signal, NodeferLeavesItselfUnblocked) {
  static bool self_blocked;
  const ScopedSignalHandler handler(
      SIGUSR1, [](int) { self_blocked = Blocked(SIGUSR1); }, SA_NODEFER);
  raise(SIGUSR1);
  EXPECT_FALSE(self_blocked);
}

TEST(Signal, ResethandRunsOnce) {
  const ScopedSignalHandler handler(SIGUSR1, CountSignal, SA_RESETHAND);
  g_count = 0;
  raise(SIGUSR1);
  EXPECT_EQ(g_count, 1);
  struct sigaction action;
  EXPECT_THAT(sigaction(SIGUSR1, nullptr, &action), Succeeds());
  EXPECT_EQ(action.sa_handler, SIG_DFL);
}

TEST(Sigaction, ReturnsWhatWasSet) {
  struct sigaction old;
  const ScopedSignalHandler handler(SIGUSR1, NoteInfo, SA_RESTART | SA_ONSTACK, {SIGHUP, SIGINT});
  ASSERT_THAT(sigaction(SIGUSR1, nullptr, &old), Succeeds());
  EXPECT_EQ(old.sa_sigaction, NoteInfo);
  EXPECT_EQ(old.sa_flags & ~0x04000000, SA_RESTART | SA_ONSTACK | SA_SIGINFO);
  EXPECT_TRUE(sigismember(&old.sa_mask, SIGHUP));
  EXPECT_FALSE(sigismember(&old.sa_mask, SIGTERM));
}

TEST(Sigaction, Errors) {
  struct sigaction action = {};
  EXPECT_THAT(sigaction(0, nullptr, &action), FailsWith(EINVAL));
  EXPECT_THAT(sigaction(65, nullptr, &action), FailsWith(EINVAL));
  action.sa_handler = SIG_IGN;
  EXPECT_THAT(sigaction(SIGKILL, &action, nullptr), FailsWith(EINVAL));
  EXPECT_THAT(sigaction(SIGSTOP, &action, nullptr), FailsWith(EINVAL));
  EXPECT_THAT(sigaction(SIGKILL, nullptr, &action), Succeeds());
  EXPECT_THAT(syscall(SYS_rt_sigaction, SIGUSR1, nullptr, &action, 4), FailsWith(EINVAL));
  EXPECT_THAT(syscall(SYS_rt_sigaction, SIGUSR1, kBadAddress, nullptr, 8), FailsWith(EFAULT));
}

TEST(Sigprocmask, KillAndStopCannotBeBlocked) {
  const ScopedSignalMask mask(SIG_BLOCK, {SIGKILL, SIGSTOP, SIGUSR1});
  EXPECT_FALSE(Blocked(SIGKILL));
  EXPECT_FALSE(Blocked(SIGSTOP));
  EXPECT_TRUE(Blocked(SIGUSR1));
}

TEST(Sigprocmask, Errors) {
  const uint64_t set = 0;
  EXPECT_THAT(syscall(SYS_rt_sigprocmask, 9, &set, nullptr, 8), FailsWith(EINVAL));
  EXPECT_THAT(syscall(SYS_rt_sigprocmask, SIG_BLOCK, &set, nullptr, 16), FailsWith(EINVAL));
  EXPECT_THAT(syscall(SYS_rt_sigprocmask, SIG_BLOCK, kBadAddress, nullptr, 8), FailsWith(EFAULT));
  EXPECT_THAT(syscall(SYS_rt_sigprocmask, 9, nullptr, nullptr, 8), Succeeds()) << "how is unused";
}

TEST(Siginfo, OfKillTgkillAndSigqueue) {
  const ScopedSignalHandler handler(SIGUSR1, NoteInfo);
  kill(getpid(), SIGUSR1);
  EXPECT_EQ(g_info.si_signo, SIGUSR1);
  EXPECT_EQ(g_info.si_code, SI_USER);
  EXPECT_EQ(g_info.si_pid, getpid());
  EXPECT_EQ(g_info.si_uid, getuid());
  syscall(SYS_tgkill, getpid(), GetTid(), SIGUSR1);
  EXPECT_EQ(g_info.si_code, SI_TKILL);
  EXPECT_EQ(g_info.si_pid, getpid());
  sigqueue(getpid(), SIGUSR1, sigval{.sival_ptr = &g_info});
  EXPECT_EQ(g_info.si_code, SI_QUEUE);
  EXPECT_EQ(g_info.si_value.sival_ptr, &g_info);
}

TEST(Siginfo, OfAChildsSignal) {
  const ScopedSignalHandler handler(SIGUSR1, NoteInfo, SA_RESTART);
  const pid_t parent = getpid();
  ChildProcess child([parent] { kill(parent, SIGUSR1); });
  const pid_t id = child.pid();
  EXPECT_THAT(child.Wait(), ExitsWith(0));
  EXPECT_EQ(g_info.si_pid, id);
}

TEST(RtSigqueueinfo, MayNotPoseAsTheKernelToOthers) {
  ChildProcess child([] {
    for (;;) pause();
  });
  siginfo_t info = {};
  info.si_code = SI_USER;
  EXPECT_THAT(syscall(SYS_rt_sigqueueinfo, child.pid(), SIGUSR1, &info), FailsWith(EPERM));
  info.si_code = SI_TKILL;
  EXPECT_THAT(syscall(SYS_rt_sigqueueinfo, child.pid(), SIGUSR1, &info), FailsWith(EPERM));
  info.si_code = SI_QUEUE;
  EXPECT_THAT(syscall(SYS_rt_sigqueueinfo, child.pid(), SIGTERM, &info), Succeeds());
  EXPECT_THAT(child.Wait(), KilledBy(SIGTERM));
  EXPECT_THAT(syscall(SYS_rt_sigqueueinfo, 0x7ffffff, SIGUSR1, &info), FailsWith(ESRCH));
  EXPECT_THAT(syscall(SYS_rt_sigqueueinfo, getpid(), SIGUSR1, kBadAddress), FailsWith(EFAULT));
}

TEST(RtTgsigqueueinfo, ReachesTheThread) {
  const ScopedSignalHandler handler(SIGUSR1, NoteInfo);
  siginfo_t info = {};
  info.si_code = SI_QUEUE;
  info.si_value.sival_int = 99;
  EXPECT_THAT(syscall(SYS_rt_tgsigqueueinfo, getpid(), GetTid(), SIGUSR1, &info), Succeeds());
  EXPECT_EQ(g_info.si_value.sival_int, 99);
  EXPECT_THAT(syscall(SYS_rt_tgsigqueueinfo, getpid(), 0x7ffffff, SIGUSR1, &info),
              FailsWith(ESRCH));
}

TEST(Kill, Errors) {
  EXPECT_THAT(kill(0x7ffffff, 0), FailsWith(ESRCH));
  EXPECT_THAT(kill(getpid(), 65), FailsWith(EINVAL));
  EXPECT_THAT(kill(getpid(), -1), FailsWith(EINVAL));
  EXPECT_THAT(kill(-0x7ffffff, SIGTERM), FailsWith(ESRCH));
  EXPECT_THAT(kill(INT32_MIN, 0), FailsWith(ESRCH));
  EXPECT_THAT(kill(getpid(), 0), Succeeds());
}

TEST(Kill, AnotherUsersProcessIsRefused) {
  REQUIRE_ROOT();
  const pid_t parent = getpid();
  EXPECT_THAT(ForkAndRun([parent] {
                ASSERT_THAT(setresuid(1234, 1234, 1234), Succeeds());
                EXPECT_THAT(kill(parent, 0), FailsWith(EPERM));
                EXPECT_THAT(kill(getpid(), 0), Succeeds());
              }),
              ExitsWith(0));
}

TEST(Kill, ContinueIsAllowedWithinTheSession) {
  REQUIRE_ROOT();
  const pid_t parent = getpid();
  EXPECT_THAT(ForkAndRun([parent] {
                ASSERT_THAT(setresuid(1234, 1234, 1234), Succeeds());
                EXPECT_THAT(kill(parent, SIGCONT), Succeeds());
              }),
              ExitsWith(0));
}

TEST(Kill, MinusOneReachesAllOnesProcessesButOneself) {
  REQUIRE_ROOT();
  EXPECT_THAT(ForkAndRun([] {
                ASSERT_THAT(setresuid(54'323, 54'323, 54'323), Succeeds());
                const auto wait = [] {
                  setsid();
                  for (;;) pause();
                };
                ChildProcess first(wait);
                ChildProcess second(wait);
                EXPECT_THAT(kill(-1, SIGTERM), Succeeds());
                EXPECT_THAT(first.Wait(), KilledBy(SIGTERM));
                EXPECT_THAT(second.Wait(), KilledBy(SIGTERM));
              }),
              ExitsWith(0));
}

TEST(Delivery, AProcessSignalGoesToAThreadThatTakesIt) {
  static std::atomic<pid_t> handled;
  handled = 0;
  const ScopedSignalHandler handler(SIGUSR2, [](int) { handled = GetTid(); });
  std::atomic<pid_t> tid = 0;
  std::atomic<bool> stop = false;
  std::thread thread([&] {
    tid = GetTid();
    while (!stop) sched_yield();
  });
  while (tid == 0) sched_yield();
  {
    const ScopedSignalMask mask(SIG_BLOCK, {SIGUSR2});
    EXPECT_THAT(kill(getpid(), SIGUSR2), Succeeds());
    EXPECT_TRUE(WaitUntil([&] { return handled != 0; }));
  }
  EXPECT_EQ(handled, tid);
  stop = true;
  thread.join();
}

TEST(Delivery, ReachesAComputingThread) {
  g_count = 0;
  const ScopedSignalHandler handler(SIGALRM, CountSignal);
  const itimerval soon = {{0, 0}, {0, 5'000}};
  ASSERT_THAT(setitimer(ITIMER_REAL, &soon, nullptr), Succeeds());
  while (g_count == 0) asm volatile("" ::: "memory");
  EXPECT_EQ(g_count, 1);
}

TEST(Sigpending, ShowsThreadAndProcessSignals) {
  const ScopedSignalHandler handler(SIGUSR1, CountSignal);
  const ScopedSignalHandler handler2(SIGUSR2, CountSignal);
  const ScopedSignalMask mask(SIG_BLOCK, {SIGUSR1, SIGUSR2});
  kill(getpid(), SIGUSR1);
  syscall(SYS_tgkill, getpid(), GetTid(), SIGUSR2);
  EXPECT_TRUE(Pending(SIGUSR1));
  EXPECT_TRUE(Pending(SIGUSR2));
  bool process = false;
  bool thread = true;
  std::thread([&] {
    process = Pending(SIGUSR1);
    thread = Pending(SIGUSR2);
  }).join();
  EXPECT_TRUE(process);
  EXPECT_FALSE(thread);
}

TEST(Limit, SigpendingBoundsTheQueue) {
  REQUIRE_ROOT();
  EXPECT_THAT(ForkAndRun([] {
                const rlimit two = {2, 2};
                ASSERT_THAT(setresuid(54321, 54321, 54321), Succeeds());
                ASSERT_THAT(setrlimit(RLIMIT_SIGPENDING, &two), Succeeds());
                const ScopedSignalMask mask(SIG_BLOCK, {SIGRTMIN});
                EXPECT_THAT(sigqueue(getpid(), SIGRTMIN, sigval{}), Succeeds());
                EXPECT_THAT(sigqueue(getpid(), SIGRTMIN, sigval{}), Succeeds());
                EXPECT_THAT(sigqueue(getpid(), SIGRTMIN, sigval{}), FailsWith(EAGAIN));
                _exit(testing::Test::HasFailure());
              }),
              ExitsWith(0));
}

}  // namespace
}  // namespace skep::test
