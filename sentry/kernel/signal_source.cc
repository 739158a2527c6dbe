#include "sentry/kernel/signal_source.h"

#include <cstring>

#include "sentry/kernel/kernel.h"

namespace skep::kernel {

uint64_t KernelSignalSource::PendingOfCurrent(uint64_t mask) {
  Task& task = CurrentTask();
  TasksLock lock(task.kernel);
  return (task.pending.set() | task.group->pending.set()).bits() & mask;
}

bool KernelSignalSource::DequeueForCurrent(uint64_t mask, signalfd_siginfo& out) {
  Task& task = CurrentTask();
  std::optional<PendingSignals::Item> item;
  {
    TasksLock lock(task.kernel);
    item = task.pending.Take(SignalSet(mask));
    if (!item) item = task.group->pending.Take(SignalSet(mask));
    if (!item) return false;
    SignalTaken(*task.group, item->timer.get(), item->info);
  }
  const siginfo_t& in = item->info;
  memset(&out, 0, sizeof out);
  out.ssi_signo = static_cast<uint32_t>(in.si_signo);
  out.ssi_errno = in.si_errno;
  out.ssi_code = in.si_code;
  if (in.si_code == SI_TIMER) {
    out.ssi_tid = static_cast<uint32_t>(in.si_timerid);
    out.ssi_overrun = static_cast<uint32_t>(in.si_overrun);
  } else if ((kSynchronous & SignalSet::Of(in.si_signo)) == SignalSet::Of(in.si_signo) &&
             in.si_code > 0) {
    out.ssi_addr = reinterpret_cast<uint64_t>(in.si_addr);
    return true;
  } else {
    out.ssi_pid = static_cast<uint32_t>(in.si_pid);
    out.ssi_uid = in.si_uid;
  }
  if (in.si_signo == SIGCHLD) {
    out.ssi_status = in.si_status;
  } else {
    out.ssi_int = in.si_value.sival_int;
    out.ssi_ptr = reinterpret_cast<uint64_t>(in.si_value.sival_ptr);
  }
  return true;
}

}  // namespace skep::kernel
