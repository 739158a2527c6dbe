// Who a process of a sandbox is on the host: the step into the ids that its maker has mapped.
#pragma once

#include <cstdint>

#include "base/result.h"

namespace skep::jail {

// As the process's own user namespace counts them. -1: as it is.
struct Identity {
  int64_t uid = -1, gid = -1;
  bool drop_groups = false;      // lose the maker's supplementary groups too
  bool outlives_parent = false;  // else it is killed with its parent
};

// For the first thread, before there are others. The process is dumpable when it returns: an
// engine's tracer needs that until its stubs have started; StayUndumped ends it.
HostResult<void> EnterIdentity(const Identity& identity);

// No core files, and no ptrace or /proc/<pid> of the process for who is not privileged over it
// (PR_SET_DUMPABLE 0).
HostResult<void> StayUndumped();

}  // namespace skep::jail
