/* Code that runs in every guest: clocks without a system call (man 7 vdso). Freestanding. */
#include "sentry/loader/vdso/page.h"

typedef long time_type;
struct timespec_type { time_type sec; long nsec; };
struct timeval_type { time_type sec; long usec; };

extern const volatile struct skep_vdso_page skep_vdso_page __attribute__((visibility("hidden")));

enum { kRealtime = 0, kMonotonic = 1, kMonotonicRaw = 4, kRealtimeCoarse = 5, kMonotonicCoarse = 6,
       kBoottime = 7 };
enum { kNrGettimeofday = 96, kNrTime = 201, kNrClockGettime = 228, kNrClockGetres = 229,
       kNrGetcpu = 309 };

static long Call(long number, long a, long b, long c) {
  long result;
  __asm__ volatile("syscall"
                   : "=a"(result)
                   : "a"(number), "D"(a), "S"(b), "d"(c)
                   : "rcx", "r11", "memory");
  return result;
}

static uint64_t ReadTsc(void) {
  uint32_t low, high;
  __asm__ volatile("lfence; rdtsc" : "=a"(low), "=d"(high)::"memory");
  return (uint64_t)high << 32 | low;
}

/* 1: *ns is the time; 0: the page is stale. */
static int Now(int realtime, uint64_t* ns) {
  const volatile struct skep_vdso_page* page = &skep_vdso_page;
  for (int tries = 0; tries < 100; ++tries) {
    const uint32_t seq = __atomic_load_n(&page->seq, __ATOMIC_ACQUIRE);
    if ((seq & 1) != 0) continue;
    if (page->usable == 0) return 0;
    const uint64_t ticks = ReadTsc() - page->base_tsc;
    const uint64_t base = realtime ? page->realtime_ns : page->monotonic_ns;
    const uint64_t mult = page->mult;
    const uint64_t most = page->max_ticks;
    __atomic_thread_fence(__ATOMIC_ACQUIRE);
    if (__atomic_load_n(&page->seq, __ATOMIC_RELAXED) != seq) continue;
    if (ticks > most) return 0;
    *ns = base + (uint64_t)((unsigned __int128)ticks * mult >> 32);
    return 1;
  }
  return 0;
}

int __vdso_clock_gettime(int clock, struct timespec_type* out) {
  uint64_t ns;
  int realtime;
  switch (clock) {
    case kRealtime:
    case kRealtimeCoarse:
      realtime = 1;
      break;
    case kMonotonic:
    case kMonotonicRaw:
    case kMonotonicCoarse:
    case kBoottime:
      realtime = 0;
      break;
    default:
      return (int)Call(kNrClockGettime, clock, (long)out, 0);
  }
  if (!Now(realtime, &ns)) return (int)Call(kNrClockGettime, clock, (long)out, 0);
  out->sec = (time_type)(ns / 1000000000u);
  out->nsec = (long)(ns % 1000000000u);
  return 0;
}

int __vdso_gettimeofday(struct timeval_type* out, void* zone) {
  uint64_t ns;
  if (zone != 0 || out == 0 || !Now(1, &ns)) return (int)Call(kNrGettimeofday, (long)out, (long)zone, 0);
  out->sec = (time_type)(ns / 1000000000u);
  out->usec = (long)(ns % 1000000000u / 1000u);
  return 0;
}

time_type __vdso_time(time_type* out) {
  uint64_t ns;
  if (!Now(1, &ns)) return Call(kNrTime, (long)out, 0, 0);
  const time_type now = (time_type)(ns / 1000000000u);
  if (out != 0) *out = now;
  return now;
}

int __vdso_clock_getres(int clock, struct timespec_type* out) {
  return (int)Call(kNrClockGetres, clock, (long)out, 0);
}

long __vdso_getcpu(unsigned* cpu, unsigned* node, void* unused) {
  return Call(kNrGetcpu, (long)cpu, (long)node, (long)unused);
}

int clock_gettime(int, struct timespec_type*) __attribute__((weak, alias("__vdso_clock_gettime")));
int gettimeofday(struct timeval_type*, void*) __attribute__((weak, alias("__vdso_gettimeofday")));
time_type time(time_type*) __attribute__((weak, alias("__vdso_time")));
int clock_getres(int, struct timespec_type*) __attribute__((weak, alias("__vdso_clock_getres")));
long getcpu(unsigned*, unsigned*, void*) __attribute__((weak, alias("__vdso_getcpu")));
