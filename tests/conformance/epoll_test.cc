// epoll: level and edge triggering, one shot, exclusive, nesting, closing, errors.
#include <fcntl.h>
#include <poll.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/syscall.h>

#include <atomic>
#include <thread>

#include "tests/util/matchers.h"
#include "tests/util/process.h"

namespace skep::test {
namespace {

class Epoll : public testing::Test {
 protected:
  int Control(int op, int fd, uint32_t events, uint64_t data = 0) {
    epoll_event event = {events, {.u64 = data}};
    return epoll_ctl(epoll_, op, fd, &event);
  }
  // Events that are ready now: the first one is left in event_.
  int Ready(int timeout = 0) {
    event_ = {};
    return epoll_wait(epoll_, &event_, 1, timeout);
  }

  Fd epoll_{epoll_create1(EPOLL_CLOEXEC)};
  Pipe pipe_ = MakePipe(O_NONBLOCK);
  epoll_event event_ = {};
};

TEST_F(Epoll, LevelTriggeredRepeats) {
  ASSERT_THAT(Control(EPOLL_CTL_ADD, pipe_.reader, EPOLLIN, 0x123456789), Succeeds());
  EXPECT_EQ(Ready(), 0);
  write(pipe_.writer, "ab", 2);
  for (int i = 0; i < 3; ++i) {
    EXPECT_EQ(Ready(), 1);
    EXPECT_EQ(event_.events, EPOLLIN + 0u);
    EXPECT_EQ(event_.data.u64, 0x123456789u);
  }
  char buffer[2];
  read(pipe_.reader, buffer, 2);
  EXPECT_EQ(Ready(), 0);
}

TEST_F(Epoll, EdgeTriggeredFiresOncePerWrite) {
  ASSERT_THAT(Control(EPOLL_CTL_ADD, pipe_.reader, EPOLLIN | EPOLLET), Succeeds());
  write(pipe_.writer, "a", 1);
  EXPECT_EQ(Ready(), 1);
  EXPECT_EQ(Ready(), 0);
  write(pipe_.writer, "b", 1);
  EXPECT_EQ(Ready(), 1) << "new data is a new edge";
  EXPECT_EQ(Ready(), 0);
  char byte;
  read(pipe_.reader, &byte, 1);
  EXPECT_EQ(Ready(), 0) << "a partial read is no edge";
}

TEST_F(Epoll, EdgeTriggeredAddOfAReadyFileFires) {
  write(pipe_.writer, "a", 1);
  ASSERT_THAT(Control(EPOLL_CTL_ADD, pipe_.reader, EPOLLIN | EPOLLET), Succeeds());
  EXPECT_EQ(Ready(), 1);
  EXPECT_EQ(Ready(), 0);
  ASSERT_THAT(Control(EPOLL_CTL_MOD, pipe_.reader, EPOLLIN | EPOLLET), Succeeds());
  EXPECT_EQ(Ready(), 1) << "modifying arms it again";
}

TEST_F(Epoll, OneShotDisarmsUntilModified) {
  write(pipe_.writer, "a", 1);
  ASSERT_THAT(Control(EPOLL_CTL_ADD, pipe_.reader, EPOLLIN | EPOLLONESHOT), Succeeds());
  EXPECT_EQ(Ready(), 1);
  EXPECT_EQ(Ready(), 0);
  write(pipe_.writer, "b", 1);
  EXPECT_EQ(Ready(), 0);
  ASSERT_THAT(Control(EPOLL_CTL_MOD, pipe_.reader, EPOLLIN | EPOLLONESHOT), Succeeds());
  EXPECT_EQ(Ready(), 1);
}

TEST_F(Epoll, ModChangesEventsAndData) {
  ASSERT_THAT(Control(EPOLL_CTL_ADD, pipe_.writer, EPOLLIN, 1), Succeeds());
  EXPECT_EQ(Ready(), 0);
  ASSERT_THAT(Control(EPOLL_CTL_MOD, pipe_.writer, EPOLLOUT, 2), Succeeds());
  EXPECT_EQ(Ready(), 1);
  EXPECT_EQ(event_.data.u64, 2u);
  EXPECT_EQ(event_.events, EPOLLOUT + 0u);
}

TEST_F(Epoll, HangupAndErrorAreAlwaysReported) {
  ASSERT_THAT(Control(EPOLL_CTL_ADD, pipe_.reader, 0), Succeeds());
  pipe_.writer.Reset();
  EXPECT_EQ(Ready(), 1);
  EXPECT_EQ(event_.events, EPOLLHUP + 0u);
}

TEST_F(Epoll, ControlErrors) {
  EXPECT_THAT(Control(EPOLL_CTL_ADD, 1'000'000, EPOLLIN), FailsWith(EBADF));
  EXPECT_THAT(Control(EPOLL_CTL_MOD, pipe_.reader, EPOLLIN), FailsWith(ENOENT));
  EXPECT_THAT(Control(EPOLL_CTL_DEL, pipe_.reader, 0), FailsWith(ENOENT));
  EXPECT_THAT(Control(EPOLL_CTL_ADD, pipe_.reader, EPOLLIN), Succeeds());
  EXPECT_THAT(Control(EPOLL_CTL_ADD, pipe_.reader, EPOLLIN), FailsWith(EEXIST));
  EXPECT_THAT(Control(EPOLL_CTL_ADD, epoll_, EPOLLIN), FailsWith(EINVAL));
  EXPECT_THAT(Control(9, pipe_.writer, EPOLLIN), FailsWith(EINVAL));
  EXPECT_THAT(syscall(SYS_epoll_ctl, int{epoll_}, EPOLL_CTL_ADD, int{pipe_.writer}, kBadAddress),
              FailsWith(EFAULT));
  epoll_event event = {};
  EXPECT_THAT(epoll_ctl(pipe_.reader, EPOLL_CTL_ADD, pipe_.writer, &event), FailsWith(EINVAL));
  EXPECT_THAT(epoll_ctl(1'000'000, EPOLL_CTL_ADD, pipe_.writer, &event), FailsWith(EBADF));
}

TEST_F(Epoll, RegularFilesAreRefused) {
  const TempDir dir;
  const Fd file(open(dir.File("f").c_str(), O_RDWR | O_CREAT, 0600));
  EXPECT_THAT(Control(EPOLL_CTL_ADD, file, EPOLLIN), FailsWith(EPERM));
  const Fd directory(open(dir.c_str(), O_RDONLY | O_DIRECTORY));
  EXPECT_THAT(Control(EPOLL_CTL_ADD, directory, EPOLLIN), FailsWith(EPERM));
}

TEST_F(Epoll, WaitErrors) {
  epoll_event events[2];
  EXPECT_THAT(epoll_wait(epoll_, events, 0, 0), FailsWith(EINVAL));
  EXPECT_THAT(epoll_wait(epoll_, events, -1, 0), FailsWith(EINVAL));
  EXPECT_THAT(epoll_wait(pipe_.reader, events, 1, 0), FailsWith(EINVAL));
  EXPECT_THAT(epoll_wait(1'000'000, events, 1, 0), FailsWith(EBADF));
  ASSERT_THAT(Control(EPOLL_CTL_ADD, pipe_.writer, EPOLLOUT), Succeeds());
  EXPECT_THAT(syscall(SYS_epoll_wait, int{epoll_}, kBadAddress, 1, 0), FailsWith(EFAULT));
  EXPECT_EQ(Ready(), 1) << "the failed copy lost nothing";
}

TEST_F(Epoll, CreateErrors) {
  EXPECT_THAT(epoll_create1(1), FailsWith(EINVAL));
  EXPECT_THAT(epoll_create(0), FailsWith(EINVAL));
  EXPECT_THAT(epoll_create(-1), FailsWith(EINVAL));
}

TEST_F(Epoll, MaxeventsRotatesFairly) {
  const Pipe other = MakePipe();
  Control(EPOLL_CTL_ADD, pipe_.writer, EPOLLOUT, 1);
  Control(EPOLL_CTL_ADD, other.writer, EPOLLOUT, 2);
  EXPECT_EQ(Ready(), 1);
  const uint64_t first = event_.data.u64;
  EXPECT_EQ(Ready(), 1);
  EXPECT_NE(event_.data.u64, first);
}

TEST_F(Epoll, TimesOut) {
  const int64_t start = NowNs();
  EXPECT_EQ(Ready(15), 0);
  EXPECT_GE(NowNs() - start, 15'000'000);
}

TEST_F(Epoll, WakesABlockedWaiter) {
  Control(EPOLL_CTL_ADD, pipe_.reader, EPOLLIN);
  std::thread writer([&, tid = GetTid()] {
    WaitUntilBlocked(getpid(), tid);
    write(pipe_.writer, "x", 1);
  });
  EXPECT_EQ(Ready(-1), 1);
  writer.join();
}

TEST_F(Epoll, AFileAddedDuringTheWaitCounts) {
  std::thread adder([&, tid = GetTid()] {
    WaitUntilBlocked(getpid(), tid);
    Control(EPOLL_CTL_ADD, pipe_.writer, EPOLLOUT, 9);
  });
  EXPECT_EQ(Ready(-1), 1);
  EXPECT_EQ(event_.data.u64, 9u);
  adder.join();
}

TEST_F(Epoll, ClosingTheLastDescriptorRemovesIt) {
  Control(EPOLL_CTL_ADD, pipe_.reader, EPOLLIN);
  write(pipe_.writer, "x", 1);
  Fd copy(dup(pipe_.reader));
  pipe_.reader.Reset();
  EXPECT_EQ(Ready(), 1) << "the copy keeps the file open, and it is still watched";
  copy.Reset();
  EXPECT_EQ(Ready(), 0);
}

TEST_F(Epoll, DuplicatesAreWatchedApart) {
  const Fd copy(dup(pipe_.writer));
  EXPECT_THAT(Control(EPOLL_CTL_ADD, pipe_.writer, EPOLLOUT, 1), Succeeds());
  EXPECT_THAT(Control(EPOLL_CTL_ADD, copy, EPOLLOUT, 2), Succeeds());
  epoll_event events[4];
  EXPECT_EQ(epoll_wait(epoll_, events, 4, 0), 2);
}

TEST_F(Epoll, NestsAndIsPollable) {
  const Fd outer(epoll_create1(0));
  epoll_event event = {EPOLLIN, {.u64 = 5}};
  ASSERT_THAT(epoll_ctl(outer, EPOLL_CTL_ADD, epoll_, &event), Succeeds());
  Control(EPOLL_CTL_ADD, pipe_.reader, EPOLLIN);
  EXPECT_EQ(epoll_wait(outer, &event, 1, 0), 0);
  write(pipe_.writer, "x", 1);
  EXPECT_EQ(epoll_wait(outer, &event, 1, 0), 1);
  EXPECT_EQ(event.data.u64, 5u);
  pollfd entry = {epoll_, POLLIN, 0};
  EXPECT_EQ(poll(&entry, 1, 0), 1);
}

TEST_F(Epoll, LoopsAndDeepNestsAreEloop) {
  const Fd outer(epoll_create1(0));
  epoll_event event = {EPOLLIN, {}};
  ASSERT_THAT(epoll_ctl(outer, EPOLL_CTL_ADD, epoll_, &event), Succeeds());
  EXPECT_THAT(Control(EPOLL_CTL_ADD, outer, EPOLLIN), FailsWith(ELOOP));
}

TEST_F(Epoll, ExclusiveRules) {
  EXPECT_THAT(Control(EPOLL_CTL_ADD, pipe_.reader, EPOLLIN | EPOLLEXCLUSIVE), Succeeds());
  EXPECT_THAT(Control(EPOLL_CTL_MOD, pipe_.reader, EPOLLIN), FailsWith(EINVAL));
  EXPECT_THAT(Control(EPOLL_CTL_ADD, pipe_.writer, EPOLLIN | EPOLLEXCLUSIVE | EPOLLONESHOT),
              FailsWith(EINVAL));
  const Fd other(epoll_create1(0));
  EXPECT_THAT(Control(EPOLL_CTL_ADD, other, EPOLLIN | EPOLLEXCLUSIVE), FailsWith(EINVAL));
  write(pipe_.writer, "x", 1);
  EXPECT_EQ(Ready(), 1);
}

TEST_F(Epoll, EdgeOnAnEventfdIsPerWrite) {
  const Fd event_fd(eventfd(0, EFD_NONBLOCK));
  Control(EPOLL_CTL_ADD, event_fd, EPOLLIN | EPOLLET);
  const uint64_t one = 1;
  for (int i = 0; i < 3; ++i) {
    write(event_fd, &one, 8);
    EXPECT_EQ(Ready(), 1) << "although nobody read it: write " << i;
  }
}

TEST_F(Epoll, RdhupAndWritableEdgesOfASocket) {
  const Pipe pair = MakeSocketPair(SOCK_STREAM | SOCK_NONBLOCK);
  Control(EPOLL_CTL_ADD, pair.reader, EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET);
  EXPECT_EQ(Ready(), 1);
  EXPECT_EQ(event_.events, EPOLLOUT + 0u);
  EXPECT_EQ(Ready(), 0);
  shutdown(pair.writer, SHUT_WR);
  EXPECT_EQ(Ready(), 1);
  EXPECT_EQ(event_.events, EPOLLIN | EPOLLOUT | EPOLLRDHUP);
}

TEST_F(Epoll, Pwait2TakesATimespec) {
  const timespec timeout = {0, 5'000'000};
  const int64_t start = NowNs();
  EXPECT_THAT(syscall(441, int{epoll_}, &event_, 1, &timeout, nullptr, 8), SucceedsWith(0));
  EXPECT_GE(NowNs() - start, 5'000'000);
  const timespec bad = {0, -1};
  EXPECT_THAT(syscall(441, int{epoll_}, &event_, 1, &bad, nullptr, 8), FailsWith(EINVAL));
}

TEST_F(Epoll, ManyWaitersOneLevelEvent) {
  Control(EPOLL_CTL_ADD, pipe_.reader, EPOLLIN | EPOLLONESHOT);
  std::atomic<int> woken = 0;
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([&] {
      epoll_event event;
      woken += epoll_wait(epoll_, &event, 1, 200);
    });
  }
  write(pipe_.writer, "x", 1);
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(woken, 1);
}

}  // namespace
}  // namespace skep::test
