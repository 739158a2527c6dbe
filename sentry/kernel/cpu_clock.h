// CPU clocks as clockid_t names them (Linux: MAKE_PROCESS_CPUCLOCK and CLOCK_*_CPUTIME_ID).
#pragma once

#include <ctime>
#include <optional>

namespace skep::kernel {

// The CPU clock of a thread or of a process: its user time, or user and system time.
struct CpuClock {
  int id = 0;  // 0: the caller's
  bool thread = false;
  bool user_only = false;
};
// nullopt: it is no CPU clock.
std::optional<CpuClock> CpuClockOf(clockid_t clock);

}  // namespace skep::kernel
