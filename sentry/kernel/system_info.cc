#include "sentry/kernel/system_info.h"

#include <sys/syscall.h>
#include <sys/sysinfo.h>
#include <algorithm>

#include "base/host_call.h"
#include "sentry/kernel/kernel.h"

namespace skep::kernel {

MemoryTotals TotalsOf(Kernel& kernel) {
  MemoryTotals totals;
  struct sysinfo host{};
  if (host::Call(SYS_sysinfo, &host)) {
    totals.total = host.totalram * host.mem_unit;
    totals.free = host.freeram * host.mem_unit;
  }
  const uint64_t used = kernel.memory->limit().Used();
  if (kernel.config.memory_limit != 0 && kernel.config.memory_limit < totals.total) {
    totals.total = kernel.config.memory_limit;
    totals.free = totals.total - std::min(used, totals.total);
  } else {
    totals.free = std::min(totals.free, totals.total - std::min(used, totals.total));
  }
  totals.available = totals.free;
  return totals;
}

uint64_t UptimeNs(Kernel& kernel) {
  return kernel.scheduler.clock().MonotonicNs() - kernel.boot_monotonic_ns();
}

}  // namespace skep::kernel
