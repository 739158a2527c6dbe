// Living with a running sandbox: its events, the terminal, the signals that people send.
#pragma once

#include <csignal>
#include <optional>

#include "base/result.h"
#include "runsc-cli/report.h"
#include "runtime/spawn.h"

namespace skep::cli {

using runtime::Sandbox;
using runtime::SandboxPlan;

// Signals that go to the guest, blocked from construction on so that they arrive as data and none
// ends the CLI before it has tidied up. Those that were ignored stay ignored.
class SignalSet {
 public:
  static HostResult<SignalSet> Block();
  int fd() const { return fd_.get(); }
  const sigset_t& before() const { return before_; }

 private:
  OwnedFd fd_;
  sigset_t before_ = {};
};

// How it ended.
struct Ending {
  enum class Kind : uint8_t {
    kExited,      // code: the guest's, or 128+n for a signal
    kNotStarted,  // code: 127 not found, 126 not executable, 1; it has been reported
    kLost,        // the sentry died; code 1; it has been reported
  } kind = Kind::kLost;
  int code = 1;
};

// Waits for the sandbox's end; it is gone when this returns. `terminal`: pass the terminal through.
// `again`: the plan to go on with after a checkpoint, whose time it says; none: no checkpoint.
Ending Supervise(Sandbox sandbox, const SignalSet& signals, bool terminal, const Reporter& reporter,
                 std::optional<SandboxPlan> again);

}  // namespace skep::cli
