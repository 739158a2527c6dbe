#include "sentry/boot/job.h"

#include <csignal>

#include "sentry/arena/arena.h"
#include "sentry/kernel/oom.h"
#include "sentry/kernel/signals.h"

namespace skep::boot {

bool SignalFirst(Sandbox& sandbox, int signo) {
  if (signo < 1 || signo > kernel::kSignals) return false;
  const arena::ArenaScope arena_heap;
  kernel::Kernel& kernel = sandbox.kernel;
  kernel::TasksLock lock(kernel);
  kernel::ThreadGroup* init = sandbox.container->init();
  return init != nullptr && kernel::SendFromOperator(*init, signo).has_value();
}

bool SuspendGroup(Sandbox& sandbox, int signo) {
  const arena::ArenaScope arena_heap;
  kernel::Kernel& kernel = sandbox.kernel;
  kernel::TasksLock lock(kernel);
  kernel::ThreadGroup* init = sandbox.container->init();
  if (init == nullptr) return false;
  bool first_stops = false;
  sandbox.suspending = true;
  init->process_group->ForEach([&](kernel::ThreadGroup& group) REQUIRES(kernel::tasks) {
    const bool stops = signo == SIGSTOP || group.handlers->Of(signo).handler == 0;
    // By SIGSTOP: there may be nobody in the sandbox who would continue the group, in which
    // case the terminal's signals mean nothing to it.
    (void)kernel::SendFromOperator(group, stops ? SIGSTOP : signo);
    if (&group == init) first_stops = stops;
  });
  if (!first_stops) sandbox.suspending = false;
  sandbox.suspended = true;
  return first_stops;
}

void ContinueGroup(Sandbox& sandbox, bool foreground) {
  const arena::ArenaScope arena_heap;
  kernel::Kernel& kernel = sandbox.kernel;
  using Input = anon::Console::Input;
  sandbox.suspending = false;
  sandbox.suspended = false;
  sandbox.terminals.SetConsoleInput(foreground ? Input::kFlowing : Input::kHeld);
  kernel::TasksLock lock(kernel);
  kernel::ThreadGroup* init = sandbox.container->init();
  if (init == nullptr) return;
  init->process_group->ForEach([](kernel::ThreadGroup& group) REQUIRES(kernel::tasks) {
    (void)kernel::SendFromOperator(group, SIGCONT);
  });
}

Result<void> WatchCaller(Sandbox& sandbox) {
  if (sandbox.config.caller_stat_fd < 0) return {};
  const arena::HostFd stat = arena::HostTable::Get().Add(OwnedFd(sandbox.config.caller_stat_fd));
  sandbox.caller_watch = std::make_unique<CallerWatch>(stat, sandbox.kernel.oom.get());
  return sandbox.caller_watch->Start(sandbox.kernel.scheduler,
                                     [&sandbox] { (void)SuspendGroup(sandbox, SIGSTOP); });
}

}  // namespace skep::boot
