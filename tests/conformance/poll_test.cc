// poll, ppoll, select and pselect: readiness of each kind of file, sets, timeouts, errors.
#include <fcntl.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/select.h>
#include <sys/socket.h>
#include <sys/syscall.h>

#include <thread>

#include "tests/util/matchers.h"
#include "tests/util/process.h"

namespace skep::test {
namespace {

short EventsOf(int fd, short wanted = POLLIN | POLLOUT) {
  pollfd entry = {fd, wanted, 0};
  EXPECT_THAT(poll(&entry, 1, 0), Succeeds());
  return entry.revents;
}

TEST(Poll, PipeReadiness) {
  Pipe pipe = MakePipe();
  EXPECT_EQ(EventsOf(pipe.reader), 0);
  EXPECT_EQ(EventsOf(pipe.writer), POLLOUT);
  write(pipe.writer, "x", 1);
  EXPECT_EQ(EventsOf(pipe.reader), POLLIN);
  pipe.writer.Reset();
  EXPECT_EQ(EventsOf(pipe.reader), POLLIN | POLLHUP);
  char byte;
  read(pipe.reader, &byte, 1);
  EXPECT_EQ(EventsOf(pipe.reader), POLLHUP);
}

TEST(Poll, WriterWithoutReadersIsAnError) {
  Pipe pipe = MakePipe();
  pipe.reader.Reset();
  EXPECT_EQ(EventsOf(pipe.writer), POLLOUT | POLLERR);
  EXPECT_EQ(EventsOf(pipe.writer, 0), POLLERR) << "reported without asking";
}

TEST(Poll, FullPipeIsNotWritable) {
  const Pipe pipe = MakePipe(O_NONBLOCK);
  const std::string page(kPageSize, 'x');
  while (write(pipe.writer, page.data(), page.size()) > 0) {
  }
  EXPECT_EQ(EventsOf(pipe.writer), 0);
  std::string buffer(kPageSize, 0);
  read(pipe.reader, buffer.data(), buffer.size());
  EXPECT_EQ(EventsOf(pipe.writer), POLLOUT);
}

TEST(Poll, RegularFilesAreAlwaysReady) {
  const TempDir dir;
  const Fd fd(open(dir.File("f").c_str(), O_RDWR | O_CREAT, 0600));
  EXPECT_EQ(EventsOf(fd), POLLIN | POLLOUT);
  const Fd null(open("/dev/null", O_RDWR));
  EXPECT_EQ(EventsOf(null), POLLIN | POLLOUT);
}

TEST(Poll, SocketReadiness) {
  Pipe pair = MakeSocketPair(SOCK_STREAM);
  EXPECT_EQ(EventsOf(pair.reader), POLLOUT);
  write(pair.writer, "x", 1);
  EXPECT_EQ(EventsOf(pair.reader), POLLIN | POLLOUT);
  shutdown(pair.writer, SHUT_WR);
  EXPECT_EQ(EventsOf(pair.reader, POLLIN | POLLOUT | POLLRDHUP), POLLIN | POLLOUT | POLLRDHUP);
  pair.writer.Reset();
  EXPECT_EQ(EventsOf(pair.reader, POLLIN | POLLRDHUP), POLLIN | POLLRDHUP | POLLHUP);
}

TEST(Poll, ClosedAndNegativeDescriptors) {
  EXPECT_EQ(EventsOf(1'000'000), POLLNVAL);
  pollfd entries[] = {{-1, POLLIN, 77}, {1'000'000, POLLIN, 0}};
  EXPECT_THAT(poll(entries, 2, -1), SucceedsWith(1));
  EXPECT_EQ(entries[0].revents, 0);
}

TEST(Poll, CountsEntriesEvenOfTheSameFile) {
  const Pipe pipe = MakePipe();
  write(pipe.writer, "x", 1);
  pollfd entries[] = {{pipe.reader, POLLIN, 0}, {pipe.reader, POLLIN, 0}, {pipe.writer, 0, 0}};
  EXPECT_THAT(poll(entries, 3, -1), SucceedsWith(2));
}

TEST(Poll, TimesOut) {
  const Pipe pipe = MakePipe();
  pollfd entry = {pipe.reader, POLLIN, 0};
  const int64_t start = NowNs();
  EXPECT_THAT(poll(&entry, 1, 15), SucceedsWith(0));
  EXPECT_GE(NowNs() - start, 15'000'000);
  EXPECT_THAT(poll(nullptr, 0, 1), SucceedsWith(0));
}

TEST(Poll, WakesForALaterEvent) {
  const Pipe quiet = MakePipe();
  const Pipe pipe = MakePipe();
  std::thread writer([&, tid = GetTid()] {
    WaitUntilBlocked(getpid(), tid);
    write(pipe.writer, "x", 1);
  });
  pollfd entries[] = {{quiet.reader, POLLIN, 0}, {pipe.reader, POLLIN, 0}};
  EXPECT_THAT(poll(entries, 2, -1), SucceedsWith(1));
  EXPECT_EQ(entries[0].revents, 0);
  EXPECT_EQ(entries[1].revents, POLLIN);
  writer.join();
}

TEST(Poll, WakesForHangup) {
  Pipe pipe = MakePipe();
  ChildProcess child([&] {
    pipe.writer.Reset();
    pollfd entry = {pipe.reader, 0, 0};
    EXPECT_THAT(poll(&entry, 1, -1), SucceedsWith(1));
    EXPECT_EQ(entry.revents, POLLHUP);
  });
  WaitUntilBlocked(child.pid());
  pipe.writer.Reset();
  EXPECT_THAT(child.Wait(), ExitsWith(0));
}

TEST(Poll, Errors) {
  EXPECT_THAT(syscall(SYS_poll, kBadAddress, 1, 0), FailsWith(EFAULT));
  const ScopedRlimit limit(RLIMIT_NOFILE, 100);
  std::vector<pollfd> many(101, pollfd{-1, 0, 0});
  EXPECT_THAT(poll(many.data(), many.size(), 0), FailsWith(EINVAL));
}

TEST(Ppoll, WritesBackTheTimeLeft) {
  const Pipe pipe = MakePipe();
  write(pipe.writer, "x", 1);
  pollfd entry = {pipe.reader, POLLIN, 0};
  timespec timeout = {100, 0};
  EXPECT_THAT(syscall(SYS_ppoll, &entry, 1, &timeout, nullptr, 8), SucceedsWith(1));
  EXPECT_LE(timeout.tv_sec, 100);
  EXPECT_GE(timeout.tv_sec, 90);
  timeout = {0, 1'000'000};
  EXPECT_THAT(syscall(SYS_ppoll, nullptr, 0, &timeout, nullptr, 8), SucceedsWith(0));
  EXPECT_EQ(timeout.tv_nsec, 0);
}

TEST(Ppoll, Errors) {
  timespec bad = {0, 1'000'000'000};
  const uint64_t set = 0;
  EXPECT_THAT(syscall(SYS_ppoll, nullptr, 0, &bad, nullptr, 8), FailsWith(EINVAL));
  bad = {-1, 0};
  EXPECT_THAT(syscall(SYS_ppoll, nullptr, 0, &bad, nullptr, 8), FailsWith(EINVAL));
  EXPECT_THAT(syscall(SYS_ppoll, nullptr, 0, kBadAddress, nullptr, 8), FailsWith(EFAULT));
  EXPECT_THAT(syscall(SYS_ppoll, nullptr, 0, nullptr, &set, 7), FailsWith(EINVAL));
}

class Select : public testing::Test {
 protected:
  Select() {
    FD_ZERO(&read_);
    FD_ZERO(&write_);
    FD_ZERO(&except_);
  }
  fd_set read_;
  fd_set write_;
  fd_set except_;
  timeval now_ = {};
};

TEST_F(Select, MarksWhatIsReadyInEachSet) {
  const Pipe pipe = MakePipe();
  FD_SET(pipe.reader, &read_);
  FD_SET(pipe.writer, &write_);
  EXPECT_THAT(select(pipe.writer + 1, &read_, &write_, nullptr, &now_), SucceedsWith(1));
  EXPECT_FALSE(FD_ISSET(pipe.reader, &read_));
  EXPECT_TRUE(FD_ISSET(pipe.writer, &write_));
  write(pipe.writer, "x", 1);
  FD_SET(pipe.reader, &read_);
  EXPECT_THAT(select(pipe.writer + 1, &read_, &write_, &except_, nullptr), SucceedsWith(2));
}

TEST_F(Select, HangupIsReadableAndErrorWritable) {
  Pipe pipe = MakePipe();
  pipe.writer.Reset();
  FD_SET(pipe.reader, &read_);
  EXPECT_THAT(select(pipe.reader + 1, &read_, nullptr, nullptr, &now_), SucceedsWith(1));
  Pipe broken = MakePipe();
  broken.reader.Reset();
  FD_SET(broken.writer, &write_);
  EXPECT_THAT(select(broken.writer + 1, nullptr, &write_, nullptr, &now_), SucceedsWith(1));
}

TEST_F(Select, AClosedDescriptorIsEbadfUnlessBeyondN) {
  const int free_fd = LowestFreeFd();
  FD_SET(free_fd, &read_);
  EXPECT_THAT(select(free_fd + 1, &read_, nullptr, nullptr, &now_), FailsWith(EBADF));
  EXPECT_THAT(select(free_fd, &read_, nullptr, nullptr, &now_), SucceedsWith(0));
}

TEST_F(Select, TimeoutIsTakenAndWrittenBack) {
  timeval timeout = {0, 10'000};
  const int64_t start = NowNs();
  EXPECT_THAT(select(0, nullptr, nullptr, nullptr, &timeout), SucceedsWith(0));
  EXPECT_GE(NowNs() - start, 10'000'000);
  EXPECT_EQ(timeout.tv_usec, 0);
  const Pipe pipe = MakePipe();
  FD_SET(pipe.writer, &write_);
  timeout = {100, 0};
  EXPECT_THAT(select(pipe.writer + 1, nullptr, &write_, nullptr, &timeout), SucceedsWith(1));
  EXPECT_LE(timeout.tv_sec, 100);
  EXPECT_GE(timeout.tv_sec, 90);
}

TEST_F(Select, Errors) {
  timeval bad = {-1, 0};
  EXPECT_THAT(select(0, nullptr, nullptr, nullptr, &bad), FailsWith(EINVAL));
  EXPECT_THAT(select(-1, nullptr, nullptr, nullptr, &now_), FailsWith(EINVAL));
  EXPECT_THAT(syscall(SYS_select, 10, kBadAddress, nullptr, nullptr, &now_), FailsWith(EFAULT));
  EXPECT_THAT(syscall(SYS_select, 0, nullptr, nullptr, nullptr, kBadAddress), FailsWith(EFAULT));
}

TEST_F(Select, PselectChecksItsMaskSize) {
  const uint64_t set = 0;
  const struct {
    const void* set;
    size_t size;
  } mask = {&set, 4};
  timespec zero = {};
  EXPECT_THAT(syscall(SYS_pselect6, 0, nullptr, nullptr, nullptr, &zero, &mask), FailsWith(EINVAL));
  EXPECT_THAT(syscall(SYS_pselect6, 0, nullptr, nullptr, nullptr, &zero, kBadAddress),
              FailsWith(EFAULT));
}

TEST_F(Select, BitsBeyondN) {
  const Pipe pipe = MakePipe();
  const Fd high(fcntl(pipe.writer, F_DUPFD, 700));
  ASSERT_THAT(high, Succeeds());
  FD_SET(high, &write_);
  EXPECT_THAT(select(high + 1, nullptr, &write_, nullptr, &now_), SucceedsWith(1));
  EXPECT_TRUE(FD_ISSET(high, &write_));
}

TEST(Eventfd, ReadinessFollowsTheCounter) {
  const Fd fd(eventfd(0, EFD_NONBLOCK));
  EXPECT_EQ(EventsOf(fd), POLLOUT);
  const uint64_t one = 1;
  write(fd, &one, 8);
  EXPECT_EQ(EventsOf(fd), POLLIN | POLLOUT);
  const uint64_t rest = ~0ULL - 2;
  write(fd, &rest, 8);
  EXPECT_EQ(EventsOf(fd), POLLIN) << "at the maximum it is not writable";
}

TEST(Eventfd, CountsAndResets) {
  const Fd fd(eventfd(5, EFD_NONBLOCK | EFD_CLOEXEC));
  uint64_t value = 0;
  EXPECT_THAT(read(fd, &value, 8), SucceedsWith(8));
  EXPECT_EQ(value, 5u);
  EXPECT_THAT(read(fd, &value, 8), FailsWith(EAGAIN));
  value = 3;
  write(fd, &value, 8);
  write(fd, &value, 8);
  read(fd, &value, 8);
  EXPECT_EQ(value, 6u);
}

TEST(Eventfd, SemaphoreGivesOneAtATime) {
  const Fd fd(eventfd(2, EFD_SEMAPHORE | EFD_NONBLOCK));
  uint64_t value = 0;
  EXPECT_THAT(read(fd, &value, 8), SucceedsWith(8));
  EXPECT_EQ(value, 1u);
  EXPECT_THAT(read(fd, &value, 8), SucceedsWith(8));
  EXPECT_THAT(read(fd, &value, 8), FailsWith(EAGAIN));
}

TEST(Eventfd, Errors) {
  EXPECT_THAT(eventfd(0, 0x8), FailsWith(EINVAL));
  const Fd fd(eventfd(0, EFD_NONBLOCK));
  uint64_t value = ~0ULL;
  EXPECT_THAT(write(fd, &value, 8), FailsWith(EINVAL));
  EXPECT_THAT(write(fd, &value, 4), FailsWith(EINVAL));
  EXPECT_THAT(read(fd, &value, 4), FailsWith(EINVAL));
  value = ~0ULL - 1;
  EXPECT_THAT(write(fd, &value, 8), SucceedsWith(8));
  value = 1;
  EXPECT_THAT(write(fd, &value, 8), FailsWith(EAGAIN));
}

TEST(Eventfd, ABlockedReaderIsWoken) {
  const Fd fd(eventfd(0, 0));
  ChildProcess child([&] {
    uint64_t value = 0;
    EXPECT_THAT(read(fd, &value, 8), SucceedsWith(8));
    EXPECT_EQ(value, 42u);
  });
  WaitUntilBlocked(child.pid());
  const uint64_t value = 42;
  write(fd, &value, 8);
  EXPECT_THAT(child.Wait(), ExitsWith(0));
}

}  // namespace
}  // namespace skep::test
