// A container's first process and its process group as a job of whoever started it: signals, stops
// and continuing that come from outside. From any thread that holds no locks; not from fibers'
// callbacks under tasks_mutex.
#pragma once

#include "sentry/boot/sandbox.h"

namespace skep::boot {

// To the first process. False: there is none any more.
bool SignalFirst(ContainerHost& host, int signo);
// Stops the group as `signo` would: SIGTSTP and the like reach who handles them, and it is up to
// them; all others stop. True: the first process does.
bool SuspendGroup(ContainerHost& host, int signo);
// `fg` or `bg` of the shell that started us: for all that it stopped.
void ContinueGroup(ContainerHost& host, bool foreground);
// Watches for a SIGSTOP to the CLI. `stat_fd`: SandboxConfig::caller_stat_fd.
Result<void> WatchCaller(Sandbox& sandbox, ContainerHost& host, int stat_fd);

}  // namespace skep::boot
