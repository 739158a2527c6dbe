// HotPages: which pages a family of processes writes to right after a fork.
//
// A write to a page that a fork shares costs a fault, which costs what copying some thirty pages
// does. So what faulted after one fork is copied by the next one (MemoryManager::Fork). Shared by
// a process and its children until they execve; what is no longer true is forgotten after
// kForksRemembered forks.
#pragma once

#include <vector>

#include "base/mutex.h"
#include "base/range.h"
#include "base/ref.h"
#include "sentry/mm/range_set.h"
#include "sentry/mm/vma.h"

namespace skep::mm {

class HotPages final : public RefCounted<HotPages> {
 public:
  static constexpr uint64_t kMaxBytes = 512 << 10;
  static constexpr int kForksRemembered = 64;
  // Pages between two hot ones that are copied with them: a mapping of its own costs more.
  static constexpr uint64_t kMaxGap = 8 * kPageSize;

  void Add(Range addresses);
  // Where a fork should copy at once, in order; whole pages, kMaxBytes at most.
  std::vector<Range> ForFork();

 private:
  Mutex mutex_{LockRank::kHotPages};
  RangeSet pages_ GUARDED_BY(mutex_);
  int forks_ GUARDED_BY(mutex_) = 0;
};

}  // namespace skep::mm
