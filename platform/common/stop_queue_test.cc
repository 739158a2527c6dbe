#include "platform/common/stop_queue.h"

#include <gtest/gtest.h>

namespace skep::platform {
namespace {

struct FakeSpace {
  bool dead() const { return is_dead; }
  bool is_dead = false;
  DeathLink<FakeSpace> death_link;
};

struct FakeContext {
  FakeSpace& space() { return of; }
  FakeSpace& of;
  StopLink<FakeContext> stop_link;
};

using Queue = StopQueue<FakeContext, FakeSpace>;

TEST(StopQueue, FirstInFirstOut) {
  FakeSpace space;
  FakeContext a{space, {}}, b{space, {}}, c{space, {}};
  Queue queue(-1);
  EXPECT_TRUE(queue.empty());
  queue.Push(b);
  queue.Push(a);
  EXPECT_EQ(queue.Pop().stopped, &b);
  queue.Push(c);
  EXPECT_EQ(queue.Pop().stopped, &a);
  EXPECT_EQ(queue.Pop().stopped, &c);
  EXPECT_EQ(queue.Pop().stopped, nullptr);
  EXPECT_TRUE(queue.empty());
}

TEST(StopQueue, ARemovedStopIsNotReportedAndTheOrderStays) {
  FakeSpace space;
  FakeContext a{space, {}}, b{space, {}}, c{space, {}}, d{space, {}};
  Queue queue(-1);
  for (FakeContext* context : {&a, &b, &c}) queue.Push(*context);
  queue.Remove(c);  // the last
  queue.Push(d);
  queue.Remove(a);  // the first
  queue.Remove(a);  // one that is not there
  EXPECT_EQ(queue.Pop().stopped, &b);
  EXPECT_EQ(queue.Pop().stopped, &d);
  EXPECT_TRUE(queue.empty());
}

TEST(StopQueue, StopsOfADeadSpaceAreDroppedAndItsDeathIsToldOnce) {
  FakeSpace dying, living;
  FakeContext a{dying, {}}, b{living, {}};
  Queue queue(-1);
  queue.Push(a);
  queue.Push(b);
  dying.is_dead = true;
  EXPECT_TRUE(queue.Announce(dying));
  EXPECT_FALSE(queue.Announce(dying));
  EXPECT_EQ(queue.Pop().stopped, &b);
  EXPECT_EQ(queue.Pop().dead, &dying);
  EXPECT_TRUE(queue.empty());
  EXPECT_TRUE(queue.Announce(dying)) << "it may be announced once more";
  queue.Remove(dying);
  EXPECT_TRUE(queue.empty());
}

TEST(StopQueue, KnowsTheOnlyOneThatRuns) {
  FakeSpace space;
  FakeContext a{space, {}}, b{space, {}}, c{space, {}};
  Queue queue(-1);
  EXPECT_EQ(queue.OnlyRunning(), nullptr);
  queue.Ran(a, 1);
  EXPECT_EQ(queue.OnlyRunning(), &a);
  EXPECT_FALSE(queue.SeveralRun());
  queue.Ran(b, 2);
  queue.Ran(c, 3);
  EXPECT_EQ(queue.OnlyRunning(), nullptr);
  EXPECT_TRUE(queue.SeveralRun());
  queue.Stopped(b);
  queue.Stopped(b);
  queue.Stopped(a);
  EXPECT_EQ(queue.OnlyRunning(), &c);
  queue.Stopped(c);
  EXPECT_EQ(queue.first_running(), nullptr);
}

TEST(StopQueue, AWakeUpWaitsForStopsForSoLongNotForSoMany) {
  Queue queue(-1);
  constexpr uint64_t kStart = 5'000'000'000;
  EXPECT_FALSE(queue.IsLate(kStart));
  for (uint64_t i = 0; i < 1000; ++i) EXPECT_FALSE(queue.IsLate(kStart + i));
  EXPECT_TRUE(queue.IsLate(kStart + Queue::kMaxLateNs));
  queue.NoneDue();
  // One stop that takes long to serve is enough.
  EXPECT_FALSE(queue.IsLate(kStart + 10 * Queue::kMaxLateNs));
  EXPECT_TRUE(queue.IsLate(kStart + 18 * Queue::kMaxLateNs));
}

}  // namespace
}  // namespace skep::platform
