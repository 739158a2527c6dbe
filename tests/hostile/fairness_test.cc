// Guests that keep the sandbox's kernel busy with long system calls: others run on, and the busy
// ones can be ended. No figure here depends on how fast or loaded the machine is.
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <time.h>

#include <algorithm>
#include <atomic>
#include <vector>

#include "tests/hostile/hostile.h"

namespace skep::test {
namespace {

constexpr size_t kMiB = 1 << 20;
constexpr int kLongMs = 60'000;

// What parent and children tell each other.
struct Shared {
  std::atomic<int> calls[4];
  std::atomic<uint64_t> marker;
};

class SharedPage {
 public:
  SharedPage()
      : page_(static_cast<Shared*>(mmap(nullptr, sizeof(Shared), PROT_READ | PROT_WRITE,
                                        MAP_SHARED | MAP_ANONYMOUS, -1, 0))) {}
  ~SharedPage() { munmap(page_, sizeof(Shared)); }
  SharedPage(const SharedPage&) = delete;
  SharedPage& operator=(const SharedPage&) = delete;
  Shared* operator->() const { return page_; }
  Shared* get() const { return page_; }

 private:
  Shared* page_;
};

// A child that rewrites a file in memory for ever, `size` bytes a call.
std::function<void()> Rewriter(Shared* shared, int index, size_t size) {
  return [=] {
    const Fd file(memfd_create("busy", 0));
    const std::vector<char> buffer(size, 'x');
    for (;;) {
      if (pwrite(file, buffer.data(), size, 0) != static_cast<ssize_t>(size)) _exit(3);
      ++shared->calls[index];
    }
  };
}

void SleepMs(long ms) {
  const timespec time = {ms / 1000, ms % 1000 * 1'000'000};
  nanosleep(&time, nullptr);
}

class Fairness : public ::testing::TestWithParam<size_t> {};

// A bystander sleeps, makes children and ends the busy ones.
TEST_P(Fairness, BusyProcessesDoNotKeepABystanderFromRunning) {
  const SharedPage shared;
  const int64_t start = NowNs();
  ChildProcess first(Rewriter(shared.get(), 0, GetParam()));
  ChildProcess second(Rewriter(shared.get(), 1, GetParam()));
  ASSERT_TRUE(WaitUntil([&] { return shared->calls[0] > 0 && shared->calls[1] > 0; }, kLongMs));
  for (int i = 0; i < 30; ++i) SleepMs(1);
  EXPECT_THAT(ForkAndRun([] { _exit(7); }), ExitsWith(7));
  const int before[2] = {shared->calls[0], shared->calls[1]};
  EXPECT_TRUE(WaitUntil(
      [&] { return shared->calls[0] > before[0] && shared->calls[1] > before[1]; }, kLongMs))
      << "both busy processes go on";
  first.Kill(SIGKILL);
  second.Kill(SIGKILL);
  EXPECT_THAT(first.Wait(), KilledBy(SIGKILL));
  EXPECT_THAT(second.Wait(), KilledBy(SIGKILL));
  EXPECT_LT(NowNs() - start, int64_t{kLongMs} * 1'000'000);
  ExpectAlive();
}

INSTANTIATE_TEST_SUITE_P(, Fairness, ::testing::Values(kMiB, 48 * kMiB), [](const auto& tested) {
  return std::to_string(tested.param >> 20) + "MiB";
});

// `prepare` makes what `work` gives back in one call. Meanwhile a bystander wakes up from its
// sleeps again and again, at least once in ten tries.
template <class Prepare, class Work>
void ExpectOthersRunDuring(Prepare prepare, Work work) {
  constexpr int kSleeps = 3;
  const SharedPage shared;
  int most = 0;
  for (int tries = 0; tries < 10 && most < kSleeps; ++tries) {
    shared->calls[0] = 0;
    ChildProcess child([&] {
      auto prepared = prepare();
      shared->calls[0] = 1;
      work(prepared);
      shared->calls[0] = 2;
      pause();
    });
    ASSERT_TRUE(WaitUntil([&] { return shared->calls[0] != 0; }, kLongMs));
    int sleeps = 0;
    while (shared->calls[0] == 1) {
      SleepMs(1);
      ++sleeps;
    }
    most = std::max(most, sleeps);
    child.Kill(SIGKILL);
    EXPECT_THAT(child.Wait(), KilledBy(SIGKILL));
  }
  EXPECT_GE(most, kSleeps) << "nobody else ran meanwhile, ten times of ten";
  ExpectAlive();
}

constexpr size_t kMuch = 512 * kMiB;

void* MapMuch() {
  void* memory = mmap(nullptr, kMuch, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
  if (memory == MAP_FAILED) _exit(3);
  return memory;
}

TEST(Release, OthersRunWhileMuchMemoryIsUnmapped) {
  ExpectOthersRunDuring(MapMuch, [](void* memory) { munmap(memory, kMuch); });
}

TEST(Release, OthersRunWhileMuchMemoryIsForgotten) {
  ExpectOthersRunDuring(MapMuch, [](void* memory) { madvise(memory, kMuch, MADV_DONTNEED); });
}

TEST(Release, OthersRunWhileALargeFileIsCutShort) {
  const auto fill = [] {
    const int file = memfd_create("large", 0);
    if (file < 0 || fallocate(file, 0, 0, kMuch) != 0) _exit(3);
    void* memory = mmap(nullptr, kMuch, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    if (memory == MAP_FAILED) _exit(3);
    for (size_t at = 0; at < kMuch; at += 4096) static_cast<char*>(memory)[at] = 1;
    munmap(memory, kMuch);
    return file;
  };
  ExpectOthersRunDuring(fill, [](int file) { (void)!ftruncate(file, 0); });
}

// The process's end gives back the same.
TEST(Release, OthersRunWhileALargeProcessEnds) {
  constexpr int kSleeps = 3;
  const SharedPage shared;
  int most = 0;
  for (int tries = 0; tries < 10 && most < kSleeps; ++tries) {
    shared->calls[0] = 0;
    ChildProcess child([&] {
      MapMuch();
      shared->calls[0] = 1;
      _exit(7);
    });
    ASSERT_TRUE(WaitUntil([&] { return shared->calls[0] == 1; }, kLongMs));
    int sleeps = 0;
    siginfo_t info = {};
    while (waitid(P_PID, static_cast<id_t>(child.pid()), &info, WEXITED | WNOHANG | WNOWAIT) == 0 &&
           info.si_pid == 0) {
      SleepMs(1);
      ++sleeps;
    }
    most = std::max(most, sleeps);
    EXPECT_THAT(child.Wait(), ExitsWith(7));
  }
  EXPECT_GE(most, kSleeps) << "nobody else ran meanwhile, ten times of ten";
  ExpectAlive();
}

// A call on many bytes ends where a kill finds it: its last range is not reached. `call` is a
// vector call that puts zeros into `ranges`.
template <class Call>
void ExpectCutShort(Call call) {
  constexpr size_t kRange = 2 * kMiB;
  constexpr uint64_t kUntouched = 0x5afe'5afe;
  const SharedPage shared;
  const Mapping target(kRange);
  std::vector<iovec> ranges(1023, iovec{target.data(), kRange});
  ranges.push_back({&shared->marker, sizeof(shared->marker)});
  // The parent may be late: then the call was through, and is tried again.
  bool cut = false;
  for (int tries = 0; tries < 10 && !cut; ++tries) {
    shared->marker = kUntouched;
    shared->calls[0] = 0;
    ChildProcess child([&] {
      shared->calls[0] = 1;
      call(ranges);
      pause();
    });
    ASSERT_TRUE(WaitUntil([&] { return shared->calls[0] == 1; }, kLongMs));
    SleepMs(5);
    child.Kill(SIGKILL);
    EXPECT_THAT(child.Wait(), KilledBy(SIGKILL));
    cut = shared->marker == kUntouched;
  }
  EXPECT_TRUE(cut) << "a killed process's call went on to its end, ten times of ten";
  ExpectAlive();
}

TEST(Kill, EndsALongReadOfAFileInMemory) {
  const Fd file(memfd_create("sparse", 0));
  ASSERT_THAT(ftruncate(file, int64_t{4} << 30), Succeeds());
  ExpectCutShort([&](const std::vector<iovec>& ranges) {
    (void)!preadv(file, ranges.data(), static_cast<int>(ranges.size()), 0);
  });
}

TEST(Kill, EndsALongReadOfADevice) {
  const Fd file(open("/dev/zero", O_RDONLY));
  ExpectCutShort([&](const std::vector<iovec>& ranges) {
    (void)!readv(file, ranges.data(), static_cast<int>(ranges.size()));
  });
}

TEST(Kill, EndsALongWriteToAFileInMemory) {
  constexpr size_t kRange = 2 * kMiB;
  constexpr size_t kRanges = 100;
  const Fd file(memfd_create("long", 0));
  const std::vector<char> buffer(kRange, 'x');
  const std::vector<iovec> ranges(kRanges, iovec{const_cast<char*>(buffer.data()), kRange});
  const SharedPage shared;
  bool cut = false;
  for (int tries = 0; tries < 20 && !cut; ++tries) {
    ASSERT_THAT(ftruncate(file, 0), Succeeds());
    shared->calls[0] = 0;
    ChildProcess child([&] {
      shared->calls[0] = 1;
      (void)!pwritev(file, ranges.data(), kRanges, 0);
      pause();
    });
    ASSERT_TRUE(WaitUntil([&] { return shared->calls[0] == 1; }, kLongMs));
    SleepMs(1);
    child.Kill(SIGKILL);
    EXPECT_THAT(child.Wait(), KilledBy(SIGKILL));
    struct stat status = {};
    ASSERT_THAT(fstat(file, &status), Succeeds());
    cut = status.st_size < static_cast<off_t>(kRange * kRanges);
  }
  EXPECT_TRUE(cut) << "a killed process's write went on to its end, twenty times of twenty";
}

// The same for pages that are taken ahead.
TEST(Kill, EndsALongPopulation) {
  constexpr size_t kSize = 256 * kMiB;
  const SharedPage shared;
  bool cut = false;
  for (int tries = 0; tries < 10 && !cut; ++tries) {
    shared->calls[0] = shared->calls[1] = 0;
    ChildProcess child([&] {
      shared->calls[0] = 1;
      mmap(nullptr, kSize, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1,
           0);
      shared->calls[1] = 1;
      pause();
    });
    ASSERT_TRUE(WaitUntil([&] { return shared->calls[0] == 1; }, kLongMs));
    SleepMs(1);
    child.Kill(SIGKILL);
    EXPECT_THAT(child.Wait(), KilledBy(SIGKILL));
    cut = shared->calls[1] == 0;
  }
  EXPECT_TRUE(cut) << "a killed process's mmap came back, ten times of ten";
}

}  // namespace
}  // namespace skep::test
