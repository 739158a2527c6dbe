// What uname, sysinfo and /proc say of the machine.
#pragma once

#include <cstdint>
#include <string_view>

namespace skep::kernel {

class Kernel;

// The Linux whose interfaces we follow.
inline constexpr std::string_view kRelease = "6.1.0-skep";
inline constexpr std::string_view kVersion = "#1 SMP skep";

struct MemoryTotals {
  uint64_t total = 0, free = 0, available = 0;  // bytes
};
// The sandbox's memory limit if there is one, else the host's total.
MemoryTotals TotalsOf(Kernel& kernel);
uint64_t UptimeNs(Kernel& kernel);

}  // namespace skep::kernel
