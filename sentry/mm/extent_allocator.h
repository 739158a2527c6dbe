// ExtentAllocator: which offsets of a memory file are taken. Best fit, coalescing; nothing but
// numbers.
#pragma once

#include <cstdint>
#include <map>
#include <set>
#include <utility>

#include "base/range.h"
#include "base/result.h"

namespace skep::mm {

class ExtentAllocator {
 public:
  explicit ExtentAllocator(uint64_t size);

  // A range that starts at `phase` modulo `alignment`, a power of two; all three are multiples of
  // the page size. ENOMEM if nothing fits.
  Result<Range> Allocate(uint64_t size, uint64_t alignment, uint64_t phase = 0);
  void Free(Range range);
  uint64_t free_bytes() const { return free_bytes_; }
  size_t free_range_count() const { return by_start_.size(); }

 private:
  void Insert(Range range);
  void Erase(Range range);

  std::map<uint64_t, uint64_t> by_start_;            // start -> end
  std::set<std::pair<uint64_t, uint64_t>> by_size_;  // (size, start)
  uint64_t free_bytes_ = 0;
};

}  // namespace skep::mm
