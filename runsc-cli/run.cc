// `skep run`: an OCI bundle in the foreground, from config.json to its exit status.
#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>
#include <ctime>
#include <memory>
#include <optional>
#include <span>

#include "base/host_call.h"
#include "runsc-cli/oci_config.h"
#include "runsc-cli/session.h"
#include "runsc-cli/state.h"
#include "runsc-cli/terminal.h"
#include "runsc-cli/verbs.h"

namespace skep::cli {
namespace {

constexpr size_t kConfigMax = size_t{16} << 20;

HostResult<std::string> RealPath(const std::string& path) {
  const std::unique_ptr<char, void (*)(void*)> real(realpath(path.c_str(), nullptr), &free);
  if (!real) return HostFail("--bundle: there is no directory " + path);
  return std::string(real.get());
}

HostResult<OciConfig> LoadConfig(const std::string& bundle, const Reporter& reporter) {
  const std::string path = bundle + "/config.json";
  const Result<std::string> text = host::ReadWholeFile(path.c_str(), kConfigMax);
  if (!text) return HostFail("cannot read " + path, text.error().code());
  HostResult<OciConfig> config = ParseOciConfig(*text);
  if (!config) return config;
  for (const std::string& warning : config->warnings) reporter.Warning(warning);
  return config;
}

// What the root's overlay, and what is read-only, makes of the trees of the host.
HostResult<void> AddTrees(const OciConfig& oci, const std::string& bundle, Overlay overlay,
                          SandboxPlan& plan) {
  for (boot::MountConfig& mount : plan.config.mounts) {
    if (mount.kind != boot::MountConfig::Kind::kGofer) continue;
    const bool root = mount.destination == "/";
    mount.overlay = root && overlay == Overlay::kMemory && !mount.read_only;
    const std::string& source = oci.sources[static_cast<size_t>(mount.attach)];
    const std::string path = source[0] == '/' ? source : bundle + "/" + source;
    mount.attach = TRY(AddAttachPoint(plan, path, mount.read_only || mount.overlay));
  }
  plan.hidden = {{0, "dev"}};
  return {};
}

HostResult<SandboxPlan> MakePlan(const GlobalOptions& global, const std::string& id,
                                 const std::string& bundle, const OciConfig& oci) {
  SandboxPlan plan;
  plan.config = oci.boot;
  plan.config.id = id;
  TRY(ApplyGlobalOptions(global, plan));
  if (plan.config.terminal && !RawTerminal::Usable()) {
    return HostFail("config.json: process.terminal: standard input and output are not a terminal");
  }
  const runtime::Caller caller = runtime::WhoCalls();
  plan.caller = caller;
  if (!caller.privileged) {
    plan.uids = {{0, caller.uid, 1}};
    plan.gids = {{0, caller.gid, 1}};
  }
  TRY(AddTrees(oci, bundle, global.overlay == "none" ? Overlay::kNone : Overlay::kMemory, plan));
  return plan;
}

// Notes a running container in its state and in the pid file.
class Recorder : public StartListener {
 public:
  Recorder(StateDirectory& directory, ContainerState state, std::string pid_file)
      : directory_(directory), state_(std::move(state)), pid_file_(std::move(pid_file)) {}

  HostResult<void> Started(pid_t sentry) override {
    state_.pid = sentry;
    state_.status = "running";
    TRY(directory_.Write(state_));
    if (pid_file_.empty()) return {};
    Result<OwnedFd> file =
        host::Open(pid_file_.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    if (!file) return HostFail("--pid-file: cannot write " + pid_file_, file.error().code());
    const std::string text = std::to_string(sentry);
    const Result<void> written = host::WriteAll(file->get(), std::as_bytes(std::span(text)));
    if (!written) return HostFail("--pid-file: cannot write " + pid_file_, written.error().code());
    return {};
  }

 private:
  StateDirectory& directory_;
  ContainerState state_;
  const std::string pid_file_;
};

std::string Now() {
  const time_t seconds = static_cast<time_t>(host::RealtimeNs() / 1'000'000'000);
  tm utc{};
  gmtime_r(&seconds, &utc);
  return fmt::format("{:04}-{:02}-{:02}T{:02}:{:02}:{:02}Z", utc.tm_year + 1900, utc.tm_mon + 1,
                     utc.tm_mday, utc.tm_hour, utc.tm_min, utc.tm_sec);
}

HostResult<int> RunBundle(const GlobalOptions& global, const RunOptions& options,
                          const Reporter& reporter) {
  TRY(CheckId(options.id));
  const std::string bundle = TRY(RealPath(options.bundle));
  const OciConfig oci = TRY(LoadConfig(bundle, reporter));
  const std::string root = global.root.empty() ? DefaultStateRoot() : global.root;
  StateDirectory directory = TRY(StateDirectory::Make(root, options.id));
  const ContainerState state = {options.id, "creating", bundle, Now(), 0};
  TRY(directory.Write(state));
  SandboxPlan plan = TRY(MakePlan(global, options.id, bundle, oci));
  if (FindPlannedProgram(plan, reporter) != 0) return 1;
  const runtime::SandboxCgroup group = HoldMemory(plan, oci.cgroups_path, reporter);
  Recorder recorder(directory, state, options.pid_file);
  const Ending ending = TRY(RunSandbox(std::move(plan), reporter, &recorder));
  return ending.kind == Ending::Kind::kExited ? ending.code : 1;
}

}  // namespace

int Run(const GlobalOptions& global, const RunOptions& options, const Reporter& reporter) {
  const HostResult<int> code = RunBundle(global, options, reporter);
  if (code) return *code;
  reporter.Error(code.error().message);
  return 1;
}

}  // namespace skep::cli
