// What happens when a process has used so much CPU time: ITIMER_VIRTUAL and ITIMER_PROF, POSIX
// timers of CPU clocks, RLIMIT_CPU (Linux: kernel/time/posix-cpu-timers.c).
//
// CPU time passes no faster than wall time times threads: a timer of the wall clock looks again
// when the earliest of them could be due. While nothing of the process runs it is not armed, so an
// idle sandbox sleeps; a thread that lets its guest run sees `cpu_watch_wanted` and arms it.
#pragma once

#include "sentry/kernel/kernel.h"
#include "sentry/kernel/posix_timer.h"
#include "sentry/kernel/task.h"

namespace skep::kernel {

// Something that CPU time decides has changed (a timer was set, a limit, a fork): look soon.
void WatchCpuTime(ThreadGroup& group) REQUIRES(tasks);
// On the way to the guest, when cpu_watch_wanted is set.
void ArmCpuTimer(Task& task) EXCLUDES(tasks);
// The last thread is gone. Waits for a callback in progress.
void EndCpuTimer(ThreadGroup& group) EXCLUDES(tasks);

}  // namespace skep::kernel
