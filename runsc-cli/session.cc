#include "runsc-cli/session.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <span>

#include "base/host_call.h"
#include "base/log.h"
#include "platform/engines.h"
#include "runsc-cli/parse.h"
#include "runsc-cli/terminal.h"
#include "runsc-cli/verbs.h"
#include "runtime/container.h"
#include "runtime/launch.h"
#include "runtime/stdio.h"

namespace skep::cli {
namespace {

HostResult<OwnedFd> OpenForWriting(const std::string& path, const char* option) {
  // "-": to stderr.
  Result<OwnedFd> file =
      path == "-" ? host::Dup(2)
                  : host::Open(path.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
  if (!file) {
    return HostFail(fmt::format("{}: cannot write {}", option, path), file.error().code());
  }
  return std::move(*file);
}

// Counts go on where an earlier sandbox left them.
HostResult<OwnedFd> OpenFilterUse(const std::string& path) {
  constexpr uint64_t kSize = runtime::kFilterParts * jail::kCountsOfPart * sizeof(uint64_t);
  Result<OwnedFd> file = host::Open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
  if (!file) return HostFail("--filter-use " + path, file.error().code());
  const Result<void> sized = host::Truncate(file->get(), kSize);
  if (!sized) return HostFail("--filter-use " + path, sized.error().code());
  return std::move(*file);
}

// Descriptors that become the guest's, beside 0, 1 and 2.
struct Streams {
  OwnedFd input, output;
};

HostResult<Streams> ChooseStreams(const SessionOptions& options, SandboxPlan& plan) {
  Streams streams;
  if (!options.attach.detach) {
    for (size_t fd = 0; fd < plan.stdio.size(); ++fd) {
      if (options.global.closed[fd]) plan.stdio[fd] = -1;
    }
    return streams;
  }
  Result<OwnedFd> input = host::Open("/dev/null", O_RDONLY | O_CLOEXEC);
  Result<OwnedFd> output =
      options.directory->OpenFile(kOutputLog, O_WRONLY | O_CREAT | O_TRUNC | O_APPEND);
  if (!input) return HostFail("cannot open /dev/null", input.error().code());
  if (!output) return HostFail("cannot make the container's log", output.error().code());
  streams = {std::move(*input), std::move(*output)};
  plan.stdio = {streams.input.get(), streams.output.get(), streams.output.get()};
  return streams;
}

// The sandbox is reachable now: the state says so, and so does the pid file.
HostResult<void> Record(const SessionOptions& options, pid_t sentry) {
  ContainerState state = options.state;
  state.pid = sentry;
  state.status = "running";
  TRY(options.directory->Write(state));
  options.directory->Unlock();
  const std::string& path = options.pid_file;
  if (path.empty()) return {};
  Result<OwnedFd> file = host::Open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
  if (!file) return HostFail("--pid-file: cannot write " + path, file.error().code());
  const std::string text = std::to_string(sentry);
  const Result<void> written = host::WriteAll(file->get(), std::as_bytes(std::span(text)));
  if (!written) return HostFail("--pid-file: cannot write " + path, written.error().code());
  return {};
}

// Stays until the guest runs, or says why it does not.
HostResult<Ending> Detach(runtime::SandboxHandle sandbox, const SessionOptions& options,
                          const Reporter& reporter) {
  for (;;) {
    const std::optional<boot::SentryEvent> event = sandbox.OnReadable();
    if (!event) return HostFail("the sandbox's kernel ended while it started");
    if (event->kind == boot::SentryEvent::Kind::kFailed) {
      reporter.Error(event->text);
      return Ending{Ending::Kind::kNotStarted, CodeOfFailedStart(event->status)};
    }
    if (event->kind != boot::SentryEvent::Kind::kStarted) continue;
    sandbox.LetGo();
    if (options.group != nullptr) options.group->LetGo();
    return Ending{Ending::Kind::kDetached, 0};
  }
}

}  // namespace

HostResult<Ending> RunSandbox(SandboxPlan plan, const Reporter& reporter, SessionOptions options) {
  SuperviseOptions supervise;
  if (!options.attach.kill_after.empty()) {
    supervise.kill_after_ns = TRY(ParseDuration("--kill-after", options.attach.kill_after));
  }
  const bool named = options.directory != nullptr;
  Streams streams = TRY(ChooseStreams(options, plan));
  DescribeStdio(plan.stdio, plan);
  plan.child_signals = options.signals.before();
  supervise.terminal = plan.config.terminal;
  plan.config.terminal_errors = RawTerminal::HasErrors();
  plan.config.terminal_input = supervise.terminal ? RawTerminal::Owned() : RawTerminal::MayRead();
  if (supervise.terminal && plan.config.terminal_rows == 0) {
    const WindowSize size = RawTerminal().Size();
    plan.config.terminal_rows = size.rows;
    plan.config.terminal_columns = size.columns;
  }
  if (plan.checkpoint_after_ms >= 0) {
    supervise.again = TRY(CopyPlan(plan));
  } else if (Result<OwnedFd> stat = host::Open("/proc/self/stat", O_RDONLY | O_CLOEXEC);
             stat && !options.attach.detach) {
    plan.caller_stat = std::move(*stat);
  }
  if (named) {
    plan.listen = TRY(options.directory->BindSocket());
    plan.lock = TRY(options.directory->ShareLock());
    plan.config.kill_after_ms = supervise.kill_after_ns / 1'000'000;
    if (options.group != nullptr) plan.keep_open = options.group->Holders();
  }
  runtime::SandboxHandle sandbox = TRY(runtime::Launch(std::move(plan)));
  SKEP_LOG(kInfo, "sentry {} is started", sandbox.pid());
  if (named) TRY(Record(options, sandbox.pid()));
  if (options.attach.detach) return Detach(std::move(sandbox), options, reporter);
  return Supervise(std::move(sandbox), options.signals, reporter, std::move(supervise));
}

HostResult<Ending> JoinSandbox(SandboxPlan plan, const Reporter& reporter,
                               const SessionOptions& options, const std::string& sandbox) {
  const StateDirectory other = TRY(StateDirectory::Open(StateRoot(options.global), sandbox));
  Result<runtime::SandboxClient> client = other.Connect();
  if (!client) return HostFail(fmt::format("--in: the container '{}' does not run", sandbox));
  TRY(options.directory->LinkSocket(other));
  const Streams streams = TRY(ChooseStreams(options, plan));
  DescribeStdio(plan.stdio, plan);
  plan.child_signals = options.signals.before();
  const auto answer = TRY(runtime::StartContainer(*client, std::move(plan)));
  if (answer) {
    reporter.Error(answer->text);
    return Ending{Ending::Kind::kNotStarted, CodeOfError(*answer)};
  }
  TRY(Record(options, client->SentryPid().value_or(0)));
  return Ending{Ending::Kind::kDetached, 0};
}

std::string StateRoot(const GlobalOptions& global) {
  return global.root.empty() ? DefaultStateRoot() : global.root;
}

HostResult<void> ApplyGlobalOptions(const GlobalOptions& options, SandboxPlan& plan) {
  boot::BootConfig& config = plan.config;
  config.platform = options.platform;
  plan.engine_device = platform::OpenDeviceFor(options.platform);
  config.workers = static_cast<int>(options.workers);
  config.ptrace_poison = options.ptrace_poison;
  config.move_tasks = options.move_tasks;
  config.check_locks = options.check_locks;
  config.debug = options.debug;
  config.log_format = options.log_format;
  plan.log_format = options.log_format == "json" ? LogFormat::kJson : LogFormat::kText;
  plan.log_level = options.debug ? LogLevel::kDebug : LogLevel::kWarning;
  const std::string& log = options.debug_log.empty() ? options.log : options.debug_log;
  if (!log.empty()) plan.log = TRY(OpenForWriting(log, "--debug-log"));
  if (!options.filter_use.empty()) plan.filter_use = TRY(OpenFilterUse(options.filter_use));
  if (!options.strace.empty()) plan.strace = TRY(OpenForWriting(options.strace, "--strace"));
  return {};
}

runtime::SandboxCgroup HoldMemory(SandboxPlan& plan, const std::string& wanted_group,
                                  const Reporter& reporter) {
  if (plan.config.memory_limit == 0) return {};
  HostResult<runtime::SandboxCgroup> group =
      runtime::SandboxCgroup::Make(plan.config.memory_limit, wanted_group);
  if (!group) {
    reporter.Warning(fmt::format("the memory limit is held by skep's own accounting alone: {}",
                                 group.error().message));
    return {};
  }
  plan.config.stub_cgroup = group->stubs_path();
  plan.stub_cgroup = group->TakeStubs();
  plan.kernel_cgroup = group->TakeKernel();
  return std::move(*group);
}

int FindPlannedProgram(SandboxPlan& plan, const Reporter& reporter) {
  boot::BootConfig& config = plan.config;
  std::vector<GuestTree> trees;
  for (const boot::MountConfig& mount : config.mounts) {
    if (mount.kind != boot::MountConfig::Kind::kGofer) continue;
    trees.push_back(
        {mount.destination, plan.attach_points[static_cast<size_t>(mount.attach)].root.get()});
  }
  const std::string& program = config.argv[0];
  Result<std::string> found = FindProgram(trees, config.cwd, program, config.env);
  if (found) {
    config.exec_path = std::move(*found);
    return 0;
  }
  const bool executable = found.error() != Errno(EACCES);
  if (!executable) {
    reporter.Error(fmt::format("{}: not an executable file", program));
    return kNotExecutable;
  }
  if (program.find('/') != std::string::npos) {
    reporter.Error(fmt::format("{}: no such file in the sandbox", program));
  } else {
    const bool has_path = FindEnv(config.env, "PATH") != nullptr;
    reporter.Error(
        fmt::format("{}: command not found{}", program, has_path ? "" : " (PATH is unset)"));
  }
  return kNotFound;
}

}  // namespace skep::cli
