// CPU clocks as clockid_t names them (Linux: MAKE_PROCESS_CPUCLOCK and CLOCK_*_CPUTIME_ID).
#pragma once

#include <ctime>
#include <optional>

namespace skep::kernel {

// Of a thread or of a process; its user time only, or all.
struct CpuClock {
  int id = 0;  // 0: the caller's
  bool thread = false;
  bool user_only = false;
};
// nullopt: it is no CPU clock.
std::optional<CpuClock> CpuClockOf(clockid_t clock);

}  // namespace skep::kernel
