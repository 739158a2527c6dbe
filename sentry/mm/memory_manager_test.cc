#include "sentry/mm/memory_manager.h"

#include <gtest/gtest.h>
#include <csignal>

#include "sentry/mm/hot_pages.h"
#include "sentry/mm/mm_test_util.h"
#include "sentry/mm/vma.h"

namespace skep::mm {
namespace {

constexpr uint64_t kPage = kPageSize;

TEST_F(MmTest, FreshMemoryCostsOneApplyAndNoFault) {
  const auto mm = NewSpace();
  const size_t before = SpaceOf(*mm).apply_calls();
  const uint64_t at = Map(*mm, 64 * kPage);
  EXPECT_EQ(SpaceOf(*mm).apply_calls(), before + 1);
  EXPECT_EQ(SpaceOf(*mm).applied_ops(), 1u);
  EXPECT_EQ(Load(*mm, at), 0u);
  Store(*mm, at + 63 * kPage, 7);
  EXPECT_EQ(Load(*mm, at + 63 * kPage), 7u);
  EXPECT_EQ(SpaceOf(*mm).apply_calls(), before + 1);
  ASSERT_TRUE(mm->Munmap(at, 64 * kPage));
  EXPECT_EQ(SpaceOf(*mm).apply_calls(), before + 2);
  EXPECT_EQ(memory->UsedBytes(), 0u);
  const AccessEnd end = Try(*mm, at, false);
  EXPECT_EQ(end.signo, SIGSEGV);
  EXPECT_EQ(end.code, SEGV_MAPERR);
}

TEST_F(MmTest, NeighboursBecomeOneMapping) {
  const auto mm = NewSpace();
  const uint64_t first = Map(*mm, kPage);
  for (int i = 0; i < 100; ++i) Map(*mm, kPage);
  const std::string maps = mm->MapsText();
  EXPECT_EQ(std::count(maps.begin(), maps.end(), '\n'), 1);
  EXPECT_EQ(HostPageAt(*mm, first)->offset - HostPageAt(*mm, first - 100 * kPage)->offset,
            100 * kPage);
}

TEST_F(MmTest, MmapChecksInLinuxOrder) {
  const auto mm = NewSpace();
  const int anon = MAP_PRIVATE | MAP_ANONYMOUS;
  EXPECT_EQ(MapError(*mm, {.size = 0, .flags = anon}), EINVAL);
  EXPECT_EQ(MapError(*mm, {.size = ~uint64_t{0}, .flags = anon}), ENOMEM);
  EXPECT_EQ(MapError(*mm, {.size = uint64_t{1} << 48, .flags = anon}), ENOMEM);
  EXPECT_EQ(MapError(*mm, {.size = kPage, .flags = MAP_ANONYMOUS}), EINVAL);
  EXPECT_EQ(MapError(*mm, {.address = 0x1234567, .size = kPage, .flags = anon | MAP_FIXED}),
            EINVAL);
  EXPECT_EQ(MapError(*mm, {.address = 0x1000, .size = kPage, .flags = anon | MAP_FIXED}), EPERM);
  EXPECT_EQ(MapError(*mm, {.address = kGuestAddressEnd, .size = kPage, .flags = anon | MAP_FIXED}),
            ENOMEM);
  EXPECT_EQ(MapError(*mm, {.size = kPage, .flags = MAP_SHARED | MAP_ANONYMOUS | MAP_GROWSDOWN}),
            EINVAL);
  const uint64_t at = Map(*mm, 2 * kPage);
  EXPECT_EQ(
      MapError(*mm, {.address = at + kPage, .size = kPage, .flags = anon | MAP_FIXED_NOREPLACE}),
      EEXIST);
  limits.address_space = mm->Stats().virtual_size + kPage;
  EXPECT_EQ(MapError(*mm, {.size = 2 * kPage, .flags = anon}), ENOMEM);
  EXPECT_EQ(MapError(*mm, {.size = kPage, .flags = anon}), 0);
  limits = {};
  EXPECT_EQ(Map(*mm, kPage, PROT_READ, anon | MAP_32BIT) >> 32, 0u);
  EXPECT_EQ(Map(*mm, kPage, PROT_READ, anon, 0x700000001), 0x700000000u);  // a hint
}

TEST_F(MmTest, HugeReservationsTakeNothing) {
  const auto mm = NewSpace();
  const uint64_t reserved = Map(*mm, uint64_t{16} << 40, PROT_NONE);
  EXPECT_EQ(SpaceOf(*mm).mappings().size(), 0u);
  EXPECT_EQ(Try(*mm, reserved, false).code, SEGV_ACCERR);
  ASSERT_TRUE(mm->Mprotect(reserved + kPage, kPage, PROT_READ | PROT_WRITE, false, false));
  Store(*mm, reserved + kPage, 1);
  const uint64_t shadow = Map(*mm, uint64_t{14} << 40, PROT_READ | PROT_WRITE,
                              MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE);
  Store(*mm, shadow + (uint64_t{5} << 40), 9);
  EXPECT_EQ(Load(*mm, shadow + (uint64_t{5} << 40)), 9u);
  EXPECT_EQ(Load(*mm, shadow), 0u);
}

TEST_F(MmTest, ForkSharesUntilSomebodyWrites) {
  const auto parent = NewSpace();
  const uint64_t at = Map(*parent, 64 * kPage);
  for (uint64_t i = 0; i < 64; ++i) Store(*parent, at + i * kPage, i + 1);
  const size_t applies = SpaceOf(*parent).apply_calls();
  Ref<MemoryManager> child = parent->Fork().value();
  EXPECT_EQ(SpaceOf(*parent).apply_calls(), applies + 1);
  ASSERT_TRUE(child->Activate(engine));
  EXPECT_EQ(SpaceOf(*child).apply_calls(), 1u);
  const uint64_t used = memory->UsedBytes();
  Store(*child, at + 3 * kPage, 100);
  EXPECT_EQ(memory->UsedBytes(), used + kPage);
  EXPECT_EQ(Load(*parent, at + 3 * kPage), 4u);
  Store(*parent, at + 5 * kPage, 200);
  EXPECT_EQ(Load(*child, at + 5 * kPage), 6u);
  EXPECT_EQ(Load(*child, at + 3 * kPage), 100u);
  // Faults that go upwards copy ever more pages at once.
  int faults = 0;
  for (uint64_t i = 10; i < 60; ++i) {
    uint64_t value = i;
    faults += Access(*child, at + i * kPage, value, true).faults;
  }
  EXPECT_LE(faults, 8);
  EXPECT_EQ(Load(*parent, at + 33 * kPage), 34u);
  child = {};
  // Alone again: one fault makes all of a segment writable, and nothing is copied.
  const uint64_t alone = memory->UsedBytes();
  Store(*parent, at + 40 * kPage, 1);
  EXPECT_EQ(Try(*parent, at + 41 * kPage, true).faults, 0);
  EXPECT_EQ(memory->UsedBytes(), alone);
  EXPECT_EQ(alone, 64 * kPage);
}

TEST_F(MmTest, AForkCopiesWhatFaultedAfterTheLastOne) {
  const auto parent = NewSpace();
  const uint64_t at = Map(*parent, 64 * kPage);
  for (uint64_t i = 0; i < 64; ++i) Store(*parent, at + i * kPage, i + 1);
  const auto fork = [&] {
    Ref<MemoryManager> child = parent->Fork().value();
    EXPECT_TRUE(child->Activate(engine));
    return child;
  };
  {
    const Ref<MemoryManager> first = fork();
    Store(*first, at + 3 * kPage, 100);
    Store(*parent, at + 5 * kPage, 200);
    EXPECT_EQ(Try(*parent, at + 40 * kPage, true).faults, 1);
  }
  const uint64_t used = memory->UsedBytes();
  Ref<MemoryManager> child = fork();
  EXPECT_EQ(memory->UsedBytes(), used + 4 * kPage);  // 3 to 5, and 40
  EXPECT_EQ(Load(*child, at + 3 * kPage), 4u);
  EXPECT_EQ(Load(*child, at + 4 * kPage), 5u);
  EXPECT_EQ(Load(*child, at + 5 * kPage), 200u);
  for (const uint64_t page : {3, 4, 5, 40}) {
    EXPECT_EQ(Try(*child, at + page * kPage, true).faults, 0) << page;
    EXPECT_EQ(Try(*parent, at + page * kPage, true).faults, 0) << page;
  }
  Store(*parent, at + 3 * kPage, 7);
  Store(*child, at + 5 * kPage, 8);
  Store(*child, at + 4 * kPage, 9);
  EXPECT_NE(Load(*child, at + 3 * kPage), 7u);
  EXPECT_NE(Load(*parent, at + 5 * kPage), 8u);
  EXPECT_EQ(Try(*parent, at + 20 * kPage, true).faults, 1);  // as ever
  EXPECT_EQ(Try(*child, at + 20 * kPage, true).faults, 1);
  // A child's own fork knows as much, and another fork while both live copies nothing that is
  // shared.
  const Ref<MemoryManager> grandchild = child->Fork().value();
  ASSERT_TRUE(grandchild->Activate(engine));
  EXPECT_EQ(Load(*grandchild, at + 4 * kPage), 9u);
  EXPECT_EQ(Try(*grandchild, at + 5 * kPage, true).faults, 0);
  EXPECT_EQ(Load(*child, at + 5 * kPage), 8u);
  Store(*parent, at + 4 * kPage, 6);
  // A fork does not copy pages that it does not inherit.
  ASSERT_TRUE(parent->Madvise(at + 3 * kPage, kPage, MADV_WIPEONFORK));
  ASSERT_TRUE(parent->Madvise(at + 5 * kPage, kPage, MADV_DONTFORK));
  child = fork();
  EXPECT_EQ(Load(*child, at + 3 * kPage), 0u);
  EXPECT_EQ(Try(*child, at + 5 * kPage, false).code, SEGV_MAPERR);
  EXPECT_EQ(Load(*child, at + 4 * kPage), 6u);
  // With a second thread at work, nothing is copied ahead.
  parent->users = 2;
  child = fork();
  EXPECT_EQ(Try(*child, at + 4 * kPage, true).faults, 1);
}

TEST(HotPages, GapsCountToo) {
  const auto hot = MakeRef<HotPages>();
  for (uint64_t i = 0; i < 1000; ++i) hot->Add({i * 8 * kPage, (i * 8 + 1) * kPage});
  uint64_t bytes = 0;
  for (const Range run : hot->ForFork()) bytes += run.size();
  EXPECT_GT(bytes, HotPages::kMaxBytes / 2);
  EXPECT_LE(bytes, HotPages::kMaxBytes);
}

TEST_F(MmTest, CopiesGrowDownwardsToo) {
  const auto parent = NewSpace();
  const uint64_t at = Map(*parent, 64 * kPage);
  for (uint64_t i = 0; i < 64; ++i) Store(*parent, at + i * kPage, i + 1);
  const Ref<MemoryManager> child = parent->Fork().value();
  ASSERT_TRUE(child->Activate(engine));
  int faults = 0;
  for (uint64_t i = 64; i-- > 0;) {
    uint64_t value = 1000 + i;
    faults += Access(*child, at + i * kPage, value, true).faults;
  }
  EXPECT_LE(faults, 8);
  for (uint64_t i = 0; i < 64; ++i) {
    EXPECT_EQ(Load(*child, at + i * kPage), 1000 + i);
    EXPECT_EQ(Load(*parent, at + i * kPage), i + 1);
  }
}

// Near the host's limit of mappings a fault copies a block.
TEST_F(MmTest, ACrowdedSpaceCopiesBlocks) {
  const auto parent = NewSpace();
  constexpr uint64_t kBlock = 256 << 10;
  const uint64_t at = 16 * kBlock;
  Map(*parent, 4 * kBlock, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, at);
  Store(*parent, at + kBlock + 9 * kPage, 1);
  for (uint64_t i = 0; i < 40001; ++i) {
    Map(*parent, kPage, PROT_READ | (i % 2 == 0 ? PROT_WRITE : 0),
        MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, 0x200000000 + i * kPage);
  }
  const Ref<MemoryManager> child = parent->Fork().value();
  ASSERT_TRUE(child->Activate(engine));
  EXPECT_EQ(Try(*child, at + kBlock + 9 * kPage, true).faults, 1);
  for (uint64_t i = 0; i < kBlock / kPage; ++i) {
    EXPECT_EQ(Try(*child, at + kBlock + i * kPage, true).faults, 0) << i;
  }
  EXPECT_EQ(Try(*child, at + 2 * kBlock, true).faults, 1);
  EXPECT_EQ(Load(*parent, at + kBlock + 9 * kPage), 1u);
}

TEST_F(MmTest, CopiedPagesMergeIntoOneMapping) {
  const auto parent = NewSpace();
  const uint64_t at = Map(*parent, 256 * kPage);
  Store(*parent, at, 1);
  Ref<MemoryManager> child = parent->Fork().value();
  ASSERT_TRUE(child->Activate(engine));
  for (uint64_t i = 0; i < 256; i += 2) Store(*child, at + i * kPage, i);
  for (uint64_t i = 1; i < 256; i += 2) Store(*child, at + i * kPage, i);
  for (uint64_t i = 1; i < 256; ++i) {
    EXPECT_EQ(HostPageAt(*child, at + i * kPage)->offset,
              HostPageAt(*child, at)->offset + i * kPage);
  }
  // And again one generation later.
  Ref<MemoryManager> grandchild = child->Fork().value();
  ASSERT_TRUE(grandchild->Activate(engine));
  Store(*grandchild, at + 8 * kPage, 88);
  Store(*child, at + 9 * kPage, 99);
  EXPECT_EQ(Load(*child, at + 8 * kPage), 8u);
  EXPECT_EQ(Load(*grandchild, at + 9 * kPage), 9u);
}

TEST_F(MmTest, ForkFlags) {
  const auto parent = NewSpace();
  const uint64_t gone = Map(*parent, kPage);
  const uint64_t wiped =
      Map(*parent, kPage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, 0x100000000);
  const uint64_t shared = Map(*parent, kPage, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS);
  Store(*parent, gone, 1);
  Store(*parent, wiped, 2);
  Store(*parent, shared, 3);
  ASSERT_TRUE(parent->Madvise(gone, kPage, MADV_DONTFORK));
  ASSERT_TRUE(parent->Madvise(wiped, kPage, MADV_WIPEONFORK));
  EXPECT_EQ(Code(parent->Madvise(shared, kPage, MADV_WIPEONFORK)), EINVAL);
  const Ref<MemoryManager> child = parent->Fork().value();
  ASSERT_TRUE(child->Activate(engine));
  EXPECT_EQ(Try(*child, gone, false).code, SEGV_MAPERR);
  EXPECT_EQ(Load(*child, wiped), 0u);
  EXPECT_EQ(Load(*child, shared), 3u);
  Store(*child, shared, 4);
  EXPECT_EQ(Load(*parent, shared), 4u);
  EXPECT_EQ(Load(*parent, wiped), 2u);
}

TEST_F(MmTest, PrivateFileMappings) {
  auto file = MakeRef<HostFile>(64 * kPage + 100);
  file->Put(0, 11);
  file->Put(40 * kPage, 12);
  file->Put(64 * kPage, 13);
  const auto mm = NewSpace();
  const uint64_t at = Map(*mm, 70 * kPage, PROT_READ | PROT_WRITE, MAP_PRIVATE, 0, file);
  EXPECT_EQ(SpaceOf(*mm).applied_ops(), 1u);
  EXPECT_EQ(Load(*mm, at), 11u);
  EXPECT_EQ(Load(*mm, at + 64 * kPage), 13u);
  EXPECT_EQ(Try(*mm, at + 65 * kPage, false).signo, SIGBUS);
  EXPECT_EQ(Try(*mm, at + 65 * kPage, true).code, BUS_ADRERR);
  Store(*mm, at + 40 * kPage + 8, 5);
  EXPECT_EQ(Load(*mm, at + 40 * kPage), 12u);
  EXPECT_EQ(Load(*mm, at + 40 * kPage + 8), 5u);
  EXPECT_EQ(file->Get(40 * kPage + 8), 0u);
  ASSERT_TRUE(mm->Madvise(at + 40 * kPage, kPage, MADV_DONTNEED));
  EXPECT_EQ(Load(*mm, at + 40 * kPage + 8), 0u);
  EXPECT_EQ(Load(*mm, at + 40 * kPage), 12u);
  // A small writable one is copied when it is mapped: no fault later.
  const uint64_t small =
      Map(*mm, 4 * kPage, PROT_READ | PROT_WRITE, MAP_PRIVATE, 0, file, 40 * kPage);
  EXPECT_EQ(Try(*mm, small, true).faults, 0);
  EXPECT_EQ(file->Get(40 * kPage), 12u);
  // So is a larger one that a linker maps.
  const uint64_t data =
      Map(*mm, 60 * kPage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_DENYWRITE, 0, file, 2 * kPage);
  EXPECT_EQ(Try(*mm, data + 59 * kPage, true).faults, 0);
  EXPECT_EQ(Load(*mm, data + 38 * kPage), 12u);
  file->SetSize(kPage);
  mm->InvalidateMapping({at + kPage, at + 70 * kPage}, file.get());
  EXPECT_EQ(Try(*mm, at + 40 * kPage, false).signo, SIGBUS);
  EXPECT_EQ(Load(*mm, at), 11u);
}

TEST_F(MmTest, SharedFileMappings) {
  auto file = MakeRef<HostFile>(8 * kPage);
  const auto a = NewSpace();
  const auto b = NewSpace();
  const uint64_t at_a = Map(*a, 8 * kPage, PROT_READ | PROT_WRITE, MAP_SHARED, 0, file);
  const uint64_t at_b = Map(*b, 4 * kPage, PROT_READ, MAP_SHARED, 0, file, 4 * kPage);
  Store(*a, at_a + 4 * kPage, 77);
  EXPECT_EQ(Load(*b, at_b), 77u);
  EXPECT_EQ(Try(*b, at_b, true).code, SEGV_ACCERR);
  ASSERT_TRUE(b->Mprotect(at_b, kPage, PROT_READ | PROT_WRITE, false, false));
  Store(*b, at_b, 78);
  EXPECT_EQ(Load(*a, at_a + 4 * kPage), 78u);
  EXPECT_EQ(MapError(*b, {.size = kPage,
                          .prot = PROT_WRITE,
                          .flags = MAP_SHARED,
                          .file = file,
                          .max_prot = PROT_READ}),
            EACCES);
  // The sentry's own copies see the same bytes, and cannot grow the file.
  uint64_t word = 0;
  EXPECT_EQ(
      a->CopyIn(UserAddr{at_a + 4 * kPage}, std::as_writable_bytes(std::span(&word, 1))).fault, 0);
  EXPECT_EQ(word, 78u);
  word = 79;
  EXPECT_EQ(a->CopyOut(UserAddr{at_a + 7 * kPage}, std::as_bytes(std::span(&word, 1))).bytes, 8u);
  EXPECT_EQ(file->Get(7 * kPage), 79u);
  EXPECT_EQ(
      a->FetchModifyWord(UserAddr{at_a + 7 * kPage}, [](uint32_t w) { return w + 1; }).value(),
      79u);
  EXPECT_EQ(file->Get(7 * kPage), 80u);
  file->SetSize(4 * kPage);
  EXPECT_EQ(
      a->CopyIn(UserAddr{at_a + 4 * kPage}, std::as_writable_bytes(std::span(&word, 1))).fault,
      EFAULT);
}

TEST_F(MmTest, FaultsOfUnknownKind) {
  const auto mm = NewSpace();
  const uint64_t at = Map(*mm, 4 * kPage, PROT_READ);
  EXPECT_EQ(Try(*mm, at, false, false).signo, 0);
  EXPECT_EQ(Try(*mm, at, true, false).code, SEGV_ACCERR);
  const uint64_t rw = Map(*mm, 4 * kPage);
  Store(*mm, rw, 1);
  const Ref<MemoryManager> child = mm->Fork().value();
  EXPECT_EQ(Try(*mm, rw, true, false).signo, 0);
  // Another thread was faster: nothing to do is not an error.
  EXPECT_EQ(mm->HandleFault(rw, {.write = Did::kYes, .fetch = Did::kNo, .protection = true}, limits)
                .outcome,
            FaultOutcome::kRetry);
  EXPECT_EQ(
      mm->HandleFault(at, {.write = Did::kYes, .fetch = Did::kNo, .protection = true}, limits).code,
      SEGV_ACCERR);
  EXPECT_EQ(
      mm->HandleFault(at, {.write = Did::kNo, .fetch = Did::kYes, .protection = true}, limits).code,
      SEGV_ACCERR);
}

TEST_F(MmTest, Mprotect) {
  const auto mm = NewSpace();
  const uint64_t at = Map(*mm, 4 * kPage);
  Store(*mm, at + kPage, 5);
  EXPECT_EQ(Code(mm->Mprotect(at + 1, kPage, PROT_READ, false, false)), EINVAL);
  EXPECT_EQ(Code(mm->Mprotect(at, 0, PROT_READ, false, false)), 0);
  EXPECT_EQ(Code(mm->Mprotect(at, kPage, 0x100, false, false)), EINVAL);
  EXPECT_EQ(Code(mm->Mprotect(at, kPage, PROT_READ, true, false)), EINVAL);
  EXPECT_EQ(Code(mm->Mprotect(at, ~uint64_t{0} - kPage, PROT_READ, false, false)), ENOMEM);
  ASSERT_TRUE(mm->Mprotect(at + kPage, kPage, PROT_NONE, false, false));
  EXPECT_EQ(Try(*mm, at + kPage, false).code, SEGV_ACCERR);
  EXPECT_EQ(Load(*mm, at), 0u);
  ASSERT_TRUE(mm->Mprotect(at + kPage, kPage, PROT_READ, false, false));
  EXPECT_EQ(Load(*mm, at + kPage), 5u);
  EXPECT_EQ(Try(*mm, at + kPage, true).code, SEGV_ACCERR);
  // A hole: what comes before it is changed all the same.
  ASSERT_TRUE(mm->Munmap(at + 2 * kPage, kPage));
  EXPECT_EQ(Code(mm->Mprotect(at, 4 * kPage, PROT_READ, false, false)), ENOMEM);
  EXPECT_EQ(Try(*mm, at, true).code, SEGV_ACCERR);
  EXPECT_EQ(Try(*mm, at + 3 * kPage, true).signo, 0);
}

TEST_F(MmTest, Brk) {
  const auto mm = NewSpace();
  mm->SetBrkStart(0x555000123);
  EXPECT_EQ(mm->Brk(0, limits), 0x555000123u);
  EXPECT_EQ(mm->Brk(0x555010000, limits), 0x555010000u);
  Store(*mm, 0x555001000, 3);
  Store(*mm, 0x55500fff8, 4);
  EXPECT_NE(mm->MapsText().find("[heap]"), std::string::npos);
  EXPECT_EQ(mm->Brk(0x555008000, limits), 0x555008000u);
  EXPECT_EQ(Try(*mm, 0x55500fff8, false).code, SEGV_MAPERR);
  EXPECT_EQ(mm->Brk(0x555010000, limits), 0x555010000u);
  EXPECT_EQ(Load(*mm, 0x55500fff8), 0u);
  EXPECT_EQ(Load(*mm, 0x555001000), 3u);
  limits.data = 0x20000;
  EXPECT_EQ(mm->Brk(0x555100000, limits), 0x555010000u);
  EXPECT_EQ(mm->Brk(0x555000000, limits), 0x555010000u);
}

TEST_F(MmTest, StacksGrow) {
  const auto mm = NewSpace();
  const uint64_t top = 0x7ff000000000;
  Map(*mm, 2 * kPage, PROT_READ | PROT_WRITE,
      MAP_PRIVATE | MAP_ANONYMOUS | MAP_GROWSDOWN | MAP_FIXED, top - 2 * kPage);
  Store(*mm, top - 3 * kPage, 1);
  Store(*mm, top - 100 * kPage, 2);
  EXPECT_EQ(Load(*mm, top - 3 * kPage), 1u);
  limits.stack = 1 << 20;
  uint64_t value = 0;
  EXPECT_EQ(Access(*mm, top - (1 << 20) - kPage, value, true, true, limits).code, SEGV_MAPERR);
  EXPECT_EQ(Access(*mm, top - (1 << 20), value, true, true, limits).signo, 0);
  // Not closer than the guard gap to what is below.
  limits.stack = 64 << 20;
  const uint64_t below = top - (8 << 20);
  Map(*mm, kPage, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, below);
  EXPECT_EQ(Access(*mm, below + kPage + kStackGuardGap - 8, value, true, true, limits).code,
            SEGV_MAPERR);
  EXPECT_EQ(Access(*mm, below + kPage + kStackGuardGap, value, true, true, limits).signo, 0);
  // The sentry's copies make it grow, too.
  EXPECT_EQ(mm->CopyOut(UserAddr{top - (2 << 20)}, std::as_bytes(std::span(&value, 1))).fault, 0);
}

TEST_F(MmTest, Mremap) {
  const auto mm = NewSpace();
  const uint64_t at = Map(*mm, 4 * kPage);
  for (uint64_t i = 0; i < 4; ++i) Store(*mm, at + i * kPage, i + 1);
  EXPECT_EQ(Code(mm->Mremap(at + 1, kPage, kPage, 0, 0, limits)), EINVAL);
  EXPECT_EQ(Code(mm->Mremap(at, kPage, 0, 0, 0, limits)), EINVAL);
  EXPECT_EQ(Code(mm->Mremap(at, kPage, kPage, MREMAP_FIXED, 0, limits)), EINVAL);
  EXPECT_EQ(Code(mm->Mremap(at, 0, kPage, MREMAP_MAYMOVE, 0, limits)), EINVAL);
  EXPECT_EQ(Code(mm->Mremap(at - kPage, kPage, kPage, 0, 0, limits)), EFAULT);
  EXPECT_EQ(Code(mm->Mremap(at, 8 * kPage, 16 * kPage, MREMAP_MAYMOVE, 0, limits)), EFAULT);
  EXPECT_EQ(
      Code(mm->Mremap(at, 4 * kPage, 4 * kPage, MREMAP_MAYMOVE | MREMAP_FIXED, at + kPage, limits)),
      EINVAL);
  const uint64_t wall =
      Map(*mm, kPage, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, at + 4 * kPage);
  EXPECT_EQ(Code(mm->Mremap(at, 4 * kPage, 8 * kPage, 0, 0, limits)), ENOMEM);
  const uint64_t moved = mm->Mremap(at, 4 * kPage, 8 * kPage, MREMAP_MAYMOVE, 0, limits).value();
  EXPECT_NE(moved, at);
  EXPECT_EQ(Load(*mm, moved + 2 * kPage), 3u);
  EXPECT_EQ(Load(*mm, moved + 7 * kPage), 0u);
  EXPECT_EQ(Try(*mm, at, false).code, SEGV_MAPERR);
  EXPECT_EQ(mm->Mremap(moved, 8 * kPage, 2 * kPage, 0, 0, limits).value(), moved);
  EXPECT_EQ(Try(*mm, moved + 2 * kPage, false).code, SEGV_MAPERR);
  EXPECT_EQ(mm->Mremap(moved, 2 * kPage, 4 * kPage, 0, 0, limits).value(), moved);
  EXPECT_EQ(Load(*mm, moved + kPage), 2u);
  EXPECT_EQ(Load(*mm, moved + 3 * kPage), 0u);
  EXPECT_EQ(
      mm->Mremap(moved, 2 * kPage, 2 * kPage, MREMAP_MAYMOVE | MREMAP_FIXED, wall, limits).value(),
      wall);
  EXPECT_EQ(Load(*mm, wall + kPage), 2u);
  const uint64_t copy =
      mm->Mremap(wall, 2 * kPage, 2 * kPage, MREMAP_MAYMOVE | MREMAP_DONTUNMAP, 0, limits).value();
  EXPECT_EQ(Load(*mm, copy + kPage), 2u);
  EXPECT_EQ(Load(*mm, wall + kPage), 0u);
  Store(*mm, wall + kPage, 50);
  EXPECT_EQ(Load(*mm, copy + kPage), 2u);
  const uint64_t shared = Map(*mm, 2 * kPage, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS);
  const uint64_t twin = mm->Mremap(shared, 0, 2 * kPage, MREMAP_MAYMOVE, 0, limits).value();
  Store(*mm, shared + kPage, 60);
  EXPECT_EQ(Load(*mm, twin + kPage), 60u);
}

TEST_F(MmTest, Madvise) {
  const auto mm = NewSpace();
  const uint64_t at = Map(*mm, 8 * kPage);
  for (uint64_t i = 0; i < 8; ++i) Store(*mm, at + i * kPage, 1);
  const uint64_t used = memory->UsedBytes();
  const size_t applies = SpaceOf(*mm).apply_calls();
  ASSERT_TRUE(mm->Madvise(at, 4 * kPage, MADV_DONTNEED));
  EXPECT_EQ(memory->UsedBytes(), used - 4 * kPage);
  EXPECT_EQ(SpaceOf(*mm).apply_calls(), applies);
  EXPECT_EQ(Load(*mm, at), 0u);
  EXPECT_EQ(Load(*mm, at + 4 * kPage), 1u);
  const Ref<MemoryManager> child = mm->Fork().value();
  ASSERT_TRUE(child->Activate(engine));
  ASSERT_TRUE(child->Madvise(at, 8 * kPage, MADV_DONTNEED));
  EXPECT_EQ(Load(*child, at + 5 * kPage), 0u);
  EXPECT_EQ(Load(*mm, at + 5 * kPage), 1u);
  EXPECT_EQ(Code(mm->Madvise(at + 1, kPage, MADV_DONTNEED)), EINVAL);
  EXPECT_EQ(Code(mm->Madvise(at, kPage, 77)), EINVAL);
  EXPECT_EQ(Code(mm->Madvise(at, 0, MADV_DONTNEED)), 0);
  EXPECT_EQ(Code(mm->Madvise(at, 9 * kPage, MADV_WILLNEED)), ENOMEM);
  ASSERT_TRUE(mm->Mlock(at, kPage, false, limits));
  EXPECT_EQ(Code(mm->Madvise(at, kPage, MADV_DONTNEED)), EINVAL);
  EXPECT_EQ(Code(mm->Madvise(at, kPage, MADV_DONTNEED_LOCKED)), 0);
  limits.locked = 2 * kPage;
  EXPECT_EQ(Code(mm->Mlock(at, 3 * kPage, false, limits)), ENOMEM);
  EXPECT_EQ(Code(mm->Mlock(at, 2 * kPage, false, limits)), 0);
  EXPECT_EQ(mm->Stats().locked, 2 * kPage);
  ASSERT_TRUE(mm->MunlockAll());
  EXPECT_EQ(mm->Stats().locked, 0u);
  const uint64_t shared = Map(*mm, 4 * kPage, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS);
  Store(*mm, shared + kPage, 9);
  ASSERT_TRUE(mm->Madvise(shared, 2 * kPage, MADV_DONTNEED));
  EXPECT_EQ(Load(*mm, shared + kPage), 9u);
  ASSERT_TRUE(mm->Madvise(shared, 2 * kPage, MADV_REMOVE));
  EXPECT_EQ(Load(*mm, shared + kPage), 0u);
  EXPECT_EQ(Code(mm->Madvise(at, kPage, MADV_REMOVE)), EINVAL);
}

TEST_F(MmTest, MapsTextIsLinuxs) {
  const auto mm = NewSpace();
  auto file = MakeRef<HostFile>(4 * kPage);
  Map(*mm, 2 * kPage, PROT_READ | PROT_EXEC, MAP_PRIVATE | MAP_FIXED, 0x400000, file, kPage);
  Map(*mm, kPage, PROT_READ, MAP_PRIVATE | MAP_FIXED | MAP_ANONYMOUS, 0x7f0000000000);
  EXPECT_EQ(mm->MapsText(),
            "00400000-00402000 r-xp 00001000 08:01 1234                               "
            "/lib/test.so\n"
            "7f0000000000-7f0000001000 r--p 00000000 00:00 0 \n");
}

TEST_F(MmTest, HostThatRefusesLeavesTheTreeRight) {
  const auto mm = NewSpace();
  const uint64_t kept = Map(*mm, 4 * kPage);
  Store(*mm, kept, 42);
  SpaceOf(*mm).FailAfter(0, ENOMEM);
  EXPECT_EQ(MapError(*mm, {.size = kPage, .prot = PROT_READ, .flags = MAP_PRIVATE | MAP_ANONYMOUS}),
            ENOMEM);
  SpaceOf(*mm).FailAfter(0, ENOMEM);
  ASSERT_TRUE(mm->Mprotect(kept, kPage, PROT_READ, false, false));
  EXPECT_EQ(HostPageAt(*mm, kept), std::nullopt);
  EXPECT_EQ(Load(*mm, kept), 42u);  // mapped again by the fault
  EXPECT_EQ(Try(*mm, kept, true).code, SEGV_ACCERR);
  SpaceOf(*mm).FailAfter(0, EIO);
  ASSERT_TRUE(mm->Munmap(kept, kPage));
  EXPECT_TRUE(SpaceOf(*mm).dead());
  EXPECT_GT(memory->UsedBytes(), 0u);  // some thread of it may still run
  mm->Deactivate();
  EXPECT_EQ(memory->UsedBytes(), 0u);
  ASSERT_TRUE(mm->Activate(engine));
  EXPECT_EQ(Load(*mm, kept + kPage), 0u);
}

TEST_F(MmTest, ClearEmptiesTheSpace) {
  const auto mm = NewSpace();
  auto file = MakeRef<HostFile>(4 * kPage);
  const uint64_t at = Map(*mm, kPage);
  Store(*mm, at, 1);
  Map(*mm, kPage, PROT_READ, MAP_SHARED, 0, file);
  ASSERT_TRUE(mm->Clear());
  EXPECT_EQ(file->mappings, 0);
  EXPECT_EQ(memory->UsedBytes(), 0u);
  EXPECT_EQ(mm->MapsText(), "");
  EXPECT_EQ(Map(*mm, kPage), at);
  const uint64_t other = Map(*mm, kPage, PROT_READ, MAP_SHARED, 0, file);
  EXPECT_FALSE(HostPageAt(*mm, at)) << "mapped before the program is there";
  ASSERT_TRUE(mm->MapProgram());
  EXPECT_TRUE(HostPageAt(*mm, at) && HostPageAt(*mm, other)) << "left to faults";
  EXPECT_EQ(Load(*mm, at), 0u);
  const uint64_t later = Map(*mm, kPage);
  EXPECT_TRUE(HostPageAt(*mm, later));
}

TEST_F(MmTest, Mincore) {
  const auto mm = NewSpace();
  const uint64_t at = Map(*mm, 4 * kPage);
  Store(*mm, at + 2 * kPage, 1);
  std::string seen;
  ASSERT_TRUE(mm->Mincore(at, 4 * kPage, [&](std::span<const std::byte> pages) -> Result<void> {
    for (const std::byte b : pages) seen += (b & std::byte{1}) != std::byte{0} ? '1' : '0';
    return {};
  }));
  EXPECT_EQ(seen, "0010");
  EXPECT_EQ(Code(mm->Mincore(at, 5 * kPage, [](auto) -> Result<void> { return {}; })), ENOMEM);
}

}  // namespace
}  // namespace skep::mm
