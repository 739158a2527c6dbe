// The first process and its process group as a job of whoever started the sandbox: signals, stops
// and continuing that come from outside. From any thread that holds no locks; not from fibers'
// callbacks under tasks_mutex.
#pragma once

#include "sentry/boot/sandbox.h"

namespace skep::boot {

// To the first process. False: there is none any more.
bool SignalFirst(Sandbox& sandbox, int signo);
// Stops the group as `signo` would: SIGTSTP and the like reach who handles them, and it is up to
// them; all others stop. True: the first process does.
bool SuspendGroup(Sandbox& sandbox, int signo);
// `fg` or `bg` of the shell that started us: for all that it stopped.
void ContinueGroup(Sandbox& sandbox, bool foreground);
// Watches for a SIGSTOP to the CLI, where the configuration has the means.
Result<void> WatchCaller(Sandbox& sandbox);

}  // namespace skep::boot
