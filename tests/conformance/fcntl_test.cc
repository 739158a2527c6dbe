// The dup family, fcntl, close_range, and the three kinds of file locks.
#include <fcntl.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#include <atomic>
#include <thread>

#include "tests/util/matchers.h"
#include "tests/util/process.h"

namespace skep::test {
namespace {

TEST(Dup, SharesTheDescriptionNotTheFlag) {
  const TempDir dir;
  WriteFile(dir.File("f"), "0123");
  const Fd fd(open(dir.File("f").c_str(), O_RDONLY | O_CLOEXEC));
  const Fd copy(dup(fd));
  ASSERT_THAT(copy, Succeeds());
  EXPECT_THAT(lseek(fd, 2, SEEK_SET), SucceedsWith(2));
  EXPECT_THAT(lseek(copy, 0, SEEK_CUR), SucceedsWith(2));
  EXPECT_THAT(fcntl(copy, F_GETFD), SucceedsWith(0));
  EXPECT_THAT(fcntl(copy, F_SETFL, O_NONBLOCK), Succeeds());
  EXPECT_NE(fcntl(fd, F_GETFL) & O_NONBLOCK, 0);
  EXPECT_THAT(dup(1'000'000), FailsWith(EBADF));
}

TEST(Dup2, ReplacesAndSameIsANoop) {
  const Pipe pipe = MakePipe();
  const Fd target(open("/dev/null", O_RDONLY));
  EXPECT_THAT(dup2(pipe.writer, target), SucceedsWith(target));
  EXPECT_THAT(write(target, "x", 1), SucceedsWith(1));
  EXPECT_THAT(dup2(target, target), SucceedsWith(target));
  EXPECT_THAT(dup2(1'000'000, target), FailsWith(EBADF));
  EXPECT_THAT(dup2(target, -1), FailsWith(EBADF));
  EXPECT_THAT(dup2(1'000'000, 1'000'000), FailsWith(EBADF));
}

TEST(Dup3, SetsCloexecAndRefusesTheSame) {
  const Fd fd(open("/dev/null", O_RDONLY));
  const Fd target(fcntl(fd, F_DUPFD, 300));
  EXPECT_THAT(dup3(fd, target, O_CLOEXEC), SucceedsWith(target));
  EXPECT_THAT(fcntl(target, F_GETFD), SucceedsWith(FD_CLOEXEC));
  EXPECT_THAT(dup3(fd, fd, 0), FailsWith(EINVAL));
  EXPECT_THAT(dup3(fd, target, O_NONBLOCK), FailsWith(EINVAL));
}

TEST(Fcntl, DupfdTakesTheNextFreeAtOrAbove) {
  const Fd fd(open("/dev/null", O_RDONLY));
  const Fd first(fcntl(fd, F_DUPFD, 400));
  EXPECT_EQ(first, 400);
  const Fd second(fcntl(fd, F_DUPFD_CLOEXEC, 400));
  EXPECT_EQ(second, 401);
  EXPECT_THAT(fcntl(second, F_GETFD), SucceedsWith(FD_CLOEXEC));
  EXPECT_THAT(fcntl(fd, F_DUPFD, -1), FailsWith(EINVAL));
}

TEST(Fcntl, StatusFlagsThatMayChange) {
  const TempDir dir;
  const Fd fd(open(dir.File("f").c_str(), O_RDWR | O_CREAT, 0600));
  EXPECT_THAT(fcntl(fd, F_SETFL, O_APPEND | O_NONBLOCK | O_WRONLY | O_CREAT), Succeeds());
  EXPECT_EQ(fcntl(fd, F_GETFL) & (O_ACCMODE | O_APPEND | O_NONBLOCK | O_CREAT),
            O_RDWR | O_APPEND | O_NONBLOCK);
  EXPECT_THAT(fcntl(fd, F_SETFL, 0), Succeeds());
  EXPECT_EQ(fcntl(fd, F_GETFL) & (O_APPEND | O_NONBLOCK), 0);
}

TEST(Fcntl, Errors) {
  EXPECT_THAT(fcntl(1'000'000, F_GETFD), FailsWith(EBADF));
  EXPECT_THAT(fcntl(1'000'000, 9999), FailsWith(EBADF));
  const Fd fd(open("/dev/null", O_RDONLY));
  EXPECT_THAT(fcntl(fd, 9999), FailsWith(EINVAL));
}

TEST(Ioctl, CloexecAndNonblock) {
  const Pipe pipe = MakePipe();
  EXPECT_THAT(ioctl(pipe.reader, FIOCLEX), Succeeds());
  EXPECT_THAT(fcntl(pipe.reader, F_GETFD), SucceedsWith(FD_CLOEXEC));
  EXPECT_THAT(ioctl(pipe.reader, FIONCLEX), Succeeds());
  EXPECT_THAT(fcntl(pipe.reader, F_GETFD), SucceedsWith(0));
  int on = 1;
  EXPECT_THAT(ioctl(pipe.reader, FIONBIO, &on), Succeeds());
  EXPECT_NE(fcntl(pipe.reader, F_GETFL) & O_NONBLOCK, 0);
  EXPECT_THAT(ioctl(pipe.reader, TIOCGWINSZ, &on), FailsWith(ENOTTY));
  EXPECT_THAT(ioctl(1'000'000, FIOCLEX), FailsWith(EBADF));
}

TEST(CloseRange, ClosesAndMarks) {
  EXPECT_THAT(ForkAndRun([] {
                const int fd = open("/dev/null", O_RDONLY);
                for (int i = 600; i < 610; ++i) ASSERT_THAT(dup2(fd, i), Succeeds());
                EXPECT_THAT(syscall(436, 603, 605, 0), Succeeds());
                EXPECT_THAT(fcntl(604, F_GETFD), FailsWith(EBADF));
                EXPECT_THAT(fcntl(606, F_GETFD), Succeeds());
                EXPECT_THAT(syscall(436, 606, ~0u, 4 /* CLOSE_RANGE_CLOEXEC */), Succeeds());
                EXPECT_THAT(fcntl(609, F_GETFD), SucceedsWith(FD_CLOEXEC));
                EXPECT_THAT(syscall(436, 10, 9, 0), FailsWith(EINVAL));
                EXPECT_THAT(syscall(436, 3, 4, 0x80), FailsWith(EINVAL));
              }),
              ExitsWith(0));
}

TEST(Close, TwiceIsEbadf) {
  const int fd = open("/dev/null", O_RDONLY);
  EXPECT_THAT(close(fd), Succeeds());
  EXPECT_THAT(close(fd), FailsWith(EBADF));
  EXPECT_THAT(close(-1), FailsWith(EBADF));
}

TEST(Close, WhileAnotherThreadReadsLetsTheReadFinish) {
  Pipe pipe = MakePipe();
  const int reader = pipe.reader.Release();
  std::atomic<ssize_t> got = -2;
  std::atomic<pid_t> tid = 0;
  std::thread thread([&] {
    tid = GetTid();
    char byte;
    got = read(reader, &byte, 1);
  });
  while (tid == 0) sched_yield();
  WaitUntilBlocked(getpid(), tid);
  EXPECT_THAT(close(reader), Succeeds());
  EXPECT_THAT(write(pipe.writer, "x", 1), SucceedsWith(1)) << "the reader still holds the pipe";
  thread.join();
  EXPECT_EQ(got, 1);
}

class Lock : public testing::Test {
 protected:
  static int Set(int fd, short type, off_t start, off_t length, int command = F_SETLK) {
    struct flock lock = {type, SEEK_SET, start, length, 0};
    return fcntl(fd, command, &lock);
  }
  static struct flock Get(int fd, short type, off_t start, off_t length, int command = F_GETLK) {
    struct flock lock = {type, SEEK_SET, start, length, 0};
    EXPECT_THAT(fcntl(fd, command, &lock), Succeeds());
    return lock;
  }
  Fd Open(int flags = O_RDWR) const { return Fd(open(path_.c_str(), flags)); }

