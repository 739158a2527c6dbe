// Time in the sandbox: virtual clocks that continue from a checkpoint.
#pragma once

#include <cstdint>

namespace skep::sched {

// Host clocks plus offsets; plain words in the arena (a member of Scheduler).
class Clock {
 public:
  uint64_t MonotonicNs() const;  // CLOCK_MONOTONIC and CLOCK_BOOTTIME of the guest
  uint64_t RealtimeNs() const;   // CLOCK_REALTIME
  // Guest monotonic -> host CLOCK_MONOTONIC, for Engine::Wait.
  uint64_t ToHost(uint64_t monotonic_ns) const;
  // After a restore: monotonic time continues from where it stood.
  void ContinueFrom(uint64_t monotonic_ns);
  int64_t monotonic_offset_ns() const { return monotonic_offset_; }

 private:
  int64_t monotonic_offset_ = 0;  // guest = host + offset
};

}  // namespace skep::sched
