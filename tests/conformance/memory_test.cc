// Copy on write, shared mappings, file mappings, advice, residency, the stack, /proc/self/maps.
#include <fcntl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#include <atomic>
#include <cstring>
#include <numeric>
#include <thread>

#include "tests/util/matchers.h"
#include "tests/util/process.h"

namespace skep::test {
namespace {

constexpr int kReadWrite = PROT_READ | PROT_WRITE;

TEST(Cow, ParentAndChildWriteApart) {
  const Mapping memory(64 * kPageSize);
  memset(memory.data(), 'p', memory.size());
  Gate changed;
  Gate checked;
  ChildProcess child([&] {
    changed.Wait();
    for (size_t i = 0; i < 64; ++i) EXPECT_EQ(*memory.page(i), 'p') << i;
    memset(memory.data(), 'c', memory.size());
    checked.Open();
  });
  for (size_t i = 0; i < 64; i += 3) *memory.page(i) = 'q';
  changed.Open();
  checked.Wait();
  EXPECT_THAT(child.Wait(), ExitsWith(0));
  for (size_t i = 0; i < 64; ++i) EXPECT_EQ(*memory.page(i), i % 3 == 0 ? 'q' : 'p') << i;
}

TEST(Cow, ThreeGenerations) {
  static int value = 1;
  EXPECT_THAT(ForkAndRun([] {
                value = 2;
                EXPECT_THAT(ForkAndRun([] {
                              EXPECT_EQ(value, 2);
                              value = 3;
                            }),
                            ExitsWith(0));
                EXPECT_EQ(value, 2);
              }),
              ExitsWith(0));
  EXPECT_EQ(value, 1);
}

TEST(Cow, ASyscallWritesOnlyTheCallersCopy) {
  const Mapping memory(kPageSize);
  strcpy(memory.data(), "before");
  EXPECT_THAT(ForkAndRun([&] {
                const Pipe pipe = MakePipe();
                write(pipe.writer, "after!", 6);
                EXPECT_THAT(read(pipe.reader, memory.data(), 6), SucceedsWith(6));
                EXPECT_STREQ(memory.data(), "after!");
              }),
              ExitsWith(0));
  EXPECT_STREQ(memory.data(), "before");
}

TEST(SharedAnonymous, IsSeenByTheChildAndBack) {
  const Mapping memory(2 * kPageSize, kReadWrite, MAP_SHARED | MAP_ANONYMOUS);
  EXPECT_THAT(ForkAndRun([&] { strcpy(memory.page(1), "from the child"); }), ExitsWith(0));
  EXPECT_STREQ(memory.page(1), "from the child");
}

TEST(SharedAnonymous, AtomicsWorkAcrossProcesses) {
  const Mapping memory(kPageSize, kReadWrite, MAP_SHARED | MAP_ANONYMOUS);
  auto* counter = memory.as<std::atomic<int>>();
  ChildProcess child([&] {
    for (int i = 0; i < 10'000; ++i) counter->fetch_add(1);
  });
  for (int i = 0; i < 10'000; ++i) counter->fetch_add(1);
  EXPECT_THAT(child.Wait(), ExitsWith(0));
  EXPECT_EQ(*counter, 20'000);
}

class FileMapping : public testing::Test {
 protected:
  FileMapping() {
    WriteFile(path_, std::string(kPageSize, 'a') + std::string(kPageSize, 'b'));
    fd_.Reset(open(path_.c_str(), O_RDWR));
  }
  TempDir dir_;
  std::string path_ = dir_.File("f");
  Fd fd_;
};

TEST_F(FileMapping, SharedIsCoherentWithReadAndWrite) {
  const Mapping memory(2 * kPageSize, kReadWrite, MAP_SHARED, fd_);
  EXPECT_EQ(*memory.page(1), 'b');
  *memory.page(1) = 'm';
  char byte = 0;
  EXPECT_THAT(pread(fd_, &byte, 1, kPageSize), SucceedsWith(1));
  EXPECT_EQ(byte, 'm');
  EXPECT_THAT(pwrite(fd_, "w", 1, 5), SucceedsWith(1));
  EXPECT_EQ(memory.data()[5], 'w');
}

TEST_F(FileMapping, SharedIsCoherentBetweenProcesses) {
  EXPECT_THAT(ForkAndRun([&] {
                const Fd own(open(path_.c_str(), O_RDWR));
                const Mapping memory(kPageSize, kReadWrite, MAP_SHARED, own);
                *memory.data() = 'c';
              }),
              ExitsWith(0));
  const Mapping memory(kPageSize, PROT_READ, MAP_SHARED, fd_);
  EXPECT_EQ(*memory.data(), 'c');
}

TEST_F(FileMapping, PrivateDoesNotReachTheFile) {
  const Mapping memory(2 * kPageSize, kReadWrite, MAP_PRIVATE, fd_);
  *memory.data() = 'x';
  char byte = 0;
  pread(fd_, &byte, 1, 0);
  EXPECT_EQ(byte, 'a');
  pwrite(fd_, "z", 1, 1);
  EXPECT_EQ(memory.data()[1], 'a') << "its page is its own now";
}

TEST_F(FileMapping, PrivateUntouchedPagesFollowTheFile) {
  const Mapping memory(2 * kPageSize, kReadWrite, MAP_PRIVATE, fd_);
  EXPECT_EQ(*memory.page(1), 'b');
  pwrite(fd_, "n", 1, kPageSize);
  EXPECT_EQ(*memory.page(1), 'n');
}

TEST_F(FileMapping, PrivateSurvivesForkApart) {
  const Mapping memory(kPageSize, kReadWrite, MAP_PRIVATE, fd_);
  *memory.data() = 'p';
  EXPECT_THAT(ForkAndRun([&] {
                EXPECT_EQ(*memory.data(), 'p');
                *memory.data() = 'c';
              }),
              ExitsWith(0));
  EXPECT_EQ(*memory.data(), 'p');
}

TEST_F(FileMapping, OutlivesTheDescriptorAndTheName) {
  const Mapping memory(2 * kPageSize, kReadWrite, MAP_SHARED, fd_);
  fd_.Reset();
  unlink(path_.c_str());
  EXPECT_EQ(*memory.page(1), 'b');
  *memory.page(1) = 'c';
}

TEST_F(FileMapping, OffsetMapsTheRightPage) {
  const Mapping memory(kPageSize, PROT_READ, MAP_PRIVATE, fd_, kPageSize);
  EXPECT_EQ(*memory.data(), 'b');
  EXPECT_THAT(mmap(nullptr, kPageSize, PROT_READ, MAP_PRIVATE, fd_, 100), FailsWith(EINVAL));
}

TEST_F(FileMapping, AccessModesAreChecked) {
  const Fd read_only(open(path_.c_str(), O_RDONLY));
  EXPECT_THAT(mmap(nullptr, kPageSize, kReadWrite, MAP_SHARED, read_only, 0), FailsWith(EACCES));
  const Mapping fine(kPageSize, kReadWrite, MAP_PRIVATE, read_only);
  const Mapping shared(kPageSize, PROT_READ, MAP_SHARED, read_only);
  EXPECT_THAT(mprotect(shared.data(), kPageSize, kReadWrite), FailsWith(EACCES));
  const Fd write_only(open(path_.c_str(), O_WRONLY));
  EXPECT_THAT(mmap(nullptr, kPageSize, PROT_READ, MAP_PRIVATE, write_only, 0), FailsWith(EACCES));
  const Fd directory(open(dir_.c_str(), O_RDONLY));
  EXPECT_THAT(mmap(nullptr, kPageSize, PROT_READ, MAP_PRIVATE, directory, 0), FailsWith(ENODEV));
}

TEST_F(FileMapping, MsyncFlagsAndHoles) {
  const Mapping memory(3 * kPageSize, kReadWrite, MAP_SHARED, fd_);
  EXPECT_THAT(msync(memory.data(), memory.size(), MS_SYNC), Succeeds());
  EXPECT_THAT(msync(memory.data(), memory.size(), MS_ASYNC | MS_INVALIDATE), Succeeds());
  EXPECT_THAT(msync(memory.data(), memory.size(), MS_ASYNC | MS_SYNC), FailsWith(EINVAL));
  EXPECT_THAT(msync(memory.data() + 1, kPageSize, MS_SYNC), FailsWith(EINVAL));
  munmap(memory.page(1), kPageSize);
  EXPECT_THAT(msync(memory.data(), memory.size(), MS_SYNC), FailsWith(ENOMEM));
}

TEST(Madvise, DontneedZeroesAnonymousMemory) {
  const Mapping memory(3 * kPageSize);
  memset(memory.data(), 'x', memory.size());
  ASSERT_THAT(madvise(memory.page(1), kPageSize, MADV_DONTNEED), Succeeds());
  EXPECT_EQ(*memory.page(0), 'x');
  EXPECT_EQ(*memory.page(1), 0);
  EXPECT_EQ(*memory.page(2), 'x');
}

TEST(Madvise, DontneedOfAPrivateFilePageReadsTheFileAgain) {
  const TempDir dir;
  WriteFile(dir.File("f"), "file");
  const Fd fd(open(dir.File("f").c_str(), O_RDWR));
  const Mapping memory(kPageSize, kReadWrite, MAP_PRIVATE, fd);
  *memory.data() = 'X';
  ASSERT_THAT(madvise(memory.data(), kPageSize, MADV_DONTNEED), Succeeds());
  EXPECT_EQ(*memory.data(), 'f');
}

TEST(Madvise, HintsAndErrors) {
  const Mapping memory(2 * kPageSize);
  for (const int advice : {MADV_NORMAL, MADV_RANDOM, MADV_SEQUENTIAL, MADV_WILLNEED}) {
    EXPECT_THAT(madvise(memory.data(), kPageSize, advice), Succeeds());
  }
  EXPECT_THAT(madvise(memory.data(), kPageSize, 12345), FailsWith(EINVAL));
  EXPECT_THAT(madvise(memory.data() + 1, kPageSize, MADV_DONTNEED), FailsWith(EINVAL));
  EXPECT_THAT(madvise(memory.data(), 0, MADV_DONTNEED), Succeeds());
  munmap(memory.page(1), kPageSize);
  EXPECT_THAT(madvise(memory.data(), 2 * kPageSize, MADV_DONTNEED), FailsWith(ENOMEM));
}

TEST(Madvise, DontforkAndWipeonfork) {
  const Mapping memory(2 * kPageSize);
  memset(memory.data(), 'x', memory.size());
  ASSERT_THAT(madvise(memory.page(0), kPageSize, MADV_WIPEONFORK), Succeeds());
  ASSERT_THAT(madvise(memory.page(1), kPageSize, MADV_DONTFORK), Succeeds());
  EXPECT_THAT(ForkAndRun([&] {
                EXPECT_EQ(*memory.page(0), 0);
                unsigned char residency;
                EXPECT_THAT(mincore(memory.page(1), kPageSize, &residency), FailsWith(ENOMEM));
              }),
              ExitsWith(0));
}

TEST(Mincore, TouchedPagesAreResident) {
  const Mapping memory(4 * kPageSize);
  *memory.page(1) = 1;
  unsigned char residency[4] = {};
  ASSERT_THAT(mincore(memory.data(), memory.size(), residency), Succeeds());
  EXPECT_EQ(residency[1] & 1, 1);
  EXPECT_THAT(mincore(memory.data() + 1, kPageSize, residency), FailsWith(EINVAL));
  EXPECT_THAT(syscall(SYS_mincore, memory.data(), kPageSize, kBadAddress), FailsWith(EFAULT));
  munmap(memory.page(2), kPageSize);
  EXPECT_THAT(mincore(memory.data(), memory.size(), residency), FailsWith(ENOMEM));
}

TEST(Mlock, LocksAndChecks) {
  const Mapping memory(2 * kPageSize);
  EXPECT_THAT(mlock(memory.data(), kPageSize), Succeeds());
  EXPECT_THAT(munlock(memory.data(), kPageSize), Succeeds());
  EXPECT_THAT(mlockall(0), FailsWith(EINVAL));
  EXPECT_THAT(munlockall(), Succeeds());
  munmap(memory.page(1), kPageSize);
  EXPECT_THAT(mlock(memory.data(), 2 * kPageSize), FailsWith(ENOMEM));
}

TEST(Stack, GrowsByTouchingBelow) {
  EXPECT_THAT(ForkAndRun([] {
                struct Deep {
                  static int Down(int depth) {
                    volatile char frame[4096];
                    frame[0] = static_cast<char>(depth);
                    return depth == 0 ? 0 : Down(depth - 1) + frame[0] * 0;
                  }
                };
                EXPECT_EQ(Deep::Down(1000), 0);  // 4 MiB
              }),
              ExitsWith(0));
}

TEST(Stack, GrowsInsideASyscall) {
  EXPECT_THAT(ForkAndRun([] {
                const Pipe pipe = MakePipe();
                write(pipe.writer, "x", 1);
                auto* below = static_cast<char*>(__builtin_frame_address(0)) - 1'000'000;
                EXPECT_THAT(syscall(SYS_read, int{pipe.reader}, below, 1), SucceedsWith(1));
              }),
              ExitsWith(0));
}

TEST(Stack, EndsAtItsLimit) {
  EXPECT_THAT(ForkAndRun([] {
                const rlimit limit = {1 << 20, 1 << 20};
                ASSERT_THAT(setrlimit(RLIMIT_STACK, &limit), Succeeds());
                auto* below = static_cast<volatile char*>(__builtin_frame_address(0)) - (2 << 20);
                *below = 1;
              }),
              KilledBy(SIGSEGV));
}

TEST(Stack, GrowsdownMappingsGrow) {
  const size_t room = 64 * kPageSize;
  void* reserved = mmap(nullptr, 2 * room, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  ASSERT_THAT(reserved, Succeeds());
  munmap(reserved, 2 * room);
  char* top = static_cast<char*>(reserved) + 2 * room - kPageSize;
  ASSERT_EQ(mmap(top, kPageSize, kReadWrite,
                 MAP_PRIVATE | MAP_ANONYMOUS | MAP_GROWSDOWN | MAP_FIXED, -1, 0),
            top);
  for (size_t i = 1; i < 8; ++i) *static_cast<volatile char*>(top - i * kPageSize) = 1;
  EXPECT_EQ(*(top - 7 * kPageSize), 1);
  munmap(top - 8 * kPageSize, 9 * kPageSize);
}

// The line of /proc/self/maps that holds the address.
std::string MapsLine(const void* address) {
  const std::string maps = ReadFile("/proc/self/maps");
  for (size_t start = 0; start < maps.size();) {
    const size_t end = maps.find('\n', start);
    const std::string line = maps.substr(start, end - start);
    uintptr_t low = 0;
    uintptr_t high = 0;
    sscanf(line.c_str(), "%lx-%lx", &low, &high);
    const auto wanted = reinterpret_cast<uintptr_t>(address);
    if (wanted >= low && wanted < high) return line;
    start = end + 1;
  }
  return "";
}

TEST(ProcMaps, ShowsRangesProtectionAndFiles) {
  const TempDir dir;
  WriteFile(dir.File("mapped"), std::string(2 * kPageSize, 'x'));
  const Fd fd(open(dir.File("mapped").c_str(), O_RDONLY));
  const Mapping file(kPageSize, PROT_READ, MAP_SHARED, fd, kPageSize);
  const std::string line = MapsLine(file.data());
  EXPECT_NE(line.find(" r--s 00001000 "), std::string::npos) << line;
  EXPECT_NE(line.find(dir.File("mapped")), std::string::npos) << line;
  const Mapping code(kPageSize, PROT_READ | PROT_EXEC);
  EXPECT_NE(MapsLine(code.data()).find(" r-xp 00000000 00:00 0"), std::string::npos);
}

TEST(ProcMaps, NamesStackHeapAndVdso) {
  int local = 0;
  EXPECT_NE(MapsLine(&local).find("[stack]"), std::string::npos) << MapsLine(&local);
  const auto* brk_end = static_cast<char*>(sbrk(static_cast<intptr_t>(kPageSize)));
  EXPECT_NE(MapsLine(brk_end).find("[heap]"), std::string::npos) << MapsLine(brk_end);
  sbrk(-static_cast<intptr_t>(kPageSize));
  EXPECT_NE(MapsLine(reinterpret_cast<void*>(&MapsLine)).find("memory_test"), std::string::npos);
}

TEST(ProcMaps, NeighboursMerge) {
  const Mapping memory(4 * kPageSize);
  const std::string whole = MapsLine(memory.page(1));
  mprotect(memory.page(1), kPageSize, PROT_READ);
  EXPECT_NE(MapsLine(memory.page(1)), whole);
  mprotect(memory.page(1), kPageSize, kReadWrite);
  EXPECT_EQ(MapsLine(memory.page(1)), whole);
}

TEST(Memory, ThreadsMapAndUnmapAtOnce) {
  const auto churn = [] {
    for (int i = 0; i < 300; ++i) {
      const Mapping memory(8 * kPageSize);
      memset(memory.data(), i, memory.size());
      ASSERT_EQ(*memory.page(7), static_cast<char>(i));
    }
  };
  std::thread a(churn);
  std::thread b(churn);
  churn();
  a.join();
  b.join();
}

TEST(Memory, BigSumsSurviveForkAndSwapOfRoles) {
  std::vector<uint32_t> numbers(1 << 20);
  std::iota(numbers.begin(), numbers.end(), 0);
  const uint64_t sum = std::accumulate(numbers.begin(), numbers.end(), uint64_t{0});
  ChildProcess child([&] {
    for (uint32_t& number : numbers) ++number;
    EXPECT_EQ(std::accumulate(numbers.begin(), numbers.end(), uint64_t{0}), sum + numbers.size());
  });
  EXPECT_EQ(std::accumulate(numbers.begin(), numbers.end(), uint64_t{0}), sum);
  EXPECT_THAT(child.Wait(), ExitsWith(0));
  EXPECT_EQ(std::accumulate(numbers.begin(), numbers.end(), uint64_t{0}), sum);
}

[[gnu::noinline]] void UseStack(size_t size) {
  for (size_t used = 0; used < size; used += kPageSize) {
    volatile char* page = static_cast<volatile char*>(__builtin_alloca(kPageSize));
    *page = 1;
  }
}

TEST(Stack, GrowsOnlyWithinTheAddressSpaceLimit) {
  const auto run = [](rlim_t more) {
    return ForkAndRun([=] {
      const ScopedRlimit core(RLIMIT_CORE, 0);
      const uint64_t pages = std::stoull(ReadFile("/proc/self/statm"));
      const rlim_t bytes = pages * kPageSize + more;
      const rlimit limit = {bytes, bytes};
      ASSERT_THAT(setrlimit(RLIMIT_AS, &limit), Succeeds());
      UseStack(2 << 20);
    });
  };
  EXPECT_THAT(run(4 << 20), ExitsWith(0));
  EXPECT_THAT(run(1 << 20), KilledBy(SIGSEGV));
}

}  // namespace
}  // namespace skep::test
