// What `do` and `run` have in common: from a plan to the end of the sandbox.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "base/result.h"
#include "runsc-cli/options.h"
#include "runsc-cli/path_lookup.h"
#include "runsc-cli/report.h"
#include "runsc-cli/state.h"
#include "runsc-cli/supervise.h"
#include "runtime/cgroup.h"
#include "runtime/spawn.h"

namespace skep::cli {

struct SessionOptions {
  const GlobalOptions& global;
  const AttachOptions& attach;
  const SignalSet& signals;  // blocked since before anything was made that is to be removed
  // A named sandbox has one: locked, with its state written. It is removed when the session ends,
  // unless the session detaches.
  StateDirectory* directory = nullptr;
  ContainerState state = {};
  std::string pid_file = {};
  runtime::SandboxCgroup* group = nullptr;
};
// Starts the sandbox and stays with it to its end; or, detached, until the guest runs (kExited with
// code 0).
HostResult<Ending> RunSandbox(SandboxPlan plan, const Reporter& reporter, SessionOptions options);

// Has the sandbox of the container `sandbox` run the plan's container too. It is detached, and
// options.directory is there.
HostResult<Ending> JoinSandbox(SandboxPlan plan, const Reporter& reporter,
                               const SessionOptions& options, const std::string& sandbox);

// Fills in what the global options say: platform, workers, logs, strace.
HostResult<void> ApplyGlobalOptions(const GlobalOptions& options, SandboxPlan& plan);

// Sets up what holds the memory limit of the plan. Without control groups: a warning, and the
// sentry's own accounting does it.
runtime::SandboxCgroup HoldMemory(SandboxPlan& plan, const std::string& wanted_group,
                                  const Reporter& reporter);

// Finds the program of the plan; the exit code to end with (127, 126) if it is not there, else 0.
int FindPlannedProgram(SandboxPlan& plan, const Reporter& reporter);

// --root, or its default.
std::string StateRoot(const GlobalOptions& global);

inline constexpr uint64_t kAllCapabilities = (uint64_t{1} << 41) - 1;  // up to checkpoint/restore

}  // namespace skep::cli
