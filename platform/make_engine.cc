#include <sys/syscall.h>

#include "platform/notify/factory.h"
#include "platform/platform.h"
#include "platform/ptrace/factory.h"

namespace skep::platform {

HostResult<std::unique_ptr<Engine>> MakeEngine(EngineKind kind, const EngineOptions& options) {
  if (kind == EngineKind::kPtrace) return ptrace::Make(options);
  if (kind == EngineKind::kNotify) return notify::Make(options);
  return HostFail("not part of this build");
}

std::optional<std::string> WhyUnavailable(EngineKind kind) {
  switch (kind) {
    case EngineKind::kPtrace:
      return ptrace::WhyUnavailable();
    case EngineKind::kNotify:
      return notify::WhyUnavailable();
    case EngineKind::kAuto:
      return "auto is not an engine";
    case EngineKind::kKvm:
      break;
  }
  return "not part of this build";
}

std::vector<HostSyscall> HostSyscalls(EngineKind kind) {
  if (kind == EngineKind::kPtrace) return ptrace::HostSyscalls();
  if (kind == EngineKind::kNotify) return notify::HostSyscalls();
  return {};
}

}  // namespace skep::platform
