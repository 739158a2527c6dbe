#include "sentry/mm/memory_limit.h"

#include <gtest/gtest.h>
#include <cstring>

#include "sentry/mm/file_pages.h"
#include "sentry/mm/mm_test_util.h"

namespace skep::mm {
namespace {

constexpr uint64_t kMiB = 1 << 20;

class Freer final : public Reliever {
 public:
  Result<void> Relieve() override {
    ++calls;
    if (answer != 0) return Fail(answer);
    to_free = {};
    return {};
  }
  Ref<Extent> to_free;
  int answer = 0;
  int calls = 0;
};

class MemoryLimitTest : public testing::Test {
 protected:
  // Takes `bytes` of host memory.
  Ref<Extent> Touch(uint64_t bytes) {
    Ref<Extent> extent = *memory->Allocate(bytes);
    std::memset(memory->Window(extent->offsets().start), 1, bytes);
    return extent;
  }
  // The kernel's heap takes its part of the limit.
  void SetLimit(uint64_t bytes) { memory->limit().Set(memory->limit().Used() + bytes, &freer); }

  std::unique_ptr<MemoryFile> memory = *MemoryFile::Make();
  Freer freer;
};

TEST_F(MemoryLimitTest, NoneUnlessSet) {
  EXPECT_FALSE(memory->limit().set());
  EXPECT_EQ(memory->limit().Room(), ~uint64_t{0});
  EXPECT_TRUE(memory->limit().CheckFill(uint64_t{1} << 40).has_value());
  EXPECT_TRUE(memory->limit().MakeRoom(uint64_t{1} << 40).has_value());
}

TEST_F(MemoryLimitTest, CountsPagesThatAreThere) {
  SetLimit(64 * kMiB);
  const uint64_t room = memory->limit().Room();
  const Ref<Extent> untouched = *memory->Allocate(1024 * kMiB);
  EXPECT_GT(memory->limit().Room(), room - kMiB);
  const Ref<Extent> touched = Touch(8 * kMiB);
  EXPECT_LE(memory->limit().Room(), room - 8 * kMiB);
  EXPECT_GT(memory->limit().Room(), room - 9 * kMiB);
}

TEST_F(MemoryLimitTest, FilesAreFullBeforeGuestsDie) {
  SetLimit(64 * kMiB);
  EXPECT_LT(memory->limit().fill_to(), memory->limit().kill_above());
  EXPECT_LT(memory->limit().kill_above(), memory->limit().limit());
  auto file = MakeRef<FilePages>(*memory);
  const std::vector<std::byte> block(kMiB, std::byte{1});
  uint64_t written = 0;
  for (; written < 100 * kMiB; written += kMiB) {
    IoSequence from = IoSequence::FromKernel(std::span(block));
    const Result<size_t> n = file->Write(written, from);
    if (!n) {
      EXPECT_EQ(n.error(), Errno(ENOSPC));
      break;
    }
  }
  EXPECT_GT(written, 50 * kMiB);
  EXPECT_LT(written, 64 * kMiB);
  EXPECT_GT(memory->limit().Room(), 0u);
  EXPECT_EQ(freer.calls, 0);
}

// Pages that nobody uses do not count, but the host has them: they go before the room does.
TEST_F(MemoryLimitTest, KeptPagesGoFirst) {
  SetLimit(64 * kMiB);
  const uint64_t room = memory->limit().Room();
  {
    const Range pages{0, 32 * kMiB};
    const Ref<Extent> home = memory->TakeHome(pages)->extent;
    const uint64_t start = home->offsets().start;
    ASSERT_TRUE(home->TryUse({start, start + pages.size()}));
    std::memset(memory->Window(start), 1, 24 * kMiB);
    EXPECT_LT(memory->limit().Room(), room - 23 * kMiB);
    home->DropUse({start, start + pages.size()});
  }
  EXPECT_GT(memory->limit().Room(), room - kMiB);
  EXPECT_EQ(memory->KeptBytes(), 24 * kMiB);
  const Ref<Extent> touched = Touch(32 * kMiB);
  EXPECT_LE(memory->KeptBytes(), 24 * kMiB);
  const uint64_t left = memory->limit().Room();
  EXPECT_GT(left, room - 33 * kMiB);
  EXPECT_LE(memory->KeptBytes(), left / 2);
  EXPECT_GT(memory->KeptBytes(), left / 2 - kMiB);
  const Ref<Extent> full = Touch(32 * kMiB);
  EXPECT_EQ(memory->limit().Room(), 0u);
  EXPECT_EQ(memory->KeptBytes(), 0u);
}

TEST_F(MemoryLimitTest, RoomIsMadeByTheReliever) {
  SetLimit(16 * kMiB);
  freer.to_free = Touch(16 * kMiB);
  EXPECT_EQ(memory->limit().Room(), 0u);
  EXPECT_TRUE(memory->limit().MakeRoom(kMiB).has_value());
  EXPECT_EQ(freer.calls, 1);
  EXPECT_GE(memory->limit().Room(), kMiB);
}

TEST_F(MemoryLimitTest, WhoDiesForItIsTold) {
  SetLimit(16 * kMiB);
  const Ref<Extent> full = Touch(16 * kMiB);
  freer.answer = kKilled;
  EXPECT_EQ(memory->limit().MakeRoom(kMiB).error(), Errno(kKilled));
  freer.answer = ENOMEM;
  EXPECT_EQ(memory->limit().MakeRoom(kMiB).error(), Errno(EFAULT));
}

class NoBudget final : public FilePages::Budget {
 public:
  Result<void> Charge(uint64_t) override { return {}; }
  void Uncharge(uint64_t) override {}
};

// Ending processes does not free files, so files must not take what processes need.
TEST_F(MemoryLimitTest, FilesWithNamesLeaveProcessesAShare) {
  memory->limit().Set(256 * kMiB, &freer);
  const uint64_t most = memory->limit().MostForFiles();
  EXPECT_EQ(most, 192 * kMiB);
  NoBudget budget;
  auto one = MakeRef<FilePages>(*memory, &budget);
  auto other = MakeRef<FilePages>(*memory, &budget);
  const auto fill = [](FilePages& file) {
    uint64_t size = 0;
    while (file.Allocate({size, size + kMiB}, false)) size += kMiB;
    return size;
  };
  ASSERT_TRUE(one->Allocate({0, 100 * kMiB}, false));
  EXPECT_EQ(fill(*other), most - 100 * kMiB);
  EXPECT_EQ(one->Allocate({200 * kMiB, 200 * kMiB + 1}, true).error(), Errno(ENOSPC));
  // Mapped to be written, too.
  EXPECT_EQ(one->Translate({99 * kMiB, 100 * kMiB}, true)->size, kMiB) << "is paid for already";
  ASSERT_TRUE(one->Truncate(50 * kMiB));
  EXPECT_EQ(other->Allocate({most, most + 50 * kMiB}, false).has_value(), true);
  one = {};
  other = {};
  auto third = MakeRef<FilePages>(*memory, &budget);
  EXPECT_EQ(fill(*third), most);
}

}  // namespace
}  // namespace skep::mm
