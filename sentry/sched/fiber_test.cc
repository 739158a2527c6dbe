#include "sentry/sched/fiber.h"

#include <dirent.h>
#include <cfenv>
#include <cstdio>
#include <fstream>
#include <string>

#include "sentry/arena/arena_test_environment.h"
#include "sentry/sched/sched_test_util.h"
#include "sentry/sched/sleep_lock.h"
#include "sentry/sched/ticks.h"
#include "sentry/sched/wait_queue.h"

namespace skep::sched {
namespace {

const ::testing::Environment* const environment =
    ::testing::AddGlobalTestEnvironment(new arena::ArenaTestEnvironment);

TEST(Fiber, RunsOnItsWorkerWithTheArenaHeap) {
  TestScheduler s(2);
  s.Start();
  std::atomic<int> right{0};
  for (int i = 0; i < 2; ++i) {
    Ref<Fiber> fiber = s.Spawn(i, [&, i] {
      Fiber& self = Fiber::Current();
      auto object = std::make_unique<int>(1);
      bool ok = self.worker().index() == i && &self.worker() == &s->worker(i);
#ifndef SKEP_NO_ARENA
      ok = ok && arena::Contains(object.get()) && arena::Contains(&self);
#endif
      Yield();
      auto second = std::make_unique<int>(1);
#ifndef SKEP_NO_ARENA
      ok = ok && arena::Contains(second.get());
#endif
      if (ok) ++right;
    });
    ASSERT_TRUE(WaitFor([&] { return fiber->finished(); }));
  }
  EXPECT_EQ(right, 2);
  EXPECT_EQ(Fiber::CurrentOrNull(), nullptr);
}

TEST(Fiber, SpawnedBeforeStartRunsAfter) {
  TestScheduler s(1);
  std::atomic<bool> ran{false};
  Ref<Fiber> fiber = s.Spawn(0, [&] { ran = true; });
  s.Start();
  EXPECT_TRUE(WaitFor([&] { return fiber->finished(); }));
  EXPECT_TRUE(ran);
}

TEST(Fiber, StartFailsWithTheFirstEngineThatFails) {
  TestScheduler s(2);
  HostResult<void> started =
      s->Start([](int index) -> HostResult<std::unique_ptr<platform::Engine>> {
        if (index == 1) return HostFail("no engine");
        return std::make_unique<FakeEngine>();
      });
  ASSERT_FALSE(started);
  EXPECT_EQ(started.error().message, "no engine");
  s.Start();  // and may be tried again
}

// A worker about to sleep sees the order to stop wherever it comes in its loop.
TEST(Fiber, StopRightAfterStart) {
  for (int i = 0; i < 1000; ++i) {
    TestScheduler s(2);
    s.Start();
    volatile int spin = 0;
    while (spin < i * 20) spin = spin + 1;
  }
}

TEST(Fiber, UnparkBeforeSuspendIsNotLost) {
  TestScheduler s(1);
  s.Start();
  std::atomic<int> reasons{0};
  s.RunAll([&] {
    std::vector<std::move_only_function<void()>> bodies;
    bodies.emplace_back([&] {
      Fiber::Current().Unpark();
      Fiber::Current().Unpark();
      reasons += Suspend(std::nullopt, Sleep::kUninterruptible) == WakeReason::kWoken;
      const uint64_t soon = s->clock().MonotonicNs() + 5 * kMs;
      reasons += Suspend(soon, Sleep::kUninterruptible) == WakeReason::kTimedOut;
      reasons += s->clock().MonotonicNs() >= soon;
      reasons += Suspend(0, Sleep::kUninterruptible) == WakeReason::kTimedOut;  // past
    });
    return bodies;
  }());
  EXPECT_EQ(reasons, 4);
}

// Each sleep against each way to end it.
TEST(Fiber, InterruptAndKillEndTheRightSleeps) {
  TestScheduler s(1);
  s.Start();
  const auto outcome = [&](Sleep sleep, void (Fiber::*how)()) {
    std::atomic<int> reason{-1};
    std::atomic<bool> asleep{false};
    Ref<Fiber> fiber = s.Spawn(0, [&] {
      asleep = true;
      const uint64_t deadline = s->clock().MonotonicNs() + 30 * kMs;
      WakeReason r = WakeReason::kWoken;
      while (r == WakeReason::kWoken) r = Suspend(deadline, sleep);
      reason = static_cast<int>(r);
    });
    EXPECT_TRUE(WaitFor([&] { return asleep.load(); }));
    ((*fiber).*how)();
    EXPECT_TRUE(WaitFor([&] { return fiber->finished(); }));
    return static_cast<WakeReason>(reason.load());
  };
  EXPECT_EQ(outcome(Sleep::kInterruptible, &Fiber::Interrupt), WakeReason::kInterrupted);
  EXPECT_EQ(outcome(Sleep::kKillable, &Fiber::Interrupt), WakeReason::kTimedOut);
  EXPECT_EQ(outcome(Sleep::kUninterruptible, &Fiber::Interrupt), WakeReason::kTimedOut);
  EXPECT_EQ(outcome(Sleep::kInterruptible, &Fiber::Kill), WakeReason::kInterrupted);
  EXPECT_EQ(outcome(Sleep::kKillable, &Fiber::Kill), WakeReason::kInterrupted);
  EXPECT_EQ(outcome(Sleep::kUninterruptible, &Fiber::Kill), WakeReason::kTimedOut);
}

TEST(Fiber, InterruptLastsUntilCleared) {
  TestScheduler s(1);
  s.Start();
  std::atomic<int> right{0};
  Ref<Fiber> fiber = s.Spawn(0, [&] {
    Fiber& self = Fiber::Current();
    self.Interrupt();
    while (Suspend(std::nullopt, Sleep::kInterruptible) != WakeReason::kInterrupted) {
    }
    right += Suspend(std::nullopt, Sleep::kInterruptible) == WakeReason::kInterrupted;
    self.ClearInterrupt();
    right +=
        Suspend(s->clock().MonotonicNs() + kMs, Sleep::kInterruptible) == WakeReason::kTimedOut;
  });
  ASSERT_TRUE(WaitFor([&] { return fiber->finished(); }));
  EXPECT_EQ(right, 2);
}

TEST(Fiber, FloatingPointControlBelongsToTheFiber) {
  TestScheduler s(1);
  s.Start();
  std::atomic<int> right{0};
  Ref<Fiber> a = s.Spawn(0, [&] {
    fesetround(FE_UPWARD);
    Yield();
    right += fegetround() == FE_UPWARD;
  });
  Ref<Fiber> b = s.Spawn(0, [&] {
    right += fegetround() == FE_TONEAREST;
    Yield();
    right += fegetround() == FE_TONEAREST;
  });
  ASSERT_TRUE(WaitFor([&] { return a->finished() && b->finished(); }));
  EXPECT_EQ(right, 3);
}

TEST(Fiber, CostsCountTurnsAndSleepsButNotSleeping) {
  TestScheduler s(1);
  s.Start();
  std::atomic<bool> asleep{false}, go{false};
  WaitQueue queue;
  uint64_t computed_ns = 0, slept_ns = 0;      // what was counted
  uint64_t computing_ns = 0, sleeping_ns = 0;  // what went by
  Fiber::Costs after{};
  Ref<Fiber> fiber = s.Spawn(0, [&] {
    const Fiber& self = Fiber::Current();
    const uint64_t before_ns = host::MonotonicNs();
    const uint64_t start = self.costs().kernel_ticks;
    while (host::MonotonicNs() < before_ns + 5 * kMs) {
    }
    const uint64_t computed = self.costs().kernel_ticks;
    const uint64_t between_ns = host::MonotonicNs();
    computed_ns = TicksToNs(computed - start);
    computing_ns = between_ns - before_ns;
    asleep = true;
    WaitUntil(queue, kAllEvents, std::nullopt, Sleep::kUninterruptible, [&] { return go.load(); });
    Yield();
    after = self.costs();
    slept_ns = TicksToNs(after.kernel_ticks - computed);
    sleeping_ns = host::MonotonicNs() - between_ns;
  });
  ASSERT_TRUE(WaitFor([&] { return asleep.load(); }));
  const timespec pause = {0, 50'000'000};
  nanosleep(&pause, nullptr);
  go = true;
  queue.Wake();
  ASSERT_TRUE(WaitFor([&] { return fiber->finished(); }));
  // The host may have run something else meanwhile, which is not to be counted.
  EXPECT_GT(computed_ns, 0u);
  EXPECT_LT(computed_ns, computing_ns + kMs / 10);  // ticks are another clock
  EXPECT_LT(slept_ns + 25 * kMs, sleeping_ns);
  EXPECT_EQ(after.guest_ticks, 0u);
  EXPECT_GE(after.voluntary_switches, 1u);
  EXPECT_EQ(after.involuntary_switches, 1u);
}

void PingPong(int workers, int rounds) {
  TestScheduler s(workers);
  s.Start();
  std::atomic<int> turn{0};
  std::array<WaitQueue, 2> queues;
  std::vector<std::move_only_function<void()>> bodies;
  const uint64_t start = host::MonotonicNs();
  for (int me = 0; me < 2; ++me) {
    bodies.emplace_back([&, me] {
      for (int i = 0; i < rounds; ++i) {
        WaitUntil(queues[static_cast<size_t>(me)], kAllEvents, std::nullopt,
                  Sleep::kUninterruptible, [&] { return turn.load() % 2 == me; });
        ++turn;
        queues[static_cast<size_t>(1 - me)].Wake();
      }
    });
  }
  s.RunAll(std::move(bodies));
  EXPECT_EQ(turn, 2 * rounds);
  printf("ping-pong, %d worker(s): %.2f us per round trip\n", workers,
         static_cast<double>(host::MonotonicNs() - start) / 1000.0 / rounds);
}

TEST(Fiber, PingPongOnOneWorker) { PingPong(1, 200'000); }
TEST(Fiber, PingPongOnTwoWorkers) { PingPong(2, 5'000); }

TEST(Fiber, TenThousandAtOnce) {
  TestScheduler s(2);
  s.Start();
  constexpr int kCount = 10'000;
  std::atomic<int> waiting{0}, done{0};
  std::atomic<bool> open{false};
  WaitQueue gate;
  std::vector<Ref<Fiber>> fibers;
  for (int i = 0; i < kCount; ++i) {
    fibers.push_back(s.Spawn(i % 2, [&] {
      ++waiting;
      WaitUntil(gate, kAllEvents, std::nullopt, Sleep::kUninterruptible,
                [&] { return open.load(); });
      ++done;
    }));
  }
  ASSERT_TRUE(WaitFor([&] { return waiting == kCount; }));
  open = true;
  gate.Wake();
  ASSERT_TRUE(WaitFor([&] { return done == kCount; }));
  for (const Ref<Fiber>& fiber : fibers) ASSERT_TRUE(WaitFor([&] { return fiber->finished(); }));
  EXPECT_LE(arena::CurrentUsage().stack_count, 2U);
}

TEST(Fiber, PostRunsOnTheSystemFiberInOrder) {
  TestScheduler s(1);
  s.Start();
  std::vector<int> order;
  std::atomic<int> count{0};
  for (int i = 0; i < 100; ++i) {
    s->worker(0).Post([&, i] {
      order.push_back(i);
      ++count;
    });
  }
  ASSERT_TRUE(WaitFor([&] { return count == 100; }));
  for (int i = 0; i < 100; ++i) EXPECT_EQ(order[static_cast<size_t>(i)], i);
}

TEST(WaitQueue, MasksSelect) {
  TestScheduler s(1);
  s.Start();
  WaitQueue queue;
  std::atomic<int> woken{0}, asleep{0};
  std::vector<Ref<Fiber>> fibers;
  for (EventMask mask : {1U, 2U, 3U}) {
    fibers.push_back(s.Spawn(0, [&, mask] {
      FiberWaiter waiter(queue, mask);
      ++asleep;
      while (!waiter.woken()) Suspend(std::nullopt, Sleep::kUninterruptible);
      ++woken;
    }));
  }
  ASSERT_TRUE(WaitFor([&] { return asleep == 3; }));
  queue.Wake(4);
  queue.Wake(1);
  ASSERT_TRUE(WaitFor([&] { return woken == 2; }));
  EXPECT_FALSE(fibers[1]->finished());
  EXPECT_FALSE(queue.empty());
  queue.Wake(2);
  ASSERT_TRUE(WaitFor([&] { return fibers[1]->finished(); }));
  EXPECT_TRUE(queue.empty());
}

TEST(WaitQueue, ExclusiveWaitersAreWokenOneByOneInOrder) {
  TestScheduler s(1);
  s.Start();
  WaitQueue queue;
  std::vector<int> order;
  std::atomic<int> count{0}, asleep{0}, bystanders{0};
  std::vector<Ref<Fiber>> fibers;
  for (int i = 0; i < 5; ++i) {
    fibers.push_back(s.Spawn(0, [&, i] {
      FiberWaiter waiter(queue, 1, /*exclusive=*/true);
      ++asleep;
      while (!waiter.woken()) Suspend(std::nullopt, Sleep::kUninterruptible);
      order.push_back(i);
      ++count;
    }));
  }
  fibers.push_back(s.Spawn(0, [&] {
    FiberWaiter waiter(queue, 1);
    ++asleep;
    while (!waiter.woken()) Suspend(std::nullopt, Sleep::kUninterruptible);
    ++bystanders;
  }));
  ASSERT_TRUE(WaitFor([&] { return asleep == 6; }));
  queue.Wake(1);
  ASSERT_TRUE(WaitFor([&] { return count == 1 && bystanders == 1; }));
  // Two wake-ups before any waiter has run reach two waiters.
  s.RunAll([&] {
    std::vector<std::move_only_function<void()>> bodies;
    bodies.emplace_back([&] {
      queue.Wake(1);
      queue.Wake(1);
    });
    return bodies;
  }());
  ASSERT_TRUE(WaitFor([&] { return count == 3; }));
  queue.Wake(1, /*max_exclusive=*/10);
  ASSERT_TRUE(WaitFor([&] { return count == 5; }));
  EXPECT_EQ(order, (std::vector<int>{0, 1, 2, 3, 4}));
}

TEST(SleepLock, ExcludesAcrossWorkersAndSuspensions) {
  TestScheduler s(2);
  s.Start();
  SleepLock lock(LockRank::kInodeIo);
  int64_t counter = 0;
  std::atomic<int> inside{0};
  std::atomic<bool> overlap{false};
  std::vector<std::move_only_function<void()>> bodies;
  constexpr int kFibers = 20, kRounds = 500;
  for (int i = 0; i < kFibers; ++i) {
    bodies.emplace_back([&] {
      for (int k = 0; k < kRounds; ++k) {
        SleepLockHold hold(lock);
        if (++inside != 1) overlap = true;
        const int64_t seen = counter;
        if (k % 4 == 0) Yield();
        counter = seen + 1;
        --inside;
      }
    });
  }
  s.RunAll(std::move(bodies));
  EXPECT_FALSE(overlap);
  EXPECT_EQ(counter, kFibers * kRounds);
}

TEST(SleepLock, KillEndsAKillableWaitOnly) {
  TestScheduler s(1);
  s.Start();
  SleepLock lock(LockRank::kMmap);
  std::atomic<int> state{0};
  std::atomic<bool> release{false};
  Ref<Fiber> holder = s.Spawn(0, [&] {
    SleepLockHold hold(lock);
    state = 1;
    while (!release) Suspend(s->clock().MonotonicNs() + kMs, Sleep::kUninterruptible);
  });
  ASSERT_TRUE(WaitFor([&] { return state == 1; }));
  std::atomic<int> results{0};
  Ref<Fiber> plain = s.Spawn(0, [&] {
    SleepLockHold hold(lock);
    results += 1;
  });
  Ref<Fiber> killable = s.Spawn(0, [&] {
    if (lock.LockKillable()) {
      lock.Unlock();
    } else {
      results += 10;
    }
  });
  Ref<Fiber> last = s.Spawn(0, [&] {
    if (lock.LockKillable()) {
      results += 100;
      lock.Unlock();
    }
  });
  killable->Kill();
  plain->Kill();
  ASSERT_TRUE(WaitFor([&] { return killable->finished(); }));
  EXPECT_EQ(results, 10);
  release = true;
  ASSERT_TRUE(WaitFor([&] { return plain->finished() && last->finished(); }));
  EXPECT_EQ(results, 111);
}

TEST(Offload, RunsElsewhereWithMallocsHeap) {
  TestScheduler s(1);
  s.Start();
  std::atomic<int> right{0}, others{0};
  std::vector<std::move_only_function<void()>> bodies;
  for (int i = 0; i < 50; ++i) {
    bodies.emplace_back([&] {
      int local = 0;
      Offload([&] {
        auto object = std::make_unique<int>(1);
        if (!arena::Contains(object.get()) && Fiber::CurrentOrNull() == nullptr) local = 7;
        const timespec pause = {0, 1'000'000};
        nanosleep(&pause, nullptr);
      });
      right += local == 7;
    });
  }
  bodies.emplace_back([&] {
    for (int i = 0; i < 10; ++i) {  // the worker is free meanwhile
      Suspend(s->clock().MonotonicNs() + kMs, Sleep::kUninterruptible);
      ++others;
    }
  });
  s.RunAll(std::move(bodies));
  EXPECT_EQ(right, 50);
  EXPECT_EQ(others, 10);
}

// The sum over all threads but this one.
uint64_t ContextSwitches() {
  uint64_t sum = 0;
  DIR* tasks = opendir("/proc/self/task");
  while (dirent* entry = readdir(tasks)) {
    if (entry->d_name[0] == '.' || entry->d_name == std::to_string(gettid())) continue;
    std::ifstream status(std::string("/proc/self/task/") + entry->d_name + "/status");
    std::string word;
    while (status >> word) {
      uint64_t n = 0;
      if (word == "voluntary_ctxt_switches:" && status >> n) sum += n;
    }
  }
  closedir(tasks);
  return sum;
}

TEST(Scheduler, IdleMakesNoWakeUps) {
  TestScheduler s(2);
  s.Start();
  WaitQueue never;
  std::atomic<bool> over{false};
  std::atomic<int> asleep{0};
  std::vector<Ref<Fiber>> fibers;
  for (int i = 0; i < 10; ++i) {
    fibers.push_back(s.Spawn(i % 2, [&] {
      ++asleep;
      WaitUntil(never, kAllEvents, s->clock().MonotonicNs() + 3'600'000 * kMs,
                Sleep::kUninterruptible, [&] { return over.load(); });
    }));
  }
  ASSERT_TRUE(WaitFor([&] { return asleep == 10; }));
  const timespec settle = {0, 20'000'000}, look = {0, 200'000'000};
  nanosleep(&settle, nullptr);
  const uint64_t before = ContextSwitches();
  const uint64_t waits = s.engine(0).waits() + s.engine(1).waits();
  nanosleep(&look, nullptr);
  EXPECT_EQ(ContextSwitches(), before);
  EXPECT_EQ(s.engine(0).waits() + s.engine(1).waits(), waits);
  over = true;
  never.Wake();
  for (const Ref<Fiber>& fiber : fibers) ASSERT_TRUE(WaitFor([&] { return fiber->finished(); }));
}

// Fibers that never wait, only yield, on one worker with one whose deadlines pass.
TEST(YieldIfLong, LetsOthersGoOnAndEndsWithAKill) {
  TestScheduler s(1);
  s.Start();
  std::atomic<int> sleeps{0};
  std::vector<Ref<Fiber>> busy;
  for (int i = 0; i < 3; ++i) {
    busy.push_back(s.Spawn(0, [] {
      while (YieldIfLong()) {
      }
    }));
  }
  const Ref<Fiber> sleeper = s.Spawn(0, [&] {
    Fiber& self = Fiber::Current();
    for (; sleeps < 10; ++sleeps) {
      const uint64_t until = self.worker().scheduler().clock().MonotonicNs() + 1'000'000;
      while (Suspend(until, Sleep::kUninterruptible) != WakeReason::kTimedOut) {
      }
    }
  });
  EXPECT_TRUE(WaitFor([&] { return sleeper->finished(); })) << sleeps;
  for (const Ref<Fiber>& fiber : busy) fiber->Kill();
  for (const Ref<Fiber>& fiber : busy) EXPECT_TRUE(WaitFor([&] { return fiber->finished(); }));
  EXPECT_TRUE(YieldIfLong()) << "not on a fiber";
}

}  // namespace
}  // namespace skep::sched
