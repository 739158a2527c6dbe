#include "base/mutex.h"

#include <gtest/gtest.h>
#include <unistd.h>

namespace skep {
namespace {

TEST(LockOrder, AViolationEndsTheProcess) {
  Mutex outer{LockRank::kKernel}, inner{LockRank::kFile};
  const auto take = [](Mutex& first, Mutex& second) {
    Mutex::CheckOrder();
    MutexLock one(first);
    EXPECT_FALSE(HoldsNoMutex());
    MutexLock two(second);
  };
  EXPECT_DEATH(take(inner, outer), "lock order");
  EXPECT_EXIT((take(outer, inner), _exit(HoldsNoMutex() ? 7 : 8)), ::testing::ExitedWithCode(7),
              "");
}

}  // namespace
}  // namespace skep
