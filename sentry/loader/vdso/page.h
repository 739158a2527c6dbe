/* The page of clock parameters that the sentry writes and every guest reads, just below its vDSO.
 * A seqlock: odd while it is written. C and C++. */
#pragma once

#include <stdint.h>

struct skep_vdso_page {
  uint32_t seq;
  uint32_t usable; /* 0: no invariant TSC, make the system call */
  uint64_t base_tsc;
  uint64_t max_ticks;    /* older than this many ticks: stale, make the system call */
  uint64_t mult;         /* ns = base + (ticks * mult >> 32) */
  uint64_t monotonic_ns; /* at base_tsc */
  uint64_t realtime_ns;  /* at base_tsc */
};
