// Process groups, sessions, and stopping and continuing (without a terminal).
#include <fcntl.h>
#include <sys/resource.h>
#include <sys/syscall.h>

#include <atomic>
#include <thread>

#include "tests/util/matchers.h"
#include "tests/util/process.h"

namespace skep::test {
namespace {

void PauseForever() {
  for (;;) pause();
}

TEST(ProcessGroup, ChildInheritsAndMayLead) {
  const pid_t group = getpgrp();
  EXPECT_THAT(ForkAndRun([&] {
                EXPECT_EQ(getpgrp(), group);
                EXPECT_THAT(setpgid(0, 0), Succeeds());
                EXPECT_EQ(getpgrp(), getpid());
                EXPECT_THAT(getpgid(0), SucceedsWith(getpid()));
              }),
              ExitsWith(0));
}

TEST(ProcessGroup, ParentMovesItsChild) {
  ChildProcess child(PauseForever);
  EXPECT_THAT(setpgid(child.pid(), child.pid()), Succeeds());
  EXPECT_THAT(getpgid(child.pid()), SucceedsWith(child.pid()));
  EXPECT_THAT(setpgid(child.pid(), getpgrp()), Succeeds());
  EXPECT_THAT(getpgid(child.pid()), SucceedsWith(getpgrp()));
}

TEST(ProcessGroup, SetpgidErrors) {
  EXPECT_THAT(setpgid(0, -1), FailsWith(EINVAL));
  EXPECT_THAT(setpgid(0x7ffffff, 0), FailsWith(ESRCH));
  ChildProcess child(PauseForever);
  EXPECT_THAT(setpgid(child.pid(), 0x7ffffff), FailsWith(EPERM)) << "no such group";
  EXPECT_THAT(getpgid(0x7ffffff), FailsWith(ESRCH));
  EXPECT_THAT(getpgid(-1), FailsWith(ESRCH));
}

TEST(ProcessGroup, NotAfterTheChildExecs) {
  const Pipe pipe = MakePipe(O_CLOEXEC);
  Pipe ready = MakePipe(O_CLOEXEC);
  ChildProcess child([&] {
    dup2(pipe.reader, STDIN_FILENO);
    execl(TestBinary().c_str(), TestBinary().c_str(), "--helper=read_stdin", nullptr);
  });
  ready.writer.Reset();
  char byte;
  EXPECT_THAT(read(ready.reader, &byte, 1), SucceedsWith(0)) << "closed by its exec";
  EXPECT_THAT(setpgid(child.pid(), child.pid()), FailsWith(EACCES));
  write(pipe.writer, "x", 1);
  EXPECT_THAT(child.Wait(), ExitsWith(0));
}
const Helper kReadStdin("read_stdin", [](int, char**) {
  char byte;
  return read(STDIN_FILENO, &byte, 1) == 1 ? 0 : 1;
});

TEST(ProcessGroup, KillOfAGroupReachesAllOfIt) {
  ChildProcess first(PauseForever);
  ASSERT_THAT(setpgid(first.pid(), first.pid()), Succeeds());
  ChildProcess second(PauseForever);
  ASSERT_THAT(setpgid(second.pid(), first.pid()), Succeeds());
  EXPECT_THAT(kill(-first.pid(), SIGTERM), Succeeds());
  EXPECT_THAT(first.Wait(), KilledBy(SIGTERM));
  EXPECT_THAT(second.Wait(), KilledBy(SIGTERM));
}

TEST(ProcessGroup, KillZeroReachesTheCallersOwn) {
  EXPECT_THAT(ForkAndRun([] {
                setpgid(0, 0);
                ChildProcess child(PauseForever);
                signal(SIGTERM, SIG_IGN);
                EXPECT_THAT(kill(0, SIGTERM), Succeeds());
                EXPECT_THAT(child.Wait(), KilledBy(SIGTERM));
              }),
              ExitsWith(0));
}

TEST(ProcessGroup, AGroupLivesAsLongAsAMember) {
  const pid_t leader = fork();
  if (leader == 0) {
    setpgid(0, 0);
    if (fork() == 0) PauseForever();
    _exit(0);
  }
  EXPECT_THAT(waitpid(leader, nullptr, 0), SucceedsWith(leader));
  EXPECT_THAT(kill(leader, 0), FailsWith(ESRCH));
  EXPECT_THAT(kill(-leader, 0), Succeeds());
  EXPECT_THAT(kill(-leader, SIGKILL), Succeeds());
  EXPECT_TRUE(WaitUntil([&] { return kill(-leader, 0) != 0 && errno == ESRCH; }));
}

TEST(Session, SetsidMakesALeaderOfBoth) {
  EXPECT_THAT(ForkAndRun([] {
                EXPECT_THAT(setsid(), SucceedsWith(getpid()));
                EXPECT_EQ(getpgrp(), getpid());
                EXPECT_THAT(getsid(0), SucceedsWith(getpid()));
                EXPECT_THAT(setsid(), FailsWith(EPERM)) << "already a group leader";
                EXPECT_THAT(setpgid(0, 0), FailsWith(EPERM)) << "a session leader stays";
              }),
              ExitsWith(0));
}

TEST(Session, AGroupLeaderCannotSetsid) {
  EXPECT_THAT(ForkAndRun([] {
                setpgid(0, 0);
                EXPECT_THAT(setsid(), FailsWith(EPERM));
              }),
              ExitsWith(0));
}

TEST(Session, GetsidOfOthers) {
  EXPECT_THAT(getsid(0x7ffffff), FailsWith(ESRCH));
  ChildProcess child(PauseForever);
  EXPECT_THAT(getsid(child.pid()), SucceedsWith(getsid(0)));
}

TEST(Session, SetpgidAcrossSessionsIsRefused) {
  Gate gate;
  ChildProcess child([&] {
    setsid();
    gate.Open();
    PauseForever();
  });
  gate.Wait();
  EXPECT_THAT(setpgid(child.pid(), child.pid()), FailsWith(EPERM));
}

TEST(Stop, AStoppedProcessMakesNoProgress) {
  const Mapping shared(kPageSize, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS);
  auto* counter = shared.as<std::atomic<uint64_t>>();
  ChildProcess child([&] {
    for (;;) counter->fetch_add(1);
  });
  ASSERT_TRUE(WaitUntil([&] { return counter->load() > 1000; }));
  child.Kill(SIGSTOP);
  EXPECT_THAT(waitpid(child.pid(), nullptr, WUNTRACED), SucceedsWith(child.pid()));
  const uint64_t at_stop = counter->load();
  for (int i = 0; i < 100; ++i) sched_yield();
  EXPECT_EQ(counter->load(), at_stop);
  child.Kill(SIGCONT);
  EXPECT_TRUE(WaitUntil([&] { return counter->load() > at_stop; }));
}

TEST(Stop, KillEndsAStoppedProcessAndTermWaitsForContinue) {
  ChildProcess child(PauseForever);
  child.Kill(SIGSTOP);
  EXPECT_THAT(waitpid(child.pid(), nullptr, WUNTRACED), SucceedsWith(child.pid()));
  child.Kill(SIGTERM);
  EXPECT_THAT(waitpid(child.pid(), nullptr, WNOHANG), SucceedsWith(0));
  child.Kill(SIGCONT);
  EXPECT_THAT(child.Wait(), KilledBy(SIGTERM));
  ChildProcess other(PauseForever);
  other.Kill(SIGSTOP);
  EXPECT_THAT(waitpid(other.pid(), nullptr, WUNTRACED), SucceedsWith(other.pid()));
  other.Kill(SIGKILL);
  EXPECT_THAT(other.Wait(), KilledBy(SIGKILL));
}

TEST(Stop, StopsAllThreads) {
  const Mapping shared(kPageSize, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS);
  auto* counter = shared.as<std::atomic<uint64_t>>();
  ChildProcess child([&] {
    std::thread([&] {
      for (;;) counter->fetch_add(1);
    }).detach();
    PauseForever();
  });
  ASSERT_TRUE(WaitUntil([&] { return counter->load() > 1000; }));
  child.Kill(SIGTSTP);
  int status = 0;
  EXPECT_THAT(waitpid(child.pid(), &status, WUNTRACED), SucceedsWith(child.pid()));
  EXPECT_THAT(status, StoppedBy(SIGTSTP));
  const uint64_t at_stop = counter->load();
  for (int i = 0; i < 100; ++i) sched_yield();
  EXPECT_EQ(counter->load(), at_stop);
}

TEST(Stop, ContRunsItsHandler) {
  const Pipe pipe = MakePipe();
  Gate ready;
  ChildProcess child([&] {
    static int fd;
    fd = pipe.writer;
    const ScopedSignalHandler handler(SIGCONT, [](int) { write(fd, "c", 1); });
    ready.Open();
    PauseForever();
  });
  ready.Wait();
  child.Kill(SIGSTOP);
  EXPECT_THAT(waitpid(child.pid(), nullptr, WUNTRACED), SucceedsWith(child.pid()));
  child.Kill(SIGCONT);
  char byte = 0;
  EXPECT_THAT(read(pipe.reader, &byte, 1), SucceedsWith(1));
  EXPECT_EQ(byte, 'c');
}

TEST(Stop, ABlockedStopSignalIsDiscardedByCont) {
  EXPECT_THAT(ForkAndRun([] {
                const ScopedSignalMask mask(SIG_BLOCK, {SIGTSTP, SIGCONT});
                raise(SIGTSTP);
                sigset_t pending;
                sigpending(&pending);
                EXPECT_TRUE(sigismember(&pending, SIGTSTP));
                raise(SIGCONT);
                sigpending(&pending);
                EXPECT_FALSE(sigismember(&pending, SIGTSTP));
                EXPECT_TRUE(sigismember(&pending, SIGCONT));
              }),
              ExitsWith(0));
}

TEST(Stop, OrphanedGroupsIgnoreTerminalStops) {
  EXPECT_THAT(ForkAndRun([] {
                ASSERT_THAT(setsid(), Succeeds());
                raise(SIGTSTP);
                raise(SIGTTIN);
                raise(SIGTTOU);
              }),
              ExitsWith(0));
}

TEST(Stop, ANewlyOrphanedStoppedGroupGetsHupAndCont) {
  const Pipe pipe = MakePipe();
  EXPECT_THAT(ForkAndRun([&] {
                setsid();
                Gate ready;
                const pid_t child = fork();
                if (child == 0) {
                  static int fd;
                  fd = pipe.writer;
                  setpgid(0, 0);
                  const ScopedSignalHandler handler(SIGHUP, [](int) { write(fd, "h", 1); });
                  ready.Open();
                  raise(SIGSTOP);
                  _exit(0);
                }
                ready.Wait();
                EXPECT_THAT(waitpid(child, nullptr, WUNTRACED), SucceedsWith(child));
              }),
              ExitsWith(0));
  char byte = 0;
  EXPECT_THAT(read(pipe.reader, &byte, 1), SucceedsWith(1));
}

TEST(Priority, GetAndSet) {
  EXPECT_THAT(ForkAndRun([] {
                EXPECT_THAT(setpriority(PRIO_PROCESS, 0, 0), Succeeds());  // whoever ran us nicely
                EXPECT_EQ(getpriority(PRIO_PROCESS, 0), 0);
                EXPECT_THAT(setpriority(PRIO_PROCESS, 0, 5), Succeeds());
                EXPECT_EQ(getpriority(PRIO_PROCESS, 0), 5);
                EXPECT_EQ(syscall(SYS_getpriority, PRIO_PROCESS, 0), 15);
                EXPECT_THAT(setpriority(PRIO_PROCESS, 0, 100), Succeeds());
                EXPECT_EQ(getpriority(PRIO_PROCESS, 0), 19);
                EXPECT_THAT(getpriority(9, 0), FailsWith(EINVAL));
                EXPECT_THAT(getpriority(PRIO_PROCESS, 0x7ffffff), FailsWith(ESRCH));
              }),
              ExitsWith(0));
}

}  // namespace
}  // namespace skep::test
