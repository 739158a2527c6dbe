// Numbers of slots in a memory file that stubs share.
#pragma once

#include <cstdint>
#include <vector>

#include "base/result.h"

namespace skep::platform {

// Numbers that are taken and given back; the lowest free one first.
class Numbers {
 public:
  explicit Numbers(uint32_t count) : used_((count + 63) / 64) {}
  Result<uint32_t> Take();  // ENOMEM: all are taken
  void Free(uint32_t number) { used_[number / 64] &= ~(uint64_t{1} << (number % 64)); }

 private:
  std::vector<uint64_t> used_;  // a bit each
};

}  // namespace skep::platform
