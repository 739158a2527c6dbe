// Fibers of two workers on one address space: copies, changes of the tree, forks, transfers and
// truncations at once. Each fiber knows what its own memory must hold.
#include <gtest/gtest.h>
#include <array>
#include <atomic>
#include <ctime>
#include <random>
#include <vector>

#include "sentry/arena/arena_test_environment.h"
#include "sentry/mm/mm_test_util.h"
#include "sentry/sched/scheduler.h"

namespace skep::mm {
namespace {

#ifndef SKEP_NO_ARENA
const auto* const kEnvironment =
    ::testing::AddGlobalTestEnvironment(new arena::ArenaTestEnvironment);
#endif

constexpr uint64_t kPage = kPageSize;

class MmConcurrency : public MmTest {
 protected:
  void Run(int fibers, const std::function<void(int)>& body) {
    sched::Scheduler* scheduler = nullptr;
    {
      const arena::ArenaHeapScope arena;
      scheduler = new sched::Scheduler(2);
    }
    ASSERT_TRUE(scheduler->Start(
        [](int) -> HostResult<std::unique_ptr<platform::Engine>> {
          return std::make_unique<FakeEngine>();
        },
        false));
    std::vector<Ref<sched::Fiber>> running;
    for (int i = 0; i < fibers; ++i) {
      running.push_back(
          sched::Fiber::Spawn(scheduler->worker(i % 2), [&body, i] { body(i); }).value());
    }
    for (const auto& fiber : running) {
      while (!fiber->finished()) {
        const timespec pause = {0, 1'000'000};
        nanosleep(&pause, nullptr);
      }
    }
    running.clear();
    scheduler->Stop();
    delete scheduler;
  }
};

void Put(MemoryManager& mm, uint64_t at, uint64_t value, bool transfer) {
  const auto bytes = std::as_bytes(std::span(&value, 1));
  if (!transfer) {
    EXPECT_EQ(mm.CopyOut(UserAddr{at}, bytes).bytes, 8u);
    return;
  }
  const iovec range{reinterpret_cast<void*>(at), 8};
  EXPECT_EQ(mm.WithBlocks({&range, 1}, 8, true,
                          [&](std::span<const iovec> blocks) -> Result<size_t> {
                            sched::Yield();
                            std::memcpy(blocks[0].iov_base, &value, 8);
                            return 8;
                          })
                .bytes,
            8u);
}

uint64_t Get(MemoryManager& mm, uint64_t at) {
  uint64_t value = 0;
  EXPECT_EQ(mm.CopyIn(UserAddr{at}, std::as_writable_bytes(std::span(&value, 1))).bytes, 8u);
  return value;
}

void ProtectAndBack(MemoryManager& mm, uint64_t page) {
  EXPECT_TRUE(mm.Mprotect(page, kPage, PROT_READ, false, false));
  EXPECT_TRUE(mm.Mprotect(page, kPage, PROT_READ | PROT_WRITE, false, false));
}

void MapAndUnmap(MemoryManager& mm) {
  const uint64_t extra =
      mm.Mmap({.size = kPage, .prot = PROT_READ | PROT_WRITE, .flags = MAP_PRIVATE | MAP_ANONYMOUS},
              {})
          .value();
  EXPECT_EQ(Get(mm, extra), 0u);
  Put(mm, extra, 1, false);
  EXPECT_TRUE(mm.Munmap(extra, kPage));
}

TEST_F(MmConcurrency, EachFiberKeepsItsMemory) {
  const auto mm = NewSpace();
  auto file = MakeRef<FilePages>(*memory);
  ASSERT_TRUE(file->Truncate(64 * kPage));
  const uint64_t window = Map(*mm, 64 * kPage, PROT_READ | PROT_WRITE, MAP_SHARED, 0, file);
  std::atomic<int> working{6};
  Run(8, [&](int i) {
    std::mt19937_64 random(static_cast<uint64_t>(i));
    if (i == 6) {  // forks all the time: everybody's pages become shared and have to be copied
      std::vector<Ref<MemoryManager>> children;
      while (working.load() != 0) {
        children.push_back(mm->Fork().value());
        EXPECT_TRUE(children.back()->Activate(engine));
        if (children.size() > 3) children.erase(children.begin());
        sched::Yield();
      }
      return;
    }
    if (i == 7) {  // a file that shrinks and grows below a mapping in use
      while (working.load() != 0) {
        EXPECT_TRUE(file->Truncate(random() % 64 * kPage + random() % kPage));
        EXPECT_TRUE(file->Truncate(64 * kPage));
        sched::Yield();
      }
      return;
    }
    std::array<uint64_t, 32> model{};
    uint64_t at = mm->Mmap({.size = 32 * kPage,
                            .prot = PROT_READ | PROT_WRITE,
                            .flags = MAP_PRIVATE | MAP_ANONYMOUS},
                           {})
                      .value();
    for (int step = 0; step < 1500; ++step) {
      const uint64_t page = random() % 32;
      switch (random() % 16) {
        case 0: {
          EXPECT_TRUE(mm->Madvise(at + page * kPage, kPage, MADV_DONTNEED));
          model[page] = 0;
          break;
        }
        case 1:
          ProtectAndBack(*mm, at + page * kPage);
          break;
        case 2:
          MapAndUnmap(*mm);
          break;
        case 3: {
          uint64_t junk = random();
          (void)mm->CopyOut(UserAddr{window + random() % 64 * kPage},
                            std::as_bytes(std::span(&junk, 1)));
          break;
        }
        default:
          model[page] = random();
          Put(*mm, at + page * kPage + 16, model[page], random() % 2 == 0);
      }
      const uint64_t other = random() % 32;
      EXPECT_EQ(Get(*mm, at + other * kPage + 16), model[other]);
      if (random() % 64 == 0) sched::Yield();
    }
    EXPECT_TRUE(mm->Munmap(at, 32 * kPage));
    --working;
  });
}

}  // namespace
}  // namespace skep::mm
