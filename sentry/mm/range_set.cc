#include "sentry/mm/range_set.h"

#include <algorithm>
#include <iterator>

namespace skep::mm {

uint64_t RangeSet::Add(Range range) {
  if (range.empty()) return 0;
  const uint64_t before = total_;
  Range merged = range;
  auto it = ranges_.upper_bound(range.start);
  if (it != ranges_.begin() && std::prev(it)->second >= range.start) --it;
  while (it != ranges_.end() && it->first <= merged.end) {
    merged = {std::min(merged.start, it->first), std::max(merged.end, it->second)};
    total_ -= it->second - it->first;
    it = ranges_.erase(it);
  }
  ranges_.emplace_hint(it, merged.start, merged.end);
  total_ += merged.size();
  return total_ - before;
}

uint64_t RangeSet::Remove(Range range) {
  if (range.empty()) return 0;
  const uint64_t before = total_;
  auto it = ranges_.upper_bound(range.start);
  if (it != ranges_.begin() && std::prev(it)->second > range.start) --it;
  while (it != ranges_.end() && it->first < range.end) {
    const Range old{it->first, it->second};
    total_ -= old.Intersect(range).size();
    it = ranges_.erase(it);
    if (old.start < range.start) ranges_.emplace(old.start, range.start);
    if (old.end > range.end) it = ranges_.emplace(range.end, old.end).first;
  }
  return before - total_;
}

bool RangeSet::Contains(uint64_t x) const { return NextFrom(x).Contains(x); }

uint64_t RangeSet::CountIn(Range range) const {
  uint64_t count = 0;
  for (Range next = NextFrom(range.start); !next.empty() && next.start < range.end;
       next = NextFrom(next.end)) {
    count += next.Intersect(range).size();
  }
  return count;
}

Range RangeSet::NextFrom(uint64_t x) const {
  auto it = ranges_.upper_bound(x);
  if (it != ranges_.begin() && std::prev(it)->second > x) --it;
  if (it == ranges_.end()) return {};
  return {std::max(x, it->first), it->second};
}

void RangeSet::Clear() {
  ranges_.clear();
  total_ = 0;
}

}  // namespace skep::mm
