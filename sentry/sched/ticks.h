// Ticks of the processor's time-stamp counter: the cheapest measure of how long something took.
// They mean nothing in another process: who keeps a sum over a checkpoint converts it before.
#pragma once

#include <x86intrin.h>
#include <cstdint>

namespace skep::sched {

inline uint64_t TicksNow() { return __rdtsc(); }

// At the mean rate since Scheduler::Start. Without a started scheduler: 0.
uint64_t TicksToNs(uint64_t ticks);

}  // namespace skep::sched
