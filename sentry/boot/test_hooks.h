// What a sentry does for tests of those who start it.
#pragma once

#include <string>

#include "sentry/kernel/kernel.h"

namespace skep::boot {

// Does on a fiber what a bug of ours would do: "check" (a CHECK fails), "stack" (the fiber's stack
// is full), "fault" (nothing is mapped there), "jail" (a host call that the filter forbids),
// "abort".
void CrashForTest(kernel::Kernel& kernel, const std::string& how);

}  // namespace skep::boot
