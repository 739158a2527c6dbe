// Exceptions of x86-64, as a FaultStop names them.
#pragma once

#include <cstdint>

namespace skep::platform {

// Linux: arch/x86/include/asm/trapnr.h.
enum Vector : uint32_t {
  kDivideVector = 0,
  kDebugVector = 1,
  kBreakpointVector = 3,
  kInvalidOpcodeVector = 6,
  kStackSegmentVector = 12,
  kGeneralProtectionVector = 13,
  kPageFaultVector = 14,
  kAlignmentVector = 17,
  kSimdVector = 19,
};

// The error code of a page fault (Linux: enum x86_pf_error_code).
inline constexpr uint32_t kFaultPresent = 1, kFaultWrite = 2, kFaultUser = 4, kFaultFetch = 16;

}  // namespace skep::platform
