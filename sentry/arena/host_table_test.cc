#include "sentry/arena/host_table.h"

#include <gtest/gtest.h>

#include "base/host_call.h"

namespace skep::arena {
namespace {

OwnedFd AnyFd() { return host::MemfdCreate("test", 0).value(); }

TEST(HostTable, NumbersAreReused) {
  HostTable& table = HostTable::Get();
  OwnedFd fd = AnyFd();
  const int raw = fd.get();
  const HostFd ref = table.Add(std::move(fd));
  EXPECT_TRUE(ref);
  EXPECT_EQ(table.Get(ref), raw);
  EXPECT_EQ(table.DescriptorOf(HostTable::FileIdOf(ref)).value(), raw);
  OwnedFd back = table.Remove(ref);
  EXPECT_EQ(back.get(), raw);
  EXPECT_EQ(table.Get(ref), -1);
  EXPECT_EQ(table.DescriptorOf(HostTable::FileIdOf(ref)).error(), Errno(EBADF));
  EXPECT_EQ(table.Add(AnyFd()).index(), ref.index());
  (void)table.Remove(ref);
}

TEST(HostTable, EmptyReferences) {
  HostTable& table = HostTable::Get();
  EXPECT_EQ(table.Get(HostFd()), -1);
  EXPECT_EQ(table.Get(HostContext()), nullptr);
  EXPECT_EQ(table.Get(HostAddressSpace(3'000'000)), nullptr);
  EXPECT_FALSE(table.DescriptorOf(platform::HostFileId{4'000'000'000}));
}

// In a process of its own: the table belongs to the process.
TEST(HostTableDeathTest, NumbersSurviveARestore) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  EXPECT_EXIT(
      {
        HostTable& table = HostTable::Get();
        table.ResetNumbers(500);
        const bool fresh = table.Add(AnyFd()).index() == 501;
        OwnedFd fd = AnyFd();
        const int raw = fd.get();
        table.Restore(HostFd(400), std::move(fd));
        const bool restored = table.Get(HostFd(400)) == raw && table.Get(HostFd(1)) == -1;
        table.FinishRestore();
        bool low = true;
        for (uint32_t i = 1; i < 400; ++i) low = low && table.Add(AnyFd()).index() <= 500;
        exit(fresh && restored && table.Get(HostFd(400)) == raw && low ? 0 : 1);
      },
      testing::ExitedWithCode(0), "");
}

}  // namespace
}  // namespace skep::arena
