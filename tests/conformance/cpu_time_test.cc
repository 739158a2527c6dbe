// CPU time: who used how much, and what happens when it is used up.
#include <fcntl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/times.h>
#include <sys/wait.h>

#include <atomic>
#include <csignal>
#include <cstring>
#include <ctime>
#include <thread>

#include "tests/util/matchers.h"
#include "tests/util/process.h"

namespace skep::test {
namespace {

constexpr int64_t kMs = 1'000'000;

// Computes without asking the kernel for anything.
void Compute() {
  for (int i = 0; i < 200'000; ++i) asm volatile("" ::: "memory");
}
void ComputeFor(int64_t cpu_ns, clockid_t clock = CLOCK_THREAD_CPUTIME_ID) {
  const int64_t until = NowNs(clock) + cpu_ns;
  while (NowNs(clock) < until) Compute();
}
// Has the kernel do things.
void CallFor(int64_t cpu_ns) {
  const int64_t until = NowNs(CLOCK_THREAD_CPUTIME_ID) + cpu_ns;
  while (NowNs(CLOCK_THREAD_CPUTIME_ID) < until) {
    for (int i = 0; i < 100; ++i) syscall(SYS_getppid);
  }
}
int64_t Ns(const timeval& t) {
  return int64_t{t.tv_sec} * 1'000'000'000 + int64_t{t.tv_usec} * 1000;
}
rusage Usage(int who) {
  rusage usage = {};
  EXPECT_THAT(getrusage(who, &usage), Succeeds());
  return usage;
}

volatile sig_atomic_t g_fired = 0;
void Fired(int) { g_fired = g_fired + 1; }

TEST(CpuTime, ComputingIsUserTimeAndCallsAreSystemTime) {
  const rusage before = Usage(RUSAGE_THREAD);
  ComputeFor(60 * kMs);
  const rusage computed = Usage(RUSAGE_THREAD);
  EXPECT_GE(Ns(computed.ru_utime) - Ns(before.ru_utime), 40 * kMs);
  CallFor(60 * kMs);
  const rusage called = Usage(RUSAGE_THREAD);
  EXPECT_GT(Ns(called.ru_stime) - Ns(computed.ru_stime), 5 * kMs);
}

TEST(CpuTime, AThreadsTimeIsItsOwnAndStaysWithTheProcess) {
  const int64_t process = NowNs(CLOCK_PROCESS_CPUTIME_ID);
  const int64_t mine = NowNs(CLOCK_THREAD_CPUTIME_ID);
  std::thread([] { ComputeFor(50 * kMs); }).join();
  EXPECT_LT(NowNs(CLOCK_THREAD_CPUTIME_ID) - mine, 25 * kMs);
  EXPECT_GE(NowNs(CLOCK_PROCESS_CPUTIME_ID) - process, 45 * kMs);
  EXPECT_GE(Ns(Usage(RUSAGE_SELF).ru_utime), 45 * kMs);
}

TEST(CpuTime, ClocksNeverGoBack) {
  int64_t last = 0;
  const int64_t until = NowNs() + 30 * kMs;
  while (NowNs() < until) {
    const int64_t now = NowNs(CLOCK_THREAD_CPUTIME_ID);
    ASSERT_GE(now, last);
    last = now;
  }
}

TEST(CpuTime, OfChildrenCountsOnceTheyAreWaitedFor) {
  const int64_t before = Ns(Usage(RUSAGE_CHILDREN).ru_utime);
  const pid_t child = fork();
  if (child == 0) {
    ComputeFor(40 * kMs);
    _exit(0);
  }
  siginfo_t info = {};
  ASSERT_THAT(waitid(P_PID, static_cast<id_t>(child), &info, WEXITED | WNOWAIT), Succeeds());
  EXPECT_EQ(Ns(Usage(RUSAGE_CHILDREN).ru_utime), before);
  rusage usage = {};
  EXPECT_THAT(wait4(child, nullptr, 0, &usage), SucceedsWith(child));
  EXPECT_GE(Ns(usage.ru_utime), 30 * kMs);
  EXPECT_GT(usage.ru_maxrss, 0);
  EXPECT_GE(Ns(Usage(RUSAGE_CHILDREN).ru_utime) - before, 30 * kMs);
  tms ticks = {};
  EXPECT_THAT(times(&ticks), Succeeds());
  EXPECT_GE(ticks.tms_cutime, 3);
}

TEST(CpuTime, OfGrandchildrenComesUp) {
  const int64_t before = Ns(Usage(RUSAGE_CHILDREN).ru_utime);
  EXPECT_THAT(
      ForkAndRun([] { EXPECT_THAT(ForkAndRun([] { ComputeFor(40 * kMs); }), ExitsWith(0)); }),
      ExitsWith(0));
  EXPECT_GE(Ns(Usage(RUSAGE_CHILDREN).ru_utime) - before, 30 * kMs);
}

TEST(CpuTime, OfChildrenThatNobodyWaitsForIsNotCounted) {
  EXPECT_THAT(ForkAndRun([] {
                signal(SIGCHLD, SIG_IGN);
                const pid_t child = fork();
                if (child == 0) {
                  ComputeFor(40 * kMs);
                  _exit(0);
                }
                EXPECT_THAT(waitpid(child, nullptr, 0), FailsWith(ECHILD));
                EXPECT_EQ(Ns(Usage(RUSAGE_CHILDREN).ru_utime), 0);
              }),
              ExitsWith(0));
}

TEST(CpuTime, AForkStartsAtZeroAndExecveDoesNot) {
  ComputeFor(30 * kMs);
  EXPECT_THAT(ForkAndRun([] { EXPECT_LT(NowNs(CLOCK_PROCESS_CPUTIME_ID), 25 * kMs); }),
              ExitsWith(0));
  const pid_t child = fork();
  if (child == 0) {
    ComputeFor(60 * kMs);
    execl(TestBinary().c_str(), TestBinary().c_str(), "--helper=used_50_ms", nullptr);
    _exit(9);
  }
  int status = 0;
  EXPECT_THAT(waitpid(child, &status, 0), SucceedsWith(child));
  EXPECT_THAT(status, ExitsWith(0));
}
const Helper kUsed("used_50_ms",
                   [](int, char**) { return NowNs(CLOCK_PROCESS_CPUTIME_ID) >= 50 * kMs ? 0 : 1; });

TEST(CpuTime, ProcStatTellsTicks) {
  ComputeFor(50 * kMs);
  const std::string text = ReadFile("/proc/self/stat");
  const char* at = text.c_str() + text.rfind(')') + 2;
  unsigned long user = 0;
  ASSERT_EQ(sscanf(at, "%*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %lu", &user), 1);
  EXPECT_GE(user, 4u);
}

TEST(CpuTime, SleepsAreVoluntarySwitches) {
  const rusage before = Usage(RUSAGE_THREAD);
  for (int i = 0; i < 5; ++i) {
    const timespec pause = {0, 1 * kMs};
    nanosleep(&pause, nullptr);
  }
  EXPECT_GE(Usage(RUSAGE_THREAD).ru_nvcsw - before.ru_nvcsw, 5);
}

TEST(CpuTime, VirtualAndProfTimersWaitForComputing) {
  for (const auto& [which, signo] :
       {std::pair{ITIMER_VIRTUAL, SIGVTALRM}, {ITIMER_PROF, SIGPROF}}) {
    g_fired = 0;
    const ScopedSignalHandler handler(signo, Fired);
    const auto timer = static_cast<__itimer_which>(which);
    const itimerval soon = {{0, 0}, {0, 40'000}};
    ASSERT_THAT(setitimer(timer, &soon, nullptr), Succeeds());
    const timespec pause = {0, 100 * kMs};
    nanosleep(&pause, nullptr);
    EXPECT_EQ(g_fired, 0) << "sleeping takes no time of " << which;
    itimerval left = {};
    EXPECT_THAT(getitimer(timer, &left), Succeeds());
    EXPECT_GT(left.it_value.tv_usec, 20'000);
    const int64_t start = NowNs(CLOCK_PROCESS_CPUTIME_ID);
    while (g_fired == 0 && NowNs(CLOCK_PROCESS_CPUTIME_ID) - start < 2'000 * kMs) Compute();
    EXPECT_EQ(g_fired, 1);
    EXPECT_GE(NowNs(CLOCK_PROCESS_CPUTIME_ID) - start, 20 * kMs);
    EXPECT_THAT(getitimer(timer, &left), Succeeds());
    EXPECT_EQ(left.it_value.tv_sec + left.it_value.tv_usec, 0);
  }
}

TEST(CpuTime, ATimerWakesAThreadThatNeverCallsTheKernel) {
  g_fired = 0;
  const ScopedSignalHandler handler(SIGPROF, Fired);
  const itimerval often = {{0, 10'000}, {0, 10'000}};
  ASSERT_THAT(setitimer(ITIMER_PROF, &often, nullptr), Succeeds());
  while (g_fired < 3) asm volatile("" ::: "memory");
  const itimerval off = {};
  ASSERT_THAT(setitimer(ITIMER_PROF, &off, nullptr), Succeeds());
}

TEST(CpuTime, PosixTimersOfCpuClocks) {
  for (const clockid_t clock : {CLOCK_PROCESS_CPUTIME_ID, CLOCK_THREAD_CPUTIME_ID}) {
    g_fired = 0;
    const ScopedSignalHandler handler(SIGUSR1, Fired);
    sigevent event = {};
    event.sigev_notify = SIGEV_SIGNAL;
    event.sigev_signo = SIGUSR1;
    timer_t timer;
    ASSERT_THAT(timer_create(clock, &event, &timer), Succeeds());
    const itimerspec soon = {{0, 0}, {0, 30 * kMs}};
    ASSERT_THAT(timer_settime(timer, 0, &soon, nullptr), Succeeds());
    const timespec pause = {0, 80 * kMs};
    nanosleep(&pause, nullptr);
    EXPECT_EQ(g_fired, 0);
    itimerspec left = {};
    EXPECT_THAT(timer_gettime(timer, &left), Succeeds());
    EXPECT_GT(left.it_value.tv_nsec, 10 * kMs);
    const int64_t start = NowNs(clock);
    while (g_fired == 0 && NowNs(clock) - start < 2'000 * kMs) Compute();
    EXPECT_EQ(g_fired, 1);
    EXPECT_THAT(timer_delete(timer), Succeeds());
  }
}

TEST(CpuTime, NanosleepOnTheProcessClockWaitsForOthers) {
  std::atomic<bool> stop = false;
  std::thread worker([&] {
    while (!stop) Compute();
  });
  const int64_t start = NowNs(CLOCK_PROCESS_CPUTIME_ID);
  const timespec pause = {0, 30 * kMs};
  EXPECT_EQ(clock_nanosleep(CLOCK_PROCESS_CPUTIME_ID, 0, &pause, nullptr), 0);
  EXPECT_GE(NowNs(CLOCK_PROCESS_CPUTIME_ID) - start, 30 * kMs);
  stop = true;
  worker.join();
}

TEST(CpuTime, TheHardLimitKills) {
  EXPECT_THAT(ForkAndRun([] {
                const rlimit limit = {1, 1};
                ASSERT_THAT(setrlimit(RLIMIT_CPU, &limit), Succeeds());
                signal(SIGXCPU, SIG_IGN);
                for (;;) asm volatile("" ::: "memory");
              }),
              KilledBy(SIGKILL));
}

TEST(CpuTime, TheSoftLimitGrowsWithEachSignal) {
  EXPECT_THAT(ForkAndRun([] {
                g_fired = 0;
                const ScopedSignalHandler handler(SIGXCPU, Fired);
                const rlimit limit = {1, 10};
                ASSERT_THAT(setrlimit(RLIMIT_CPU, &limit), Succeeds());
                while (g_fired == 0) asm volatile("" ::: "memory");
                rlimit now = {};
                ASSERT_THAT(getrlimit(RLIMIT_CPU, &now), Succeeds());
                EXPECT_EQ(now.rlim_cur, 2u);
              }),
              ExitsWith(0));
}

// The signal comes again and again until the soft limit has caught up; the hard one holds.
TEST(CpuTime, LimitsBelowWhatWasUsed) {
  EXPECT_THAT(ForkAndRun([] {
                g_fired = 0;
                const ScopedSignalHandler handler(SIGXCPU, Fired);
                const rlimit used = {2, 10};
                ASSERT_THAT(setrlimit(RLIMIT_CPU, &used), Succeeds());
                while (g_fired == 0) asm volatile("" ::: "memory");
                g_fired = 0;
                const rlimit less = {1, 3};
                ASSERT_THAT(setrlimit(RLIMIT_CPU, &less), Succeeds());
                alarm(30);
                for (;;) asm volatile("" ::: "memory");
              }),
              KilledBy(SIGKILL));
}

TEST(CpuTime, ClockErrors) {
  timespec ts;
  const auto process_clock = [](pid_t pid) { return static_cast<clockid_t>(~pid << 3 | 2); };
  const auto thread_clock = [](pid_t tid) { return static_cast<clockid_t>(~tid << 3 | 6); };
  EXPECT_THAT(clock_gettime(process_clock(0x3fffff), &ts), FailsWith(EINVAL));
  EXPECT_THAT(clock_gettime(thread_clock(getppid()), &ts), FailsWith(EINVAL))
      << "threads of others are not to be looked at";
  EXPECT_THAT(clock_gettime(thread_clock(GetTid()), &ts), Succeeds());
}

}  // namespace
}  // namespace skep::test
