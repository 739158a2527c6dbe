// Living with a running sandbox: its events, the terminal, the signals that people send.
#pragma once

#include <csignal>
#include <optional>

#include "base/result.h"
#include "runsc-cli/report.h"
#include "runtime/client.h"
#include "runtime/launch.h"

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
    kNotStarted,  // code: 127 not found, 126 not executable, 125; it has been reported
    kDetached,    // it goes on without us
    kLost,        // the sentry died, or was killed; it has been reported
  } kind = Kind::kLost;
  int code = 125;
};

struct SuperviseOptions {
  bool terminal = false;       // pass the terminal through
  uint64_t kill_after_ns = 0;  // 0: the guest has all the time that it wants
  // The plan to go on with after a checkpoint, whose time it says; none: no checkpoint.
  std::optional<SandboxPlan> again;
};

// The exit code for a guest that could not be started, by the errno of execve (0: it was something
// else).
int CodeOfFailedStart(int host_errno);
int ExitCodeOf(int wait_status);
// The exit code for a process that a sandbox could not start.
int CodeOfError(const boot::ErrorReply& error);

// Waits for the sandbox's end; it is gone when this returns.
Ending Supervise(runtime::SandboxHandle sandbox, const SignalSet& signals, const Reporter& reporter,
                 SuperviseOptions options);

}  // namespace skep::cli
