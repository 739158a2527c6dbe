#include "sentry/kernel/vdso_clock.h"

#include <cpuid.h>
#include <x86intrin.h>
#include <algorithm>

#include "sentry/loader/vdso/page.h"

namespace skep::kernel {
namespace {

bool HasInvariantTsc() {
  unsigned a = 0, b = 0, c = 0, d = 0;
  return __get_cpuid(0x80000007, &a, &b, &c, &d) != 0 && (d >> 8 & 1) != 0;
}

uint64_t Tsc() {
  _mm_lfence();
  return __rdtsc();
}

uint64_t Scale(uint64_t ticks, uint64_t mult) {
  __extension__ using Wide = unsigned __int128;
  return static_cast<uint64_t>(static_cast<Wide>(ticks) * mult >> 32);
}

}  // namespace

VdsoClock::VdsoClock(sched::Clock& clock, Ref<loader::VdsoPages> pages)
    : clock_(clock), pages_(std::move(pages)), tsc_usable_(HasInvariantTsc()) {
  MutexLock lock(mutex_);
  first_tsc_ = Tsc();
  first_ns_ = clock_.MonotonicNs();
}

uint64_t VdsoClock::At(uint64_t tsc, bool realtime) const {
  const skep_vdso_page& page = pages_->page();
  const uint64_t base = realtime ? page.realtime_ns : page.monotonic_ns;
  return base + Scale(tsc - page.base_tsc, page.mult);
}

// The new line starts where the old one stood or where the host's clock stands, whichever is later,
// and its rate is the mean since boot, which only gets more exact.
void VdsoClock::RefreshLocked(uint64_t) {
  const uint64_t tsc = Tsc();
  const uint64_t host = clock_.MonotonicNs();
  const uint64_t real = clock_.RealtimeNs();
  const uint64_t elapsed_ticks = tsc - first_tsc_;
  const uint64_t elapsed_ns = host - first_ns_;
  if (elapsed_ns < 1'000'000 || elapsed_ticks == 0) return;
  __extension__ using Wide = unsigned __int128;
  const uint64_t mult =
      static_cast<uint64_t>((static_cast<Wide>(elapsed_ns) << 32) / elapsed_ticks);
  skep_vdso_page& page = pages_->page();
  uint64_t monotonic = host, realtime = real;
  if (page.usable != 0) {
    monotonic = std::max(host, At(tsc, false));
    // The wall clock may be set back on the host; only jitter is smoothed.
    const uint64_t predicted = At(tsc, true);
    if (predicted > real && predicted - real < 1'000'000) realtime = predicted;
  }
  const uint32_t seq = page.seq;
  __atomic_store_n(&page.seq, seq | 1, __ATOMIC_RELAXED);
  __atomic_thread_fence(__ATOMIC_SEQ_CST);
  page.base_tsc = tsc;
  page.mult = mult;
  page.monotonic_ns = monotonic;
  page.realtime_ns = realtime;
  page.max_ticks = static_cast<uint64_t>((static_cast<Wide>(kStaleNs) << 32) / mult);
  page.usable = tsc_usable_ ? 1 : 0;
  __atomic_store_n(&page.seq, (seq | 1) + 1, __ATOMIC_RELEASE);
  next_refresh_tsc_ = tsc + static_cast<uint64_t>((static_cast<Wide>(kRefreshNs) << 32) / mult);
}

void VdsoClock::RefreshIfStale() {
  if (!tsc_usable_) return;
  const uint64_t tsc = __rdtsc();
  if (tsc < next_refresh_tsc_.load(std::memory_order_relaxed)) return;
  MutexLock lock(mutex_);
  if (tsc < next_refresh_tsc_.load(std::memory_order_relaxed)) return;
  RefreshLocked(tsc);
}

void VdsoClock::Invalidate() {
  MutexLock lock(mutex_);
  skep_vdso_page& page = pages_->page();
  page.usable = 0;
  // A guest that was stopped amid its read of the page reads again.
  __atomic_store_n(&page.seq, (page.seq | 1) + 1, __ATOMIC_RELEASE);
  first_tsc_ = Tsc();
  first_ns_ = clock_.MonotonicNs();
  next_refresh_tsc_ = 0;
}

uint64_t VdsoClock::MonotonicNs() {
  RefreshIfStale();
  MutexLock lock(mutex_);
  if (pages_->page().usable == 0) return clock_.MonotonicNs();
  return At(Tsc(), false);
}

uint64_t VdsoClock::RealtimeNs() {
  RefreshIfStale();
  MutexLock lock(mutex_);
  if (pages_->page().usable == 0) return clock_.RealtimeNs();
  return At(Tsc(), true);
}

}  // namespace skep::kernel
