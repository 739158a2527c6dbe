#include "sentry/mm/extent_allocator.h"

#include <iterator>

#include "base/check.h"

namespace skep::mm {

ExtentAllocator::ExtentAllocator(uint64_t size) { Insert({0, size}); }

Result<Range> ExtentAllocator::Allocate(uint64_t size, uint64_t alignment, uint64_t phase) {
  if (size == 0) return Fail(EINVAL);
  // The smallest ranges that could do are tried first; one that has room for any alignment ends it.
  constexpr int kTries = 8;
  int tries = 0;
  for (auto it = by_size_.lower_bound({size, 0}); it != by_size_.end();) {
    const Range free{it->second, it->second + it->first};
    // The first at or after free.start; one alignment more on the way, so that nothing is negative.
    const uint64_t start =
        ((free.start + 2 * alignment - 1 - phase) & ~(alignment - 1)) - alignment + phase;
    if (start <= free.end && free.end - start >= size) {
      const Range taken{start, start + size};
      Erase(free);
      Insert({free.start, taken.start});
      Insert({taken.end, free.end});
      return taken;
    }
    if (++tries == kTries) {
      it = by_size_.lower_bound({size + alignment, 0});
    } else {
      ++it;
    }
  }
  return Fail(ENOMEM);
}

void ExtentAllocator::Free(Range range) {
  auto next = by_start_.lower_bound(range.start);
  CHECK(next == by_start_.end() || next->first >= range.end);
  Range merged = range;
  if (next != by_start_.end() && next->first == range.end) merged.end = next->second;
  if (next != by_start_.begin()) {
    const auto previous = std::prev(next);
    CHECK(previous->second <= range.start);
    if (previous->second == range.start) {
      merged.start = previous->first;
      Erase({previous->first, previous->second});
    }
  }
  if (merged.end != range.end) Erase({range.end, merged.end});
  Insert(merged);
}

void ExtentAllocator::Insert(Range range) {
  if (range.empty()) return;
  by_start_.emplace(range.start, range.end);
  by_size_.emplace(range.size(), range.start);
  free_bytes_ += range.size();
}

void ExtentAllocator::Erase(Range range) {
  by_start_.erase(range.start);
  by_size_.erase({range.size(), range.start});
  free_bytes_ -= range.size();
}

}  // namespace skep::mm
