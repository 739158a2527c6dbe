// New threads and processes (Linux: kernel/fork.c).
#pragma once

#include <functional>

#include "sentry/kernel/kernel.h"
#include "sentry/kernel/task.h"
#include "sentry/loader/elf.h"

namespace skep::kernel {

struct CloneRequest {
  uint64_t flags = 0;  // CLONE_*, without the exit signal
  int exit_signal = 0;
  uint64_t stack = 0;  // the new stack pointer; 0: the parent's
  uint64_t tls = 0;
  uint64_t parent_tid = 0, child_tid = 0;
  uint64_t pidfd = 0;  // CLONE_PIDFD: where its number goes
};
// clone, clone3, fork, vfork. The child's thread id. For CLONE_VFORK: after the child has released
// the memory.
Result<int> Clone(Task& parent, const CloneRequest& request);

// A child whose memory or context could not be made is to end as if it had never been: its parent
// has no such child and hears of no exit. On the child's fiber, before its parent is woken.
void Unpublish(Task& child);

// execve(2) past argument copying: everything from preparation to the new registers.
Result<void> Exec(Task& task, loader::Program program);

}  // namespace skep::kernel
