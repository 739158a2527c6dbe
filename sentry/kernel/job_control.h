// Process groups and sessions: setpgid(2), setsid(2), orphaned groups (Linux: kernel/sys.c,
// kernel/exit.c).
#pragma once

#include "sentry/kernel/kernel.h"

namespace skep::kernel {

// setpgid(2): numbers as the caller sees them; 0: its own. EINVAL, ESRCH, EPERM, EACCES.
Result<void> SetProcessGroup(Task& task, int pid, int pgid) EXCLUDES(tasks);
// setsid(2): the new session's number as the caller sees it. EPERM: it leads a process group.
Result<int> NewSession(Task& task) EXCLUDES(tasks);

// No member (but `ignored`) has a parent in another group of its session (Linux:
// will_become_orphaned_pgrp). A parent outside that does job control counts as one.
bool IsOrphaned(const ProcessGroup& group, const ThreadGroup* ignored) REQUIRES(tasks);
bool HasStopped(const ProcessGroup& group) REQUIRES(tasks);
// Linux: kill_orphaned_pgrp.
void HangUpOrphan(const ProcessGroup& group) REQUIRES(tasks);

// A session's controlling terminal, as /proc/<pid>/stat tells it.
struct ControllingTerminal {
  int device = 0;       // new_encode_dev(); 0: none
  Ref<Pid> foreground;  // a process group, or none
};
ControllingTerminal ControllingTerminalOf(Kernel& kernel, const Pid& session) EXCLUDES(tasks);

}  // namespace skep::kernel
