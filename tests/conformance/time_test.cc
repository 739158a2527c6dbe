// Clocks, sleeping, interval timers, POSIX timers and timerfd.
#include <fcntl.h>
#include <poll.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/timerfd.h>
#include <sys/times.h>

#include <atomic>
#include <cstring>
#include <thread>

#include "tests/util/matchers.h"
#include "tests/util/process.h"

namespace skep::test {
namespace {

constexpr int64_t kMs = 1'000'000;

int64_t SyscallNowNs(clockid_t clock) {
  timespec now = {};
  EXPECT_THAT(syscall(SYS_clock_gettime, clock, &now), Succeeds());
  return int64_t{now.tv_sec} * 1'000'000'000 + now.tv_nsec;
}
timespec After(int64_t ns, clockid_t clock = CLOCK_MONOTONIC) {
  const int64_t at = NowNs(clock) + ns;
  return {at / 1'000'000'000, at % 1'000'000'000};
}
int64_t CpuNs() { return NowNs(CLOCK_PROCESS_CPUTIME_ID); }
void BurnCpu(int64_t ns) {
  const int64_t until = CpuNs() + ns;
  while (CpuNs() < until) {
  }
}

volatile sig_atomic_t g_fired = 0;
siginfo_t g_info;
void Fired(int) { g_fired = g_fired + 1; }
void FiredInfo(int, siginfo_t* info, void*) {
  g_info = *info;
  g_fired = g_fired + 1;
}
bool WaitFired(int count) {
  return WaitUntil([=] { return g_fired >= count; });
}

TEST(Clock, VdsoAndSyscallAgree) {
  for (const clockid_t clock : {CLOCK_REALTIME, CLOCK_MONOTONIC, CLOCK_MONOTONIC_RAW,
                                CLOCK_BOOTTIME, CLOCK_REALTIME_COARSE, CLOCK_MONOTONIC_COARSE}) {
    for (int i = 0; i < 50; ++i) {
      const int64_t before = SyscallNowNs(clock);
      const int64_t vdso = NowNs(clock);
      const int64_t after = SyscallNowNs(clock);
      EXPECT_LE(before, vdso) << clock;
      EXPECT_LE(vdso, after) << clock;
    }
  }
}

TEST(Clock, MonotonicNeverGoesBackAcrossThreads) {
  std::atomic<int64_t> latest = 0;
  const auto watch = [&] {
    for (int i = 0; i < 20'000; ++i) {
      const int64_t seen = latest.load();
      const int64_t now = NowNs();
      ASSERT_GE(now, seen);
      int64_t expected = seen;
      while (expected < now && !latest.compare_exchange_weak(expected, now)) {
      }
    }
  };
  std::thread a(watch);
  watch();
  a.join();
}

TEST(Clock, RealTimeIsTimeOfDayAndTime) {
  timeval now = {};
  const time_t before = time(nullptr);
  EXPECT_THAT(gettimeofday(&now, nullptr), Succeeds());
  EXPECT_LE(before, now.tv_sec);
  EXPECT_LE(now.tv_sec - before, 5);
  EXPECT_GT(before, 1'600'000'000);
  EXPECT_THAT(syscall(SYS_time, nullptr), Succeeds());
  EXPECT_THAT(syscall(SYS_gettimeofday, kBadAddress, nullptr), FailsWith(EFAULT));
}

TEST(Clock, BootTimeIsNotBehindMonotonic) {
  const int64_t monotonic = NowNs();
  EXPECT_GE(NowNs(CLOCK_BOOTTIME), monotonic);
}

TEST(Clock, CpuClocksCountComputing) {
  const int64_t process = CpuNs();
  const int64_t thread = NowNs(CLOCK_THREAD_CPUTIME_ID);
  const int64_t wall = NowNs();
  BurnCpu(20 * kMs);
  EXPECT_GE(CpuNs() - process, 20 * kMs);
  EXPECT_GT(NowNs(CLOCK_THREAD_CPUTIME_ID) - thread, 5 * kMs);
  EXPECT_GE(NowNs() - wall, 10 * kMs);
}

TEST(Clock, CpuClocksDoNotCountSleeping) {
  const int64_t process = CpuNs();
  const timespec pause = {0, 100 * kMs};
  nanosleep(&pause, nullptr);
  EXPECT_LT(CpuNs() - process, 50 * kMs);
}

TEST(Clock, OfAnotherProcess) {
  ChildProcess child([] {
    for (;;) asm volatile("" ::: "memory");
  });
  clockid_t clock;
  ASSERT_EQ(clock_getcpuclockid(child.pid(), &clock), 0);
  EXPECT_TRUE(WaitUntil([&] { return NowNs(clock) > 5 * kMs; }));
}

TEST(Clock, Errors) {
  timespec ts;
  EXPECT_THAT(clock_gettime(99, &ts), FailsWith(EINVAL));
  EXPECT_THAT(clock_getres(99, &ts), FailsWith(EINVAL));
  EXPECT_THAT(syscall(SYS_clock_gettime, CLOCK_MONOTONIC, kBadAddress), FailsWith(EFAULT));
  EXPECT_THAT(clock_settime(CLOCK_MONOTONIC, &ts), FailsWith(EINVAL));
}

TEST(Clock, ResolutionIsFine) {
  timespec resolution = {9, 9};
  EXPECT_THAT(clock_getres(CLOCK_MONOTONIC, &resolution), Succeeds());
  EXPECT_EQ(resolution.tv_sec, 0);
  EXPECT_LE(resolution.tv_nsec, 10 * kMs);
  EXPECT_THAT(clock_getres(CLOCK_REALTIME, nullptr), Succeeds());
}

TEST(Times, CountTicksOfSelfAndChildren) {
  BurnCpu(30 * kMs);
  EXPECT_THAT(ForkAndRun([] { BurnCpu(30 * kMs); }), ExitsWith(0));
  tms buffer = {};
  EXPECT_THAT(times(&buffer), Succeeds());
  EXPECT_GT(buffer.tms_utime + buffer.tms_stime, 0);
  EXPECT_GT(buffer.tms_cutime + buffer.tms_cstime, 0);
}

TEST(Nanosleep, SleepsAtLeastThatLong) {
  const int64_t start = NowNs();
  const timespec pause = {0, 20 * kMs};
  EXPECT_THAT(nanosleep(&pause, nullptr), Succeeds());
  EXPECT_GE(NowNs() - start, 20 * kMs);
}

TEST(Nanosleep, Errors) {
  const timespec negative = {-1, 0};
  const timespec too_many = {0, 1'000'000'000};
  EXPECT_THAT(nanosleep(&negative, nullptr), FailsWith(EINVAL));
  EXPECT_THAT(nanosleep(&too_many, nullptr), FailsWith(EINVAL));
  EXPECT_THAT(syscall(SYS_nanosleep, kBadAddress, nullptr), FailsWith(EFAULT));
}

TEST(ClockNanosleep, RelativeAndAbsolute) {
  const timespec pause = {0, 10 * kMs};
  for (const clockid_t clock : {CLOCK_MONOTONIC, CLOCK_REALTIME, CLOCK_BOOTTIME}) {
    const int64_t start = NowNs(clock);
    EXPECT_EQ(clock_nanosleep(clock, 0, &pause, nullptr), 0);
    EXPECT_GE(NowNs(clock) - start, 10 * kMs);
    const timespec until = After(10 * kMs, clock);
    EXPECT_EQ(clock_nanosleep(clock, TIMER_ABSTIME, &until, nullptr), 0);
    EXPECT_GE(NowNs(clock), int64_t{until.tv_sec} * 1'000'000'000 + until.tv_nsec);
  }
  const timespec past = {1, 0};
  EXPECT_EQ(clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &past, nullptr), 0);
}

TEST(ClockNanosleep, Errors) {
  const timespec pause = {0, 1};
  EXPECT_EQ(clock_nanosleep(99, 0, &pause, nullptr), EINVAL);
  EXPECT_EQ(clock_nanosleep(CLOCK_THREAD_CPUTIME_ID, 0, &pause, nullptr), EINVAL);
  EXPECT_THAT(syscall(SYS_clock_nanosleep, CLOCK_MONOTONIC_RAW, 0, &pause, nullptr),
              FailsWith(EOPNOTSUPP));
}

TEST(Itimer, RealFiresOnceOrRepeats) {
  g_fired = 0;
  const ScopedSignalHandler handler(SIGALRM, Fired, SA_RESTART);
  const itimerval repeating = {{0, 5'000}, {0, 5'000}};
  ASSERT_THAT(setitimer(ITIMER_REAL, &repeating, nullptr), Succeeds());
  EXPECT_TRUE(WaitFired(3));
  const itimerval off = {};
  itimerval old = {};
  EXPECT_THAT(setitimer(ITIMER_REAL, &off, &old), Succeeds());
  EXPECT_EQ(old.it_interval.tv_usec, 5'000);
}

TEST(Itimer, AShortPeriodGoesOnWhenTheSignalIsTaken) {
  const ScopedSignalMask mask(SIG_BLOCK, {SIGALRM});
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGALRM);
  const itimerval fast = {{0, 1}, {0, 1}};
  EXPECT_THAT(setitimer(ITIMER_REAL, &fast, nullptr), Succeeds());
  for (int i = 0; i < 20; ++i) {
    const timespec limit = {1, 0};
    ASSERT_THAT(sigtimedwait(&set, nullptr, &limit), SucceedsWith(SIGALRM));
  }
  const itimerval off = {};
  EXPECT_THAT(setitimer(ITIMER_REAL, &off, nullptr), Succeeds());
  const timespec none = {};
  sigtimedwait(&set, nullptr, &none);
}

TEST(Itimer, VirtualAndProfCountCpu) {
  for (const auto& [which, signo] :
       {std::pair{ITIMER_VIRTUAL, SIGVTALRM}, {ITIMER_PROF, SIGPROF}}) {
    g_fired = 0;
    const ScopedSignalHandler handler(signo, Fired);
    const itimerval soon = {{0, 0}, {0, 10'000}};
    ASSERT_THAT(setitimer(static_cast<__itimer_which>(which), &soon, nullptr), Succeeds());
    const int64_t deadline = NowNs() + 5'000 * kMs;
    while (g_fired == 0 && NowNs() < deadline) BurnCpu(1 * kMs);
    EXPECT_EQ(g_fired, 1) << which;
  }
}

TEST(Itimer, ErrorsAndQueries) {
  itimerval value = {{0, 0}, {0, 1'000'000}};
  EXPECT_THAT(setitimer(ITIMER_REAL, &value, nullptr), FailsWith(EINVAL));
  EXPECT_THAT(syscall(SYS_setitimer, 7, &value, nullptr), FailsWith(EINVAL));
  EXPECT_THAT(syscall(SYS_getitimer, ITIMER_REAL, kBadAddress), FailsWith(EFAULT));
  value = {{0, 0}, {100, 0}};
  EXPECT_THAT(setitimer(ITIMER_REAL, &value, nullptr), Succeeds());
  EXPECT_THAT(getitimer(ITIMER_REAL, &value), Succeeds());
  EXPECT_GE(value.it_value.tv_sec, 98);
  EXPECT_EQ(alarm(0), 100u) << "alarm shares the timer and rounds up";
}

TEST(Itimer, SurvivesExec) {
  Pipe out = MakePipe();
  const int status = ForkAndRun([&] {
    dup2(out.writer, STDOUT_FILENO);
    alarm(500);
    execl(TestBinary().c_str(), TestBinary().c_str(), "--helper=alarm_left", nullptr);
  });
  EXPECT_THAT(status, ExitsWith(1));
}
const Helper kAlarmLeft("alarm_left", [](int, char**) { return alarm(0) > 400 ? 1 : 0; });

timer_t MakeTimer(clockid_t clock, int signo, int value = 0) {
  sigevent event = {};
  event.sigev_notify = SIGEV_SIGNAL;
  event.sigev_signo = signo;
  event.sigev_value.sival_int = value;
  timer_t timer = {};
  EXPECT_THAT(timer_create(clock, &event, &timer), Succeeds());
  return timer;
}

TEST(PosixTimer, SignalsWithItsValueAndId) {
  g_fired = 0;
  const ScopedSignalHandler handler(SIGUSR1, FiredInfo);
  timer_t timer = MakeTimer(CLOCK_MONOTONIC, SIGUSR1, 321);
  const itimerspec soon = {{0, 0}, {0, 2 * kMs}};
  EXPECT_THAT(timer_settime(timer, 0, &soon, nullptr), Succeeds());
  EXPECT_TRUE(WaitFired(1));
  EXPECT_EQ(g_info.si_code, SI_TIMER);
  EXPECT_EQ(g_info.si_value.sival_int, 321);
  itimerspec left = {};
  EXPECT_THAT(timer_gettime(timer, &left), Succeeds());
  EXPECT_EQ(left.it_value.tv_sec + left.it_value.tv_nsec, 0);
  EXPECT_THAT(timer_delete(timer), Succeeds());
}

TEST(PosixTimer, RepeatsAndCountsOverruns) {
  const ScopedSignalMask mask(SIG_BLOCK, {SIGUSR1});
  timer_t timer = MakeTimer(CLOCK_MONOTONIC, SIGUSR1);
  const itimerspec fast = {{0, 1 * kMs}, {0, 1 * kMs}};
  EXPECT_THAT(timer_settime(timer, 0, &fast, nullptr), Succeeds());
  const timespec pause = {0, 30 * kMs};
  nanosleep(&pause, nullptr);
  const sigset_t set = SignalSet({SIGUSR1});
  siginfo_t info = {};
  EXPECT_THAT(sigwaitinfo(&set, &info), SucceedsWith(SIGUSR1));
  EXPECT_GE(info.si_overrun, 10);
  EXPECT_EQ(timer_getoverrun(timer), info.si_overrun);
  EXPECT_THAT(timer_delete(timer), Succeeds());
  const timespec none = {};
  sigtimedwait(&set, nullptr, &none);
}

// It stands still while its signal is pending, and goes on when that is taken.
TEST(PosixTimer, GoesOnWhenItsSignalIsTaken) {
  const ScopedSignalMask mask(SIG_BLOCK, {SIGUSR1});
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGUSR1);
  timer_t timer = MakeTimer(CLOCK_MONOTONIC, SIGUSR1, 5);
  const itimerspec fast = {{0, 1}, {0, 1}};
  EXPECT_THAT(timer_settime(timer, 0, &fast, nullptr), Succeeds());
  for (int i = 0; i < 20; ++i) {
    const timespec pause = {0, kMs};
    nanosleep(&pause, nullptr);
    siginfo_t info = {};
    const timespec limit = {1, 0};
    ASSERT_THAT(sigtimedwait(&set, &info, &limit), SucceedsWith(SIGUSR1));
    EXPECT_EQ(info.si_value.sival_int, 5);
    EXPECT_GE(info.si_overrun, kMs / 2);
    EXPECT_EQ(timer_getoverrun(timer), info.si_overrun);
  }
  itimerspec left = {};
  EXPECT_THAT(timer_gettime(timer, &left), Succeeds());
  EXPECT_EQ(left.it_value.tv_nsec, 1);
  EXPECT_THAT(timer_delete(timer), Succeeds());
  const timespec none = {};
  sigtimedwait(&set, nullptr, &none);  // one may be pending still
}

// Each timer has a place in the queue: signals of one number are not lost for being pending.
TEST(PosixTimer, TwoTimersOfOneSignal) {
  const ScopedSignalMask mask(SIG_BLOCK, {SIGUSR1});
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGUSR1);
  timer_t first = MakeTimer(CLOCK_MONOTONIC, SIGUSR1, 1);
  timer_t second = MakeTimer(CLOCK_MONOTONIC, SIGUSR1, 2);
  const itimerspec once = {{0, 0}, {0, kMs}};
  EXPECT_THAT(timer_settime(first, 0, &once, nullptr), Succeeds());
  EXPECT_THAT(timer_settime(second, 0, &once, nullptr), Succeeds());
  const timespec pause = {0, 20 * kMs};
  nanosleep(&pause, nullptr);
  int sum = 0;
  for (int i = 0; i < 2; ++i) {
    siginfo_t info = {};
    const timespec limit = {1, 0};
    ASSERT_THAT(sigtimedwait(&set, &info, &limit), SucceedsWith(SIGUSR1));
    sum += info.si_value.sival_int;
  }
  EXPECT_EQ(sum, 3);
  timer_delete(first);
  timer_delete(second);
}

TEST(PosixTimer, WithoutASignalItIsOnlyAsked) {
  sigevent event = {};
  event.sigev_notify = SIGEV_NONE;
  timer_t timer = {};
  ASSERT_THAT(timer_create(CLOCK_MONOTONIC, &event, &timer), Succeeds());
  itimerspec value = {{0, 0}, {0, kMs}};
  EXPECT_THAT(timer_settime(timer, 0, &value, nullptr), Succeeds());
  const timespec pause = {0, 5 * kMs};
  nanosleep(&pause, nullptr);
  EXPECT_THAT(timer_gettime(timer, &value), Succeeds());
  EXPECT_EQ(value.it_value.tv_nsec, 0);
  value = {{1, 0}, {0, 1}};
  EXPECT_THAT(timer_settime(timer, 0, &value, nullptr), Succeeds());
  nanosleep(&pause, nullptr);
  EXPECT_THAT(timer_gettime(timer, &value), Succeeds());
  EXPECT_GT(value.it_value.tv_nsec, 500 * kMs);
  EXPECT_THAT(timer_delete(timer), Succeeds());
}

TEST(PosixTimer, AbsoluteTimeAndThePast) {
  g_fired = 0;
  const ScopedSignalHandler handler(SIGUSR1, Fired);
  timer_t timer = MakeTimer(CLOCK_REALTIME, SIGUSR1);
  const itimerspec past = {{0, 0}, {1, 0}};
  EXPECT_THAT(timer_settime(timer, TIMER_ABSTIME, &past, nullptr), Succeeds());
  EXPECT_TRUE(WaitFired(1));
  EXPECT_THAT(timer_delete(timer), Succeeds());
}

TEST(PosixTimer, ThreadIdDirectsTheSignal) {
  static std::atomic<pid_t> handled;
  handled = 0;
  const ScopedSignalHandler handler(SIGUSR1, [](int) { handled = GetTid(); });
  std::thread([&] {
    sigevent event = {};
    event.sigev_notify = SIGEV_THREAD_ID;
    event.sigev_signo = SIGUSR1;
    event._sigev_un._tid = GetTid();
    timer_t timer;
    ASSERT_THAT(timer_create(CLOCK_MONOTONIC, &event, &timer), Succeeds());
    const itimerspec soon = {{0, 0}, {0, 1 * kMs}};
    timer_settime(timer, 0, &soon, nullptr);
    EXPECT_TRUE(WaitUntil([] { return handled != 0; }));
    EXPECT_EQ(handled, GetTid());
    timer_delete(timer);
  }).join();
}

TEST(PosixTimer, Errors) {
  int timer = 0;
  EXPECT_THAT(syscall(SYS_timer_create, 99, nullptr, &timer), FailsWith(EINVAL));
  EXPECT_THAT(syscall(SYS_timer_create, CLOCK_MONOTONIC, nullptr, kBadAddress), FailsWith(EFAULT));
  EXPECT_THAT(syscall(SYS_timer_delete, 0x7777), FailsWith(EINVAL));
  itimerspec value = {};
  EXPECT_THAT(syscall(SYS_timer_gettime, 0x7777, &value), FailsWith(EINVAL));
  EXPECT_THAT(syscall(SYS_timer_getoverrun, 0x7777), FailsWith(EINVAL));
  ASSERT_THAT(syscall(SYS_timer_create, CLOCK_MONOTONIC, nullptr, &timer), Succeeds());
  value.it_value.tv_nsec = 1'000'000'000;
  EXPECT_THAT(syscall(SYS_timer_settime, timer, 0, &value, nullptr), FailsWith(EINVAL));
  EXPECT_THAT(syscall(SYS_timer_delete, timer), Succeeds());
}

TEST(PosixTimer, NotInheritedByFork) {
  timer_t timer = MakeTimer(CLOCK_MONOTONIC, SIGUSR1);
  EXPECT_THAT(ForkAndRun([&] {
                itimerspec value;
                EXPECT_THAT(timer_gettime(timer, &value), FailsWith(EINVAL));
              }),
              ExitsWith(0));
  EXPECT_THAT(timer_delete(timer), Succeeds());
}

TEST(Timerfd, CountsExpirations) {
  const Fd fd(timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC));
  const itimerspec fast = {{0, 1 * kMs}, {0, 1 * kMs}};
  ASSERT_THAT(timerfd_settime(fd, 0, &fast, nullptr), Succeeds());
  const timespec pause = {0, 20 * kMs};
  nanosleep(&pause, nullptr);
  uint64_t count = 0;
  EXPECT_THAT(read(fd, &count, 8), SucceedsWith(8));
  EXPECT_GE(count, 10u);
}

TEST(Timerfd, BlocksPollsAndDisarms) {
  const Fd fd(timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK));
  uint64_t count = 0;
  EXPECT_THAT(read(fd, &count, 8), FailsWith(EAGAIN));
  const itimerspec once = {{0, 0}, {0, 5 * kMs}};
  ASSERT_THAT(timerfd_settime(fd, 0, &once, nullptr), Succeeds());
  pollfd entry = {fd, POLLIN, 0};
  EXPECT_THAT(poll(&entry, 1, 5'000), SucceedsWith(1));
  EXPECT_THAT(read(fd, &count, 8), SucceedsWith(8));
  EXPECT_EQ(count, 1u);
  EXPECT_THAT(read(fd, &count, 8), FailsWith(EAGAIN));
  const itimerspec later = {{0, 7}, {100, 0}};
  const itimerspec off = {};
  itimerspec old = {};
  ASSERT_THAT(timerfd_settime(fd, 0, &later, nullptr), Succeeds());
  EXPECT_THAT(timerfd_settime(fd, 0, &off, &old), Succeeds());
  EXPECT_GE(old.it_value.tv_sec, 99);
  EXPECT_EQ(old.it_interval.tv_nsec, 7);
}

TEST(Timerfd, AbsoluteAndErrors) {
  EXPECT_THAT(timerfd_create(99, 0), FailsWith(EINVAL));
  EXPECT_THAT(timerfd_create(CLOCK_MONOTONIC, 0x10), FailsWith(EINVAL));
  const Fd fd(timerfd_create(CLOCK_REALTIME, 0));
  const itimerspec at = {{0, 0}, After(5 * kMs, CLOCK_REALTIME)};
  EXPECT_THAT(timerfd_settime(fd, TFD_TIMER_ABSTIME, &at, nullptr), Succeeds());
  uint64_t count = 0;
  EXPECT_THAT(read(fd, &count, 4), FailsWith(EINVAL));
  EXPECT_THAT(read(fd, &count, 8), SucceedsWith(8));
  EXPECT_THAT(timerfd_settime(fd, 0x40, &at, nullptr), FailsWith(EINVAL));
  const Pipe pipe = MakePipe();
  itimerspec value;
  EXPECT_THAT(timerfd_gettime(pipe.reader, &value), FailsWith(EINVAL));
  EXPECT_THAT(timerfd_gettime(1'000'000, &value), FailsWith(EBADF));
}

}  // namespace
}  // namespace skep::test
