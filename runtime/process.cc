#include "runtime/process.h"

#include <fcntl.h>
#include <linux/capability.h>
#include <linux/close_range.h>
#include <linux/sched.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/host_call.h"

namespace skep::runtime {
namespace {

constexpr int kExecFailed = 125;

struct CapabilityState {
  __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
  __user_cap_data_struct data[2] = {};
};

// An exec by an ordinary user of the namespace would drop its capabilities, were they not ambient.
void MakeCapabilitiesAmbient() {
  CapabilityState state;
  if (!host::Call(SYS_capget, &state.header, state.data)) return;
  for (auto& word : state.data) word.inheritable = word.permitted;
  (void)host::Call(SYS_capset, &state.header, state.data);
  for (uint64_t capability = 0; capability <= CAP_LAST_CAP; ++capability) {
    (void)host::Call(SYS_prctl, PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, capability, 0, 0);
  }
}

// The sentry's own files and mappings are not what the user's limits are for; the guest's limits
// are in its configuration.
void RaiseLimits() {
  for (const int resource : {RLIMIT_FSIZE, RLIMIT_AS, RLIMIT_DATA, RLIMIT_NOFILE, RLIMIT_CPU}) {
    rlimit limit{};
    if (!host::Call(SYS_prlimit64, 0, resource, nullptr, &limit)) continue;
    limit.rlim_cur = limit.rlim_max;
    (void)host::Call(SYS_prlimit64, 0, resource, &limit, nullptr);
  }
}

// In the child, which shares nothing with its parent but has a copy of its one thread.
[[noreturn]] void BecomeRole(const ChildPlan& plan, char* const* argv) {
  (void)host::Call(SYS_prctl, PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
  (void)host::Call(SYS_setsid);
  RaiseLimits();
  (void)host::Call(SYS_close_range, 3, ~0U, CLOSE_RANGE_CLOEXEC);
  for (const int fd : plan.keep) (void)host::SetCloexec(fd, false);
  if (plan.keep_capabilities) MakeCapabilitiesAmbient();
  (void)host::Call(SYS_rt_sigprocmask, SIG_SETMASK, &plan.signals, 0, _NSIG / 8);
  char* const no_environment[] = {nullptr};
  (void)host::Call(SYS_execve, "/proc/self/exe", argv, no_environment);
  _exit(kExecFailed);
}

}  // namespace

HostResult<Child> Child::Start(const ChildPlan& plan) {
  std::vector<char*> argv;
  for (const std::string& argument : plan.argv) argv.push_back(const_cast<char*>(argument.c_str()));
  argv.push_back(nullptr);
  int pidfd = -1;
  clone_args args = {};
  args.flags = plan.namespaces | CLONE_PIDFD | CLONE_CLEAR_SIGHAND;
  // SAFETY: the kernel writes to it before clone3 returns.
  args.pidfd = reinterpret_cast<uint64_t>(&pidfd);
  args.exit_signal = SIGCHLD;
  const Result<int64_t> pid = host::Call(SYS_clone3, &args, sizeof args);
  if (!pid) {
    return HostFail("cannot start a process in new namespaces (clone3)", pid.error().code());
  }
  if (*pid == 0) BecomeRole(plan, argv.data());
  Child child;
  child.pid_ = static_cast<pid_t>(*pid);
  child.pidfd_ = OwnedFd(pidfd);
  return child;
}

int Child::Wait() {
  int status = -1;
  if (pid_ > 0 && host::WaitPid(pid_, &status, 0)) pid_ = -1;
  return status;
}

void Child::Kill() {
  if (pid_ <= 0) return;
  (void)host::Kill(pid_, SIGKILL);
  (void)Wait();
}

bool HasCapability(int capability) {
  CapabilityState state;
  if (!host::Call(SYS_capget, &state.header, state.data)) return false;
  const auto number = static_cast<unsigned>(capability);
  return (state.data[number / 32].effective >> (number % 32) & 1) != 0;
}

}  // namespace skep::runtime
