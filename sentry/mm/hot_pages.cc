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
  for (Range run = pages_.NextFrom(0); !run.empty(); run = pages_.NextFrom(run.end)) {
    if (!runs.empty() && run.start - runs.back().end <= kMaxGap) {
      runs.back().end = run.end;
    } else {
      runs.push_back(run);
    }
  }
  return runs;
}

}  // namespace skep::mm
