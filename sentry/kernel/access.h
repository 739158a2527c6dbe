// Who may look into a task (Linux: ptrace_may_access).
#pragma once

#include "sentry/kernel/task.h"

namespace skep::kernel {

// Which of the asker's ids count: PTRACE_MODE_FSCREDS or PTRACE_MODE_REALCREDS.
enum class AccessIds : uint8_t { kFs, kReal };

// `creds`: who asks; `task`: for which thread (null: for none in particular). EPERM.
Result<void> MayAccess(const Task& target, const auth::Credentials& creds, const Task* task,
                       AccessIds ids) REQUIRES(tasks);

// Who may change how a task is scheduled: who has its ids, or CAP_SYS_NICE; and nobody with fewer
// capabilities than it has (Linux: check_same_owner, cap_safe_nice). EPERM.
Result<void> MaySchedule(const Task& target, const auth::Credentials& creds) REQUIRES(tasks);

// Whether a nice value may go down to `nice`: RLIMIT_NICE of the target or CAP_SYS_NICE of who asks
// (Linux: can_nice). Raising it anybody may.
bool MayLowerNice(const Task& target, const auth::Credentials& creds, int nice);

}  // namespace skep::kernel
