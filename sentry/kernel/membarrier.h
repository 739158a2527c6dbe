// membarrier(2): what every thread of a process has written before is seen after (Linux:
// kernel/sched/membarrier.c).
#pragma once

#include "sentry/kernel/task.h"

namespace skep::kernel {

// EINVAL: a command that is not offered; EPERM: expedited without having registered for it.
Result<int> Membarrier(Task& task, int command, uint32_t flags);

}  // namespace skep::kernel
