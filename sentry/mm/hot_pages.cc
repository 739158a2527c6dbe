#include "sentry/mm/hot_pages.h"

namespace skep::mm {

void HotPages::Add(Range addresses) {
  MutexLock lock(mutex_);
  if (pages_.total() + addresses.size() <= kMaxBytes) pages_.Add(addresses);
}

std::vector<Range> HotPages::ForFork() {
  std::vector<Range> runs;
  MutexLock lock(mutex_);
  if (++forks_ % kForksRemembered == 0) pages_.Clear();
  uint64_t bytes = pages_.total();
  for (Range run = pages_.NextFrom(0); !run.empty(); run = pages_.NextFrom(run.end)) {
    const uint64_t gap = runs.empty() ? kMaxBytes : run.start - runs.back().end;
    if (gap <= kMaxGap && bytes + gap <= kMaxBytes) {
      runs.back().end = run.end;
      bytes += gap;
    } else {
      runs.push_back(run);
    }
  }
  return runs;
}

}  // namespace skep::mm
