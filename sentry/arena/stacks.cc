#include "sentry/arena/stacks.h"

#include <sys/mman.h>
#include <sys/syscall.h>
#include <algorithm>
#include <cstring>

#include "base/check.h"
#include "base/host_call.h"
#include "base/missing_defs.h"
#include "sentry/arena/layout.h"
#include "sentry/arena/stack_guard.h"

namespace skep::arena {
namespace {

// Linux 6.13; a guard page that splits no mapping. Not in Debian 12's headers.

uintptr_t BottomOf(uint32_t slot) { return kStacksBase + slot * kStackStride + kPageSize; }

// Old values on a stack would lie in the holes of the next fiber's frames, and so get into images.
// A stack has used every page above the lowest one that it used: frames are smaller than a page.
void Clear(std::byte* bottom) {
  constexpr int kUntouched = 2;
  int zero_pages = 0;
  for (std::byte* page = bottom + kStackSize; page > bottom && zero_pages < kUntouched;) {
    page -= kPageSize;
    const auto* words = reinterpret_cast<const uint64_t*>(page);
    if (std::all_of(words, words + kPageSize / sizeof *words, [](uint64_t w) { return w == 0; })) {
      ++zero_pages;
    } else {
      zero_pages = 0;
      memset(page, 0, kPageSize);
    }
  }
}

}  // namespace

Result<void> StackPool::Guard(uint32_t slot) {
  if (Slots()[slot].guarded) return {};
  const uintptr_t guard = BottomOf(slot) - kPageSize;
  if (!host::Call(SYS_madvise, guard, kPageSize, MADV_GUARD_INSTALL)) {
    TRY(host::Mprotect(reinterpret_cast<void*>(guard), kPageSize, PROT_NONE));
  }
  Slots()[slot].guarded = true;
  return {};
}

Result<void> StackPool::GuardUsed() {
  for (uint32_t i = 0; i < slots_; ++i) {
    Slots()[i].guarded = false;
    if (Slots()[i].used) TRY(Guard(i));
  }
  return {};
}

Result<std::byte*> StackPool::Allocate() {
  MutexLock lock(lock_);
  const uint32_t first_free = hot_ != 0 ? hot_ : cold_;
  const uint32_t slot = first_free != 0 ? first_free - 1 : slots_;
  if (slot == kMaxStacks) return Fail(ENOMEM);
  // A host without more mappings or memory to give: the caller has too many fibers.
  if (!Guard(slot)) return Fail(ENOMEM);
  if (first_free == 0) {
    ++slots_;
  } else if (hot_ != 0) {
    hot_ = Slots()[slot].next_free;
    --hot_count_;
  } else {
    cold_ = Slots()[slot].next_free;
  }
  Slots()[slot] = {nullptr, 0, true, true};
  ++used_;
  return reinterpret_cast<std::byte*>(BottomOf(slot));
}

void StackPool::Free(std::byte* bottom) {
  const uintptr_t offset = reinterpret_cast<uintptr_t>(bottom) - kStacksBase;
  const auto slot = static_cast<uint32_t>(offset / kStackStride);
  MutexLock lock(lock_);
  CHECK(slot < slots_ && Slots()[slot].used);
  --used_;
  const bool hot = hot_count_ < kMaxHot;
  if (hot) {
    Clear(bottom);
    ++hot_count_;
  } else {
    // Best effort: the memory stays if the host refuses.
    (void)host::Call(SYS_madvise, BottomOf(slot), kStackSize, MADV_DONTNEED);
  }
  uint32_t& list = hot ? hot_ : cold_;
  Slots()[slot] = {nullptr, list, false, Slots()[slot].guarded};
  list = slot + 1;
}

bool IsStackGuard(const void* address) {
#ifdef SKEP_NO_ARENA
  (void)address;
  return false;
#else
  const auto at = reinterpret_cast<uintptr_t>(address) - kStacksBase;
  return at < kStacksSize && at % kStackStride < kPageSize;
#endif
}

}  // namespace skep::arena
