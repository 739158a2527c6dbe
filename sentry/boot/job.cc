#include "sentry/boot/job.h"

#include <csignal>

#include "sentry/arena/arena.h"
#include "sentry/kernel/oom.h"
#include "sentry/kernel/signals.h"

namespace skep::boot {

bool SignalFirst(ContainerHost& host, int signo) {
  if (signo < 1 || signo > kernel::kSignals) return false;
  const arena::ArenaHeapScope arena_heap;
  kernel::Kernel& kernel = host.container->kernel();
  kernel::TasksLock lock(kernel);
  kernel::ThreadGroup* init = host.container->init();
  return init != nullptr && kernel::SendFromOperator(*init, signo).has_value();
}

bool SuspendGroup(ContainerHost& host, int signo) {
  const arena::ArenaHeapScope arena_heap;
  kernel::Kernel& kernel = host.container->kernel();
  kernel::TasksLock lock(kernel);
  kernel::ThreadGroup* init = host.container->init();
  if (init == nullptr) return false;
  bool first_stops = false;
  host.suspending = true;
  init->process_group->ForEach([&](kernel::ThreadGroup& group) REQUIRES(kernel::tasks) {
    const bool stops = signo == SIGSTOP || group.handlers->Of(signo).handler == 0;
    // By SIGSTOP: there may be nobody in the sandbox who would continue the group, in which
    // case the terminal's signals mean nothing to it.
    (void)kernel::SendFromOperator(group, stops ? SIGSTOP : signo);
    if (&group == init) first_stops = stops;
  });
  if (!first_stops) host.suspending = false;
  host.suspended = true;
  return first_stops;
}

void ContinueGroup(ContainerHost& host, bool foreground) {
  const arena::ArenaHeapScope arena_heap;
  kernel::Kernel& kernel = host.container->kernel();
  host.suspending = false;
  host.suspended = false;
  host.SetInput(foreground ? anon::Input::kFlowing : anon::Input::kHeld);
  kernel::TasksLock lock(kernel);
  kernel::ThreadGroup* init = host.container->init();
  if (init == nullptr) return;
  init->process_group->ForEach([](kernel::ThreadGroup& group) REQUIRES(kernel::tasks) {
    (void)kernel::SendFromOperator(group, SIGCONT);
  });
}

Result<void> WatchCaller(Sandbox& sandbox, ContainerHost& host, int stat_fd) {
  if (stat_fd < 0) return {};
  const arena::HostFd stat = arena::HostTable::Get().Add(OwnedFd(stat_fd));
  sandbox.caller_watch = std::make_unique<CallerWatch>(stat, sandbox.kernel.oom.get());
  return sandbox.caller_watch->Start(sandbox.kernel.scheduler,
                                     [&host] { (void)SuspendGroup(host, SIGSTOP); });
}

}  // namespace skep::boot
