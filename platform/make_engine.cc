#include <sys/syscall.h>

#include "platform/engine_group.h"
#include "platform/notify/factory.h"
#include "platform/platform.h"
#include "platform/ptrace/factory.h"

namespace skep::platform {
namespace {

// Engines that share nothing.
class SeparateEngines final : public EngineGroup {
 public:
  SeparateEngines(EngineKind kind, const EngineOptions& options) : kind_(kind), options_(options) {}

  HostResult<std::unique_ptr<Engine>> MakeEngine(int worker, int cpu) override {
    EngineOptions options = options_;
    options.worker = worker;
    options.cpu = cpu;
    return platform::MakeEngine(kind_, options);
  }

 private:
  const EngineKind kind_;
  const EngineOptions options_;
};

}  // namespace

HostResult<std::unique_ptr<Engine>> MakeEngine(EngineKind kind, const EngineOptions& options) {
  if (kind == EngineKind::kPtrace) return ptrace::Make(options);
  if (kind == EngineKind::kNotify) return notify::Make(options);
  return HostFail("not part of this build");
}

HostResult<std::unique_ptr<EngineGroup>> MakeEngineGroup(EngineKind kind,
                                                         const EngineOptions& options) {
  if (kind == EngineKind::kPtrace) return std::make_unique<SeparateEngines>(kind, options);
  if (kind == EngineKind::kNotify) return notify::MakeGroup(options);
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
