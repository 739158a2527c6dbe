// Processes as descriptors.
#include <sys/wait.h>

#include "sentry/kernel/access.h"
#include "sentry/kernel/pidfd.h"
#include "sentry/kernel/signals.h"
#include "sentry/syscalls/families.h"
#include "sentry/syscalls/util.h"

namespace skep::syscalls {
namespace {

using kernel::ThreadGroup;

// Linux: pidfd_create. A thread that is not its process's leader is EINVAL.
Result<Fd> PidfdOpen(Task& task, int32_t pid, uint32_t flags) {
  if ((flags & ~uint32_t{O_NONBLOCK}) != 0 || pid <= 0) return Fail(EINVAL);
  Ref<ThreadGroup> group;
  {
    TasksLock lock(task.kernel);
    group = Ref<ThreadGroup>(task.pid_namespace().FindGroup(pid));
    if (!group) return Fail(task.pid_namespace().FindTask(pid) != nullptr ? EINVAL : ESRCH);
  }
  return InstallFile(task, kernel::MakePidFd(task.kernel, std::move(group), flags), true);
}

Result<void> PidfdSendSignal(Task& task, Fd fd, SignalNumber signo, UserPtr<const siginfo_t> info,
                             uint32_t flags) {
  if (flags != 0) return Fail(EINVAL);
  const Ref<ThreadGroup> group = TRY(kernel::ProcessOf(*task.files, fd.value));
  siginfo_t sent = {};
  if (!info.is_null()) {
    sent = TRY(task.mm->CopyIn(info));
    if (sent.si_signo != signo.value) return Fail(EINVAL);
    // To others only what a process may say of itself.
    if (group != task.group && (sent.si_code >= 0 || sent.si_code == SI_TKILL)) return Fail(EPERM);
  }
  TasksLock lock(task.kernel);
  if (group->reaped) return Fail(ESRCH);
  if (signo.value < 0 || signo.value > kernel::kSignals) return Fail(EINVAL);
  TRY(kernel::MayKill(task, *group, signo.value));
  if (signo.value == 0) return {};
  if (info.is_null()) sent = kernel::MakeInfoFrom(task, *group, signo.value, SI_USER);
  return kernel::SendFrom(task, *group, sent);
}

Result<Fd> PidfdGetfd(Task& task, Fd pidfd, Fd fd, uint32_t flags) {
  if (flags != 0) return Fail(EINVAL);
  const Ref<ThreadGroup> group = TRY(kernel::ProcessOf(*task.files, pidfd.value));
  Ref<vfs::FdTable> theirs;
  {
    TasksLock lock(task.kernel);
    if (group->reaped) return Fail(ESRCH);
    const Task& target = *group->leader;
    TRY(kernel::MayAccess(target, task.creds(), &task, kernel::AccessIds::kReal));
    theirs = target.files.Get().ref();
  }
  if (!theirs) return Fail(ESRCH);
  Ref<vfs::File> file = TRY(theirs->GetIncludingPath(fd.value));
  return InstallFile(task, std::move(file), true);
}

constexpr Row kRows[] = {
    Full<PidfdSendSignal>(SYSCALL(pidfd_send_signal)),
    Full<PidfdOpen>(SYSCALL(pidfd_open)),
    Full<PidfdGetfd>(SYSCALL(pidfd_getfd)),
    Refused(SYSCALL(process_mrelease), ENOSYS, ""),
};

}  // namespace

constinit const std::span<const Row> kPidfdRows = kRows;

}  // namespace skep::syscalls
