// mmap, munmap, mprotect and mremap of anonymous memory: flags, splits, errors.
#include <fcntl.h>
#include <sys/resource.h>
#include <sys/syscall.h>

#include <cstring>

#include "tests/util/matchers.h"
#include "tests/util/process.h"

namespace skep::test {
namespace {

constexpr int kAnonymous = MAP_PRIVATE | MAP_ANONYMOUS;
constexpr int kReadWrite = PROT_READ | PROT_WRITE;

void* Map(void* address, size_t size, int prot = kReadWrite, int flags = kAnonymous) {
  return mmap(address, size, prot, flags, -1, 0);
}

// Whether a byte can be read, asked without faulting.
bool Readable(const void* address) {
  const Pipe pipe = MakePipe();
  return write(pipe.writer, address, 1) == 1;
}
bool Writable(void* address) {
  const Pipe pipe = MakePipe();
  char byte = Readable(address) ? *static_cast<char*>(address) : '\0';
  return write(pipe.writer, &byte, 1) == 1 && read(pipe.reader, address, 1) == 1;
}

TEST(Mmap, AnonymousMemoryIsZeroAndPageAligned) {
  const Mapping memory(3 * kPageSize);
  EXPECT_EQ(memory.address() % kPageSize, 0u);
  for (size_t i = 0; i < memory.size(); i += 512) EXPECT_EQ(memory.data()[i], 0);
  memset(memory.data(), 1, memory.size());
}

TEST(Mmap, LengthIsRoundedUp) {
  const Mapping memory(1);
  memory.data()[kPageSize - 1] = 'x';
  EXPECT_EQ(memory.data()[kPageSize - 1], 'x');
}

TEST(Mmap, Errors) {
  EXPECT_THAT(Map(nullptr, 0), FailsWith(EINVAL));
  EXPECT_THAT(Map(nullptr, kPageSize, kReadWrite, MAP_ANONYMOUS), FailsWith(EINVAL));
  EXPECT_THAT(Map(nullptr, ~0ULL - kPageSize), FailsWith(ENOMEM));
  EXPECT_THAT(Map(nullptr, 1ULL << 47), FailsWith(ENOMEM));
  EXPECT_THAT(Map(reinterpret_cast<void*>(0x12345), kPageSize, kReadWrite, kAnonymous | MAP_FIXED),
              FailsWith(EINVAL));
  EXPECT_THAT(mmap(nullptr, kPageSize, PROT_READ, MAP_PRIVATE, -1, 0), FailsWith(EBADF));
  EXPECT_THAT(syscall(SYS_mmap, 0, kPageSize, PROT_READ, MAP_PRIVATE, 0, 1), FailsWith(EINVAL));
}

TEST(Mmap, AHintThatIsFreeIsTaken) {
  void* free_address;
  {
    const Mapping memory(16 * kPageSize);
    free_address = memory.data();
  }
  void* address = Map(free_address, kPageSize);
  EXPECT_EQ(address, free_address);
  munmap(address, kPageSize);
}

TEST(Mmap, AHintInUseIsNot) {
  const Mapping memory(kPageSize);
  memory.data()[0] = 'k';
  void* address = Map(memory.data(), kPageSize);
  EXPECT_THAT(address, Succeeds());
  EXPECT_NE(address, memory.data());
  EXPECT_EQ(memory.data()[0], 'k');
  munmap(address, kPageSize);
}

TEST(Mmap, FixedReplaces) {
  const Mapping memory(3 * kPageSize);
  memset(memory.data(), 'x', memory.size());
  EXPECT_EQ(Map(memory.page(1), kPageSize, kReadWrite, kAnonymous | MAP_FIXED), memory.page(1));
  EXPECT_EQ(*memory.page(0), 'x');
  EXPECT_EQ(*memory.page(1), 0);
  EXPECT_EQ(*memory.page(2), 'x');
}

TEST(Mmap, FixedNoreplaceRefuses) {
  const Mapping memory(3 * kPageSize);
  EXPECT_THAT(Map(memory.page(1), kPageSize, kReadWrite, kAnonymous | MAP_FIXED_NOREPLACE),
              FailsWith(EEXIST));
  munmap(memory.page(1), kPageSize);
  EXPECT_EQ(Map(memory.page(1), kPageSize, kReadWrite, kAnonymous | MAP_FIXED_NOREPLACE),
            memory.page(1));
}

TEST(Mmap, ThirtyTwoBitAddresses) {
  void* address = Map(nullptr, kPageSize, kReadWrite, kAnonymous | MAP_32BIT);
  ASSERT_THAT(address, Succeeds());
  EXPECT_LT(reinterpret_cast<uintptr_t>(address), 1ULL << 32);
  munmap(address, kPageSize);
}

TEST(Mmap, PopulateAndNoreserveAndStackAreAccepted) {
  for (const int flag : {MAP_POPULATE, MAP_NORESERVE, MAP_STACK}) {
    void* address = Map(nullptr, 4 * kPageSize, kReadWrite, kAnonymous | flag);
    ASSERT_THAT(address, Succeeds());
    *static_cast<char*>(address) = 1;
    munmap(address, 4 * kPageSize);
  }
}

TEST(Mmap, AHugeReservationCostsNothing) {
  const size_t size = 64ULL << 30;
  void* address = Map(nullptr, size, PROT_NONE, kAnonymous | MAP_NORESERVE);
  ASSERT_THAT(address, Succeeds());
  auto* middle = static_cast<char*>(address) + (size >> 1);
  EXPECT_THAT(mprotect(middle, kPageSize, kReadWrite), Succeeds());
  *middle = 7;
  EXPECT_EQ(*middle, 7);
  EXPECT_THAT(munmap(address, size), Succeeds());
}

TEST(Mmap, RlimitAsIsHeld) {
  EXPECT_THAT(ForkAndRun([] {
                const rlimit limit = {1ULL << 30, 1ULL << 30};
                ASSERT_THAT(setrlimit(RLIMIT_AS, &limit), Succeeds());
                EXPECT_THAT(Map(nullptr, 2ULL << 30, PROT_NONE), FailsWith(ENOMEM));
                EXPECT_THAT(Map(nullptr, 1 << 20), Succeeds());
              }),
              ExitsWith(0));
}

TEST(Munmap, SplitsAMapping) {
  const Mapping memory(5 * kPageSize);
  memset(memory.data(), 'x', memory.size());
  EXPECT_THAT(munmap(memory.page(2), kPageSize), Succeeds());
  EXPECT_TRUE(Readable(memory.page(1)));
  EXPECT_FALSE(Readable(memory.page(2)));
  EXPECT_EQ(*memory.page(3), 'x');
}

TEST(Munmap, HolesAreFine) {
  const Mapping memory(3 * kPageSize);
  EXPECT_THAT(munmap(memory.page(1), kPageSize), Succeeds());
  EXPECT_THAT(munmap(memory.data(), memory.size()), Succeeds());
  EXPECT_THAT(munmap(memory.data(), memory.size()), Succeeds());
}

TEST(Munmap, Errors) {
  const Mapping memory(kPageSize);
  EXPECT_THAT(munmap(memory.data() + 1, kPageSize), FailsWith(EINVAL));
  EXPECT_THAT(munmap(memory.data(), 0), FailsWith(EINVAL));
  EXPECT_THAT(munmap(reinterpret_cast<void*>(0x7fff'ffff'f000), 2 * kPageSize), FailsWith(EINVAL));
}

TEST(Mprotect, ChangesPartOfAMapping) {
  const Mapping memory(3 * kPageSize);
  ASSERT_THAT(mprotect(memory.page(1), kPageSize, PROT_READ), Succeeds());
  EXPECT_TRUE(Writable(memory.page(0)));
  EXPECT_TRUE(Readable(memory.page(1)));
  EXPECT_FALSE(Writable(memory.page(1)));
  EXPECT_TRUE(Writable(memory.page(2)));
  ASSERT_THAT(mprotect(memory.page(1), kPageSize, PROT_NONE), Succeeds());
  EXPECT_FALSE(Readable(memory.page(1)));
  ASSERT_THAT(mprotect(memory.data(), memory.size(), kReadWrite), Succeeds());
  EXPECT_TRUE(Writable(memory.page(1)));
}

TEST(Mprotect, KeepsContents) {
  const Mapping memory(kPageSize);
  strcpy(memory.data(), "kept");
  mprotect(memory.data(), kPageSize, PROT_NONE);
  mprotect(memory.data(), kPageSize, PROT_READ);
  EXPECT_STREQ(memory.data(), "kept");
}

TEST(Mprotect, CodeCanBeWrittenThenRun) {
  const Mapping memory(kPageSize);
  const unsigned char code[] = {0xb8, 0x2a, 0, 0, 0, 0xc3};  // mov $42, %eax; ret
  memcpy(memory.data(), code, sizeof(code));
  ASSERT_THAT(mprotect(memory.data(), kPageSize, PROT_READ | PROT_EXEC), Succeeds());
  EXPECT_EQ(reinterpret_cast<int (*)()>(memory.data())(), 42);
}

TEST(Mprotect, Errors) {
  const Mapping memory(2 * kPageSize);
  EXPECT_THAT(mprotect(memory.data() + 1, kPageSize, PROT_READ), FailsWith(EINVAL));
  EXPECT_THAT(mprotect(memory.data(), kPageSize, 0x100), FailsWith(EINVAL));
  EXPECT_THAT(mprotect(memory.data(), kPageSize, PROT_GROWSDOWN), FailsWith(EINVAL));
  EXPECT_THAT(mprotect(memory.data(), 0, PROT_READ), SucceedsWith(0));
  munmap(memory.page(1), kPageSize);
  EXPECT_THAT(mprotect(memory.data(), 2 * kPageSize, PROT_READ), FailsWith(ENOMEM));
  EXPECT_FALSE(Writable(memory.page(0))) << "what came before the hole was changed";
}

TEST(Mremap, ShrinksInPlace) {
  const Mapping memory(4 * kPageSize);
  *memory.page(0) = 'a';
  EXPECT_EQ(mremap(memory.data(), 4 * kPageSize, 2 * kPageSize, 0), memory.data());
  EXPECT_EQ(*memory.page(0), 'a');
  EXPECT_FALSE(Readable(memory.page(2)));
}

TEST(Mremap, GrowsInPlaceWhenThereIsRoom) {
  const Mapping memory(4 * kPageSize);
  *memory.page(0) = 'a';
  munmap(memory.page(2), 2 * kPageSize);
  EXPECT_EQ(mremap(memory.data(), 2 * kPageSize, 4 * kPageSize, 0), memory.data());
  EXPECT_EQ(*memory.page(0), 'a');
  EXPECT_EQ(*memory.page(3), 0);
}

TEST(Mremap, WithoutMaymoveItDoesNotMove) {
  const Mapping memory(2 * kPageSize);
  EXPECT_THAT(mremap(memory.data(), kPageSize, 2 * kPageSize, 0), FailsWith(ENOMEM));
}

TEST(Mremap, MovesWithContents) {
  const Mapping memory(3 * kPageSize);
  for (size_t i = 0; i < 2; ++i) *memory.page(i) = static_cast<char>('a' + i);
  auto* moved =
      static_cast<char*>(mremap(memory.data(), 2 * kPageSize, 64 * kPageSize, MREMAP_MAYMOVE));
  ASSERT_THAT(moved, Succeeds());
  EXPECT_NE(moved, memory.data());
  EXPECT_EQ(moved[0], 'a');
  EXPECT_EQ(moved[kPageSize], 'b');
  EXPECT_EQ(moved[63 * kPageSize], 0);
  EXPECT_FALSE(Readable(memory.data()));
  munmap(moved, 64 * kPageSize);
}

TEST(Mremap, FixedReplacesTheTarget) {
  const Mapping source(kPageSize);
  const Mapping target(3 * kPageSize);
  *source.data() = 's';
  memset(target.data(), 't', target.size());
  EXPECT_EQ(
      mremap(source.data(), kPageSize, kPageSize, MREMAP_MAYMOVE | MREMAP_FIXED, target.page(1)),
      target.page(1));
  EXPECT_EQ(*target.page(0), 't');
  EXPECT_EQ(*target.page(1), 's');
  EXPECT_FALSE(Readable(source.data()));
}

TEST(Mremap, DontunmapLeavesZeroesBehind) {
  const Mapping source(kPageSize);
  *source.data() = 's';
  auto* moved = static_cast<char*>(
      mremap(source.data(), kPageSize, kPageSize, MREMAP_MAYMOVE | MREMAP_DONTUNMAP, nullptr));
  ASSERT_THAT(moved, Succeeds());
  EXPECT_EQ(*moved, 's');
  EXPECT_EQ(*source.data(), 0);
  munmap(moved, kPageSize);
}

TEST(Mremap, OldSizeZeroDuplicatesASharedMapping) {
  const Mapping shared(kPageSize, kReadWrite, MAP_SHARED | MAP_ANONYMOUS);
  auto* copy = static_cast<char*>(mremap(shared.data(), 0, kPageSize, MREMAP_MAYMOVE));
  ASSERT_THAT(copy, Succeeds());
  *shared.data() = 'q';
  EXPECT_EQ(*copy, 'q');
  munmap(copy, kPageSize);
}

TEST(Mremap, Errors) {
  const Mapping memory(4 * kPageSize);
  EXPECT_THAT(mremap(memory.data() + 1, kPageSize, kPageSize, 0), FailsWith(EINVAL));
  EXPECT_THAT(mremap(memory.data(), kPageSize, 0, 0), FailsWith(EINVAL));
  EXPECT_THAT(mremap(memory.data(), kPageSize, kPageSize, 0x80), FailsWith(EINVAL));
  EXPECT_THAT(mremap(memory.data(), kPageSize, kPageSize, MREMAP_FIXED, memory.page(2)),
              FailsWith(EINVAL));
  EXPECT_THAT(mremap(memory.data(), 2 * kPageSize, 2 * kPageSize, MREMAP_MAYMOVE | MREMAP_FIXED,
                     memory.page(1)),
              FailsWith(EINVAL))
      << "overlapping";
  EXPECT_THAT(mremap(kBadAddress, kPageSize, kPageSize, 0), FailsWith(EINVAL));
  munmap(memory.page(1), kPageSize);
  EXPECT_THAT(mremap(memory.page(1), kPageSize, 2 * kPageSize, MREMAP_MAYMOVE), FailsWith(EFAULT));
  EXPECT_THAT(mremap(memory.data(), 0, kPageSize, MREMAP_MAYMOVE), FailsWith(EINVAL))
      << "a private mapping cannot be duplicated";
}

TEST(Mremap, AcrossADifferentlyProtectedNeighbourFaults) {
  const Mapping memory(4 * kPageSize);
  ASSERT_THAT(mprotect(memory.page(1), kPageSize, PROT_READ), Succeeds());
  EXPECT_THAT(mremap(memory.data(), 2 * kPageSize, 8 * kPageSize, MREMAP_MAYMOVE),
              FailsWith(EFAULT));
}

}  // namespace
}  // namespace skep::test
