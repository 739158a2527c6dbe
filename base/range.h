// Address arithmetic that cannot overflow, and page rounding.
#pragma once

#include <cstdint>

#include "base/limits.h"
#include "base/result.h"

namespace skep {

constexpr uint64_t PageFloor(uint64_t x) { return x & ~uint64_t{kPageSize - 1}; }
constexpr bool IsPageAligned(uint64_t x) { return (x & (kPageSize - 1)) == 0; }
// The next page boundary; wraps to 0 at the top, which callers must judge.
constexpr uint64_t PageCeil(uint64_t x) { return PageFloor(x + kPageSize - 1); }

// [start, end) of addresses or offsets; end >= start.
struct Range {
  uint64_t start = 0;
  uint64_t end = 0;

  static constexpr Result<Range> Make(uint64_t start, uint64_t size) {
    uint64_t end = 0;
    if (__builtin_add_overflow(start, size, &end)) return Fail(EINVAL);
    return Range{start, end};
  }
  constexpr uint64_t size() const { return end - start; }
  constexpr bool empty() const { return start == end; }
  constexpr bool Contains(uint64_t x) const { return start <= x && x < end; }
  constexpr bool Contains(Range r) const { return start <= r.start && r.end <= end; }
  constexpr bool Overlaps(Range r) const { return start < r.end && r.start < end; }
  constexpr Range Intersect(Range r) const {
    const uint64_t s = start > r.start ? start : r.start;
    const uint64_t e = end < r.end ? end : r.end;
    return {s, e < s ? s : e};
  }
  friend constexpr bool operator==(Range, Range) = default;
};

}  // namespace skep
