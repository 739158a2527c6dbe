#include "sentry/arena/host_table.h"

#include <gtest/gtest.h>
#include <cstring>
#include <string_view>
#include <vector>

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

OwnedFd FileOf(std::string_view text) {
  OwnedFd fd = AnyFd();
  EXPECT_EQ(host::PWrite(fd.get(), std::as_bytes(std::span(text)), 0).value_or(0), text.size());
  return fd;
}

TEST(HostTable, WindowsShowFiles) {
  HostTable& table = HostTable::Get();
  const HostFd ref = table.Add(FileOf("before"));
  const platform::HostFileId id = HostTable::FileIdOf(ref);
  const std::byte* const window = table.Window(id, 2, 4);
  ASSERT_NE(window, nullptr);
  EXPECT_EQ(memcmp(window, "fore", 4), 0);
  EXPECT_EQ(table.Window(id, 0, 4096), window - 2);
  EXPECT_EQ(table.Window(id, 0, 4097), nullptr);
  EXPECT_EQ(table.Window(id, UINT64_MAX, 2), nullptr);
  const std::string_view later = "after!";
  ASSERT_TRUE(host::PWrite(table.Get(ref), std::as_bytes(std::span(later)), 0));
  EXPECT_EQ(memcmp(window, "ter!", 4), 0);
  (void)table.Remove(ref);
  EXPECT_EQ(table.Window(id, 0, 1), nullptr);
  // The number's next file is seen, not the last one.
  const HostFd next = table.Add(FileOf("other"));
  ASSERT_EQ(next.index(), ref.index());
  EXPECT_EQ(memcmp(table.Window(id, 0, 5), "other", 5), 0);
  (void)table.Remove(next);
}

TEST(HostTable, WindowsAreBounded) {
  HostTable& table = HostTable::Get();
  std::vector<HostFd> files;
  int windows = 0;
  for (int i = 0; i < 1100; i++) {
    files.push_back(table.Add(FileOf("x")));
    if (table.Window(HostTable::FileIdOf(files.back()), 0, 1) != nullptr) windows++;
  }
  EXPECT_EQ(windows, 1024);
  for (const HostFd file : files) (void)table.Remove(file);
  const HostFd one = table.Add(FileOf("x"));
  EXPECT_NE(table.Window(HostTable::FileIdOf(one), 0, 1), nullptr);
  (void)table.Remove(one);
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
