// What lies where in the arena's heap region: a header, the table of page runs, the table of stack
// slots, then the pages that are handed out. All of it is plain bytes at fixed addresses.
#pragma once

#include <cstdint>

#include "base/limits.h"
#include "sentry/arena/arena.h"
#include "sentry/arena/heap.h"
#include "sentry/arena/stacks.h"

namespace skep::arena {

struct Header {
  void* root = nullptr;
  uint64_t canary = 0;
  uint64_t generation = 0;
  PageHeap heap;
  StackPool stacks;
};

inline constexpr uint64_t kMiB = 1 << 20;
inline constexpr uintptr_t kRunsBase = kBase + kMiB;               // Run[kHeapPages]
inline constexpr uintptr_t kSlotsBase = kBase + 1024 * kMiB;       // StackSlot[kMaxStacks]
inline constexpr uint32_t kFirstPage = (2048 * kMiB) / kPageSize;  // the first page handed out
inline constexpr uint32_t kHeapPages = kHeapSize / kPageSize;

inline constexpr size_t kStackStride = kStackSize + kPageSize;  // a guard page below each stack
inline constexpr size_t kStacksSize = kMaxStacks * kStackStride;

static_assert(sizeof(Header) <= kMiB);
static_assert(kRunsBase + kHeapPages * sizeof(Run) <= kSlotsBase);
static_assert(kMaxStacks * sizeof(StackSlot) <= 1024 * kMiB);
static_assert(kStacksBase + kStacksSize <= kWorkersBase);

// SAFETY: these regions are mapped by Create or Attach for the life of the process; all callers run
// after one of them, which is what Exists() says.
inline Header& TheHeader() { return *reinterpret_cast<Header*>(kBase); }
inline Run* Runs() { return reinterpret_cast<Run*>(kRunsBase); }
inline StackSlot* Slots() { return reinterpret_cast<StackSlot*>(kSlotsBase); }
inline uintptr_t PageAddress(uint32_t page) { return kBase + uint64_t{page} * kPageSize; }

bool Exists();

}  // namespace skep::arena
