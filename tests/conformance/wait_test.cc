// wait4, waitid and waitpid: options, statuses, siginfo, and who may be waited for.
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>

#include <cstring>
#include <thread>

#include "tests/util/matchers.h"
#include "tests/util/process.h"

namespace skep::test {
namespace {

pid_t ForkExit(int code) {
  const pid_t child = fork();
  if (child == 0) _exit(code);
  return child;
}

TEST(Wait, NoChildrenIsEchild) {
  EXPECT_THAT(wait(nullptr), FailsWith(ECHILD));
  EXPECT_THAT(waitpid(-1, nullptr, WNOHANG), FailsWith(ECHILD));
  EXPECT_THAT(waitpid(getppid(), nullptr, 0), FailsWith(ECHILD));
  EXPECT_THAT(waitpid(0x7ffffff, nullptr, 0), FailsWith(ECHILD));
}

TEST(Wait, StatusOfExitAndSignal) {
  EXPECT_THAT(ForkAndRun([] { _exit(0x1ab); }), ExitsWith(0xab));
  EXPECT_THAT(ForkAndRun([] { kill(getpid(), SIGTERM); }), KilledBy(SIGTERM));
  EXPECT_THAT(ForkAndRun([] { kill(getpid(), SIGKILL); }), KilledBy(SIGKILL));
}

TEST(Wait, NohangAnswersZeroWhileTheChildRuns) {
  Gate gate;
  ChildProcess child([&] { gate.Wait(); });
  int status = 77;
  EXPECT_THAT(waitpid(child.pid(), &status, WNOHANG), SucceedsWith(0));
  EXPECT_EQ(status, 77);
  gate.Open();
  EXPECT_THAT(child.Wait(), ExitsWith(0));
}

TEST(Wait, AReapedChildIsGone) {
  const pid_t child = ForkExit(0);
  EXPECT_THAT(waitpid(child, nullptr, 0), SucceedsWith(child));
  EXPECT_THAT(waitpid(child, nullptr, 0), FailsWith(ECHILD));
  EXPECT_THAT(kill(child, 0), FailsWith(ESRCH));
}

TEST(Wait, AZombieStillHasItsPid) {
  const pid_t child = ForkExit(0);
  siginfo_t info;
  EXPECT_THAT(waitid(P_PID, child, &info, WEXITED | WNOWAIT), Succeeds());
  EXPECT_THAT(kill(child, 0), Succeeds());
  EXPECT_THAT(kill(child, SIGKILL), Succeeds());
  int status;
  EXPECT_THAT(waitpid(child, &status, 0), SucceedsWith(child));
  EXPECT_THAT(status, ExitsWith(0));
}

TEST(Wait, BlocksUntilTheChildEnds) {
  Gate gate;
  ChildProcess child([&] {
    gate.Wait();
    _exit(3);
  });
  std::thread opener([&, tid = GetTid()] {
    WaitUntilBlocked(getpid(), tid);
    gate.Open();
  });
  EXPECT_THAT(child.Wait(), ExitsWith(3));
  opener.join();
}

TEST(Wait, AnyOfTheCallersProcessGroup) {
  Gate gate;
  const pid_t other_group = fork();
  if (other_group == 0) {
    setpgid(0, 0);
    gate.Open();
    _exit(1);
  }
  gate.Wait();
  EXPECT_THAT(waitpid(0, nullptr, 0), FailsWith(ECHILD));
  EXPECT_THAT(waitpid(-other_group, nullptr, 0), SucceedsWith(other_group));
}

TEST(Wait, UntracedReportsAStopOnceAndContinuedAContinue) {
  ChildProcess child([] {
    for (;;) pause();
  });
  int status = 0;
  child.Kill(SIGSTOP);
  EXPECT_THAT(waitpid(child.pid(), &status, WUNTRACED), SucceedsWith(child.pid()));
  EXPECT_THAT(status, StoppedBy(SIGSTOP));
  EXPECT_THAT(waitpid(child.pid(), &status, WUNTRACED | WNOHANG), SucceedsWith(0));
  child.Kill(SIGCONT);
  EXPECT_THAT(waitpid(child.pid(), &status, WCONTINUED), SucceedsWith(child.pid()));
  EXPECT_TRUE(WIFCONTINUED(status));
  EXPECT_THAT(waitpid(child.pid(), &status, WCONTINUED | WNOHANG), SucceedsWith(0));
}

TEST(Wait, WithoutUntracedAStopIsNotReported) {
  ChildProcess child([] {
    for (;;) pause();
  });
  child.Kill(SIGSTOP);
  ASSERT_TRUE(WaitUntil([&] { return ProcessState(child.pid()) == 'T'; }));
  EXPECT_THAT(waitpid(child.pid(), nullptr, WNOHANG), SucceedsWith(0));
}

TEST(Wait, BadOptionsAndPointers) {
  EXPECT_THAT(waitpid(-1, nullptr, 0x100), FailsWith(EINVAL));
  const pid_t child = ForkExit(0);
  EXPECT_THAT(syscall(SYS_wait4, child, kBadAddress, 0, nullptr), FailsWith(EFAULT));
  EXPECT_THAT(waitpid(child, nullptr, 0), FailsWith(ECHILD)) << "the fault reaped it all the same";
}

TEST(Wait, Wait4FillsRusage) {
  const pid_t child = fork();
  if (child == 0) {
    const int64_t until = NowNs(CLOCK_PROCESS_CPUTIME_ID) + 20'000'000;
    while (NowNs(CLOCK_PROCESS_CPUTIME_ID) < until) {
    }
    _exit(0);
  }
  rusage usage = {};
  EXPECT_THAT(wait4(child, nullptr, 0, &usage), SucceedsWith(child));
  EXPECT_GT(usage.ru_utime.tv_sec * 1'000'000 + usage.ru_utime.tv_usec + usage.ru_stime.tv_usec, 0);
}

TEST(Wait, IsInterruptedByAHandler) {
  const ScopedSignalHandler handler(SIGUSR1, [](int) {});
  ChildProcess child([] {
    for (;;) pause();
  });
  std::thread sender([self = pthread_self(), tid = GetTid()] {
    WaitUntilBlocked(getpid(), tid);
    pthread_kill(self, SIGUSR1);
  });
  EXPECT_THAT(waitpid(child.pid(), nullptr, 0), FailsWith(EINTR));
  sender.join();
}

TEST(Wait, AnyThreadMayWaitUnlessWnothread) {
  const pid_t child = ForkExit(4);
  std::thread([&] {
    EXPECT_THAT(waitpid(child, nullptr, __WNOTHREAD), FailsWith(ECHILD));
    int status = 0;
    EXPECT_THAT(waitpid(child, &status, 0), SucceedsWith(child));
    EXPECT_THAT(status, ExitsWith(4));
  }).join();
}

TEST(Waitid, FillsSiginfoForAnExit) {
  const pid_t child = ForkExit(9);
  siginfo_t info = {};
  EXPECT_THAT(waitid(P_PID, child, &info, WEXITED), SucceedsWith(0));
  EXPECT_EQ(info.si_signo, SIGCHLD);
  EXPECT_EQ(info.si_code, CLD_EXITED);
  EXPECT_EQ(info.si_pid, child);
  EXPECT_EQ(info.si_uid, getuid());
  EXPECT_EQ(info.si_status, 9);
}

TEST(Waitid, FillsSiginfoForADeathAStopAndAContinue) {
  ChildProcess child([] {
    for (;;) pause();
  });
  siginfo_t info = {};
  child.Kill(SIGSTOP);
  EXPECT_THAT(waitid(P_PID, child.pid(), &info, WSTOPPED), Succeeds());
  EXPECT_EQ(info.si_code, CLD_STOPPED);
  EXPECT_EQ(info.si_status, SIGSTOP);
  child.Kill(SIGCONT);
  EXPECT_THAT(waitid(P_PID, child.pid(), &info, WCONTINUED), Succeeds());
  EXPECT_EQ(info.si_code, CLD_CONTINUED);
  EXPECT_EQ(info.si_status, SIGCONT);
  child.Kill(SIGKILL);
  EXPECT_THAT(waitid(P_PID, child.pid(), &info, WEXITED), Succeeds());
  EXPECT_EQ(info.si_code, CLD_KILLED);
  EXPECT_EQ(info.si_status, SIGKILL);
  child.Forget();
}

TEST(Waitid, NowaitLeavesTheChildWaitable) {
  const pid_t child = ForkExit(1);
  siginfo_t info = {};
  for (int i = 0; i < 3; ++i) {
    EXPECT_THAT(waitid(P_PID, child, &info, WEXITED | WNOWAIT), Succeeds());
    EXPECT_EQ(info.si_pid, child);
  }
  EXPECT_THAT(waitid(P_PID, child, &info, WEXITED), Succeeds());
  EXPECT_THAT(waitid(P_PID, child, &info, WEXITED), FailsWith(ECHILD));
}

TEST(Waitid, WritesSixFieldsAndNoOtherByte) {
  const Mapping page(2 * kPageSize);
  ASSERT_THAT(mprotect(page.page(1), kPageSize, PROT_NONE), Succeeds());
  constexpr size_t kWritten = offsetof(siginfo_t, si_status) + sizeof(int);
  memset(page.page(0), 0x5a, kPageSize);
  auto* info = reinterpret_cast<siginfo_t*>(page.page(1) - kWritten);
  const pid_t child = ForkExit(3);
  EXPECT_THAT(waitid(P_PID, child, info, WEXITED | WNOWAIT), Succeeds());
  EXPECT_EQ(info->si_pid, child);
  EXPECT_EQ(info->si_status, 3);
  EXPECT_EQ(reinterpret_cast<int*>(info)[3], 0x5a5a5a5a) << "the gap behind si_code";
  EXPECT_THAT(waitid(P_PID, child, info, WEXITED), Succeeds());
}

TEST(Waitid, ClearsTheSiginfoWhenItFails) {
  siginfo_t info;
  memset(&info, 0x5a, sizeof info);
  EXPECT_THAT(waitid(P_ALL, 0, &info, WEXITED), FailsWith(ECHILD));
  EXPECT_EQ(info.si_signo, 0);
  EXPECT_EQ(info.si_pid, 0);
  memset(&info, 0x5a, sizeof info);
  EXPECT_THAT(waitid(P_ALL, 0, &info, 0), FailsWith(EINVAL));
  EXPECT_EQ(info.si_code, 0);
  auto* nowhere = reinterpret_cast<siginfo_t*>(8);
  EXPECT_THAT(waitid(P_ALL, 0, nowhere, WEXITED), FailsWith(EFAULT)) << "not ECHILD";
}

TEST(Waitid, NohangClearsTheSiginfo) {
  Gate gate;
  ChildProcess child([&] { gate.Wait(); });
  siginfo_t info;
  memset(&info, 0xff, sizeof(info));
  EXPECT_THAT(waitid(P_ALL, 0, &info, WEXITED | WNOHANG), SucceedsWith(0));
  EXPECT_EQ(info.si_signo, 0);
  EXPECT_EQ(info.si_pid, 0);
  gate.Open();
}

TEST(Waitid, ByGroupAndBadArguments) {
  siginfo_t info = {};
  EXPECT_THAT(waitid(P_ALL, 0, &info, 0), FailsWith(EINVAL)) << "nothing to wait for";
  EXPECT_THAT(waitid(P_ALL, 0, &info, WEXITED | 0x800), FailsWith(EINVAL));
  EXPECT_THAT(waitid(static_cast<idtype_t>(9), 0, &info, WEXITED), FailsWith(EINVAL));
  EXPECT_THAT(waitid(P_PID, 0, &info, WEXITED), FailsWith(EINVAL));
  const pid_t child = ForkExit(1);
  EXPECT_THAT(waitid(P_PGID, getpgrp(), &info, WEXITED), Succeeds());
  EXPECT_EQ(info.si_pid, child);
}

TEST(Waitid, PidfdNamesTheChild) {
  const pid_t child = ForkExit(6);
  const Fd pidfd(static_cast<int>(syscall(SYS_pidfd_open, child, 0)));
  ASSERT_THAT(pidfd, Succeeds());
  siginfo_t info = {};
  EXPECT_THAT(waitid(static_cast<idtype_t>(3), pidfd, &info, WEXITED), Succeeds());
  EXPECT_EQ(info.si_status, 6);
}

TEST(Reparenting, AnOrphanGoesToTheSubreaper) {
  EXPECT_THAT(ForkAndRun([] {
                ASSERT_THAT(prctl(PR_SET_CHILD_SUBREAPER, 1), Succeeds());
                const Pipe pipe = MakePipe();
                const pid_t self = getpid();
                EXPECT_THAT(ForkAndRun([&] {
                              if (fork() != 0) return;
                              const bool adopted = WaitUntil([&] { return getppid() == self; });
                              const pid_t id = getpid();
                              write(pipe.writer, &id, sizeof(id));
                              _exit(adopted ? 31 : 32);
                            }),
                            ExitsWith(0));
                pid_t orphan = 0;
                EXPECT_THAT(read(pipe.reader, &orphan, sizeof(orphan)), SucceedsWith(4));
                int status = 0;
                EXPECT_THAT(waitpid(-1, &status, 0), SucceedsWith(orphan));
                EXPECT_THAT(status, ExitsWith(31));
              }),
              ExitsWith(0));
}

TEST(Reparenting, SubreaperIsAskedAndNotInherited) {
  EXPECT_THAT(ForkAndRun([] {
                int value = -1;
                EXPECT_THAT(prctl(PR_SET_CHILD_SUBREAPER, 1), Succeeds());
                EXPECT_THAT(prctl(PR_GET_CHILD_SUBREAPER, &value), Succeeds());
                EXPECT_EQ(value, 1);
                EXPECT_THAT(ForkAndRun([] {
                              int inherited = -1;
                              prctl(PR_GET_CHILD_SUBREAPER, &inherited);
                              EXPECT_EQ(inherited, 0);
                            }),
                            ExitsWith(0));
              }),
              ExitsWith(0));
}

TEST(Reparenting, ParentDeathSignalArrives) {
  const Pipe pipe = MakePipe();
  EXPECT_THAT(ForkAndRun([&] {
                Gate ready;
                ScopedSignalMask mask(SIG_BLOCK, {SIGUSR1});
                if (fork() == 0) {
                  prctl(PR_SET_PDEATHSIG, SIGUSR1);
                  ready.Open();
                  const sigset_t set = SignalSet({SIGUSR1});
                  siginfo_t info = {};
                  const int signo = sigwaitinfo(&set, &info);
                  write(pipe.writer, &signo, sizeof(signo));
                  _exit(0);
                }
                ready.Wait();
              }),
              ExitsWith(0));
  int signo = 0;
  EXPECT_THAT(read(pipe.reader, &signo, sizeof(signo)), SucceedsWith(4));
  EXPECT_EQ(signo, SIGUSR1);
}

TEST(Sigchld, IgnoredMeansNoZombies) {
  EXPECT_THAT(ForkAndRun([] {
                signal(SIGCHLD, SIG_IGN);
                const pid_t child = ForkExit(1);
                EXPECT_THAT(waitpid(child, nullptr, 0), FailsWith(ECHILD));
                EXPECT_THAT(kill(child, 0), FailsWith(ESRCH));
              }),
              ExitsWith(0));
}

TEST(Sigchld, NocldwaitMeansNoZombiesButASignal) {
  EXPECT_THAT(ForkAndRun([] {
                static volatile sig_atomic_t seen = 0;
                const ScopedSignalHandler handler(
                    SIGCHLD, [](int) { seen = 1; }, SA_NOCLDWAIT | SA_RESTART);
                const pid_t child = ForkExit(1);
                EXPECT_THAT(waitpid(child, nullptr, 0), FailsWith(ECHILD));
                EXPECT_EQ(seen, 1);
              }),
              ExitsWith(0));
}

volatile sig_atomic_t g_sigchld_count = 0;
siginfo_t g_sigchld_info;

TEST(Sigchld, CarriesTheChildsFate) {
  EXPECT_THAT(ForkAndRun([] {
                const ScopedSignalHandler handler(
                    SIGCHLD, [](int, siginfo_t* info, void*) { g_sigchld_info = *info; },
                    SA_RESTART);
                const pid_t child = ForkExit(12);
                EXPECT_THAT(waitpid(child, nullptr, 0), SucceedsWith(child));
                EXPECT_EQ(g_sigchld_info.si_signo, SIGCHLD);
                EXPECT_EQ(g_sigchld_info.si_code, CLD_EXITED);
                EXPECT_EQ(g_sigchld_info.si_pid, child);
                EXPECT_EQ(g_sigchld_info.si_status, 12);
              }),
              ExitsWith(0));
}

TEST(Sigchld, NocldstopHidesStopsAndOthersSeeThem) {
  for (const int flag : {0, SA_NOCLDSTOP}) {
    EXPECT_THAT(ForkAndRun([flag] {
                  const ScopedSignalHandler handler(
                      SIGCHLD, [](int) { g_sigchld_count = g_sigchld_count + 1; },
                      flag | SA_RESTART);
                  ChildProcess child([] {
                    for (;;) pause();
                  });
                  child.Kill(SIGSTOP);
                  EXPECT_THAT(waitpid(child.pid(), nullptr, WUNTRACED), SucceedsWith(child.pid()));
                  EXPECT_EQ(g_sigchld_count, flag == 0 ? 1 : 0);
                }),
                ExitsWith(0));
  }
}

}  // namespace
}  // namespace skep::test
