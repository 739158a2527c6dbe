#include "runtime/process.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <linux/capability.h>
#include <linux/close_range.h>
#include <linux/sched.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>
#include <span>

#include "base/host_call.h"
#include "base/missing_defs.h"
#include "runtime/limits.h"

namespace skep::runtime {
namespace {

constexpr int kExecFailed = 125;

struct CapabilityState {
  __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
  __user_cap_data_struct data[2] = {};
};

// An exec by somebody who is not root in the namespace would drop its capabilities, were they not
// ambient.
void MakeCapabilitiesAmbient() {
  CapabilityState state;
  if (!host::Call(SYS_capget, &state.header, state.data)) return;
  for (auto& word : state.data) word.inheritable = word.permitted;
  (void)host::Call(SYS_capset, &state.header, state.data);
  for (int capability = 0; capability <= CAP_LAST_CAP; ++capability) {
    (void)host::Call(SYS_prctl, PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, capability, 0, 0);
  }
}

// What LiftLimits could not lift, as far as it goes. No role writes core files: guest memory would
// be in them.
void SetLimits() {
  rlimit limit{};
  for (const int resource :
       {RLIMIT_FSIZE, RLIMIT_AS, RLIMIT_DATA, RLIMIT_NOFILE, RLIMIT_CPU, RLIMIT_NPROC}) {
    if (!host::Call(SYS_prlimit64, 0, resource, nullptr, &limit)) continue;
    limit.rlim_cur = limit.rlim_max;
    (void)host::Call(SYS_prlimit64, 0, resource, &limit, nullptr);
  }
  limit = {0, 0};
  (void)host::Call(SYS_prlimit64, 0, RLIMIT_CORE, &limit, nullptr);
}

void PlaceStdio(const std::array<int, 3>& stdio) {
  for (int fd = 0; fd < 3; ++fd) {
    const int from = stdio[static_cast<size_t>(fd)];
    if (from == fd) continue;
    if (from >= 0) {
      (void)host::Dup2(from, fd);
    } else if (const Result<OwnedFd> null = host::Open("/dev/null", O_RDWR | O_CLOEXEC)) {
      (void)host::Dup2(null->get(), fd);
    }
  }
}

// In the child, which shares nothing with its parent but has a copy of its one thread.
[[noreturn]] void BecomeRole(const ChildPlan& plan, char* const* argv, int go) {
  if (!plan.outlives_parent) (void)host::Call(SYS_prctl, PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
  // Its ids and its control group are its maker's to set. The end without a byte: it gave up.
  std::byte byte{};
  if (host::Read(go, std::span(&byte, 1)).value_or(0) != 1) _exit(kExecFailed);
  (void)host::Call(SYS_setsid);
  SetLimits();
  PlaceStdio(plan.stdio);
  (void)host::Call(SYS_close_range, 3, ~0U, CLOSE_RANGE_CLOEXEC);
  for (const int fd : plan.keep) (void)host::SetCloexec(fd, false);
  if ((plan.namespaces & CLONE_NEWUSER) != 0) MakeCapabilitiesAmbient();
  (void)host::Call(SYS_rt_sigprocmask, SIG_SETMASK, &plan.signals, nullptr, _NSIG / 8);
  char* const no_environment[] = {nullptr};
  (void)host::Call(SYS_execve, "/proc/self/exe", argv, no_environment);
  _exit(kExecFailed);
}

HostResult<void> WriteFile(const std::string& path, const std::string& text) {
  const Result<OwnedFd> file = host::Open(path.c_str(), O_WRONLY);
  if (!file) return HostFail("cannot open " + path, file.error().code());
  const Result<size_t> written = host::Write(file->get(), std::as_bytes(std::span(text)));
  if (!written) return HostFail("cannot write " + path, written.error().code());
  return {};
}

std::string TextOf(const std::vector<IdMap>& maps) {
  std::string text;
  for (const IdMap& map : maps) {
    text += fmt::format("{} {} {}\n", map.inside, map.outside, map.count);
  }
  return text;
}

HostResult<void> WriteMaps(const ChildPlan& plan, pid_t pid) {
  const std::string proc = fmt::format("/proc/{}/", pid);
  if (plan.deny_setgroups) TRY(WriteFile(proc + "setgroups", "deny"));
  TRY(WriteFile(proc + "gid_map", TextOf(plan.gids)));
  TRY(WriteFile(proc + "uid_map", TextOf(plan.uids)));
  return {};
}

std::string WhyNotCloned(const ChildPlan& plan, int error) {
  std::string why = "cannot start a process in new namespaces (clone3)";
  const bool user = (plan.namespaces & CLONE_NEWUSER) != 0;
  if (user && (error == EPERM || error == ENOSPC || error == EUSERS || error == EACCES)) {
    why +=
        "; a sandbox needs user namespaces: allow them (sysctl user.max_user_namespaces, "
        "kernel.unprivileged_userns_clone=1, kernel.apparmor_restrict_unprivileged_userns=0; in a "
        "container, its seccomp profile)";
  }
  if (error == EINVAL || error == EPERM) {
    why += "; where this runs in a container or in skep itself, that does not allow it";
  }
  return why;
}

}  // namespace

HostResult<Child> Child::Start(const ChildPlan& plan) {
  std::vector<char*> argv;
  for (const std::string& argument : plan.argv) argv.push_back(const_cast<char*>(argument.c_str()));
  argv.push_back(nullptr);
  Result<host::SocketPair> go = host::MakeSocketPair(SOCK_SEQPACKET);
  if (!go) return HostFail("cannot make a socket pair", go.error().code());
  int pidfd = -1;
  clone_args args = {};
  args.flags = plan.namespaces | CLONE_PIDFD | CLONE_CLEAR_SIGHAND;
  // SAFETY: the kernel writes to it before clone3 returns.
  args.pidfd = reinterpret_cast<uint64_t>(&pidfd);
  args.exit_signal = SIGCHLD;
  const Result<int64_t> pid = host::Call(SYS_clone3, &args, sizeof args);
  if (!pid) return HostFail(WhyNotCloned(plan, pid.error().code()), pid.error().code());
  if (*pid == 0) {
    go->a.Reset();
    BecomeRole(plan, argv.data(), go->b.get());
  }
  Child child;
  child.pid_ = static_cast<pid_t>(*pid);
  child.pidfd_ = OwnedFd(pidfd);
  go->b.Reset();
  TRY(child.Admit(plan, go->a.get()));
  return child;
}

// From here on the child runs.
HostResult<void> Child::Admit(const ChildPlan& plan, int go) {
  if ((plan.namespaces & CLONE_NEWUSER) != 0) TRY(WriteMaps(plan, pid_));
  if (plan.cgroup >= 0) {
    const std::string text = std::to_string(pid_);
    const Result<size_t> moved = host::Write(plan.cgroup, std::as_bytes(std::span(text)));
    if (!moved) return HostFail("cannot enter the sandbox's control group", moved.error().code());
  }
  LiftLimits(pid_);
  std::byte byte{1};
  const iovec part = {&byte, 1};
  (void)host::SendMsg(go, std::span(&part, 1), {}, 0);  // EPIPE: it is dead, as its pidfd will say
  return {};
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

}  // namespace skep::runtime
