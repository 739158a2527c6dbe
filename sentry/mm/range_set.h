// RangeSet: a set of integers kept as disjoint, coalesced ranges.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>

#include "base/range.h"

namespace skep::mm {

class RangeSet {
 public:
  // Returns how many integers were added or removed.
  uint64_t Add(Range range);
  uint64_t Remove(Range range);
  bool Contains(uint64_t x) const;
  uint64_t CountIn(Range range) const;  // how many of `range` are in the set
  uint64_t total() const { return total_; }
  bool empty() const { return ranges_.empty(); }
  size_t runs() const { return ranges_.size(); }
  // The first range of the set that ends after x, cut to start at x; empty if there is none.
  Range NextFrom(uint64_t x) const;
  void Clear();

 private:
  std::map<uint64_t, uint64_t> ranges_;  // start -> end
  uint64_t total_ = 0;
};

}  // namespace skep::mm
