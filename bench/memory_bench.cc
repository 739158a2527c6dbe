#include <benchmark/benchmark.h>
#include <sys/mman.h>

#include "bench/host.h"

namespace skep::bench {
namespace {

constexpr size_t kPage = 4096;

// Maps fresh anonymous memory, writes to each of its pages, and unmaps it. No huge pages, so that
// every system is measured by the same number of faults.
void MmapTouch(benchmark::State& state) {
  const auto size = static_cast<size_t>(state.range(0));
  for (auto _ : state) {
    void* start = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (start == MAP_FAILED) Must(-1, "mmap");
    madvise(start, size, MADV_NOHUGEPAGE);
    for (size_t at = 0; at < size; at += kPage) static_cast<volatile char*>(start)[at] = 1;
    Must(munmap(start, size), "munmap");
  }
}
BENCHMARK(MmapTouch)->Arg(64 << 10)->Arg(64 << 20);

}  // namespace
}  // namespace skep::bench

BENCHMARK_MAIN();
