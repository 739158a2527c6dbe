// Resource limits of the caller that a sandbox cannot live under.
#pragma once

#include <sys/types.h>

#include "base/result.h"

namespace skep::runtime {

// The sentry's own files, mappings and stubs are not what the caller's limits are for; the guest's
// limits are in its configuration. Lifts those of a child that has not started, where the caller
// may; it raises the soft ones to the hard ones itself.
void LiftLimits(pid_t child);

// An error that names the limit, if one remains that a sandbox would fail under.
HostResult<void> CheckLimits();

}  // namespace skep::runtime
