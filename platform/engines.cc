#include "platform/engines.h"

#include <fcntl.h>

#include "base/check.h"
#include "base/filter_row.h"
#include "base/host_call.h"
#include "platform/notify/factory.h"
#include "platform/ptrace/factory.h"

namespace skep::platform {
namespace {

std::optional<std::string> NotInThisBuild() { return "not part of this build"; }

}  // namespace

constexpr std::array<EngineInfo, 3> kEngines = {{
    {EngineKind::kKvm, "kvm", "hardware virtualisation", "/dev/kvm", NotInThisBuild, nullptr,
     [] { return std::vector<FilterRow>(); }},
    {EngineKind::kNotify, "notify", "seccomp user notification", nullptr, notify::WhyUnavailable,
     notify::MakeGroup, notify::HostSyscalls},
    {EngineKind::kPtrace, "ptrace", "works wherever ptrace is allowed", nullptr,
     ptrace::WhyUnavailable, ptrace::MakeGroup, ptrace::HostSyscalls},
}};

const EngineInfo& InfoOf(EngineKind kind) {
  for (const EngineInfo& info : kEngines) {
    if (info.kind == kind) return info;
  }
  CHECK(false && "every kind has a row");
  __builtin_unreachable();
}

const EngineInfo* FindEngine(std::string_view name) {
  for (const EngineInfo& info : kEngines) {
    if (name == info.name) return &info;
  }
  return nullptr;
}

OwnedFd OpenDeviceFor(std::string_view name) {
  for (const EngineInfo& info : kEngines) {
    if ((name != "auto" && name != info.name) || info.MakeGroup == nullptr) continue;
    if (info.device == nullptr) continue;
    // Failing is the engine's to report: it finds no device.
    if (auto fd = host::Open(info.device, O_RDWR | O_CLOEXEC)) return std::move(*fd);
  }
  return {};
}

HostResult<std::unique_ptr<EngineGroup>> MakeEngineGroup(EngineKind kind,
                                                         const EngineOptions& options) {
  const EngineInfo& info = InfoOf(kind);
  if (info.MakeGroup == nullptr) return HostFail("not part of this build");
  return info.MakeGroup(options);
}

HostResult<std::unique_ptr<Engine>> MakeEngine(EngineKind kind, const EngineOptions& options) {
  const std::unique_ptr<EngineGroup> group = TRY(MakeEngineGroup(kind, options));
  return group->MakeEngine(options.worker, options.cpu);
}

}  // namespace skep::platform
