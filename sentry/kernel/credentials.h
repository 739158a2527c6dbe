// How a task's credentials change (Linux: commit_creds), and what execve(2) makes of them.
#pragma once

#include "sentry/auth/exec_credentials.h"
#include "sentry/kernel/task.h"

namespace skep::kernel {

// Publishes. Where ids change or capabilities are gained, who was the task's equal may no longer
// look into it: its memory is not dumpable any more and its parent death signal is gone. Called
// by the task's own fiber.
void CommitCredentials(Task& task, auth::CredentialsRef changed) REQUIRES(tasks);

// Threads of these credentials' real user in its user namespace, which RLIMIT_NPROC bounds.
uint64_t ThreadsOf(const Kernel& kernel, const auth::Credentials& user) REQUIRES(tasks);
// Linux: do_execveat_common: EAGAIN for who became a user with too many processes, as long as he
// has them.
Result<void> CheckProcessLimitOfExec(Task& task);

// Linux: bprm_creds_from_file. `file`: the program, or its interpreter if it is a script. Called
// when the other threads of the process have ended. EPERM, EINVAL: see auth/exec_credentials.h;
// errors of the file system.
Result<auth::ExecCredentials> ExecCredentialsFor(Task& task, const vfs::File& file);

// Whether who executes `file` may read it too. If not, the program's memory is not dumpable
// (Linux: would_dump).
bool MayRead(const Task& task, const vfs::File& file);

}  // namespace skep::kernel
