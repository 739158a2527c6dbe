#include <fcntl.h>
#include <sys/epoll.h>
#include <random>
#include <thread>

#include "sentry/sched/fiber.h"
#include "sentry/sched/host_poller.h"
#include "sentry/sched/sched_test_util.h"
#include "sentry/sched/wait_queue.h"

namespace skep::sched {
namespace {

struct OwnSpace {
  explicit OwnSpace(FakeEngine& engine) : space(engine) {}
  FakeSpace space;
};
// A guest of worker `index`'s engine, in a space of its own.
struct Guest : private OwnSpace, TestGuest {
  Guest(TestScheduler& s, int index, Kind kind)
      : OwnSpace(s.engine(index)), TestGuest(s.engine(index), space, kind) {}
};
constexpr auto kComputes = TestGuest::Kind::kComputes, kCalls = TestGuest::Kind::kCalls;

TEST(RunGuest, ReturnsWithEachStop) {
  TestScheduler s(2);
  s.Start();
  std::vector<std::move_only_function<void()>> bodies;
  std::atomic<int> stops{0};
  for (int i = 0; i < 10; ++i) {
    bodies.emplace_back([&, i] {
      Guest guest(s, i % 2, kCalls);
      for (int k = 0; k < 2000; ++k) {
        if (guest.Run() == GuestEnd::kStopped && !guest.was_interrupted()) {
          ++stops;
        }
      }
    });
  }
  s.RunAll(std::move(bodies));
  EXPECT_EQ(stops, 20'000);
}

TEST(RunGuest, AnUnparkDoesNotEndItAndIsNotLost) {
  TestScheduler s(1);
  s.Start();
  Guest guest(s, 0, kComputes);
  std::atomic<int> state{0};
  Ref<Fiber> fiber = s.Spawn(0, [&] {
    state = 1;
    guest.Run();
    state = 2;
    Suspend(std::nullopt, Sleep::kUninterruptible);
    state = 3;
  });
  ASSERT_TRUE(WaitFor([&] { return state == 1; }));
  fiber->Unpark();
  const timespec pause = {0, 5'000'000};
  nanosleep(&pause, nullptr);
  EXPECT_EQ(state, 1);
  guest.Finish();
  ASSERT_TRUE(WaitFor([&] { return state == 3; }));
  ASSERT_TRUE(WaitFor([&] { return fiber->finished(); }));
}

TEST(RunGuest, KillInterruptsAGuestThatComputes) {
  TestScheduler s(1);
  s.Start();
  Guest guest(s, 0, kComputes);
  std::atomic<bool> right{false};
  Ref<Fiber> fiber =
      s.Spawn(0, [&] { right = guest.Run() == GuestEnd::kStopped && guest.was_interrupted(); });
  fiber->Kill();
  ASSERT_TRUE(WaitFor([&] { return fiber->finished(); }));
  EXPECT_TRUE(right);
}

// Guests never stop by themselves: each interrupt must come through, at whatever moment it strikes.
TEST(RunGuest, NoInterruptIsLost) {
  TestScheduler s(2);
  s.Start();
  constexpr int kRounds = 20'000;
  std::atomic<int> seen[2] = {0, 0};
  std::atomic<int> bad{0};
  std::vector<Ref<Fiber>> fibers;
  for (int i = 0; i < 2; ++i) {
    fibers.push_back(s.Spawn(i, [&, i] {
      Guest guest(s, i, kComputes);
      Fiber& self = Fiber::Current();
      while (seen[i] < kRounds) {
        if (guest.Run() != GuestEnd::kStopped) ++bad;
        if (!guest.was_interrupted()) ++bad;
        if (!self.interrupted()) continue;  // a sticky interrupt of the round before
        self.ClearInterrupt();
        ++seen[i];
      }
    }));
  }
  std::vector<std::thread> senders;
  for (int i = 0; i < 2; ++i) {
    senders.emplace_back([&, i] {
      std::minstd_rand random(static_cast<unsigned>(i) + 1);
      for (int k = 0; k < kRounds; ++k) {
        fibers[static_cast<size_t>(i)]->Interrupt();
        const uint64_t deadline = host::MonotonicNs() + 20'000 * kMs;
        while (seen[i] <= k && host::MonotonicNs() < deadline) sched_yield();
        if (seen[i] <= k) {
          ++bad;
          return;
        }
        for (auto spin = random() % 200; spin > 0; --spin) __builtin_ia32_pause();
      }
    });
  }
  for (std::thread& sender : senders) sender.join();
  for (const Ref<Fiber>& fiber : fibers) ASSERT_TRUE(WaitFor([&] { return fiber->finished(); }));
  EXPECT_EQ(bad, 0);
}

// Guests that stop all the time, interrupts that strike all the time.
TEST(RunGuest, InterruptsRaceWithStops) {
  TestScheduler s(2);
  s.Start();
  std::atomic<bool> over{false};
  std::atomic<int> bad{0}, interrupts{0};
  std::vector<Ref<Fiber>> fibers;
  for (int i = 0; i < 4; ++i) {
    fibers.push_back(s.Spawn(i % 2, [&, i] {
      Guest guest(s, i % 2, i < 2 ? kCalls : kComputes);
      while (!over) {
        if (guest.Run() != GuestEnd::kStopped) ++bad;
        if (Fiber::Current().interrupted()) {
          Fiber::Current().ClearInterrupt();
          ++interrupts;
        }
      }
    }));
  }
  const uint64_t end = host::MonotonicNs() + 300 * kMs;
  while (host::MonotonicNs() < end) {
    for (const Ref<Fiber>& fiber : fibers) fiber->Interrupt();
  }
  over = true;
  for (const Ref<Fiber>& fiber : fibers) {
    fiber->Kill();
    ASSERT_TRUE(WaitFor([&] { return fiber->finished(); }));
  }
  EXPECT_EQ(bad, 0);
  EXPECT_GT(interrupts, 0);
}

TEST(RunGuest, ADeadSpaceEndsAllItsGuestsOnAllWorkers) {
  TestScheduler s(2);
  s.Start();
  FakeSpace doomed(s.engine(0)), other(s.engine(0));
  TestGuest a(s.engine(0), doomed, kComputes), b(s.engine(1), doomed, kComputes);
  TestGuest c(s.engine(0), other, kComputes);
  std::atomic<int> died{0}, stopped{0}, started{0};
  const auto run = [&](TestGuest& guest) {
    return [&] {
      ++started;
      (guest.Run() == GuestEnd::kDied ? died : stopped)++;
    };
  };
  Ref<Fiber> fa = s.Spawn(0, run(a));
  Ref<Fiber> fb = s.Spawn(1, run(b));
  Ref<Fiber> fc = s.Spawn(0, run(c));
  ASSERT_TRUE(WaitFor([&] { return started == 3 && s->worker(1).Load() == 1; }));
  doomed.Kill();
  ASSERT_TRUE(WaitFor([&] { return fa->finished() && fb->finished(); }));
  EXPECT_EQ(died, 2);
  EXPECT_FALSE(fc->finished());
  c.Finish();
  ASSERT_TRUE(WaitFor([&] { return fc->finished(); }));
  EXPECT_EQ(stopped, 1);
}

TEST(RunGuest, BusyFibersDoNotStarveGuests) {
  TestScheduler s(1);
  s.Start();
  std::atomic<bool> over{false};
  Ref<Fiber> busy = s.Spawn(0, [&] {
    while (!over) Yield();
  });
  Guest guest(s, 0, kCalls);
  Ref<Fiber> fiber = s.Spawn(0, [&] {
    for (int i = 0; i < 1000; ++i) guest.Run();
  });
  EXPECT_TRUE(WaitFor([&] { return fiber->finished(); }));
  over = true;
  ASSERT_TRUE(WaitFor([&] { return busy->finished(); }));
}

class PipeWatch {
 public:
  explicit PipeWatch(TestScheduler& s) : scheduler(*s) {
    host::PipePair pipe = host::MakePipe(O_NONBLOCK).value();
    writer = std::move(pipe.writer);
    reader = arena::HostTable::Get().Add(std::move(pipe.reader));
    const arena::ArenaHeapScope arena;
    queue = std::make_unique<WaitQueue>();
    watch = std::make_unique<HostWatch>(scheduler, reader, *queue);
  }
  ~PipeWatch() {
    watch.reset();
    (void)arena::HostTable::Get().Remove(reader);
  }
  // A blocking read of one byte, as a file would do it.
  char ReadByte() {
    char byte = 0;
    WaitUntil(*queue, EPOLLIN | EPOLLHUP | EPOLLERR, std::nullopt, Sleep::kUninterruptible, [&] {
      Result<size_t> n = host::Read(arena::HostTable::Get().Get(reader),
                                    std::as_writable_bytes(std::span(&byte, 1)));
      if (n) return true;
      watch->Arm(EPOLLIN);
      return false;
    });
    return byte;
  }
  void WriteByte(char byte) {
    ASSERT_TRUE(host::Write(writer.get(), std::as_bytes(std::span(&byte, 1))));
  }
  Scheduler& scheduler;
  OwnedFd writer;
  arena::HostFd reader;
  std::unique_ptr<WaitQueue> queue;
  std::unique_ptr<HostWatch> watch;
};

TEST(HostWatch, WakesAReaderOfAPipe) {
  TestScheduler s(2);
  s.Start();
  PipeWatch pipe(s);
  std::string got;
  std::atomic<size_t> count{0};
  Ref<Fiber> fiber = s.Spawn(0, [&] {
    for (int i = 0; i < 200; ++i) {
      got += pipe.ReadByte();
      ++count;
    }
  });
  std::string sent;
  for (int i = 0; i < 200; ++i) {
    const char byte = static_cast<char>('a' + i % 26);
    sent += byte;
    pipe.WriteByte(byte);
    if (i % 3 == 0) {
      ASSERT_TRUE(WaitFor([&] { return count == sent.size(); }));
    }
  }
  ASSERT_TRUE(WaitFor([&] { return fiber->finished(); }));
  EXPECT_EQ(got, sent);
}

TEST(HostWatch, IsArmedByWorkersInTurnAndSeesTheHangUp) {
  TestScheduler s(2);
  s.Start();
  PipeWatch pipe(s);
  for (int i = 0; i < 20; ++i) {
    std::atomic<char> got{0};
    Ref<Fiber> fiber = s.Spawn(i % 2, [&] { got = pipe.ReadByte(); });
    if (i % 2 == 0) std::this_thread::sleep_for(std::chrono::milliseconds(1));
    pipe.WriteByte('x');
    ASSERT_TRUE(WaitFor([&] { return fiber->finished(); }));
    EXPECT_EQ(got, 'x');
  }
  Ref<Fiber> fiber = s.Spawn(0, [&] { pipe.ReadByte(); });
  pipe.writer.Reset();
  ASSERT_TRUE(WaitFor([&] { return fiber->finished(); }));
}

TEST(HostWatch, ARegularFileIsAlwaysReady) {
  TestScheduler s(1);
  s.Start();
  const arena::HostFd ref =
      arena::HostTable::Get().Add(host::Open("/etc/passwd", O_RDONLY).value());
  WaitQueue queue;
  HostWatch watch(*s, ref, queue);
  Ref<Fiber> fiber = s.Spawn(0, [&] {
    FiberWaiter waiter(queue, EPOLLIN);
    watch.Arm(EPOLLIN);
    while (!waiter.woken()) Suspend(std::nullopt, Sleep::kUninterruptible);
  });
  ASSERT_TRUE(WaitFor([&] { return fiber->finished(); }));
}

TEST(HostWatch, IsNotStarvedByGuests) {
  TestScheduler s(1);
  s.Start();
  PipeWatch pipe(s);
  std::atomic<bool> over{false};
  Ref<Fiber> busy = s.Spawn(0, [&] {
    Guest guest(s, 0, kCalls);
    while (!over) guest.Run();
  });
  Ref<Fiber> fiber = s.Spawn(0, [&] { pipe.ReadByte(); });
  const timespec pause = {0, 2'000'000};
  nanosleep(&pause, nullptr);
  pipe.WriteByte('x');
  EXPECT_TRUE(WaitFor([&] { return fiber->finished(); }));
  over = true;
  ASSERT_TRUE(WaitFor([&] { return busy->finished(); }));
}

TEST(HostWatch, DestroyedWhileArmed) {
  TestScheduler s(1);
  s.Start();
  for (int i = 0; i < 100; ++i) {
    PipeWatch pipe(s);
    Ref<Fiber> fiber = s.Spawn(0, [&] { pipe.watch->Arm(EPOLLIN); });
    ASSERT_TRUE(WaitFor([&] { return fiber->finished(); }));
    pipe.WriteByte('x');
  }
}

class CountingWatch final : public GuestWatch {
 public:
  uint64_t Look(uint64_t now_ns) override {
    ++looks;
    return now_ns + 2 * kMs;
  }
  std::atomic<int> looks{0};
};

TEST(GuestWatch, LooksWhileAGuestRunsAndNeverElse) {
  CountingWatch watch;
  TestScheduler s(2);
  s->SetGuestWatch(&watch);
  s.Start();
  const auto looks_when_idle = [&] {
    const timespec pause = {0, 20'000'000};
    nanosleep(&pause, nullptr);  // what was under way comes to its end
    const int before = watch.looks;
    nanosleep(&pause, nullptr);
    return watch.looks - before;
  };
  // Sooner or later: on a busy host the last look may come late.
  EXPECT_TRUE(WaitFor([&] { return looks_when_idle() == 0; }));
  Guest guest(s, 1, kComputes);
  Ref<Fiber> fiber = s.Spawn(1, [&] { guest.Run(); });
  const int before = watch.looks;
  EXPECT_TRUE(WaitFor([&] { return watch.looks >= before + 5; }));
  guest.Finish();
  ASSERT_TRUE(WaitFor([&] { return fiber->finished(); }));
  EXPECT_TRUE(WaitFor([&] { return looks_when_idle() == 0; }));
}

}  // namespace
}  // namespace skep::sched
