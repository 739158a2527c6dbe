#include "runtime/spawn.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sched.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>
#include <span>

#include "base/host_call.h"

namespace skep::runtime {
namespace {

// No network, no System V objects and no host name of the host.
constexpr uint64_t kIsolation = CLONE_NEWPID | CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS;

HostResult<host::SocketPair> MakeSockets() {
  Result<host::SocketPair> pair = host::MakeSocketPair(SOCK_SEQPACKET);
  if (!pair) return HostFail("cannot make a socket pair", pair.error().code());
  return std::move(*pair);
}

HostResult<OwnedFd> WriteConfig(const boot::BootConfig& config) {
  Result<OwnedFd> file = host::MemfdCreate("skep-config", 0x1);  // MFD_CLOEXEC
  if (!file) return HostFail("cannot make a memory file", file.error().code());
  const std::string text = ToJson(config);
  const Result<void> written = host::WriteAll(file->get(), std::as_bytes(std::span(text)));
  if (!written) return HostFail("cannot write the configuration", written.error().code());
  return std::move(*file);
}

HostResult<Child> StartGofer(SandboxPlan& plan, OwnedFd client, OwnedFd& control) {
  host::SocketPair pair = TRY(MakeSockets());
  ChildPlan child_plan;
  child_plan.argv = {"skep", "gofer", "--control-fd", std::to_string(pair.b.get())};
  child_plan.namespaces = kIsolation;
  child_plan.keep = {pair.b.get()};
  child_plan.signals = plan.child_signals;
  child_plan.keep_capabilities = plan.user_namespace;
  Child child = TRY(Child::Start(child_plan));
  gofer::GoferConfig config;
  config.attach_points = std::move(plan.attach_points);
  config.hidden = std::move(plan.hidden);
  config.client = std::move(client);
  if (plan.log) {
    Result<OwnedFd> log = host::Dup(plan.log.get());
    if (log) config.log = std::move(*log);
  }
  config.log_format = plan.log_format;
  config.log_level = plan.log_level;
  config.namespaces = CLONE_NEWNS;  // left to the gofer: its trees are cloned in ours
  const Result<void> sent = SendConfig(pair.a.get(), config);
  if (!sent) return HostFail("cannot configure the gofer", sent.error().code());
  control = std::move(pair.a);
  return child;
}

HostResult<Child> StartSentry(SandboxPlan& plan, const OwnedFd& client, const OwnedFd& control) {
  boot::BootConfig& config = plan.config;
  config.gofer_fd = client.get();
  config.control_fd = control.get();
  config.log_fd = plan.log.get();
  config.strace_fd = plan.strace.get();
  config.stub_cgroup_fd = plan.stub_cgroup.get();
  config.engine_fd = plan.engine_device.get();
  config.restore_fd = plan.restore ? plan.image.get() : -1;
  for (int fd = 0; fd < 3; ++fd) config.stdio_fds[fd] = fd;
  const OwnedFd file = TRY(WriteConfig(config));
  ChildPlan child_plan;
  child_plan.argv = {"skep", "boot", "--config-fd", std::to_string(file.get())};
  child_plan.namespaces = kIsolation | CLONE_NEWNS;
  for (const int fd :
       {file.get(), config.gofer_fd, config.control_fd, config.log_fd, config.strace_fd,
        config.stub_cgroup_fd, config.engine_fd, config.restore_fd}) {
    if (fd >= 0) child_plan.keep.push_back(fd);
  }
  child_plan.signals = plan.child_signals;
  child_plan.keep_capabilities = plan.user_namespace;
  return Child::Start(child_plan);
}

// The jail is not optional: a step that the host refuses is an error with its name.
HostResult<void> JudgeJail(const Result<gofer::JailReport>& report, Child& gofer) {
  if (!report) {
    const int status = gofer.Wait();
    return HostFail(
        WIFSIGNALED(status)
            ? fmt::format("the gofer was killed by signal {} while it started", WTERMSIG(status))
            : fmt::format("the gofer did not start (exit status {}); --debug-log says why",
                          WEXITSTATUS(status)));
  }
  const char* missing = nullptr;
  if (report->filtered == 0) missing = "its system call filter";
  if (report->capabilities_dropped == 0) missing = "dropping its capabilities";
  if (report->root_empty == 0) missing = "its empty root directory";
  if (report->trees_isolated == 0) missing = "mounts of its own";
  if (missing == nullptr) return {};
  return HostFail(fmt::format("this host does not let the gofer be jailed: {} failed", missing));
}

}  // namespace

HostResult<Sandbox> StartSandbox(SandboxPlan plan) {
  Sandbox sandbox;
  host::SocketPair client = TRY(MakeSockets());
  host::SocketPair control = TRY(MakeSockets());
  OwnedFd gofer_control;
  sandbox.gofer = TRY(StartGofer(plan, std::move(client.b), gofer_control));
  sandbox.sentry = TRY(StartSentry(plan, client.a, control.b));
  client.a.Reset();
  control.b.Reset();
  TRY(JudgeJail(gofer::ReceiveReport(gofer_control.get()), sandbox.gofer));
  sandbox.control = std::move(control.a);
  return sandbox;
}

HostResult<SandboxPlan> CopyPlan(const SandboxPlan& plan) {
  SandboxPlan copy;
  HostResult<void> failed;
  const auto dup = [&](const OwnedFd& fd) {
    if (!fd) return OwnedFd();
    Result<OwnedFd> again = host::Dup(fd.get());
    if (!again) failed = HostFail("cannot duplicate a descriptor", again.error().code());
    return again ? std::move(*again) : OwnedFd();
  };
  copy.config = plan.config;
  for (const gofer::AttachPoint& point : plan.attach_points) {
    copy.attach_points.push_back({dup(point.root), point.read_only});
  }
  copy.hidden = plan.hidden;
  copy.log = dup(plan.log);
  copy.strace = dup(plan.strace);
  copy.stub_cgroup = dup(plan.stub_cgroup);
  copy.engine_device = dup(plan.engine_device);
  copy.image = dup(plan.image);
  copy.log_format = plan.log_format;
  copy.log_level = plan.log_level;
  copy.user_namespace = plan.user_namespace;
  copy.checkpoint_after_ms = plan.checkpoint_after_ms;
  copy.restore = plan.restore;
  copy.child_signals = plan.child_signals;
  TRY(failed);
  return copy;
}

HostResult<int> AddAttachPoint(SandboxPlan& plan, const std::string& path, bool read_only) {
  if (plan.attach_points.size() >= gofer::kMaxAttachPoints) {
    return HostFail(
        fmt::format("more than {} volumes and bind mounts", gofer::kMaxAttachPoints - 1));
  }
  Result<OwnedFd> root = host::Open(path.c_str(), O_PATH | O_CLOEXEC);
  if (!root) return HostFail(fmt::format("cannot open {}", path), root.error().code());
  const Result<struct stat> status = host::Stat(root->get());
  if (!status) return HostFail(fmt::format("cannot look at {}", path), status.error().code());
  if (!S_ISDIR(status->st_mode) && !S_ISREG(status->st_mode)) {
    return HostFail(fmt::format("{} is neither a directory nor a regular file", path));
  }
  plan.attach_points.push_back({std::move(*root), read_only});
  return static_cast<int>(plan.attach_points.size() - 1);
}

}  // namespace skep::runtime
