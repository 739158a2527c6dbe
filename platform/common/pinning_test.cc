#include "platform/common/pinning.h"

#include <gtest/gtest.h>
#include <unistd.h>
#include <algorithm>
#include <array>
#include <ctime>

namespace skep::platform {
namespace {

uint64_t TestNow() { return 1; }

// Links of this thread, which is moved about and put back.
class PinningTest : public testing::Test {
 protected:
  PinningTest() {
    CPU_ZERO(&before_);
    (void)sched_getaffinity(0, sizeof(before_), &before_);
  }
  ~PinningTest() override { (void)sched_setaffinity(0, sizeof(before_), &before_); }

  size_t Free() const {
    return static_cast<size_t>(
        std::count_if(links_.begin(), links_.end(), [](const auto& link) { return link.is_free; }));
  }
  // The time that NextTick named has come.
  void Tick() {
    const std::optional<uint64_t> at = pinning_.NextTick(&TestNow);
    pinning_.Tick(at.value_or(0));
  }

  cpu_set_t before_;
  Pinning pinning_{sched_getcpu()};
  std::array<Pinning::Link, 10> links_;
};

TEST_F(PinningTest, ACrowdIsLetGoAFewAtATimeTheOldestFirst) {
  if (CPU_COUNT(&before_) < 2) {
    EXPECT_FALSE(pinning_.NextTick(&TestNow));  // on one CPU nothing is pinned
    return;
  }
  for (Pinning::Link& link : links_) pinning_.Ran(link, gettid());
  Tick();
  EXPECT_EQ(Free(), 0U);  // they have not run for a whole tick yet
  Tick();
  EXPECT_EQ(Free(), 4U);
  for (size_t i = 0; i < 4; ++i) EXPECT_TRUE(links_[i].is_free) << i;
  Tick();
  Tick();
  EXPECT_EQ(Free(), links_.size());
  EXPECT_FALSE(pinning_.NextTick(&TestNow));
}

TEST_F(PinningTest, WhoStopsIsPinnedAgainAndNotLetGo) {
  if (CPU_COUNT(&before_) < 2) return;
  pinning_.Ran(links_[0], gettid());
  pinning_.Ran(links_[1], gettid());
  pinning_.Stopped(links_[0]);
  Tick();
  Tick();
  EXPECT_FALSE(links_[0].is_free);
  EXPECT_TRUE(links_[1].is_free);
  cpu_set_t now;
  CPU_ZERO(&now);
  ASSERT_EQ(sched_getaffinity(0, sizeof(now), &now), 0);
  EXPECT_EQ(CPU_COUNT(&now), CPU_COUNT(&before_));
  pinning_.Stopped(links_[1]);
  EXPECT_FALSE(links_[1].is_free);
  ASSERT_EQ(sched_getaffinity(0, sizeof(now), &now), 0);
  EXPECT_EQ(CPU_COUNT(&now), 1);
}

}  // namespace
}  // namespace skep::platform
