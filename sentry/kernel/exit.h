// The end of threads and processes (Linux: kernel/exit.c).
#pragma once

#include <sys/resource.h>
#include <sys/wait.h>

#include "sentry/kernel/kernel.h"
#include "sentry/kernel/task.h"

namespace skep::kernel {

// Everything that do_exit does, on the dying task's fiber. The group's exit status is set already,
// or this is exit(2) of one thread (status in `exit_code` of the task).
void ExitTask(Task& task);
// exit(2) and exit_group(2): the call then unwinds with kKilled.
void ExitThread(Task& task, int code);
void ExitGroup(Task& task, int code);

// What a dying or exec'ing thread writes into memory it shares: robust list, clear_child_tid
// (Linux: mm_release).
void LeaveFutexes(Task& task);
// Leaves the old memory and wakes vfork's parent. Exit and execve.
void ReleaseMemory(Task& task);
// What close(2) does with files that are no longer in `table`.
void FinishCloses(Task& task, vfs::FdTable& table, std::vector<Ref<vfs::File>> files);
// Drops the task's reference to its descriptors; closes them if it was the last.
void ReleaseFiles(Task& task);
// The same, and has these from now on.
void ReplaceFiles(Task& task, Ref<vfs::FdTable> own);

struct WaitRequest {
  idtype_t type = P_ALL;
  Ref<Pid> id;               // the process or the process group; null: there is no such
  Ref<ThreadGroup> process;  // of P_PIDFD: with type P_PID, instead of id
  // WEXITED, WSTOPPED, WCONTINUED, WNOHANG, WNOWAIT, __WALL, __WCLONE, __WNOTHREAD
  int options = 0;
};
struct WaitedFor {
  int pid = 0;       // 0: WNOHANG and nothing to report
  int status = 0;    // as wait4 tells it
  siginfo_t info{};  // as waitid tells it
  Usage usage;
};
// wait4 and waitid. ECHILD, kRestartSys.
Result<WaitedFor> WaitForChild(Task& task, const WaitRequest& request);

}  // namespace skep::kernel
