// VdsoClock: the clock that both the vDSO and the clock system calls read, so that time never runs
// backwards between them.
//
// Parameters (a TSC base and a rate) live in a page that every guest maps. They are refreshed
// whenever a worker serves a call and they are older than kRefreshNs; a guest that finds them
// stale, or a host without an invariant TSC, makes the system call.
#pragma once

#include <cstdint>

#include "base/mutex.h"
#include "base/ref.h"
#include "sentry/loader/vdso.h"
#include "sentry/sched/clock.h"

namespace skep::kernel {

class VdsoClock {
 public:
  VdsoClock(sched::Clock& clock, Ref<loader::VdsoPages> pages);

  uint64_t MonotonicNs();
  uint64_t RealtimeNs();
  void RefreshIfStale();
  // After a restore: the page's old parameters mean nothing.
  void Invalidate();
  loader::VdsoPages& pages() { return *pages_; }

  static constexpr uint64_t kRefreshNs = 20'000'000;
  static constexpr uint64_t kStaleNs = 200'000'000;

 private:
  void RefreshLocked(uint64_t tsc) REQUIRES(mutex_);
  uint64_t At(uint64_t tsc, bool realtime) const;

  sched::Clock& clock_;
  Ref<loader::VdsoPages> pages_;
  Mutex mutex_{LockRank::kLeaf};
  const bool tsc_usable_;
  uint64_t first_tsc_ GUARDED_BY(mutex_) = 0, first_ns_ GUARDED_BY(mutex_) = 0;
  std::atomic<uint64_t> next_refresh_tsc_{0};
};

}  // namespace skep::kernel
