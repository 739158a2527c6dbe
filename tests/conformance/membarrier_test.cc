// membarrier: barriers that other threads pay for.
#include <linux/membarrier.h>
#include <sys/syscall.h>

#include <atomic>
#include <thread>

#include "tests/util/matchers.h"
#include "tests/util/process.h"

namespace skep::test {
namespace {

long Membarrier(int command, unsigned flags = 0) {
  return syscall(SYS_membarrier, command, flags, 0);
}

TEST(Membarrier, QueryNamesTheUsualCommands) {
  const long offered = Membarrier(MEMBARRIER_CMD_QUERY);
  ASSERT_THAT(offered, Succeeds());
  for (const int command : {MEMBARRIER_CMD_GLOBAL, MEMBARRIER_CMD_PRIVATE_EXPEDITED,
                            MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED}) {
    EXPECT_EQ(offered & command, command);
  }
}

TEST(Membarrier, ExpeditedWantsToBeRegistered) {
  EXPECT_THAT(ForkAndRun([] {
                EXPECT_THAT(Membarrier(MEMBARRIER_CMD_PRIVATE_EXPEDITED), FailsWith(EPERM));
                EXPECT_THAT(Membarrier(MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED), SucceedsWith(0));
                EXPECT_THAT(Membarrier(MEMBARRIER_CMD_PRIVATE_EXPEDITED), SucceedsWith(0));
                EXPECT_THAT(ForkAndRun([] {
                              EXPECT_THAT(Membarrier(MEMBARRIER_CMD_PRIVATE_EXPEDITED), Succeeds());
                            }),
                            ExitsWith(0))
                    << "a child is registered as its parent was";
                const char* const argv[] = {"x", "--helper=expedited_is_eperm", nullptr};
                execv(TestBinary().c_str(), const_cast<char**>(argv));
              }),
              ExitsWith(0));
}
const Helper kExpedited("expedited_is_eperm", [](int, char**) {
  return Membarrier(MEMBARRIER_CMD_PRIVATE_EXPEDITED) == -1 && errno == EPERM ? 0 : 1;
});

TEST(Membarrier, Errors) {
  EXPECT_THAT(Membarrier(1 << 30), FailsWith(EINVAL));
  EXPECT_THAT(Membarrier(MEMBARRIER_CMD_QUERY, 1 << 5), FailsWith(EINVAL));
  EXPECT_THAT(Membarrier(MEMBARRIER_CMD_GLOBAL, 1 << 5), FailsWith(EINVAL));
}

TEST(Membarrier, GlobalSucceeds) { EXPECT_THAT(Membarrier(MEMBARRIER_CMD_GLOBAL), Succeeds()); }

// One side stores and loads with nothing between, the other with membarrier: they never both miss.
TEST(Membarrier, OrdersAThreadThatDoesNotCall) {
  ASSERT_THAT(Membarrier(MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED), Succeeds());
  std::atomic<int> round = 0;
  std::atomic<int> finished = 0;
  std::atomic<int> x = 0;
  std::atomic<int> y = 0;
  int fast_saw = 0;
  constexpr int kRounds = 300;
  std::thread fast([&] {
    for (int i = 1; i <= kRounds; ++i) {
      while (round.load(std::memory_order_acquire) != i) {
      }
      x.store(1, std::memory_order_relaxed);
      asm volatile("" ::: "memory");
      fast_saw = y.load(std::memory_order_relaxed);
      finished.store(i, std::memory_order_release);
    }
  });
  for (int i = 1; i <= kRounds; ++i) {
    x.store(0, std::memory_order_relaxed);
    y.store(0, std::memory_order_relaxed);
    round.store(i, std::memory_order_release);
    y.store(1, std::memory_order_relaxed);
    ASSERT_THAT(Membarrier(MEMBARRIER_CMD_PRIVATE_EXPEDITED), Succeeds());
    const int slow_saw = x.load(std::memory_order_relaxed);
    while (finished.load(std::memory_order_acquire) != i) {
    }
    ASSERT_TRUE(fast_saw == 1 || slow_saw == 1) << "round " << i;
  }
  fast.join();
}

}  // namespace
}  // namespace skep::test
