// Fiber stacks: slots of a fixed-address region, each with a guard page below it.
#pragma once

#include <cstddef>
#include <cstdint>

#include "base/mutex.h"
#include "base/result.h"

namespace skep::arena {

struct StackSlot {
  void* saved_sp;      // SavedStackPointer()
  uint32_t next_free;  // slot number + 1; 0: none
  bool used;
  bool guarded;  // by this process
};

class StackPool {
 public:
  Result<std::byte*> Allocate();
  void Free(std::byte* bottom);

  uint32_t slots() const { return slots_; }  // numbers below were used at some time
  size_t used() const { return used_; }
  // After Attach: the host's guard pages are made anew, those of free slots when they are used.
  Result<void> GuardUsed();

 private:
  static constexpr uint32_t kMaxHot = 32;
  static Result<void> Guard(uint32_t slot);

  Mutex lock_{LockRank::kLeaf};
  uint32_t slots_ = 0;
  // Slot numbers + 1. Hot stacks have memory behind them; cold ones have given it back.
  uint32_t hot_ GUARDED_BY(lock_) = 0;
  uint32_t cold_ GUARDED_BY(lock_) = 0;
  uint32_t hot_count_ GUARDED_BY(lock_) = 0;
  size_t used_ = 0;
};

}  // namespace skep::arena
