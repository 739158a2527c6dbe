// Waiting for signals, and what a signal does to calls that block: EINTR or a restart.
#include <fcntl.h>
#include <poll.h>
#include <sys/epoll.h>
#include <sys/select.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>

#include <atomic>
#include <functional>
#include <thread>

#include "tests/util/matchers.h"
#include "tests/util/process.h"

namespace skep::test {
namespace {

volatile sig_atomic_t g_handled = 0;
void Handle(int) { g_handled = g_handled + 1; }

// Sends SIGUSR1 to the calling thread once it sleeps, then runs `after` once it sleeps again.
class SignalWhenBlocked {
 public:
  explicit SignalWhenBlocked(std::function<void()> after = nullptr) {
    g_handled = 0;
    sender_ = std::thread([self = pthread_self(), tid = GetTid(), after = std::move(after)] {
      WaitUntilBlocked(getpid(), tid);
      pthread_kill(self, SIGUSR1);
      if (!after) return;
      while (g_handled == 0) sched_yield();
      WaitUntilBlocked(getpid(), tid);
      after();
    });
  }
  ~SignalWhenBlocked() { sender_.join(); }

 private:
  std::thread sender_;
};

TEST(Sigsuspend, TakesTheMaskWaitsAndRestoresIt) {
  g_handled = 0;
  const ScopedSignalHandler handler(SIGUSR1, Handle);
  const ScopedSignalMask mask(SIG_BLOCK, {SIGUSR1});
  raise(SIGUSR1);
  const sigset_t none = SignalSet({});
  EXPECT_THAT(sigsuspend(&none), FailsWith(EINTR));
  EXPECT_EQ(g_handled, 1);
  sigset_t now;
  pthread_sigmask(SIG_BLOCK, nullptr, &now);
  EXPECT_TRUE(sigismember(&now, SIGUSR1));
}

TEST(Sigsuspend, Errors) {
  const uint64_t set = 0;
  EXPECT_THAT(syscall(SYS_rt_sigsuspend, &set, 4), FailsWith(EINVAL));
  EXPECT_THAT(syscall(SYS_rt_sigsuspend, kBadAddress, 8), FailsWith(EFAULT));
}

TEST(Pause, ReturnsAfterAHandler) {
  const ScopedSignalHandler handler(SIGUSR1, Handle, SA_RESTART);
  const SignalWhenBlocked signal;
  EXPECT_THAT(pause(), FailsWith(EINTR));
  EXPECT_EQ(g_handled, 1);
}

TEST(Sigtimedwait, TakesAPendingSignal) {
  const ScopedSignalMask mask(SIG_BLOCK, {SIGUSR1, SIGUSR2});
  sigqueue(getpid(), SIGUSR1, sigval{.sival_int = 5});
  const sigset_t set = SignalSet({SIGUSR1, SIGUSR2});
  siginfo_t info = {};
  EXPECT_THAT(sigwaitinfo(&set, &info), SucceedsWith(SIGUSR1));
  EXPECT_EQ(info.si_signo, SIGUSR1);
  EXPECT_EQ(info.si_code, SI_QUEUE);
  EXPECT_EQ(info.si_value.sival_int, 5);
}

TEST(Sigtimedwait, TimesOut) {
  const ScopedSignalMask mask(SIG_BLOCK, {SIGUSR1});
  const sigset_t set = SignalSet({SIGUSR1});
  const timespec none = {};
  const timespec some = {0, 10'000'000};
  EXPECT_THAT(sigtimedwait(&set, nullptr, &none), FailsWith(EAGAIN));
  const int64_t start = NowNs();
  EXPECT_THAT(sigtimedwait(&set, nullptr, &some), FailsWith(EAGAIN));
  EXPECT_GE(NowNs() - start, 10'000'000);
}

TEST(Sigtimedwait, WakesForASignalSentLater) {
  const ScopedSignalMask mask(SIG_BLOCK, {SIGUSR1});
  const sigset_t set = SignalSet({SIGUSR1});
  const SignalWhenBlocked signal;
  EXPECT_THAT(sigwaitinfo(&set, nullptr), SucceedsWith(SIGUSR1));
}

TEST(Sigtimedwait, AnotherSignalsHandlerInterrupts) {
  const ScopedSignalHandler handler(SIGUSR1, Handle, SA_RESTART);
  const sigset_t set = SignalSet({SIGUSR2});
  const SignalWhenBlocked signal;
  siginfo_t info;
  EXPECT_THAT(syscall(SYS_rt_sigtimedwait, &set, &info, nullptr, 8), FailsWith(EINTR));
}

TEST(Sigtimedwait, Errors) {
  const uint64_t set = 0;
  const timespec bad = {0, -1};
  EXPECT_THAT(syscall(SYS_rt_sigtimedwait, &set, nullptr, nullptr, 4), FailsWith(EINVAL));
  EXPECT_THAT(syscall(SYS_rt_sigtimedwait, &set, nullptr, &bad, 8), FailsWith(EINVAL));
  EXPECT_THAT(syscall(SYS_rt_sigtimedwait, kBadAddress, nullptr, nullptr, 8), FailsWith(EFAULT));
}

TEST(Interrupt, ReadOfAPipe) {
  const Pipe pipe = MakePipe();
  const ScopedSignalHandler handler(SIGUSR1, Handle);
  const SignalWhenBlocked signal;
  char byte;
  EXPECT_THAT(read(pipe.reader, &byte, 1), FailsWith(EINTR));
}

TEST(Interrupt, WriteToAFullPipe) {
  const Pipe pipe = MakePipe(O_NONBLOCK);
  const std::string block(4096, 'x');
  while (write(pipe.writer, block.data(), block.size()) > 0) {
  }
  fcntl(pipe.writer, F_SETFL, 0);
  const ScopedSignalHandler handler(SIGUSR1, Handle);
  const SignalWhenBlocked signal;
  EXPECT_THAT(write(pipe.writer, "x", 1), FailsWith(EINTR));
}

TEST(Interrupt, APartialWriteIsACount) {
  const Pipe pipe = MakePipe();
  const std::string big(1 << 20, 'x');
  const ScopedSignalHandler handler(SIGUSR1, Handle, SA_RESTART);
  const SignalWhenBlocked signal;
  const ssize_t written = write(pipe.writer, big.data(), big.size());
  EXPECT_GT(written, 0);
  EXPECT_LT(written, static_cast<ssize_t>(big.size()));
}

TEST(Restart, ReadOfAPipe) {
  const Pipe pipe = MakePipe();
  const ScopedSignalHandler handler(SIGUSR1, Handle, SA_RESTART);
  const SignalWhenBlocked signal([&] { write(pipe.writer, "z", 1); });
  char byte = 0;
  EXPECT_THAT(read(pipe.reader, &byte, 1), SucceedsWith(1));
  EXPECT_EQ(byte, 'z');
  EXPECT_EQ(g_handled, 1);
}

TEST(Restart, WaitForAChild) {
  Gate gate;
  ChildProcess child([&] { gate.Wait(); });
  const ScopedSignalHandler handler(SIGUSR1, Handle, SA_RESTART);
  const SignalWhenBlocked signal([&] { gate.Open(); });
  EXPECT_THAT(waitpid(child.pid(), nullptr, 0), SucceedsWith(child.pid()));
  EXPECT_EQ(g_handled, 1);
  child.Forget();
}

TEST(Restart, OpenOfAFifo) {
  const TempDir dir;
  ASSERT_THAT(mkfifo(dir.File("f").c_str(), 0600), Succeeds());
  const ScopedSignalHandler handler(SIGUSR1, Handle, SA_RESTART);
  std::atomic<int> writer = -1;
  {
    const SignalWhenBlocked signal(
        [&] { writer = open(dir.File("f").c_str(), O_WRONLY | O_NONBLOCK); });
    const Fd reader(open(dir.File("f").c_str(), O_RDONLY));
    EXPECT_THAT(reader, Succeeds());
  }
  EXPECT_GE(writer, 0);
  close(writer);
}

TEST(Restart, NeverForPollSelectAndEpoll) {
  const Pipe pipe = MakePipe();
  const ScopedSignalHandler handler(SIGUSR1, Handle, SA_RESTART);
  {
    pollfd fds = {pipe.reader, POLLIN, 0};
    const SignalWhenBlocked signal;
    EXPECT_THAT(poll(&fds, 1, -1), FailsWith(EINTR));
  }
  {
    fd_set set;
    FD_ZERO(&set);
    FD_SET(pipe.reader, &set);
    const SignalWhenBlocked signal;
    EXPECT_THAT(select(pipe.reader + 1, &set, nullptr, nullptr, nullptr), FailsWith(EINTR));
  }
  {
    const Fd epoll(epoll_create1(0));
    epoll_event event = {};
    const SignalWhenBlocked signal;
    EXPECT_THAT(epoll_wait(epoll, &event, 1, -1), FailsWith(EINTR));
  }
}

TEST(Restart, NeverForNanosleepWhichTellsTheRest) {
  const ScopedSignalHandler handler(SIGUSR1, Handle, SA_RESTART);
  const timespec request = {100, 0};
  timespec rest = {};
  const SignalWhenBlocked signal;
  EXPECT_THAT(nanosleep(&request, &rest), FailsWith(EINTR));
  EXPECT_GT(rest.tv_sec, 50);
  EXPECT_LE(rest.tv_sec, 100);
}

TEST(Restart, NeverForSocketsWithATimeout) {
  const Pipe pair = MakeSocketPair(SOCK_STREAM);
  const timeval timeout = {100, 0};
  ASSERT_THAT(setsockopt(pair.reader, SOL_SOCKET, SO_RCVTIMEO, &timeout, sizeof(timeout)),
              Succeeds());
  const ScopedSignalHandler handler(SIGUSR1, Handle, SA_RESTART);
  const SignalWhenBlocked signal;
  char byte;
  EXPECT_THAT(read(pair.reader, &byte, 1), FailsWith(EINTR));
}

TEST(Restart, AStopAndContinueRestartsWithoutAHandler) {
  const Pipe data = MakePipe();
  Gate ready;
  ChildProcess child([&] {
    ready.Open();
    char byte;
    EXPECT_THAT(read(data.reader, &byte, 1), SucceedsWith(1));
    const timespec pause = {0, 50'000'000};
    EXPECT_THAT(nanosleep(&pause, nullptr), Succeeds());
  });
  ready.Wait();
  const auto stop_and_continue = [&] {
    WaitUntilBlocked(child.pid());
    child.Kill(SIGSTOP);
    EXPECT_THAT(waitpid(child.pid(), nullptr, WUNTRACED), SucceedsWith(child.pid()));
    child.Kill(SIGCONT);
  };
  stop_and_continue();
  WaitUntilBlocked(child.pid());
  write(data.writer, "x", 1);
  stop_and_continue();
  EXPECT_THAT(child.Wait(), ExitsWith(0));
}

TEST(Restart, AnIgnoredSignalDoesNotInterrupt) {
  const Pipe pipe = MakePipe();
  const ScopedSignalHandler ignore(SIGUSR1, SIG_IGN);
  std::thread sender([&, self = pthread_self(), tid = GetTid()] {
    WaitUntilBlocked(getpid(), tid);
    pthread_kill(self, SIGUSR1);
    write(pipe.writer, "x", 1);
  });
  char byte;
  EXPECT_THAT(read(pipe.reader, &byte, 1), SucceedsWith(1));
  sender.join();
}

TEST(Ppoll, MaskIsAtomicWithTheWait) {
  g_handled = 0;
  const ScopedSignalHandler handler(SIGUSR1, Handle);
  const ScopedSignalMask mask(SIG_BLOCK, {SIGUSR1});
  raise(SIGUSR1);
  const sigset_t none = SignalSet({});
  EXPECT_THAT(ppoll(nullptr, 0, nullptr, &none), FailsWith(EINTR));
  EXPECT_EQ(g_handled, 1);
  sigset_t now;
  pthread_sigmask(SIG_BLOCK, nullptr, &now);
  EXPECT_TRUE(sigismember(&now, SIGUSR1));
}

TEST(Pselect, MaskIsAtomicWithTheWait) {
  g_handled = 0;
  const ScopedSignalHandler handler(SIGUSR1, Handle);
  const ScopedSignalMask mask(SIG_BLOCK, {SIGUSR1});
  raise(SIGUSR1);
  const sigset_t none = SignalSet({});
  EXPECT_THAT(pselect(0, nullptr, nullptr, nullptr, nullptr, &none), FailsWith(EINTR));
  EXPECT_EQ(g_handled, 1);
}

TEST(EpollPwait, MaskIsAtomicWithTheWait) {
  g_handled = 0;
  const ScopedSignalHandler handler(SIGUSR1, Handle);
  const ScopedSignalMask mask(SIG_BLOCK, {SIGUSR1});
  raise(SIGUSR1);
  const sigset_t none = SignalSet({});
  const Fd epoll(epoll_create1(0));
  epoll_event event;
  EXPECT_THAT(epoll_pwait(epoll, &event, 1, -1, &none), FailsWith(EINTR));
  EXPECT_EQ(g_handled, 1);
}

TEST(Signalfd, ReadsWhatIsBlockedAndPending) {
  // A descriptor of signals is beyond the first version; whoever has it must have it right.
  const ScopedSignalMask mask(SIG_BLOCK, {SIGUSR1});
  const sigset_t set = SignalSet({SIGUSR1});
  const Fd fd(static_cast<int>(syscall(SYS_signalfd4, -1, &set, 8, O_NONBLOCK)));
  ASSERT_THAT(fd, Succeeds());
  char info[128];
  EXPECT_THAT(read(fd, info, sizeof(info)), FailsWith(EAGAIN));
  raise(SIGUSR1);
  EXPECT_THAT(read(fd, info, sizeof(info)), SucceedsWith(sizeof(info)));
  EXPECT_EQ(*reinterpret_cast<uint32_t*>(info), static_cast<uint32_t>(SIGUSR1));
}

}  // namespace
}  // namespace skep::test
