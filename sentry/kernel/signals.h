// Sending signals, stopping and continuing (Linux: kernel/signal.c).
#pragma once

#include "sentry/kernel/kernel.h"
#include "sentry/kernel/task.h"

namespace skep::kernel {

// Queues `info` for a thread or for a group, and wakes a thread that takes it. The caller has
// checked the sender's permission (MayKill). EAGAIN: the queue of real-time signals is full
// (sigqueue only).
Result<void> SendToTask(Task& task, const siginfo_t& info) REQUIRES(tasks);
Result<void> SendToGroup(ThreadGroup& group, const siginfo_t& info, Ref<PosixTimer> timer = {})
    REQUIRES(tasks);
// As a task sends it: the init of a pid namespace is spared by those inside; SIGKILL and SIGSTOP
// from a namespace above reach it.
Result<void> SendFrom(const Task& sender, Task& task, siginfo_t info) REQUIRES(tasks);
Result<void> SendFrom(const Task& sender, ThreadGroup& group, siginfo_t info) REQUIRES(tasks);
// As SendToGroup, from outside the sandbox: init is not spared its default action.
Result<void> SendFromOperator(ThreadGroup& group, int signo) REQUIRES(tasks);
// A signal of a terminal: sent by the kernel (SI_KERNEL), and not ignored by an unkillable init.
Result<void> SendFromTerminal(ThreadGroup& group, int signo) REQUIRES(tasks);
// A signal that cannot be blocked or ignored away: faults, SIGKILL of the sandbox's operator.
void ForceSignal(Task& task, siginfo_t info) REQUIRES(tasks);

// What a signal of `sender` says of it to a process: its number and its real user as that process
// sees them.
siginfo_t MakeInfoFrom(const Task& sender, const ThreadGroup& receiver, int signo, int code)
    REQUIRES(tasks);
// The real user of a process as another one sees it (Linux: from_kuid_munged).
uint32_t UserOf(const ThreadGroup& process, const ThreadGroup& seen_by) REQUIRES(tasks);

// kill(2) permission (Linux: kill_ok_by_cred, SIGCONT within the session). EPERM.
Result<void> MayKill(const Task& sender, const ThreadGroup& target, int signo) REQUIRES(tasks);

// All threads end with this wait status (exit_group, fatal signal).
void StartGroupExit(ThreadGroup& group, int wait_status) REQUIRES(tasks);
// The thread should look at its signals, stop state and exit state before its guest goes on.
void NotifyWork(Task& task);
// Something that `task` would act on is pending.
bool HasDeliverable(const Task& task) REQUIRES(tasks);

// What a stop, continue or exit tells the parent.
void NotifyParentOfStop(ThreadGroup& group, bool continued) REQUIRES(tasks);
// If all threads sleep in a stop now, the parent is told.
void CompleteStop(ThreadGroup& group) REQUIRES(tasks);
// The calling task takes part in its group's stop: sleeps until continued or killed.
void SleepStopped(Task& task);
// A stop signal's default action.
void StartGroupStop(Task& by, int signo) REQUIRES(tasks);

// sigprocmask & co: sets the own task's mask.
void SetBlocked(Task& task, SignalSet blocked);

}  // namespace skep::kernel
