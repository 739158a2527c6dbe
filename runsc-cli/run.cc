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
  for (const std::string& note : config->notes) reporter.Note(note);
  return config;
}

// What the root's overlay, and what is read-only, makes of the trees of the host.
HostResult<void> AddTrees(const OciConfig& oci, const std::string& bundle, Overlay overlay,
                          SandboxPlan& plan) {
  for (boot::MountConfig& mount : plan.config.mounts) {
    if (mount.kind != boot::MountConfig::Kind::kGofer) continue;
    const bool root = mount.destination == "/";
    // A read-only root too: mount points that it lacks are made in memory.
    mount.overlay = root && overlay == Overlay::kMemory;
    const std::string& source = oci.sources[static_cast<size_t>(mount.attach)];
    const std::string path = source[0] == '/' ? source : bundle + "/" + source;
    mount.attach = TRY(AddAttachPoint(plan, path, mount.read_only || mount.overlay));
  }
  plan.hidden = {{0, "dev"}};
  return {};
}

// On the heap, because it is large.
HostResult<std::unique_ptr<SandboxPlan>> MakePlan(const GlobalOptions& global,
                                                  const std::string& id, const std::string& bundle,
                                                  const OciConfig& oci) {
  auto made = std::make_unique<SandboxPlan>();
  SandboxPlan& plan = *made;
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
  return made;
}

[[gnu::noinline]] HostResult<Ending> RunWith(const GlobalOptions& global, const RunOptions& options,
                                             const Reporter& reporter, const SignalSet& signals,
                                             StateDirectory& directory, const std::string& bundle,
                                             const std::string& cgroups_path, SandboxPlan& plan) {
  ContainerState state = {options.id, "creating", bundle, TimeNow(), 0, std::nullopt, ""};
  TRY(directory.Write(state));
  if (FindPlannedProgram(plan, reporter) != 0) return Ending{Ending::Kind::kNotStarted, 1};
  runtime::SandboxCgroup group = HoldMemory(plan, cgroups_path, reporter);
  state.cgroup = group.path();
  TRY(directory.Write(state));
  return RunSandbox(std::move(plan), reporter,
                    {.global = global,
                     .attach = options.attach,
                     .signals = signals,
                     .directory = &directory,
                     .state = state,
                     .pid_file = options.pid_file,
                     .group = &group});
}

HostResult<int> RunBundle(const GlobalOptions& global, const RunOptions& options,
                          const Reporter& reporter) {
  TRY(CheckId(options.id));
  const std::string bundle = TRY(RealPath(options.bundle));
  const OciConfig oci = TRY(LoadConfig(bundle, reporter));
  if (options.attach.detach && oci.boot.terminal) {
    return HostFail("--detach: config.json: process.terminal: a detached container has none");
  }
  const std::unique_ptr<SandboxPlan> plan = TRY(MakePlan(global, options.id, bundle, oci));
  // As in `do`: until here a signal ends this command.
  const SignalSet signals = TRY(SignalSet::Block());
  StateDirectory directory = TRY(StateDirectory::Make(StateRoot(global), options.id));
  const HostResult<Ending> ending =
      RunWith(global, options, reporter, signals, directory, bundle, oci.cgroups_path, *plan);
  if (ending && ending->kind == Ending::Kind::kDetached) return 0;
  const HostResult<void> removed = directory.Remove();
  if (!ending) return HostFail(ending.error().message);
  TRY(removed);
  const bool killed = ending->kind == Ending::Kind::kLost && ending->code > 128;
  return ending->kind == Ending::Kind::kExited || killed ? ending->code : 1;
}

}  // namespace

int Run(const GlobalOptions& global, const RunOptions& options, const Reporter& reporter) {
  const HostResult<int> code = RunBundle(global, options, reporter);
  if (code) return *code;
  reporter.Error(code.error().message);
  return 1;
}

}  // namespace skep::cli
