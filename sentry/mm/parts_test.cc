// The parts that know nothing of each other: range sets, offsets, uses, VMAs and their gaps,
// copies.
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <random>
#include <set>
#include <vector>

#include "base/host_call.h"
#include "sentry/mm/copy.h"
#include "sentry/mm/extent_allocator.h"
#include "sentry/mm/memory_file.h"
#include "sentry/mm/range_set.h"
#include "sentry/mm/vma.h"

namespace skep::mm {
namespace {

TEST(RangeSet, AgreesWithASet) {
  std::mt19937_64 random(7);
  RangeSet set;
  std::set<uint64_t> model;
  for (int i = 0; i < 3000; ++i) {
    const uint64_t start = random() % 100;
    const Range range{start, start + random() % 20};
    uint64_t changed = 0;
    const bool add = random() % 2 == 0;
    for (uint64_t x = range.start; x < range.end; ++x) {
      changed += add ? model.insert(x).second : model.erase(x);
    }
    ASSERT_EQ(add ? set.Add(range) : set.Remove(range), changed);
    ASSERT_EQ(set.total(), model.size());
    for (uint64_t x = 0; x < 125; ++x) ASSERT_EQ(set.Contains(x), model.contains(x));
    const auto next = model.lower_bound(start);
    ASSERT_EQ(set.NextFrom(start).start, next == model.end() ? 0 : *next);
  }
}

TEST(ExtentAllocator, NeverHandsOutTwice) {
  constexpr uint64_t kSize = 4096 * kPageSize;
  ExtentAllocator allocator(kSize);
  std::mt19937_64 random(3);
  std::vector<Range> taken;
  RangeSet all;
  for (int i = 0; i < 20000; ++i) {
    if (random() % 2 == 0) {
      const uint64_t alignment = kPageSize << (random() % 5);
      const uint64_t phase = random() % (alignment / kPageSize) * kPageSize;
      const auto range = allocator.Allocate((1 + random() % 40) * kPageSize, alignment, phase);
      if (!range) continue;
      ASSERT_EQ(range->start % alignment, phase);
      ASSERT_EQ(all.Add(*range), range->size());
      taken.push_back(*range);
    } else if (!taken.empty()) {
      std::swap(taken[random() % taken.size()], taken.back());
      allocator.Free(taken.back());
      all.Remove(taken.back());
      taken.pop_back();
    }
    ASSERT_EQ(allocator.free_bytes() + all.total(), kSize);
  }
  for (const Range range : taken) allocator.Free(range);
  EXPECT_EQ(allocator.free_range_count(), 1u);
}

// Large and sparse, as what addresses of one region of a guest are given: used here and there.
TEST(Extent, LeavesNothingBehind) {
  auto memory = MemoryFile::Make().value();
  Ref<Extent> extent = memory->Allocate(uint64_t{256} << 20).value();
  const Range offsets = extent->offsets();
  const auto use = [&](uint64_t at, uint64_t pages) {
    const Range range{offsets.start + at, offsets.start + at + pages * kPageSize};
    ASSERT_TRUE(extent->TryUse(range));
    for (uint64_t i = range.start; i < range.end; i += kPageSize) *memory->Window(i) = std::byte{1};
  };
  use(0, 1);
  use(3 * kPageSize, 2);
  use(uint64_t{100} << 20, 3);
  use((uint64_t{101} << 20) + kPageSize, 1);
  use(offsets.size() - kPageSize, 1);
  extent->DropUse({offsets.start + 3 * kPageSize, offsets.start + 4 * kPageSize});
  EXPECT_EQ(memory->UsedBytes(), 7 * kPageSize);
  extent = {};
  EXPECT_EQ(memory->UsedBytes(), 0u);
  // Without counted uses, as files have them.
  extent = memory->Allocate(4 * kPageSize).value();
  *memory->Window(extent->offsets().start + kPageSize) = std::byte{1};
  extent = {};
  EXPECT_EQ(memory->UsedBytes(), 0u);
}

TEST(Extent, CountsUsesPageByPage) {
  auto memory = MemoryFile::Make().value();
  Ref<Extent> extent = memory->Allocate(64 * kPageSize).value();
  const Ref<Extent> other = extent;  // so that pages are punched one by one
  const uint64_t base = extent->offsets().start;
  std::mt19937_64 random(5);
  std::vector<uint32_t> model(64);
  for (int i = 0; i < 5000; ++i) {
    const uint64_t first = random() % 64;
    const uint64_t count = 1 + random() % (64 - first);
    const Range pages{base + first * kPageSize, base + (first + count) * kPageSize};
    uint32_t least = ~0u, most = 0;
    for (uint64_t p = first; p < first + count; ++p) {
      least = std::min(least, model[p]);
      most = std::max(most, model[p]);
    }
    int change = 0;
    switch (random() % 3) {
      case 0:
        ASSERT_EQ(extent->TryUse(pages), most == 0);
        change = most == 0 ? 1 : 0;
        break;
      case 1:
        extent->AddUse(pages);
        change = 1;
        break;
      default:
        if (least > 0) {
          extent->DropUse(pages);
          change = -1;
        }
    }
    for (uint64_t p = first; p < first + count; ++p) {
      model[p] = static_cast<uint32_t>(static_cast<int>(model[p]) + change);
      most = std::max(most, model[p]);
      std::byte* at = memory->Window(base + p * kPageSize);
      if (model[p] != 0) {
        *at = std::byte{1};
      } else {
        ASSERT_EQ(*at, std::byte{0}) << "an unused page keeps its contents";
      }
    }
    bool once = true;
    for (uint64_t p = first; p < first + count; ++p) once = once && model[p] == 1;
    ASSERT_EQ(extent->UsedOnce(pages), once);
  }
}

TEST(VmaSet, FindsTheHighestGap) {
  std::mt19937_64 random(11);
  VmaSet set;
  constexpr uint64_t kPages = 512;
  constexpr Range kWithin{16 * kPageSize, kPages * kPageSize};
  Vma wall;  // so that everything lies below
  wall.start = kPages * kPageSize;
  wall.end = kGuestAddressEnd;
  set.Insert(wall);
  for (int i = 0; i < 4000; ++i) {
    const uint64_t size = (1 + random() % 12) * kPageSize;
    if (random() % 3 != 0) {
      std::optional<uint64_t> expected;
      for (uint64_t at = kWithin.end - size; at >= kWithin.start; at -= kPageSize) {
        if (!set.AnyIn({at, at + size})) {
          expected = at;
          break;
        }
      }
      const std::optional<uint64_t> found = set.FindGap(size, kWithin);
      ASSERT_EQ(found, expected);
      if (!found) continue;
      Vma vma;
      vma.start = *found;
      vma.end = *found + size;
      vma.prot = static_cast<int>(random() % 3);
      set.MergeWithPrevious(set.Insert(vma));
    } else {
      const uint64_t start = (16 + random() % 480) * kPageSize;
      set.Split(start);
      set.Split(start + size);
      for (auto it = set.FirstEndingAfter(start); it != set.end() && it->first < start + size;) {
        if (it->first == wall.start) break;
        it = set.Erase(it);
      }
    }
  }
}

TEST(VmaSet, ThousandsOfGaps) {
  VmaSet set;
  for (uint64_t i = 0; i < 20000; ++i) {
    Vma vma;
    vma.start = kGuestAddressMin + i * 3 * kPageSize;
    vma.end = vma.start + 2 * kPageSize;
    set.Insert(vma);
  }
  const uint64_t start = host::MonotonicNs();
  for (int i = 0; i < 1000; ++i) {
    ASSERT_TRUE(set.FindGap(kPageSize, {kGuestAddressMin, kGuestAddressMin + 60000 * kPageSize}));
    ASSERT_FALSE(
        set.FindGap(2 * kPageSize, {kGuestAddressMin, kGuestAddressMin + 59999 * kPageSize}));
  }
  RecordProperty("ns_per_search", static_cast<int>((host::MonotonicNs() - start) / 2000));
}

TEST(Copy, EndsWhereTheHostRefuses) {
  InstallCopyFaultHandler();
  constexpr size_t kSize = 4 * kPageSize;
  auto* memory = static_cast<std::byte*>(
      host::Mmap(nullptr, kSize, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)
          .value());
  std::vector<std::byte> plain(kSize, std::byte{7});
  for (const size_t size : {1u, 7u, 8u, 15u, 16u, 100u, 511u, 512u, 5000u}) {
    ASSERT_EQ(CopyTolerant(memory + 3, plain.data(), size), size);
    ASSERT_EQ(memory[3 + size - 1], std::byte{7});
    ASSERT_EQ(memory[3 + size], std::byte{0});
    ASSERT_EQ(ZeroTolerant(memory, kSize), kSize);
  }
  ASSERT_TRUE(host::Mprotect(memory + 2 * kPageSize, kPageSize, PROT_NONE));
  EXPECT_EQ(CopyTolerant(memory, plain.data(), kSize), 2 * kPageSize);
  EXPECT_EQ(CopyTolerant(plain.data(), memory, kSize), 2 * kPageSize);
  EXPECT_EQ(CopyTolerant(memory + 2 * kPageSize - 32, plain.data(), 64), 32u);
  EXPECT_EQ(ZeroTolerant(memory + kPageSize, kSize - kPageSize), kPageSize);
  EXPECT_EQ(LoadWordTolerant(memory + 2 * kPageSize), std::nullopt);
  EXPECT_EQ(ExchangeWordTolerant(memory + 2 * kPageSize, 0, 1), std::nullopt);
  EXPECT_EQ(ExchangeWordTolerant(memory + kPageSize, 0, 5), 0u);
  EXPECT_EQ(ExchangeWordTolerant(memory + kPageSize, 0, 6), 5u);
  EXPECT_EQ(LoadWordTolerant(memory + kPageSize), 5u);
  ASSERT_TRUE(host::Munmap(memory, kSize));
}

}  // namespace
}  // namespace skep::mm
