#include <algorithm>
#include <atomic>
#include <cstdio>
#include <cstring>
#include <ctime>
#include <memory>
#include <new>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "sentry/arena/arena.h"
#include "sentry/arena/arena_test_environment.h"
#include "sentry/arena/heap.h"

namespace skep::arena {
namespace {

const ::testing::Environment* const environment =
    ::testing::AddGlobalTestEnvironment(new ArenaTestEnvironment);

#ifndef SKEP_NO_ARENA

TEST(Heap, FlagDecidesWhereFromAndAddressWhereTo) {
  auto* host = new std::string(100, 'h');
  std::string* kernel = nullptr;
  {
    const ArenaHeapScope arena;
    kernel = new std::string(100, 'k');
    {
      const HostHeapScope inner;
      std::string temporary(100, 't');
      EXPECT_FALSE(Contains(temporary.data()));
    }
    EXPECT_TRUE(Contains(kernel));
    EXPECT_TRUE(Contains(kernel->data()));
    delete host;
  }
  EXPECT_FALSE(Contains(host));
  delete kernel;
  auto after = std::make_unique<int>(1);
  EXPECT_FALSE(Contains(after.get()));
}

TEST(Heap, EverySizeAndAlignment) {
  const ArenaHeapScope arena;
  for (size_t align = 1; align <= size_t{1} << 16; align *= 2) {
    for (size_t size :
         {size_t{0}, size_t{1}, size_t{15}, size_t{16}, size_t{17}, size_t{128}, size_t{129},
          size_t{1000}, size_t{4096}, size_t{8192}, size_t{8193}, size_t{100'000}}) {
      std::vector<void*> objects;
      for (int i = 0; i < 20; ++i) {
        void* p = operator new(size, std::align_val_t{align});
        ASSERT_EQ(reinterpret_cast<uintptr_t>(p) % std::max(align, size_t{16}), 0U);
        ASSERT_TRUE(Contains(p));
        memset(p, i, size);
        objects.push_back(p);
      }
      std::sort(objects.begin(), objects.end());
      for (size_t i = 1; i < objects.size(); ++i) {
        ASSERT_GE(static_cast<char*>(objects[i]) - static_cast<char*>(objects[i - 1]),
                  static_cast<ptrdiff_t>(size));
      }
      for (void* p : objects) operator delete(p, std::align_val_t{align});
    }
  }
}

struct Block {
  unsigned char* bytes;
  size_t size;
  unsigned char mark;
};

// A model: each block is filled with its own mark, which must still be there when it is freed.
void RandomUse(unsigned seed, int rounds) {
  const ArenaHeapScope arena;
  std::minstd_rand random(seed);
  std::vector<Block> blocks;
  for (int i = 0; i < rounds; ++i) {
    if (blocks.size() < 500 && random() % 2 == 0) {
      const auto kind = random() % 100;
      const size_t limit = kind < 80 ? 600 : kind < 98 ? 20'000 : 300'000;
      const size_t size = random() % limit;
      auto* bytes = static_cast<unsigned char*>(operator new(size));
      const auto mark = static_cast<unsigned char>(random());
      memset(bytes, mark, size);
      blocks.push_back({bytes, size, mark});
    } else if (!blocks.empty()) {
      std::swap(blocks[random() % blocks.size()], blocks.back());
      const Block block = blocks.back();
      blocks.pop_back();
      for (size_t k = 0; k < block.size; k += std::max<size_t>(1, block.size / 64)) {
        ASSERT_EQ(block.bytes[k], block.mark);
      }
      if (block.size > 0) {
        ASSERT_EQ(block.bytes[block.size - 1], block.mark);
      }
      operator delete(block.bytes);
    }
  }
  for (const Block& block : blocks) operator delete(block.bytes);
}

TEST(Heap, RandomUseAgainstAModel) {
  RandomUse(1, 200'000);
  SetThreadCache(0);
  RandomUse(2, 200'000);
  SetThreadCache(-1);
}

TEST(Heap, EverythingComesBack) {
  RandomUse(3, 20'000);
  const size_t before = CurrentUsage().heap_bytes;
  for (unsigned i = 0; i < 5; ++i) RandomUse(4, 50'000);
  // Each class may keep one empty slab.
  EXPECT_LE(CurrentUsage().heap_bytes, before + kClassCount * 64 * 1024 / 4);
}

TEST(Heap, LargeRunsCoalesce) {
  const ArenaHeapScope arena;
  constexpr size_t kSize = 64 << 20;  // larger than any hole that other tests left
  std::vector<void*> runs;
  for (int i = 0; i < 16; ++i) runs.push_back(operator new(kSize));
  void* fence = operator new(kSize);  // so that they do not fall back to the unused end
  for (int i = 0; i < 16; i += 2) operator delete(runs[static_cast<size_t>(i)]);
  for (int i = 1; i < 16; i += 2) operator delete(runs[static_cast<size_t>(i)]);
  void* all = operator new(16 * kSize);
  EXPECT_LT(all, fence);
  operator delete(all);
  operator delete(fence);
}

TEST(Heap, ThreadsWithAndWithoutCaches) {
  std::atomic<int> next{-1};
  std::vector<std::thread> threads;
  for (int i = 0; i < 8; ++i) {
    threads.emplace_back([&next] {
      const int index = next.fetch_add(1);
      SetThreadCache(index);
      RandomUse(static_cast<unsigned>(10 + index), 100'000);
    });
  }
  for (std::thread& thread : threads) thread.join();
}

TEST(Heap, ObjectsAreFreedByOtherThreads) {
  constexpr size_t kCount = 1000;
  std::vector<std::atomic<std::string*>> mail(kCount);
  std::thread producer([&] {
    SetThreadCache(0);
    const ArenaHeapScope arena;
    for (int round = 0; round < 200; ++round) {
      for (auto& slot : mail) delete slot.exchange(new std::string(40, 'x'));
    }
  });
  std::thread consumer([&] {
    SetThreadCache(1);
    for (int round = 0; round < 200; ++round) {
      for (auto& slot : mail) {
        std::string* s = slot.exchange(nullptr);
        if (s == nullptr) continue;
        ASSERT_EQ(*s, std::string(40, 'x'));
        delete s;  // this thread's own heap is malloc's
      }
    }
  });
  producer.join();
  consumer.join();
  for (auto& slot : mail) delete slot.load();
}

TEST(Stacks, AreApartAlignedAndGuarded) {
  std::byte* a = AllocateStack().value();
  std::byte* b = AllocateStack().value();
  EXPECT_GE(static_cast<size_t>(std::abs(a - b)), kStackSize + 4096);
  EXPECT_EQ(reinterpret_cast<uintptr_t>(a) % 4096, 0U);
  memset(a, 1, kStackSize);
  EXPECT_DEATH(a[-1] = std::byte{1}, "");
  EXPECT_DEATH(a[-4096] = std::byte{1}, "");
  FreeStack(b);
  FreeStack(a);
}

TEST(Stacks, ManyAndAgain) {
  std::vector<std::byte*> stacks;
  for (int round = 0; round < 3; ++round) {
    for (int i = 0; i < 10'000; ++i) {
      std::byte* stack = AllocateStack().value();
      EXPECT_EQ(SavedStackPointer(stack), nullptr);
      stack[kStackSize - 1] = std::byte{1};
      SavedStackPointer(stack) = stack;
      stacks.push_back(stack);
    }
    EXPECT_EQ(CurrentUsage().stack_count, 10'000U);
    std::sort(stacks.begin(), stacks.end());
    EXPECT_EQ(std::unique(stacks.begin(), stacks.end()), stacks.end());
    for (std::byte* stack : stacks) FreeStack(stack);
    stacks.clear();
  }
  EXPECT_EQ(CurrentUsage().stack_count, 0U);
}

uintptr_t reported_where, reported_value;

TEST(Scan, FindsAPlantedHostPointerAndSkipsFreeMemory) {
  EXPECT_EQ(ScanForHostPointers(nullptr), 0U);
  auto* words = static_cast<uintptr_t*>(nullptr);
  {
    const ArenaHeapScope arena;
    words = new uintptr_t[4]();
  }
  void* host = malloc(100);
  words[2] = reinterpret_cast<uintptr_t>(host) + 8;
  EXPECT_EQ(ScanForHostPointers([](uintptr_t where, uintptr_t value) {
              reported_where = where;
              reported_value = value;
              return true;
            }),
            1U);
  EXPECT_EQ(reported_where, reinterpret_cast<uintptr_t>(&words[2]));
  EXPECT_EQ(reported_value, words[2]);
  words[2] = reinterpret_cast<uintptr_t>(&words);  // this thread's stack
  EXPECT_EQ(ScanForHostPointers(nullptr), 1U);
  words[2] = reinterpret_cast<uintptr_t>(&reported_where);  // the binary: the same after a restore
  EXPECT_EQ(ScanForHostPointers(nullptr), 0U);
  words[2] = reinterpret_cast<uintptr_t>(host);
  delete[] words;
  EXPECT_EQ(ScanForHostPointers(nullptr), 0U);
  free(host);
}
#endif  // SKEP_NO_ARENA

}  // namespace
}  // namespace skep::arena
