// Launch: from a plan to a running sandbox, and the handle that its starter has. Nothing of the
// calling process changes: no signals, no masks, no working directory, no children that outlive the
// handle unless the plan says so.
#pragma once

#include <optional>
#include <string>

#include "base/result.h"
#include "runtime/spawn.h"

namespace skep::runtime {

class SandboxHandle {
 public:
  SandboxHandle() = default;
  explicit SandboxHandle(Sandbox sandbox) : sandbox_(std::move(sandbox)) {}

  pid_t pid() const { return sandbox_.sentry.pid(); }
  int pidfd() const { return sandbox_.sentry.pidfd(); }  // readable when the sentry has ended
  int control_fd() const { return sandbox_.control.get(); }

  // control_fd() is readable. nullopt: the sentry has closed it.
  std::optional<boot::SentryEvent> OnReadable() {
    return boot::ReceiveEvent(sandbox_.control.get());
  }
  // False: the sentry is gone.
  bool Send(boot::CliCommand::Kind kind, uint32_t value = 0, int file = -1) {
    return boot::SendCommand(sandbox_.control.get(), {kind, value}, file).has_value();
  }

  // The sentry's wait status, when it has ended.
  int Wait() { return sandbox_.sentry.Wait(); }
  // What became of it, for its user.
  HowItEnded How(int status) const {
    return WhyItEnded("the sandbox's kernel", status, sandbox_.sentry_words);
  }
  void Kill() { sandbox_.sentry.Kill(); }
  // The sandbox goes on when the handle goes: it belongs to nobody.
  void LetGo();

 private:
  Sandbox sandbox_;
};

HostResult<SandboxHandle> Launch(SandboxPlan plan);

}  // namespace skep::runtime
