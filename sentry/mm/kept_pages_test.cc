// Pages that outlive their users: whoever is given them next sees zeros, they do not count as used,
// and there are never too many.
#include <gtest/gtest.h>
#include <algorithm>
#include <ctime>
#include <vector>

#include "sentry/arena/arena.h"
#include "sentry/mm/mm_test_util.h"
#include "sentry/sched/scheduler.h"

namespace skep::mm {
namespace {

constexpr uint64_t kPage = kPageSize;
constexpr uint64_t kMiB = 1 << 20;

class KeptPages : public MmTest {
 protected:
  // What a guest would see, and whether the host has the page without a fault.
  std::vector<std::byte> Contents(MemoryManager& mm, uint64_t at, uint64_t size) {
    std::vector<std::byte> bytes(size, std::byte{0xee});
    EXPECT_EQ(mm.CopyIn(UserAddr{at}, bytes).bytes, size);
    return bytes;
  }
  void Fill(MemoryManager& mm, uint64_t at, uint64_t size) {
    const std::vector<std::byte> bytes(size, std::byte{0xa5});
    EXPECT_EQ(mm.CopyOut(UserAddr{at}, bytes).bytes, size);
  }
  static bool AllZero(const std::vector<std::byte>& bytes) {
    return std::all_of(bytes.begin(), bytes.end(), [](std::byte b) { return b == std::byte{0}; });
  }
  uint64_t Resident(MemoryManager& mm) { return mm.Stats().resident; }
};

TEST_F(KeptPages, AreZerosForTheSameAddresses) {
  Ref<MemoryManager> mm = NewSpace();
  const uint64_t at = Map(*mm, 16 * kPage);
  Fill(*mm, at, 16 * kPage);
  ASSERT_TRUE(mm->Munmap(at, 16 * kPage));
  EXPECT_EQ(memory->UsedBytes(), 0u);
  EXPECT_EQ(memory->KeptBytes(), 16 * kPage);
  EXPECT_EQ(Resident(*mm), 0u);
  ASSERT_EQ(Map(*mm, 16 * kPage), at);
  EXPECT_EQ(memory->KeptBytes(), 0u);
  EXPECT_EQ(Resident(*mm), 16 * kPage);
  EXPECT_TRUE(AllZero(Contents(*mm, at, 16 * kPage)));
}

// A program may have terabytes of bss: only what the host has already is populated.
TEST_F(KeptPages, OfANewProgramAreMappedWithoutTheirNeighbours) {
  Ref<MemoryManager> mm = NewSpace();
  const uint64_t at = Map(*mm, 256 * kMiB);
  Fill(*mm, at, 8 * kPage);
  Fill(*mm, at + 100 * kPage, 8 * kPage);
  ASSERT_TRUE(mm->Clear());
  ASSERT_EQ(Map(*mm, 256 * kMiB), at);
  const uint64_t before = SpaceOf(*mm).populated();
  ASSERT_TRUE(mm->MapProgram());
  EXPECT_EQ(SpaceOf(*mm).populated() - before, 16 * kPage);
  EXPECT_TRUE(AllZero(Contents(*mm, at, 120 * kPage)));
}

TEST_F(KeptPages, AreZerosForAnotherProcess) {
  uint64_t first = 0;
  {
    Ref<MemoryManager> mm = NewSpace();
    mm->SetMmapTop(kGuestAddressEnd - 1024 * kMiB);
    first = Map(*mm, 64 * kPage);
    Fill(*mm, first, 64 * kPage);
  }
  EXPECT_EQ(memory->UsedBytes(), 0u);
  EXPECT_EQ(memory->KeptBytes(), 64 * kPage);
  // A run of the same program: the same size, elsewhere.
  Ref<MemoryManager> mm = NewSpace();
  mm->SetMmapTop(kGuestAddressEnd - 5 * 1024 * kMiB - 33 * kPage);
  const uint64_t at = Map(*mm, 64 * kPage);
  EXPECT_NE(at % kHomeSize, first % kHomeSize);
  EXPECT_EQ(memory->KeptBytes(), 0u) << "they are taken";
  EXPECT_EQ(memory->UsedBytes(), 64 * kPage);
  EXPECT_TRUE(AllZero(Contents(*mm, at, 64 * kPage)));
  EXPECT_EQ(SpaceOf(*mm).applied_ops(), 1u);
  // What it maps next to that is one mapping with it.
  const uint64_t below = Map(*mm, 8 * kPage);
  EXPECT_EQ(below, at - 8 * kPage);
  EXPECT_EQ(HostPageAt(*mm, below)->offset + 8 * kPage, HostPageAt(*mm, at)->offset);
}

// In a home that is turned, addresses go on where offsets begin again.
TEST_F(KeptPages, TurnedHomes) {
  {
    Ref<MemoryManager> mm = NewSpace();
    const uint64_t at = Map(*mm, 8 * kPage, PROT_READ | PROT_WRITE,
                            MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, 4 * kHomeSize);
    Fill(*mm, at, 8 * kPage);
  }
  Ref<MemoryManager> mm = NewSpace();
  const uint64_t at = 6 * kHomeSize + 100 * kMiB;
  Map(*mm, 8 * kPage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, at);
  EXPECT_EQ(memory->KeptBytes(), 0u);
  const uint64_t below = at - 8 * kPage;
  Map(*mm, 16 * kPage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, below);
  EXPECT_TRUE(AllZero(Contents(*mm, below, 16 * kPage)));
  for (uint64_t i = 0; i < 16; ++i) Store(*mm, below + i * kPage, i + 1);
  for (uint64_t i = 0; i < 16; ++i) EXPECT_EQ(Load(*mm, below + i * kPage), i + 1);
}

TEST_F(KeptPages, OnlyWhatWasTouched) {
  Ref<MemoryManager> mm = NewSpace();
  const uint64_t at = Map(*mm, 64 * kMiB);
  Store(*mm, at + 3 * kPage, 1);
  Fill(*mm, at + 10 * kMiB, 5 * kPage);
  ASSERT_TRUE(mm->Munmap(at, 64 * kMiB));
  EXPECT_EQ(memory->KeptBytes(), 6 * kPage);
  ASSERT_EQ(Map(*mm, 64 * kMiB), at);
  EXPECT_EQ(memory->UsedBytes(), 6 * kPage);
  EXPECT_EQ(Load(*mm, at + 3 * kPage), 0u);
  EXPECT_TRUE(AllZero(Contents(*mm, at + 10 * kMiB, 5 * kPage)));
}

TEST_F(KeptPages, NeverMoreThanSoMuch) {
  Ref<MemoryManager> mm = NewSpace();
  constexpr uint64_t kSize = 2 * MemoryFile::kMaxKept;
  const uint64_t at = Map(*mm, kSize);
  ASSERT_EQ(mm->ZeroOut(UserAddr{at}, kSize).bytes, kSize);
  ASSERT_TRUE(mm->Munmap(at, kSize / 4));
  EXPECT_EQ(memory->KeptBytes(), kSize / 4);
  ASSERT_TRUE(mm->Munmap(at, kSize));
  EXPECT_EQ(memory->KeptBytes(), MemoryFile::kMaxKept);
  EXPECT_EQ(memory->UsedBytes(), 0u);
  memory->GiveBackKept(kMiB + 1);
  EXPECT_EQ(memory->KeptBytes(), kMiB);
  EXPECT_EQ(memory->UsedBytes(), 0u);
}

// Copies of a page that a parent and its children write in turns stay in two homes.
TEST_F(KeptPages, AShellAndItsChildren) {
  Ref<MemoryManager> mm = NewSpace();
  const uint64_t at = Map(*mm, 8 * kPage);
  for (uint64_t i = 0; i < 8; ++i) Store(*mm, at + i * kPage, i);
  for (uint64_t round = 1; round < 20; ++round) {
    Ref<MemoryManager> child = mm->Fork().value();
    ASSERT_TRUE(child->Activate(engine));
    for (uint64_t i = 0; i < 8; ++i) {
      Store(*mm, at + i * kPage, round * 100 + i);
      EXPECT_EQ(Load(*child, at + i * kPage), round == 1 ? i : (round - 1) * 100 + i);
      Store(*child, at + i * kPage, 5);
      EXPECT_EQ(Load(*child, at + i * kPage + 8), 0u);
    }
    child = {};
    for (uint64_t i = 0; i < 8; ++i) EXPECT_EQ(Load(*mm, at + i * kPage), round * 100 + i);
    EXPECT_EQ(memory->UsedBytes(), 8 * kPage);
    EXPECT_LE(memory->KeptBytes(), 24 * kPage);
  }
}

TEST_F(KeptPages, UntouchedOnesGoBackBeforeAnybodyDies) {
  Ref<MemoryManager> mm = NewSpace();
  uint64_t at = Map(*mm, 32 * kPage);
  Fill(*mm, at, 32 * kPage);
  ASSERT_TRUE(mm->Munmap(at, 32 * kPage));
  ASSERT_EQ(Map(*mm, 32 * kPage), at);
  EXPECT_EQ(memory->UsedBytes(), 32 * kPage);
  Store(*mm, at + 7 * kPage + 16, 77);
  Ref<MemoryManager> child;
  mm->GiveBackUntouched();
  EXPECT_EQ(memory->UsedBytes(), kPage);
  EXPECT_EQ(Load(*mm, at + 7 * kPage + 16), 77u);
  EXPECT_EQ(Load(*mm, at), 0u);
  Store(*mm, at + kPage, 1);
  mm->GiveBackUntouched();
  EXPECT_EQ(Load(*mm, at + kPage), 1u);
}

// Others may have them: a fork's pages stay where they are.
TEST_F(KeptPages, UntouchedOnesThatAreSharedStay) {
  Ref<MemoryManager> mm = NewSpace();
  const uint64_t at = Map(*mm, 8 * kPage);
  Fill(*mm, at, 8 * kPage);
  ASSERT_TRUE(mm->Munmap(at, 8 * kPage));
  ASSERT_EQ(Map(*mm, 8 * kPage), at);
  const Ref<MemoryManager> child = mm->Fork().value();
  ASSERT_TRUE(child->Activate(engine));
  mm->GiveBackUntouched();
  EXPECT_EQ(memory->UsedBytes(), 8 * kPage);
  Store(*child, at, 3);
  EXPECT_EQ(Load(*mm, at), 0u);
}

// A mapping larger than a home lies in huge pages as its addresses do.
TEST_F(KeptPages, LargeMappingsMayHaveHugePages) {
  constexpr uint64_t kHuge = 2 * kMiB;
  Ref<MemoryManager> mm = NewSpace();
  mm->SetMmapTop(kGuestAddressEnd - 37 * kPage);
  for (const uint64_t size : {kHomeSize + 5 * kPage, 3 * kHomeSize, 64 * kMiB, kHuge}) {
    const uint64_t at = Map(*mm, size);
    for (const uint64_t address : {at, at + size - kPage}) {
      EXPECT_EQ(HostPageAt(*mm, address)->offset % kHuge, address % kHuge) << size;
    }
  }
}

TEST_F(KeptPages, GoWhenNothingComesAndGoes) {
  sched::Scheduler* scheduler = nullptr;
  {
    const arena::ArenaHeapScope arena;
    scheduler = new sched::Scheduler(1);
  }
  ASSERT_TRUE(scheduler->Start(
      [](int) -> HostResult<std::unique_ptr<platform::Engine>> {
        return std::make_unique<FakeEngine>();
      },
      false));
  memory->GiveBackWhenIdle(*scheduler);
  {
    Ref<MemoryManager> mm = NewSpace();
    Fill(*mm, Map(*mm, 24 * kMiB), 24 * kMiB);
  }
  EXPECT_EQ(memory->KeptBytes(), 24 * kMiB);
  const uint64_t start = host::MonotonicNs();
  while (memory->KeptBytes() != 0 && host::MonotonicNs() < start + 20'000'000'000) {
    const timespec pause = {0, 20'000'000};
    nanosleep(&pause, nullptr);
  }
  EXPECT_EQ(memory->KeptBytes(), 0u);
  EXPECT_GT(host::MonotonicNs() - start, 900'000'000u);
  EXPECT_EQ(memory->UsedBytes(), 0u);
  scheduler->Stop();
  memory.reset();  // its timer is of that scheduler
  delete scheduler;
  memory = std::move(*MemoryFile::Make());
}

}  // namespace
}  // namespace skep::mm
