// CPU time of guest threads: user time is what their guest ran, system time what their fiber ran
// (Linux: kernel/sched/cputime.c).
//
// The host's scheduler knows what an address space has used, exactly and without our help, but not
// which of its threads did. So each thread's guest is measured in wall time on the way (fiber
// costs: no host call), and what the host tells of the whole, when somebody asks, is dealt out in
// proportion. With an engine that tells nothing, wall time it is.
#pragma once

#include "sentry/kernel/cpu_clock.h"
#include "sentry/kernel/kernel.h"
#include "sentry/kernel/task.h"

namespace skep::kernel {

// The task has a new address space or context: what the space has used so far is not its own.
void StartCpuAccount(Task& task);

// Brings `usage` up to date, of this task and of all that share its memory.
void SettleUsage(Task& task) REQUIRES(tasks);
// The task's own fiber, at its end: its memory is gone, only its fiber's time is added.
void SettleLastUsage(Task& task) REQUIRES(tasks);
void SettleEverybody(Kernel& kernel) REQUIRES(tasks);

// Up to date.
Usage UsageOf(Task& task) REQUIRES(tasks);
Usage UsageOf(ThreadGroup& group) REQUIRES(tasks);  // without its children

// ns. EINVAL: there is no such thread or process, or it is not the caller's to look at (threads of
// others; Linux: pid_for_clock).
Result<uint64_t> ReadCpuClock(Task& caller, const CpuClock& clock) EXCLUDES(tasks);

}  // namespace skep::kernel
