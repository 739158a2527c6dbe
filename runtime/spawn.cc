#include "runtime/spawn.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>
#include <csignal>
#include <cstring>
#include <span>

#include "base/host_call.h"
#include "base/last_words.h"
#include "runtime/limits.h"
#include "runtime/roles.h"

namespace skep::runtime {
namespace {

// The role's row says how a child for it starts.
ChildPlan PlanOf(Role role, const ChildIds& ids, const SandboxPlan& plan) {
  const RoleRow& row = RowOf(role);
  ChildPlan child;
  child.argv = {"skep", row.verb};
  child.namespaces = row.namespaces;
  child.uids = ids.uids;
  child.gids = ids.gids;
  child.deny_setgroups = ids.deny_setgroups;
  child.signals = plan.child_signals;
  child.cgroup = plan.kernel_cgroup.get();
  child.outlives_parent = plan.outlives_caller;
  return child;
}

HostResult<host::SocketPair> MakeSockets() {
  Result<host::SocketPair> pair = host::MakeSocketPair(SOCK_SEQPACKET);
  if (!pair) return HostFail("cannot make a socket pair", pair.error().code());
  return std::move(*pair);
}

HostResult<OwnedFd> WriteConfig(const boot::BootConfig& config) {
  Result<OwnedFd> file = host::MemfdCreate("skep-config", MFD_CLOEXEC);
  if (!file) return HostFail("cannot make a memory file", file.error().code());
  const std::string text = ToJson(config);
  const Result<void> written = host::WriteAll(file->get(), std::as_bytes(std::span(text)));
  if (!written) return HostFail("cannot write the configuration", written.error().code());
  return std::move(*file);
}

}  // namespace

HostResult<Gofer> StartGofer(SandboxPlan& plan, OwnedFd client) {
  Gofer started;
  started.words = TRY(MakeLastWords());
  host::SocketPair pair = TRY(MakeSockets());
  ChildIds ids = IdsOfTree(plan.caller, plan.uids, plan.gids);
  ids.identity.outlives_parent = plan.outlives_caller;
  ChildPlan child_plan = PlanOf(Role::kGofer, ids, plan);
  child_plan.argv.insert(child_plan.argv.end(), {"--control-fd", std::to_string(pair.b.get())});
  child_plan.keep = {pair.b.get()};
  // The guest's streams are none of its business, nor is the terminal of one that detaches.
  child_plan.stdio = {-1, -1, plan.outlives_caller ? -1 : 2};
  started.child = TRY(Child::Start(child_plan));
  gofer::GoferConfig config;
  config.attach_points = std::move(plan.attach_points);
  config.hidden = std::move(plan.hidden);
  config.client = std::move(client);
  if (plan.log) {
    Result<OwnedFd> log = host::Dup(plan.log.get());
    if (log) config.log = std::move(*log);
  }
  if (Result<OwnedFd> words = host::Dup(started.words.get())) {
    config.last_words = std::move(*words);
  }
  if (plan.filter_use) {
    Result<OwnedFd> use = host::Dup(plan.filter_use.get());
    if (use) config.filter_use = std::move(*use);
  }
  config.log_format = plan.log_format;
  config.log_level = plan.log_level;
  config.identity = ids.identity;
  const Result<void> sent = SendConfig(pair.a.get(), config);
  if (!sent) return HostFail("cannot configure the gofer", sent.error().code());
  started.control = std::move(pair.a);
  return started;
}

void DescribeIds(const SandboxPlan& plan, boot::ContainerConfig& container,
                 boot::ProcessConfig& process) {
  const ChildIds ids = IdsOfTree(plan.caller, plan.uids, plan.gids);
  process.stdio_owners.clear();
  for (const int fd : plan.stdio) {
    const Result<struct stat> status = host::Stat(fd);
    process.stdio_owners.push_back(status ? InsideOf(ids.uids, status->st_uid) : 0);
    process.stdio_owners.push_back(status ? InsideOf(ids.gids, status->st_gid) : 0);
  }
  const auto flatten = [](const std::vector<IdMap>& maps, std::vector<uint32_t>& flat) {
    flat.clear();
    for (const IdMap& map : maps) flat.insert(flat.end(), {map.inside, map.outside, map.count});
  };
  flatten(ids.uids, container.uid_map);
  flatten(ids.gids, container.gid_map);
}

namespace {

HostResult<Child> StartSentry(SandboxPlan& plan, const Sandbox& sandbox, const OwnedFd& client,
                              const OwnedFd& control) {
  boot::BootConfig& config = plan.config;
  config.gofer_fd = client.get();
  config.control_fd = control.get();
  config.log_fd = plan.log.get();
  config.strace_fd = plan.strace.get();
  config.filter_use_fd = plan.filter_use.get();
  config.last_words_fd = sandbox.sentry_words.get();
  config.stub_cgroup_fd = plan.stub_cgroup.get();
  config.engine_fd = plan.engine_device.get();
  config.restore_fd = plan.restore ? plan.image.get() : -1;
  config.caller_stat_fd = plan.caller_stat.get();
  config.listen_fd = plan.listen.get();
  config.lock_fd = plan.lock.get();
  for (int fd = 0; fd < 3; ++fd) {
    config.stdio_fds[fd] = plan.stdio[static_cast<size_t>(fd)] >= 0 ? fd : -1;
  }
  DescribeIds(plan, config, config);
  ChildIds ids = TRY(IdsOfItsOwn(plan.caller));
  ids.identity.outlives_parent = plan.outlives_caller;
  config.identity = ids.identity;
  const OwnedFd file = TRY(WriteConfig(config));
  ChildPlan child_plan = PlanOf(Role::kSentry, ids, plan);
  child_plan.argv.insert(child_plan.argv.end(), {"--config-fd", std::to_string(file.get())});
  for (const int fd :
       {file.get(), config.gofer_fd, config.control_fd, config.log_fd, config.strace_fd,
        config.filter_use_fd, config.last_words_fd, config.stub_cgroup_fd, config.engine_fd,
        config.restore_fd, config.caller_stat_fd, config.listen_fd, config.lock_fd}) {
    if (fd >= 0) child_plan.keep.push_back(fd);
  }
  for (const OwnedFd& fd : plan.keep_open) child_plan.keep.push_back(fd.get());
  child_plan.stdio = plan.stdio;
  return Child::Start(child_plan);
}

}  // namespace

// A step that the host refuses is an error with its name.
HostResult<void> JudgeGofer(Gofer& gofer) {
  const Result<gofer::JailReport> report = gofer::ReceiveReport(gofer.control.get());
  if (!report) {
    const HowItEnded how =
        WhyItEnded("the gofer, while it started,", gofer.child.Wait(), gofer.words);
    return HostFail(how.why +
                    (how.log.empty() ? "" : "; the last line of its log: " + how.log.back()));
  }
  const char* missing = nullptr;
  if (report->filtered == 0) missing = "its system call filter";
  if (report->capabilities_dropped == 0) missing = "dropping its capabilities";
  if (report->root_empty == 0) missing = "its empty root directory";
  if (report->trees_isolated == 0) missing = "mounts of its own";
  if (missing == nullptr) return {};
  return HostFail(fmt::format("this host does not let the gofer be jailed: {} failed", missing));
}

HowItEnded WhyItEnded(std::string_view who, int status, const OwnedFd& words) {
  constexpr size_t kLines = 10;
  LastWords last = words ? ReadLastWords(words.get(), kLines) : LastWords();
  std::string text;
  if (!last.said.empty()) {
    text = fmt::format("{} failed: {}", who, last.said);
  } else if (WIFSIGNALED(status) && WTERMSIG(status) == SIGSYS) {
    text = fmt::format("{} made a system call that its jail forbids (SIGSYS)", who);
  } else if (WIFSIGNALED(status)) {
    text = fmt::format("{} was killed by signal {} ({})", who, WTERMSIG(status),
                       strsignal(WTERMSIG(status)));
  } else {
    text = fmt::format("{} ended unexpectedly with status {}", who, WEXITSTATUS(status));
  }
  if (last.log.empty()) text += "; --debug-log FILE says what happened before";
  return {std::move(text), std::move(last.log)};
}

HostResult<Sandbox> StartSandbox(SandboxPlan plan) {
  TRY(CheckLimits());
  plan.outlives_caller = static_cast<bool>(plan.listen);
  Sandbox sandbox;
  sandbox.sentry_words = TRY(MakeLastWords());
  host::SocketPair client = TRY(MakeSockets());
  host::SocketPair control = TRY(MakeSockets());
  Gofer gofer = TRY(StartGofer(plan, std::move(client.b)));
  sandbox.sentry = TRY(StartSentry(plan, sandbox, client.a, control.b));
  client.a.Reset();
  control.b.Reset();
  TRY(JudgeGofer(gofer));
  sandbox.gofer = std::move(gofer.child);
  sandbox.gofer_words = std::move(gofer.words);
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
  copy.kernel_cgroup = dup(plan.kernel_cgroup);
  copy.filter_use = dup(plan.filter_use);
  copy.image = dup(plan.image);
  copy.stdio = plan.stdio;
  copy.log_format = plan.log_format;
  copy.log_level = plan.log_level;
  copy.caller = plan.caller;
  copy.uids = plan.uids;
  copy.gids = plan.gids;
  copy.checkpoint_after_ms = plan.checkpoint_after_ms;
  copy.checkpoint_only = plan.checkpoint_only;
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
