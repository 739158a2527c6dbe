// What is resident, and what comes into being when it is read.
#include <gtest/gtest.h>

#include "sentry/mm/mm_test_util.h"

namespace skep::mm {
namespace {

TEST_F(MmTest, ResidentMemoryIsThatOfTouchedPages) {
  Ref<MemoryManager> mm = NewSpace();
  const uint64_t at = Map(*mm, 64 * kPageSize);
  EXPECT_EQ(mm->Stats().resident, 0u);
  for (const uint64_t page : {0, 1, 2, 9, 40}) Store(*mm, at + page * kPageSize, 1);
  EXPECT_EQ(mm->Stats().resident, 5 * kPageSize);
  EXPECT_EQ(mm->Stats().resident, 5 * kPageSize) << "asked again";
  EXPECT_EQ(mm->ResidentIn({at, at + 10 * kPageSize}), 4 * kPageSize);

  Ref<MemoryManager> child = mm->Fork().value();
  ASSERT_TRUE(child->Activate(engine));
  EXPECT_EQ(child->Stats().resident, 5 * kPageSize) << "shared until written";
  Store(*child, at, 2);
  Store(*child, at + 40 * kPageSize, 2);
  EXPECT_EQ(child->Stats().resident, 5 * kPageSize);
  EXPECT_EQ(mm->Stats().resident, 5 * kPageSize);

  ASSERT_TRUE(child->Madvise(at, kPageSize, MADV_DONTNEED));
  EXPECT_EQ(child->Stats().resident, 4 * kPageSize);
  child = {};
  ASSERT_TRUE(mm->Madvise(at, 10 * kPageSize, MADV_DONTNEED));
  EXPECT_EQ(mm->Stats().resident, kPageSize);
  ASSERT_TRUE(mm->Munmap(at + 40 * kPageSize, kPageSize));
  EXPECT_EQ(mm->Stats().resident, 0u);
  // Its pages may be used again for another mapping, which has touched none of them.
  const uint64_t again = Map(*mm, 64 * kPageSize);
  Store(*mm, again + 3 * kPageSize, 1);
  EXPECT_EQ(Load(*mm, again + 3 * kPageSize), 1u);
}

// What host I/O or a copy reads of pages that nobody has touched costs no memory under a limit.
TEST_F(MmTest, ReadingHolesTakesNoMemoryUnderALimit) {
  class Nobody final : public Reliever {
   public:
    Result<void> Relieve() override { return Fail(ENOMEM); }
  } nobody;
  memory->limit().Set(16 << 20, &nobody);
  Ref<MemoryManager> mm = NewSpace();
  constexpr uint64_t kSize = 64 << 20;
  const uint64_t at = Map(*mm, kSize);
  Store(*mm, at + 5 * kPageSize, 7);
  const uint64_t before = memory->UsedBytes();
  std::vector<std::byte> buffer(1 << 20);
  for (uint64_t done = 0; done < kSize; done += buffer.size()) {
    ASSERT_EQ(mm->CopyIn(UserAddr{at + done}, buffer).bytes, buffer.size());
    if (done == 0) {
      EXPECT_EQ(buffer[5 * kPageSize], std::byte{7});
    }
  }
  uint64_t moved = 0;
  while (moved < kSize) {
    const iovec range{reinterpret_cast<void*>(at + moved), kSize - moved};
    const CopyResult r = mm->WithBlocks(
        {&range, 1}, kSize - moved, false, [&](std::span<const iovec> blocks) -> Result<size_t> {
          size_t done = 0;
          for (const iovec& block : blocks) {
            const auto* bytes = static_cast<const std::byte*>(block.iov_base);
            for (size_t i = 0; i < block.iov_len; i += kPageSize) {
              const bool set = moved + done + i == 5 * kPageSize;
              EXPECT_EQ(bytes[i], set ? std::byte{7} : std::byte{0});
            }
            done += block.iov_len;
          }
          return done;
        });
    ASSERT_EQ(r.fault, 0);
    ASSERT_GT(r.bytes, 0u);
    moved += r.bytes;
  }
  EXPECT_EQ(memory->UsedBytes(), before);
  // Writing takes what it writes, up to the limit.
  const std::vector<std::byte> ones(kSize, std::byte{1});
  const CopyResult r = mm->CopyOut(UserAddr{at}, ones);
  EXPECT_EQ(r.fault, EFAULT);
  EXPECT_LE(memory->UsedBytes(), uint64_t{16} << 20);
  memory->limit().Set(0, nullptr);
}

}  // namespace
}  // namespace skep::mm
