#include "runtime/launch.h"

namespace skep::runtime {

HostResult<SandboxHandle> Launch(SandboxPlan plan) {
  Sandbox sandbox = TRY(StartSandbox(std::move(plan)));
  return SandboxHandle(std::move(sandbox));
}

void SandboxHandle::LetGo() {
  sandbox_.sentry.LetGo();
  sandbox_.gofer.LetGo();
  sandbox_.control.Reset();
}

}  // namespace skep::runtime
