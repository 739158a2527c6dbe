// Processes as descriptors.
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include <csignal>
#include <cstring>
#include <thread>

#include "tests/util/matchers.h"
#include "tests/util/process.h"

namespace skep::test {
namespace {

constexpr idtype_t kPidfd = static_cast<idtype_t>(3);  // P_PIDFD
constexpr unsigned kNonblock = O_NONBLOCK;             // PIDFD_NONBLOCK

int PidfdOpen(pid_t pid, unsigned flags = 0) {
  return static_cast<int>(syscall(SYS_pidfd_open, pid, flags));
}
long SendSignal(int pidfd, int signo, siginfo_t* info = nullptr, unsigned flags = 0) {
  return syscall(SYS_pidfd_send_signal, pidfd, signo, info, flags);
}
long GetFd(int pidfd, int fd, unsigned flags = 0) {
  return syscall(SYS_pidfd_getfd, pidfd, fd, flags);
}
bool IsReadable(int fd) {
  pollfd entry = {fd, POLLIN, 0};
  return poll(&entry, 1, 0) == 1 && (entry.revents & POLLIN) != 0;
}
void Forever() {
  for (;;) pause();
}

TEST(Pidfd, OpenErrors) {
  EXPECT_THAT(PidfdOpen(0), FailsWith(EINVAL));
  EXPECT_THAT(PidfdOpen(-1), FailsWith(EINVAL));
  EXPECT_THAT(PidfdOpen(getpid(), 1), FailsWith(EINVAL));
  EXPECT_THAT(PidfdOpen(0x3fffff), FailsWith(ESRCH));
}

TEST(Pidfd, IsCloseOnExecAndNamedByProc) {
  const Fd pidfd(PidfdOpen(getpid()));
  ASSERT_THAT(pidfd, Succeeds());
  EXPECT_THAT(fcntl(pidfd, F_GETFD), SucceedsWith(FD_CLOEXEC));
  EXPECT_EQ(fcntl(pidfd, F_GETFL) & O_NONBLOCK, 0);
  const Fd nonblocking(PidfdOpen(getpid(), kNonblock));
  EXPECT_EQ(fcntl(nonblocking, F_GETFL) & O_NONBLOCK, O_NONBLOCK);
  const std::string info = ReadFile("/proc/self/fdinfo/" + std::to_string(int{pidfd}));
  EXPECT_NE(info.find("Pid:\t" + std::to_string(getpid()) + "\n"), std::string::npos) << info;
  char byte;
  EXPECT_THAT(read(pidfd, &byte, 1), FailsWith(EINVAL));
}

TEST(Pidfd, IsReadableOnceTheProcessIsDead) {
  ChildProcess child(Forever);
  const Fd pidfd(PidfdOpen(child.pid()));
  ASSERT_THAT(pidfd, Succeeds());
  EXPECT_FALSE(IsReadable(pidfd));
  const Fd epoll(epoll_create1(0));
  epoll_event event = {.events = EPOLLIN, .data = {.u32 = 7}};
  ASSERT_THAT(epoll_ctl(epoll, EPOLL_CTL_ADD, pidfd, &event), Succeeds());
  std::thread killer([&] {
    WaitUntilBlocked(getpid(), getpid());
    child.Kill(SIGKILL);
  });
  epoll_event got = {};
  EXPECT_THAT(epoll_wait(epoll, &got, 1, 10'000), SucceedsWith(1));
  killer.join();
  EXPECT_EQ(got.data.u32, 7u);
  EXPECT_TRUE(IsReadable(pidfd)) << "a zombie";
  child.Wait();
  EXPECT_TRUE(IsReadable(pidfd)) << "reaped";
}

TEST(Pidfd, IsNotReadableWhileAThreadLives) {
  Pipe pipe = MakePipe();
  const pid_t child = fork();
  if (child == 0) {
    std::thread([&] {
      char byte;
      read(pipe.reader, &byte, 1);
      _exit(5);
    }).detach();
    syscall(SYS_exit, 0);
  }
  const Fd pidfd(PidfdOpen(child));
  EXPECT_TRUE(WaitUntil([&] { return ProcessState(child) == 'Z'; })) << "the leader is gone";
  EXPECT_FALSE(IsReadable(pidfd));
  write(pipe.writer, "x", 1);
  EXPECT_TRUE(WaitUntil([&] { return IsReadable(pidfd); }));
  int status = 0;
  EXPECT_THAT(waitpid(child, &status, 0), SucceedsWith(child));
  EXPECT_THAT(status, ExitsWith(5));
}

TEST(Pidfd, SendsSignals) {
  ChildProcess child(Forever);
  const Fd pidfd(PidfdOpen(child.pid()));
  EXPECT_THAT(SendSignal(pidfd, 0), Succeeds());
  EXPECT_THAT(SendSignal(pidfd, 65), FailsWith(EINVAL));
  EXPECT_THAT(SendSignal(pidfd, SIGTERM, nullptr, 0x8000), FailsWith(EINVAL));
  const Fd other(open("/dev/null", O_RDONLY));
  EXPECT_THAT(SendSignal(other, SIGTERM), FailsWith(EBADF));
  siginfo_t info = {};
  info.si_signo = SIGUSR1;
  info.si_code = SI_QUEUE;
  EXPECT_THAT(SendSignal(pidfd, SIGTERM, &info), FailsWith(EINVAL));
  info.si_signo = SIGTERM;
  info.si_code = SI_USER;
  EXPECT_THAT(SendSignal(pidfd, SIGTERM, &info), FailsWith(EPERM)) << "as somebody else";
  EXPECT_THAT(SendSignal(pidfd, SIGTERM), Succeeds());
  EXPECT_THAT(child.Wait(), KilledBy(SIGTERM));
  EXPECT_THAT(SendSignal(pidfd, SIGTERM), FailsWith(ESRCH));
}

TEST(Pidfd, ASignalsInfoIsPassedOn) {
  const ScopedSignalMask mask(SIG_BLOCK, {SIGUSR1});
  const Fd pidfd(PidfdOpen(getpid()));
  siginfo_t info = {};
  info.si_signo = SIGUSR1;
  info.si_code = SI_QUEUE;
  info.si_value.sival_int = 99;
  EXPECT_THAT(SendSignal(pidfd, SIGUSR1, &info), Succeeds());
  siginfo_t got = {};
  const sigset_t set = SignalSet({SIGUSR1});
  EXPECT_THAT(sigwaitinfo(&set, &got), SucceedsWith(SIGUSR1));
  EXPECT_EQ(got.si_value.sival_int, 99);
  EXPECT_THAT(SendSignal(pidfd, SIGUSR1), Succeeds());
  EXPECT_THAT(sigwaitinfo(&set, &got), SucceedsWith(SIGUSR1));
  EXPECT_EQ(got.si_code, SI_USER);
  EXPECT_EQ(got.si_pid, getpid());
}

TEST(Pidfd, WaitidByDescriptor) {
  ChildProcess child([] { _exit(12); });
  const Fd pidfd(PidfdOpen(child.pid()));
  siginfo_t info = {};
  EXPECT_THAT(waitid(kPidfd, static_cast<id_t>(int{pidfd}), &info, WEXITED), Succeeds());
  EXPECT_EQ(info.si_pid, child.pid());
  EXPECT_EQ(info.si_status, 12);
  EXPECT_THAT(waitid(kPidfd, static_cast<id_t>(int{pidfd}), &info, WEXITED), FailsWith(ECHILD));
  child.Forget();
  const Fd self(PidfdOpen(getpid()));
  EXPECT_THAT(waitid(kPidfd, static_cast<id_t>(int{self}), &info, WEXITED), FailsWith(ECHILD));
  EXPECT_THAT(waitid(kPidfd, 1'000'000, &info, WEXITED), FailsWith(EBADF));
  const Fd other(open("/dev/null", O_RDONLY));
  EXPECT_THAT(waitid(kPidfd, static_cast<id_t>(int{other}), &info, WEXITED), FailsWith(EBADF));
}

TEST(Pidfd, NonblockingWaitidIsEagain) {
  ChildProcess child(Forever);
  const Fd pidfd(PidfdOpen(child.pid(), kNonblock));
  siginfo_t info = {};
  EXPECT_THAT(waitid(kPidfd, static_cast<id_t>(int{pidfd}), &info, WEXITED), FailsWith(EAGAIN));
  EXPECT_THAT(waitid(kPidfd, static_cast<id_t>(int{pidfd}), &info, WEXITED | WNOHANG), Succeeds());
}

TEST(Pidfd, GetfdTakesAnothersDescriptor) {
  Pipe ready = MakePipe();
  ChildProcess child([&] {
    const Pipe own = MakePipe();
    write(own.writer, "theirs", 6);
    const int numbers[2] = {own.reader, own.writer};
    write(ready.writer, numbers, sizeof(numbers));
    Forever();
  });
  int numbers[2] = {-1, -1};
  ASSERT_THAT(read(ready.reader, numbers, sizeof(numbers)), SucceedsWith(8));
  const Fd pidfd(PidfdOpen(child.pid()));
  const Fd taken(static_cast<int>(GetFd(pidfd, numbers[0])));
  ASSERT_THAT(taken, Succeeds());
  EXPECT_THAT(fcntl(taken, F_GETFD), SucceedsWith(FD_CLOEXEC));
  char buffer[16];
  EXPECT_THAT(read(taken, buffer, sizeof(buffer)), SucceedsWith(6));
  EXPECT_THAT(GetFd(pidfd, 1'000'000), FailsWith(EBADF));
  EXPECT_THAT(GetFd(pidfd, numbers[0], 1), FailsWith(EINVAL));
  EXPECT_THAT(GetFd(taken, 0), FailsWith(EBADF));
}

TEST(Pidfd, GetfdIsForThoseWhoMayTrace) {
  REQUIRE_ROOT();
  ChildProcess child(Forever);
  const Fd pidfd(PidfdOpen(child.pid()));
  EXPECT_THAT(ForkAndRun([&] {
                ASSERT_THAT(setresuid(54'321, 54'321, 54'321), Succeeds());
                EXPECT_THAT(GetFd(pidfd, 0), FailsWith(EPERM));
                EXPECT_THAT(SendSignal(pidfd, SIGTERM), FailsWith(EPERM));
              }),
              ExitsWith(0));
}

TEST(Pidfd, CloneGivesOne) {
  int number = -1;
  const long child = syscall(SYS_clone, CLONE_PIDFD | SIGCHLD, nullptr, &number, nullptr, 0);
  if (child == 0) _exit(number == -1 ? 3 : 4);
  ASSERT_THAT(child, Succeeds());
  const Fd pidfd(number);
  EXPECT_THAT(fcntl(pidfd, F_GETFD), SucceedsWith(FD_CLOEXEC));
  siginfo_t info = {};
  EXPECT_THAT(waitid(kPidfd, static_cast<id_t>(number), &info, WEXITED), Succeeds());
  EXPECT_EQ(info.si_pid, child);
  EXPECT_EQ(info.si_status, 3) << "the number is for the parent";
}

TEST(Pidfd, Clone3GivesOne) {
  struct {
    uint64_t flags, pidfd, child_tid, parent_tid, exit_signal, stack, stack_size, tls;
  } args = {};
  int number = -1;
  args.flags = CLONE_PIDFD;
  args.pidfd = reinterpret_cast<uint64_t>(&number);
  args.exit_signal = SIGCHLD;
  const long child = syscall(SYS_clone3, &args, sizeof(args));
  if (child == 0) _exit(6);
  ASSERT_THAT(child, Succeeds());
  const Fd pidfd(number);
  siginfo_t info = {};
  EXPECT_THAT(waitid(kPidfd, static_cast<id_t>(number), &info, WEXITED), Succeeds());
  EXPECT_EQ(info.si_status, 6);
  args.pidfd = reinterpret_cast<uint64_t>(kBadAddress);
  EXPECT_THAT(syscall(SYS_clone3, &args, sizeof(args)), FailsWith(EFAULT));
}

TEST(Pidfd, CloneRefusesItsPlaceTwice) {
  int number = -1;
  EXPECT_THAT(
      syscall(SYS_clone, CLONE_PIDFD | CLONE_PARENT_SETTID | SIGCHLD, nullptr, &number, nullptr, 0),
      FailsWith(EINVAL));
}

}  // namespace
}  // namespace skep::test
