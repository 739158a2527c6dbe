#include "platform/notify/factory.h"

#include <fcntl.h>
#include <linux/filter.h>
#include <linux/futex.h>
#include <linux/seccomp.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>
#include <csignal>

#include "base/filter_row.h"
#include "base/host_call.h"
#include "base/missing_defs.h"
#include "platform/notify/engine.h"

namespace skep::platform::notify {
namespace {

enum Trial : int { kWorks = 0, kNoListener = 1, kNoSyncWakeUp = 2 };

class NotifyEngines final : public EngineGroup {
 public:
  NotifyEngines(const EngineOptions& options, std::shared_ptr<Stubs> stubs)
      : options_(options), stubs_(std::move(stubs)) {}

  HostResult<std::unique_ptr<Engine>> MakeEngine(int worker, int cpu) override {
    EngineOptions options = options_;
    options.worker = worker;
    options.cpu = cpu;
    return NotifyEngine::Make(options, stubs_);
  }

 private:
  const EngineOptions options_;
  const std::shared_ptr<Stubs> stubs_;
};

}  // namespace

HostResult<std::unique_ptr<EngineGroup>> MakeGroup(const EngineOptions& options) {
  auto stubs = std::make_shared<Stubs>(options);
  TRY(stubs->Start());
  return std::make_unique<NotifyEngines>(options, std::move(stubs));
}

// What the host says of itself, and a child that tries to have a listener: an outer filter may have
// one already, or refuse it.
std::optional<std::string> WhyUnavailable() {
  if (const char* why = WhyNoHost()) return why;
  const pid_t child = fork();
  if (child < 0) return "no process can be started";
  if (child == 0) {
    const sock_filter allow = BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
    const sock_fprog program = {1, const_cast<sock_filter*>(&allow)};
    prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
    const long listener = syscall(
        SYS_seccomp, SECCOMP_SET_MODE_FILTER,
        SECCOMP_FILTER_FLAG_NEW_LISTENER | SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV, &program);
    bool works = listener >= 0;
    works = works && ioctl(static_cast<int>(listener), SECCOMP_IOCTL_NOTIF_SET_FLAGS,
                           SECCOMP_USER_NOTIF_FD_SYNC_WAKE_UP) == 0;
    syscall(SYS_exit_group, listener < 0 ? kNoListener : works ? kWorks : kNoSyncWakeUp);
  }
  int status = 0;
  if (!host::WaitPid(child, &status, 0) || !WIFEXITED(status)) return "the trial's process died";
  switch (WEXITSTATUS(status)) {
    case kWorks:
      return std::nullopt;
    case kNoSyncWakeUp:
      return "the host has no SECCOMP_USER_NOTIF_FD_SYNC_WAKE_UP (Linux 6.6)";
    default:
      return "an outer seccomp filter has a listener already, or refuses ours";
  }
}

std::vector<FilterRow> HostSyscalls() {
  return {
      {SYS_ioctl, "receives notifications", {Is(1, SECCOMP_IOCTL_NOTIF_RECV)}},
      {SYS_ioctl, "answers notifications", {Is(1, SECCOMP_IOCTL_NOTIF_SEND)}},
      {SYS_ioctl, "gives stubs files to map", {Is(1, SECCOMP_IOCTL_NOTIF_ADDFD)}},
      {SYS_ioctl, "listeners of new threads", {Is(1, SECCOMP_IOCTL_NOTIF_SET_FLAGS)}},
      {SYS_epoll_pwait, "waits for several guests"},
      {SYS_epoll_ctl, "listeners of guest threads"},
      {SYS_poll, "waits for a thread that must stop at once"},
      {SYS_recvmsg,
       "listeners, from roots of stubs",
       {IsWithAny(2, MSG_CMSG_CLOEXEC, MSG_DONTWAIT)}},
      {SYS_recvfrom, "an answer that nobody waits for", {IsNull(4)}},
      {SYS_futex, "commands to roots of stubs", {Is(1, FUTEX_WAKE)}},
      {SYS_futex, "workers wait for each other", {Is(1, FUTEX_WAIT_PRIVATE)}},
      {SYS_futex, "workers wake each other", {Is(1, FUTEX_WAKE_PRIVATE)}},
      {SYS_fcntl, "whether there is room for listeners", {Is(1, F_DUPFD_CLOEXEC)}},
      {SYS_tgkill, "wakes a worker; interrupts a guest"},
      {SYS_kill, "ends a stub", {Is(1, SIGKILL)}},
      {SYS_wait4, "how a stub ended"},
      {SYS_waitid, "whether a stub has ended"},
      {SYS_timer_settime, "the deadline of a wait"},
      {SYS_timer_delete, "an engine's end"},
      {SYS_rt_sigreturn, "the handler of a kick"},
      {SYS_sched_getaffinity, "where the manager of a stub may run"},
      {SYS_sched_setaffinity, "guests follow their worker; a computing one is let go"},
      {SYS_sched_yield, "a stub that is being ended"},
      {SYS_clock_gettime, "CPU time of a stub; deadlines where the vDSO cannot tell"},
      {SYS_munmap, "an engine's end"},
      {SYS_close, "listeners"},
  };
}

}  // namespace skep::platform::notify
