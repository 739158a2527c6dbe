#include "sentry/sched/timer.h"

#include <memory>
#include <random>

#include "sentry/sched/sched_test_util.h"
#include "sentry/sched/timer_queue.h"

namespace skep::sched {
namespace {

TEST(TimerQueue, AgainstASortedModel) {
  TimerQueue queue;
  std::minstd_rand random(5);
  std::vector<TimerNode> nodes(500);
  MutexLock lock(queue.mutex());
  for (int round = 0; round < 20; ++round) {
    for (TimerNode& node : nodes) queue.Add(node, 1 + random() % 1000);
    for (TimerNode& node : nodes) {
      if (random() % 3 == 0) queue.Remove(node);
      if (!node.queued() && random() % 2 == 0) queue.Add(node, 1 + random() % 1000);
    }
    size_t left = 0;
    for (const TimerNode& node : nodes) left += node.queued();
    uint64_t last = 0, last_order = 0;
    EXPECT_EQ(queue.PopExpired(queue.first() - 1), nullptr);
    while (TimerNode* node = queue.PopExpired(TimerQueue::kNone)) {
      EXPECT_TRUE(node->deadline > last || (node->deadline == last && node->order >= last_order));
      last = node->deadline;
      last_order = node->order;
      --left;
    }
    EXPECT_EQ(left, 0U);
    EXPECT_EQ(queue.first(), TimerQueue::kNone);
  }
}

TEST(Timer, FireInOrderAndNotEarly) {
  TestScheduler s(1);
  s.Start();
  std::vector<int> order;
  std::atomic<int> fired{0}, early{0};
  const uint64_t start = s->clock().MonotonicNs();
  std::vector<std::unique_ptr<Timer>> timers;
  for (int i = 0; i < 20; ++i) {
    const uint64_t deadline = start + static_cast<uint64_t>((i * 7) % 20 + 5) * kMs;
    timers.push_back(std::make_unique<Timer>(*s, [&, i, deadline] {
      if (s->clock().MonotonicNs() < deadline) ++early;
      order.push_back((i * 7) % 20);
      ++fired;
    }));
    timers.back()->Arm(deadline);  // from a thread that is no worker
    EXPECT_EQ(timers.back()->deadline(), deadline);
  }
  ASSERT_TRUE(WaitFor([&] { return fired == 20; }));
  EXPECT_EQ(early, 0);
  EXPECT_TRUE(std::is_sorted(order.begin(), order.end()));
  EXPECT_EQ(timers[0]->deadline(), std::nullopt);
}

TEST(Timer, CancelAndReplace) {
  TestScheduler s(1);
  s.Start();
  std::atomic<int> fired{0};
  Timer timer(*s, [&] { ++fired; });
  EXPECT_FALSE(timer.Cancel());
  timer.Arm(s->clock().MonotonicNs() + 5 * kMs);
  EXPECT_TRUE(timer.Cancel());
  EXPECT_FALSE(timer.Cancel());
  timer.Arm(s->clock().MonotonicNs() + 10'000 * kMs);
  timer.Arm(s->clock().MonotonicNs() + 8 * kMs);  // earlier than before: the worker must notice
  ASSERT_TRUE(WaitFor([&] { return fired == 1; }));
  EXPECT_FALSE(timer.Cancel());
}

TEST(Timer, ReArmsAndDestroysItselfInItsCallback) {
  TestScheduler s(1);
  s.Start();
  std::atomic<int> fired{0};
  std::unique_ptr<Timer> timer;
  timer = std::make_unique<Timer>(*s, [&] {
    if (++fired == 5) {
      timer.reset();
    } else {
      timer->Arm(s->clock().MonotonicNs() + kMs);
    }
  });
  timer->Arm(0);
  ASSERT_TRUE(WaitFor([&] { return fired == 5; }));
}

TEST(Timer, ManyFibersArmCancelAndDestroyAcrossWorkers) {
  TestScheduler s(2);
  s.Start();
  std::atomic<int> fired{0};
  std::vector<std::unique_ptr<Timer>> timers;
  for (int i = 0; i < 8; ++i) {
    timers.push_back(std::make_unique<Timer>(*s, [&] { ++fired; }));
  }
  std::vector<std::move_only_function<void()>> bodies;
  for (unsigned f = 0; f < 8; ++f) {
    bodies.emplace_back([&, f] {
      std::minstd_rand random(f + 1);
      for (int i = 0; i < 3000; ++i) {
        Timer& timer = *timers[random() % timers.size()];
        switch (random() % 4) {
          case 0:
            timer.Arm(s->clock().MonotonicNs() + random() % 100'000);
            break;
          case 1:
            timer.Cancel();
            break;
          case 2: {
            auto local = std::make_unique<Timer>(*s, [&fired] { ++fired; });
            local->Arm(0);
            if (random() % 2 == 0) Yield();
            break;
          }
          default:
            Yield();
        }
      }
    });
  }
  s.RunAll(std::move(bodies));
  EXPECT_GT(fired, 0);
  timers.clear();
}

TEST(Timer, DeadlinesOfFibersWithWakeUps) {
  TestScheduler s(2);
  s.Start();
  std::vector<std::move_only_function<void()>> bodies;
  std::atomic<int> late{0}, timed_out{0};
  for (unsigned f = 0; f < 50; ++f) {
    bodies.emplace_back([&, f] {
      std::minstd_rand random(f + 1);
      for (int i = 0; i < 20; ++i) {
        const uint64_t deadline = s->clock().MonotonicNs() + random() % (2 * kMs);
        if (Suspend(deadline, Sleep::kInterruptible) == WakeReason::kTimedOut) ++timed_out;
        if (s->clock().MonotonicNs() < deadline) ++late;
      }
    });
  }
  s.RunAll(std::move(bodies));
  EXPECT_EQ(timed_out, 50 * 20);
  EXPECT_EQ(late, 0);
}

TEST(Clock, ContinuesFromWhereItStood) {
  Clock clock;
  EXPECT_EQ(clock.monotonic_offset_ns(), 0);
  clock.ContinueFrom(1'000'000);
  const uint64_t now = clock.MonotonicNs();
  EXPECT_GE(now, 1'000'000U);
  EXPECT_LT(now, 1'000'000U + 10'000 * kMs);
  EXPECT_LE(clock.ToHost(now), host::MonotonicNs());
  clock.ContinueFrom(uint64_t{1} << 62);  // a host that is younger than the sandbox
  EXPECT_GE(clock.MonotonicNs(), uint64_t{1} << 62);
  EXPECT_EQ(clock.ToHost(5), 0U);
}

// A crowd whose deadline passes at once does not come between two fibers that wake each other; one
// of the crowd that is woken does not wait for the others.
TEST(Deadline, WhoIsWokenGoesBeforeACrowdWhoseDeadlinePassed) {
  constexpr int kCrowd = 400, kTurns = 100;
  TestScheduler s(1);
  s.Start();
  std::vector<std::move_only_function<void()>> bodies;
  const uint64_t deadline = s->clock().MonotonicNs() + 50 * kMs;
  int late = 0, late_when_done = -1, late_when_woken = -1;
  bool ball = false;
  std::vector<Fiber*> players(2), crowd;
  for (int i = 0; i < kCrowd; ++i) {
    bodies.push_back([&, i] {
      crowd.push_back(&Fiber::Current());
      while (Suspend(deadline, Sleep::kUninterruptible) != WakeReason::kTimedOut) {
      }
      ++late;
      if (i == kCrowd - 1) late_when_woken = late;
    });
  }
  for (const bool mine : {false, true}) {
    bodies.push_back([&, mine] {
      players[mine ? 1 : 0] = &Fiber::Current();
      while (players[mine ? 0 : 1] == nullptr || s->clock().MonotonicNs() < deadline) Yield();
      if (mine) crowd.back()->Unpark();
      for (int turn = 0; turn < kTurns; ++turn) {
        while (ball != mine) Suspend(std::nullopt, Sleep::kUninterruptible);
        ball = !mine;
        players[mine ? 0 : 1]->Unpark();
      }
      if (mine) late_when_done = late;
    });
  }
  s.RunAll(std::move(bodies));
  EXPECT_EQ(late, kCrowd);
  EXPECT_LT(late_when_done, kCrowd / 2);
  EXPECT_LT(late_when_woken, kCrowd / 4);
}

}  // namespace
}  // namespace skep::sched
