#include "runtime/limits.h"

#include <fmt/format.h>
#include <linux/capability.h>
#include <sys/resource.h>
#include <sys/syscall.h>

#include "base/host_call.h"
#include "runtime/caller.h"

namespace skep::runtime {
namespace {

struct Limit {
  int resource;
  const char* option;  // of ulimit
  const char* what;
  const char* why;
};
// The windows in which the sentry sees guest memory are reserved, not used; so is the file's size.
constexpr Limit kLimits[] = {
    {RLIMIT_FSIZE, "-f", "the size of files", "the memory of its guests is one sparse file"},
    {RLIMIT_AS, "-v", "the address space", "it reserves room for the memory of its guests"},
    {RLIMIT_DATA, "-d", "the data segment", "it reserves room for the objects of its kernel"},
};
constexpr rlim_t kEnough = rlim_t{1} << 47;

}  // namespace

void LiftLimits(pid_t child) {
  const rlimit none = {RLIM_INFINITY, RLIM_INFINITY};
  for (const int resource : {RLIMIT_FSIZE, RLIMIT_AS, RLIMIT_DATA, RLIMIT_CPU, RLIMIT_NPROC}) {
    (void)host::Call(SYS_prlimit64, child, resource, &none, nullptr);
  }
}

HostResult<void> CheckLimits() {
  for (const Limit& limit : kLimits) {
    rlimit now{};
    if (!host::Call(SYS_prlimit64, 0, limit.resource, nullptr, &now)) continue;
    if (now.rlim_max >= kEnough) continue;
    if (HasCapability(CAP_SYS_RESOURCE)) return {};  // LiftLimits will do it
    return HostFail(
        fmt::format("the hard limit on {} (ulimit {}) is {} bytes, too little for a sandbox: {}. "
                    "Start it where "
                    "`ulimit -H {}` is unlimited",
                    limit.what, limit.option, now.rlim_max, limit.why, limit.option));
  }
  return {};
}

}  // namespace skep::runtime
