#include "sentry/arena/stacks.h"

#include <sys/mman.h>
#include <sys/syscall.h>

#include "base/check.h"
#include "base/host_call.h"
#include "sentry/arena/layout.h"

namespace skep::arena {
namespace {

// Linux 6.13; a guard page that splits no mapping. Not in Debian 12's headers.
constexpr uint64_t kMadvGuardInstall = 102;

uintptr_t BottomOf(uint32_t slot) { return kStacksBase + slot * kStackStride + kPageSize; }

}  // namespace

Result<void> StackPool::Guard(uint32_t slot) {
  const uintptr_t guard = BottomOf(slot) - kPageSize;
  if (host::Call(SYS_madvise, guard, kPageSize, kMadvGuardInstall)) return {};
  return host::Mprotect(reinterpret_cast<void*>(guard), kPageSize, PROT_NONE);
}

Result<void> StackPool::GuardAll() {
  for (uint32_t i = 0; i < slots_; ++i) TRY(Guard(i));
  return {};
}

Result<std::byte*> StackPool::Allocate() {
  MutexLock lock(lock_);
  uint32_t slot = slots_;
  if (hot_ != 0 || cold_ != 0) {
    uint32_t& list = hot_ != 0 ? hot_ : cold_;
    if (hot_ != 0) --hot_count_;
    slot = list - 1;
    list = Slots()[slot].next_free;
  } else {
    if (slots_ == kMaxStacks) return Fail(ENOMEM);
    // A host without more mappings or memory to give: the caller has too many fibers.
    if (!Guard(slot)) return Fail(ENOMEM);
    ++slots_;
  }
  Slots()[slot] = {nullptr, 0, true};
  ++used_;
  return reinterpret_cast<std::byte*>(BottomOf(slot));
}

void StackPool::Free(std::byte* bottom) {
  const uintptr_t offset = reinterpret_cast<uintptr_t>(bottom) - kStacksBase;
  const auto slot = static_cast<uint32_t>(offset / kStackStride);
  MutexLock lock(lock_);
  CHECK(slot < slots_ && Slots()[slot].used);
  --used_;
  bool hot = hot_count_ < kMaxHot;
  if (!hot) {
    // Best effort: the memory stays if the host refuses.
    (void)host::Call(SYS_madvise, BottomOf(slot), kStackSize, MADV_DONTNEED);
  }
  uint32_t& list = hot ? hot_ : cold_;
  if (hot) ++hot_count_;
  Slots()[slot] = {nullptr, list, false};
  list = slot + 1;
}

}  // namespace skep::arena
