#include "sentry/sched/clock.h"

#include "base/host_call.h"

namespace skep::sched {

uint64_t Clock::MonotonicNs() const {
  return host::MonotonicNs() + static_cast<uint64_t>(monotonic_offset_);
}

uint64_t Clock::RealtimeNs() const { return host::RealtimeNs(); }

uint64_t Clock::ToHost(uint64_t monotonic_ns) const {
  // A sandbox that was moved to a host with a younger clock has times that lie before its start.
  if (monotonic_offset_ > 0 && monotonic_ns < static_cast<uint64_t>(monotonic_offset_)) return 0;
  return monotonic_ns - static_cast<uint64_t>(monotonic_offset_);
}

void Clock::ContinueFrom(uint64_t monotonic_ns) {
  monotonic_offset_ = static_cast<int64_t>(monotonic_ns - host::MonotonicNs());
}

}  // namespace skep::sched
