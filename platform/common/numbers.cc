#include "platform/common/numbers.h"

namespace skep::platform {

Result<uint32_t> Numbers::Take() {
  for (uint32_t i = 0; i < used_.size(); ++i) {
    if (~used_[i] == 0) continue;
    const auto bit = static_cast<uint32_t>(__builtin_ctzll(~used_[i]));
    used_[i] |= uint64_t{1} << bit;
    return i * 64 + bit;
  }
  return Fail(ENOMEM);
}

}  // namespace skep::platform
