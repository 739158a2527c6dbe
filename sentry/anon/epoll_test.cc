#include "sentry/anon/epoll.h"

#include "sentry/anon/eventfd.h"
#include "sentry/anon/pipe.h"
#include "sentry/anon/poll.h"
#include "sentry/vfs/test_caller.h"

namespace skep::anon {
namespace {

using vfs::CodeOf;
using vfs::OnFiber;
using vfs::OnFibersOf;
using vfs::TestCaller;
using vfs::TryRead;
using vfs::TryWrite;

struct EpollTest : ::testing::Test {
  EpollNesting nesting;
  TestCaller caller;
  Ref<Epoll> New() { return MakeRef<Epoll>(vfs::Path(), nesting); }
  static epoll_event Event(uint32_t events, uint64_t data = 0) {
    epoll_event event{};
    event.events = events;
    event.data.u64 = data;
    return event;
  }
  static int Add(Epoll& epoll, const Ref<vfs::File>& file, uint32_t events, uint64_t data = 0) {
    return CodeOf(epoll.Control(EPOLL_CTL_ADD, file, static_cast<int>(data), Event(events, data)));
  }
  static std::vector<epoll_event> Now(Epoll& epoll, size_t max = 16) {
    return epoll.Wait(max, 0).value();
  }
};

TEST_F(EpollTest, LevelEdgeAndOneshot) {
  OnFiber([this] {
    PipeEnds level = MakePipe({}, 0), edge = MakePipe({}, 0), once = MakePipe({}, 0);
    Ref<Epoll> epoll = New();
    EXPECT_EQ(Add(*epoll, level.reader, EPOLLIN, 1), 0);
    EXPECT_EQ(Add(*epoll, edge.reader, EPOLLIN | EPOLLET, 2), 0);
    EXPECT_EQ(Add(*epoll, once.reader, EPOLLIN | EPOLLONESHOT, 3), 0);
    EXPECT_TRUE(Now(*epoll).empty());
    for (const Ref<vfs::File>& file : {level.writer, edge.writer, once.writer}) {
      EXPECT_TRUE(TryWrite(caller, *file, "xx"));
    }
    EXPECT_EQ(Now(*epoll).size(), 3U);
    std::vector<epoll_event> again = Now(*epoll);
    ASSERT_EQ(again.size(), 1U);
    EXPECT_EQ(again[0].data.u64, 1U);
    EXPECT_TRUE(TryRead(caller, *level.reader, 2));
    EXPECT_TRUE(Now(*epoll).empty());
    EXPECT_TRUE(TryWrite(caller, *edge.writer, "more"));  // a new edge
    EXPECT_TRUE(TryWrite(caller, *once.writer, "more"));  // disarmed
    again = Now(*epoll);
    ASSERT_EQ(again.size(), 1U);
    EXPECT_EQ(again[0].data.u64, 2U);
    EXPECT_TRUE(epoll->Control(EPOLL_CTL_MOD, once.reader, 3, Event(EPOLLIN | EPOLLONESHOT, 9)));
    again = Now(*epoll);
    ASSERT_EQ(again.size(), 1U);
    EXPECT_EQ(again[0].data.u64, 9U);
  });
}

TEST_F(EpollTest, ErrorsInOrder) {
  OnFiber([this] {
    PipeEnds pipe = MakePipe({}, 0);
    Ref<Epoll> epoll = New();
    Ref<vfs::File> plain = MakeRef<vfs::File>(vfs::Path(), O_RDONLY);
    EXPECT_EQ(Add(*epoll, plain, EPOLLIN), EPERM);
    EXPECT_EQ(Add(*epoll, epoll, EPOLLIN), EINVAL);
    EXPECT_EQ(Add(*epoll, pipe.reader, EPOLLIN | EPOLLEXCLUSIVE | EPOLLONESHOT), EINVAL);
    EXPECT_EQ(CodeOf(epoll->Control(EPOLL_CTL_DEL, pipe.reader, 0, {})), ENOENT);
    EXPECT_EQ(CodeOf(epoll->Control(EPOLL_CTL_MOD, pipe.reader, 0, Event(EPOLLIN))), ENOENT);
    EXPECT_EQ(CodeOf(epoll->Control(77, pipe.reader, 0, Event(EPOLLIN))), EINVAL);
    EXPECT_EQ(Add(*epoll, pipe.reader, EPOLLIN), 0);
    EXPECT_EQ(Add(*epoll, pipe.reader, EPOLLIN), EEXIST);
    EXPECT_EQ(Add(*epoll, pipe.reader, EPOLLIN | EPOLLEXCLUSIVE, 1), 0);  // another descriptor
    EXPECT_EQ(CodeOf(epoll->Control(EPOLL_CTL_MOD, pipe.reader, 1, Event(EPOLLIN))), EINVAL);
    EXPECT_EQ(CodeOf(epoll->Control(EPOLL_CTL_DEL, pipe.reader, 0, {})), 0);
  });
}

TEST_F(EpollTest, NestingIsBoundedAndHasNoLoops) {
  OnFiber([this] {
    std::vector<Ref<Epoll>> up, down;
    for (int i = 0; i < 7; ++i) {
      up.push_back(New());
      down.push_back(New());
    }
    // Both ways Linux takes four links and refuses the fifth.
    for (size_t i = 1; i < up.size(); ++i) {
      EXPECT_EQ(Add(*up[i], up[i - 1], EPOLLIN), i == 5 ? ELOOP : 0) << i;
      EXPECT_EQ(Add(*down[i - 1], down[i], EPOLLIN), i == 5 ? ELOOP : 0) << i;
    }
    Ref<Epoll> a = New(), b = New();
    EXPECT_EQ(Add(*a, b, EPOLLIN), 0);
    EXPECT_EQ(Add(*b, a, EPOLLIN), ELOOP);
  });
}

TEST_F(EpollTest, NestedReadinessReachesTheOuterOne) {
  OnFibersOf(2, [this] {
    PipeEnds pipe = MakePipe({}, 0);
    Ref<Epoll> inner = New(), middle = New(), outer = New();
    EXPECT_EQ(Add(*inner, pipe.reader, EPOLLIN), 0);
    EXPECT_EQ(Add(*middle, inner, EPOLLIN), 0);
    EXPECT_EQ(Add(*outer, middle, EPOLLIN, 5), 0);
    EXPECT_TRUE(Now(*outer).empty());
    EXPECT_TRUE(TryWrite(caller, *pipe.writer, "x"));
    ASSERT_EQ(Now(*outer).size(), 1U);
    EXPECT_EQ(outer->Poll(EPOLLIN), EPOLLIN | EPOLLRDNORM);
    EXPECT_TRUE(TryRead(caller, *pipe.reader, 1));
    EXPECT_TRUE(Now(*outer).empty());
    EXPECT_EQ(outer->Poll(EPOLLIN), 0U);
  });
}

TEST_F(EpollTest, FilesMayGoWhileTheyAreWatched) {
  OnFiber([this] {
    Ref<Epoll> epoll = New();
    for (int i = 0; i < 1000; ++i) {
      PipeEnds pipe = MakePipe({}, 0);
      EXPECT_EQ(Add(*epoll, pipe.reader, EPOLLIN, 1), 0);
      EXPECT_EQ(Add(*epoll, pipe.writer, EPOLLOUT, 2), 0);
      EXPECT_EQ(Now(*epoll).size(), 1U);
    }
    EXPECT_TRUE(Now(*epoll).empty());
    PipeEnds pipe = MakePipe({}, 0);
    Ref<Epoll> inner = New();
    EXPECT_EQ(Add(*epoll, inner, EPOLLIN), 0);
    EXPECT_EQ(Add(*inner, pipe.writer, EPOLLOUT), 0);
    EXPECT_EQ(Now(*epoll).size(), 1U);
    epoll = {};  // the watching one goes first
    EXPECT_EQ(Now(*inner).size(), 1U);
    inner = {};
  });
}

TEST_F(EpollTest, ManyWaitersAndWritersLoseNothing) {
  for (const int workers : {1, 2}) {
    constexpr int kEvents = 3000, kReaders = 3;
    std::atomic<int> got = 0;
    Ref<EventFd> counter = MakeRef<EventFd>(vfs::Path(), 0, true, O_NONBLOCK);
    Ref<EventFd> stop = MakeRef<EventFd>(vfs::Path(), 0, false, O_NONBLOCK);
    Ref<Epoll> epoll = New();
    std::vector<std::move_only_function<void()>> bodies;
    bodies.push_back([&] {
      EXPECT_EQ(Add(*epoll, counter, EPOLLIN, 1), 0);
      EXPECT_EQ(Add(*epoll, stop, EPOLLIN, 2), 0);
    });
    for (int i = 0; i < kReaders; ++i) {
      bodies.push_back([&] {
        for (;;) {
          const std::vector<epoll_event> events = epoll->Wait(1, std::nullopt).value();
          for (const epoll_event& event : events) {
            if (event.data.u64 == 2) return;
            while (CodeOf(TryRead(caller, *counter, 8)) == 0) {
              if (++got == kEvents) stop->Signal(1);
            }
          }
        }
      });
    }
    bodies.push_back([&] {
      for (int i = 0; i < kEvents; ++i) {
        counter->Signal(1);
        if (i % 16 == 0) sched::Yield();
      }
    });
    vfs::OnFibers(workers, std::move(bodies));
    EXPECT_EQ(got, kEvents);
  }
}

TEST_F(EpollTest, WaitEndsByTimeAndInterruption) {
  OnFiber([this] {
    Ref<Epoll> epoll = New();
    const uint64_t now = sched::Fiber::Current().worker().scheduler().clock().MonotonicNs();
    EXPECT_TRUE(epoll->Wait(1, now + 1'000'000).value().empty());
    sched::Fiber::Current().Interrupt();
    EXPECT_EQ(CodeOf(epoll->Wait(1, std::nullopt)), EINTR);
    sched::Fiber::Current().ClearInterrupt();
  });
}

TEST_F(EpollTest, PollSetWaitsForAnyOfItsFiles) {
  PipeEnds pipe = MakePipe({}, 0);
  Ref<EventFd> event = MakeRef<EventFd>(vfs::Path(), 0, false, 0);
  OnFibersOf(
      2,
      [&] {
        PollSet set;
        set.Add(pipe.reader, EPOLLIN);
        set.Add(event, EPOLLIN);
        EXPECT_EQ(set.Wait(std::nullopt).value(), 1U);
        EXPECT_EQ(set.ready(0), 0U);
        EXPECT_EQ(set.ready(1), static_cast<unsigned>(EPOLLIN));
        PollSet none;
        EXPECT_EQ(none.Wait(0).value(), 0U);
        sched::Fiber::Current().Interrupt();
        EXPECT_EQ(CodeOf(none.Wait(std::nullopt)), kRestartNoHand);
        sched::Fiber::Current().ClearInterrupt();
      },
      [&] {
        sched::Yield();
        event->Signal(1);
      });
}

}  // namespace
}  // namespace skep::anon
