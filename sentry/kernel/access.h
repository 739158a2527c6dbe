// Who may look into a task (Linux: ptrace_may_access).
#pragma once

#include "sentry/kernel/task.h"

namespace skep::kernel {

// Which of the asker's ids count: PTRACE_MODE_FSCREDS or PTRACE_MODE_REALCREDS.
enum class AccessIds : uint8_t { kFs, kReal };

// `creds`: who asks; `task`: for which thread (null: for none in particular). EPERM.
Result<void> MayAccess(const Task& target, const auth::Credentials& creds, const Task* task,
                       AccessIds ids) REQUIRES(tasks);

}  // namespace skep::kernel
