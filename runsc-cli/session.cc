#include "runsc-cli/session.h"

#include <fcntl.h>
#include <fmt/format.h>

#include "base/host_call.h"
#include "platform/engines.h"
#include "runsc-cli/terminal.h"

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

}  // namespace

HostResult<Ending> RunSandbox(SandboxPlan plan, const Reporter& reporter, StartListener* listener) {
  const SignalSet signals = TRY(SignalSet::Block());
  plan.child_signals = signals.before();
  const bool terminal = plan.config.terminal;
  plan.config.terminal_errors = RawTerminal::HasErrors();
  plan.config.terminal_input = RawTerminal::Owned();
  if (terminal && plan.config.terminal_rows == 0) {
    const WindowSize size = RawTerminal().Size();
    plan.config.terminal_rows = size.rows;
    plan.config.terminal_columns = size.columns;
  }
  std::optional<SandboxPlan> again;
  if (plan.checkpoint_after_ms >= 0) again = TRY(CopyPlan(plan));
  Sandbox sandbox = TRY(StartSandbox(std::move(plan)));
  if (listener != nullptr) TRY(listener->Started(sandbox.sentry.pid()));
  return Supervise(std::move(sandbox), signals, terminal, reporter, std::move(again));
}

HostResult<void> ApplyGlobalOptions(const GlobalOptions& options, SandboxPlan& plan) {
  boot::BootConfig& config = plan.config;
  config.platform = options.platform;
  plan.engine_device = platform::OpenDeviceFor(options.platform);
  config.workers = options.workers;
  config.ptrace_poison = options.ptrace_poison;
  config.move_tasks = options.move_tasks;
  config.check_locks = options.check_locks;
  config.debug = options.debug;
  config.log_format = options.log_format;
  plan.log_format = options.log_format == "json" ? LogFormat::kJson : LogFormat::kText;
  plan.log_level = options.debug ? LogLevel::kDebug : LogLevel::kWarning;
  const std::string& log = options.debug_log.empty() ? options.log : options.debug_log;
  if (!log.empty()) plan.log = TRY(OpenForWriting(log, "--debug-log"));
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
    return 126;
  }
  if (program.find('/') != std::string::npos) {
    reporter.Error(fmt::format("{}: no such file in the sandbox", program));
  } else {
    const char* path = FindEnv(config.env, "PATH");
    reporter.Error(fmt::format("{}: command not found in the sandbox (PATH is {})", program,
                               path == nullptr ? "unset" : path));
  }
  return 127;
}

}  // namespace skep::cli
