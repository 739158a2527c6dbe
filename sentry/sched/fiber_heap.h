// How much of the kernel's heap fibers have taken: for whoever must choose a process to end.
#pragma once

#include <cstdint>

#include "sentry/sched/fiber.h"

namespace skep::sched {

// Bytes of the arena's heap that were taken while the fiber ran, less those that were given back
// then. By whole pages, and with two workers either's may be taken for the other's: right for large
// amounts only. Any thread.
int64_t HeapBytesOf(Fiber& fiber);

}  // namespace skep::sched
