// One more container in a sandbox that runs.
#pragma once

#include <optional>

#include "base/result.h"
#include "runtime/client.h"
#include "runtime/spawn.h"

namespace skep::runtime {

// Starts a gofer for the plan's trees and has the sandbox start the plan's container over it. What
// the plan says of the sandbox itself is not looked at. Returns when the first process runs (none),
// or with the sandbox's answer why it does not. The container outlives this process.
HostResult<std::optional<boot::ErrorReply>> StartContainer(SandboxClient& client, SandboxPlan plan);

}  // namespace skep::runtime