  TempDir dir_;
  std::string path_ = (WriteFile(dir_.File("f"), "0123456789"), dir_.File("f"));
  Fd fd_{open(path_.c_str(), O_RDWR)};
};

TEST_F(Lock, PosixConflictsBetweenProcesses) {
  ASSERT_THAT(Set(fd_, F_WRLCK, 2, 4), Succeeds());
  const pid_t parent = getpid();
  EXPECT_THAT(ForkAndRun([&] {
                EXPECT_THAT(Set(fd_, F_RDLCK, 0, 3), FailsWith(EAGAIN));
                EXPECT_THAT(Set(fd_, F_WRLCK, 6, 0), Succeeds());
                const struct flock holder = Get(fd_, F_RDLCK, 0, 0);
                EXPECT_EQ(holder.l_type, F_WRLCK);
                EXPECT_EQ(holder.l_start, 2);
                EXPECT_EQ(holder.l_len, 4);
                EXPECT_EQ(holder.l_pid, parent);
                EXPECT_EQ(Get(fd_, F_WRLCK, 0, 2).l_type, F_UNLCK);
              }),
              ExitsWith(0));
}

TEST_F(Lock, PosixReadersShare) {
  ASSERT_THAT(Set(fd_, F_RDLCK, 0, 0), Succeeds());
  EXPECT_THAT(ForkAndRun([&] {
                EXPECT_THAT(Set(fd_, F_RDLCK, 0, 0), Succeeds());
                EXPECT_THAT(Set(fd_, F_WRLCK, 0, 1), FailsWith(EAGAIN));
              }),
              ExitsWith(0));
}

TEST_F(Lock, PosixUnlockInTheMiddleSplits) {
  ASSERT_THAT(Set(fd_, F_WRLCK, 0, 10), Succeeds());
  ASSERT_THAT(Set(fd_, F_UNLCK, 4, 2), Succeeds());
  EXPECT_THAT(ForkAndRun([&] {
                EXPECT_THAT(Set(fd_, F_WRLCK, 4, 2), Succeeds());
                EXPECT_THAT(Set(fd_, F_WRLCK, 3, 1), FailsWith(EAGAIN));
                EXPECT_THAT(Set(fd_, F_WRLCK, 6, 1), FailsWith(EAGAIN));
              }),
              ExitsWith(0));
}

TEST_F(Lock, PosixDiesWithAnyCloseAndIsNotInherited) {
  ASSERT_THAT(Set(fd_, F_WRLCK, 0, 0), Succeeds());
  EXPECT_THAT(ForkAndRun([&] { EXPECT_THAT(Set(fd_, F_WRLCK, 0, 1), FailsWith(EAGAIN)); }),
              ExitsWith(0));
  Open().Reset();
  EXPECT_THAT(ForkAndRun([&] { EXPECT_THAT(Set(fd_, F_WRLCK, 0, 1), Succeeds()); }), ExitsWith(0));
}

TEST_F(Lock, PosixWaitsAndIsWoken) {
  ASSERT_THAT(Set(fd_, F_WRLCK, 0, 0), Succeeds());
  ChildProcess child([&] { EXPECT_THAT(Set(fd_, F_WRLCK, 0, 0, F_SETLKW), Succeeds()); });
  WaitUntilBlocked(child.pid());
  EXPECT_THAT(Set(fd_, F_UNLCK, 0, 0), Succeeds());
  EXPECT_THAT(child.Wait(), ExitsWith(0));
}

TEST_F(Lock, PosixWaitIsInterruptible) {
  ASSERT_THAT(Set(fd_, F_WRLCK, 0, 0), Succeeds());
  ChildProcess child([&] {
    const ScopedSignalHandler handler(SIGUSR1, [](int) {});
    EXPECT_THAT(Set(fd_, F_WRLCK, 0, 0, F_SETLKW), FailsWith(EINTR));
  });
  WaitUntilBlocked(child.pid());
  child.Kill(SIGUSR1);
  EXPECT_THAT(child.Wait(), ExitsWith(0));
}

TEST_F(Lock, PosixDeadlockIsDetected) {
  ASSERT_THAT(Set(fd_, F_WRLCK, 0, 1), Succeeds());
  Gate ready;
  ChildProcess child([&] {
    EXPECT_THAT(Set(fd_, F_WRLCK, 1, 1), Succeeds());
    ready.Open();
    EXPECT_THAT(Set(fd_, F_WRLCK, 0, 1, F_SETLKW), Succeeds());
  });
  ready.Wait();
  WaitUntilBlocked(child.pid());
  EXPECT_THAT(Set(fd_, F_WRLCK, 1, 1, F_SETLKW), FailsWith(EDEADLK));
  Set(fd_, F_UNLCK, 0, 0);
  EXPECT_THAT(child.Wait(), ExitsWith(0));
}

TEST_F(Lock, PosixErrors) {
  const Fd reader = Open(O_RDONLY);
  EXPECT_THAT(Set(reader, F_WRLCK, 0, 0), FailsWith(EBADF));
  const Fd writer = Open(O_WRONLY);
  EXPECT_THAT(Set(writer, F_RDLCK, 0, 0), FailsWith(EBADF));
  EXPECT_THAT(Set(fd_, 9, 0, 0), FailsWith(EINVAL));
  EXPECT_THAT(Set(fd_, F_WRLCK, -1, 1), FailsWith(EINVAL));
  EXPECT_THAT(fcntl(fd_, F_SETLK, kBadAddress), FailsWith(EFAULT));
  EXPECT_THAT(Set(fd_, F_WRLCK, 5, -3), Succeeds()) << "a negative length counts backwards";
}

TEST_F(Lock, OfdLocksBelongToTheDescription) {
  const Fd other = Open();
  ASSERT_THAT(Set(fd_, F_WRLCK, 0, 0, F_OFD_SETLK), Succeeds());
  EXPECT_THAT(Set(other, F_RDLCK, 0, 1, F_OFD_SETLK), FailsWith(EAGAIN));
  EXPECT_EQ(Get(other, F_RDLCK, 0, 1, F_OFD_GETLK).l_pid, -1);
  Open().Reset();
  EXPECT_THAT(Set(other, F_RDLCK, 0, 1, F_OFD_SETLK), FailsWith(EAGAIN));
  EXPECT_THAT(ForkAndRun([&] { EXPECT_THAT(Set(fd_, F_WRLCK, 0, 0, F_OFD_SETLK), Succeeds()); }),
              ExitsWith(0))
      << "the child shares the description";
  fd_.Reset();
  EXPECT_THAT(Set(other, F_WRLCK, 0, 1, F_OFD_SETLK), Succeeds());
}

TEST_F(Lock, OfdAndPosixConflict) {
  ASSERT_THAT(Set(fd_, F_WRLCK, 0, 0, F_OFD_SETLK), Succeeds());
  EXPECT_THAT(Set(fd_, F_WRLCK, 0, 0), FailsWith(EAGAIN));
  struct flock lock = {F_WRLCK, SEEK_SET, 0, 0, 77};
  EXPECT_THAT(fcntl(fd_, F_OFD_SETLK, &lock), FailsWith(EINVAL)) << "l_pid must be zero";
}

TEST_F(Lock, FlockExcludesAndShares) {
  const Fd other = Open();
  EXPECT_THAT(flock(fd_, LOCK_EX), Succeeds());
  EXPECT_THAT(flock(other, LOCK_EX | LOCK_NB), FailsWith(EWOULDBLOCK));
  EXPECT_THAT(flock(fd_, LOCK_SH), Succeeds());
  EXPECT_THAT(flock(other, LOCK_SH | LOCK_NB), Succeeds());
  EXPECT_THAT(flock(fd_, LOCK_EX | LOCK_NB), FailsWith(EWOULDBLOCK));
  EXPECT_THAT(flock(other, LOCK_UN), Succeeds());
  EXPECT_THAT(flock(fd_, 0), FailsWith(EINVAL));
  EXPECT_THAT(flock(1'000'000, LOCK_SH), FailsWith(EBADF));
}

TEST_F(Lock, FlockIsSharedByDupAndForkAndEndsWithTheLastClose) {
  const Fd other = Open();
  ASSERT_THAT(flock(fd_, LOCK_EX), Succeeds());
  Fd copy(dup(fd_));
  fd_.Reset();
  EXPECT_THAT(flock(other, LOCK_EX | LOCK_NB), FailsWith(EWOULDBLOCK));
  copy.Reset();
  EXPECT_THAT(flock(other, LOCK_EX | LOCK_NB), Succeeds());
}

TEST_F(Lock, FlockWaits) {
  ASSERT_THAT(flock(fd_, LOCK_EX), Succeeds());
  ChildProcess child([&] {
    const Fd own = Open();
    EXPECT_THAT(flock(own, LOCK_SH), Succeeds());
  });
  WaitUntilBlocked(child.pid());
  EXPECT_THAT(flock(fd_, LOCK_UN), Succeeds());
  EXPECT_THAT(child.Wait(), ExitsWith(0));
}

}  // namespace
}  // namespace skep::test
