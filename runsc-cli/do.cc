// `skep do`: a command over a read-only view of the host's root, or of a directory.
#include <fcntl.h>
#include <fmt/format.h>
#include <linux/capability.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>
#include <climits>
#include <memory>

#include "base/host_call.h"
#include "jail/filter.h"
#include "runsc-cli/parse.h"
#include "runsc-cli/session.h"
#include "runsc-cli/terminal.h"
#include "runsc-cli/verbs.h"

namespace skep::cli {
namespace {

using boot::MountConfig;
using Kind = MountConfig::Kind;

constexpr size_t kDatabaseMax = size_t{4} << 20;
constexpr int kDetachedCode = -1;  // the sandbox goes on

MountConfig MakeMount(Kind kind, const char* destination, const char* source) {
  MountConfig mount;
  mount.kind = kind;
  mount.destination = destination;
  mount.source = source;
  mount.no_suid = true;
  return mount;
}

HostResult<int> Attach(SandboxPlan& plan, const char* option, const std::string& path,
                       bool read_only) {
  HostResult<int> attach = AddAttachPoint(plan, path, read_only);
  if (!attach) return HostFail(fmt::format("{}: {}", option, attach.error().message));
  return attach;
}

HostResult<void> AddMounts(const GlobalOptions& global, const DoOptions& options,
                           SandboxPlan& plan) {
  const bool host_root = options.rootfs.empty();
  const bool to_memory = global.overlay == "memory";
  // Without an overlay a rootfs is written to; the host's own root never is.
  const bool read_only = host_root || to_memory;
  MountConfig root;
  root.destination = "/";
  root.attach = TRY(Attach(plan, "--rootfs", host_root ? "/" : options.rootfs, read_only));
  const Result<struct stat> status = host::Stat(plan.attach_points[0].root.get());
  if (!status || !S_ISDIR(status->st_mode)) {
    return HostFail("--rootfs: " + options.rootfs + " is not a directory");
  }
  root.overlay = to_memory;
  root.read_only = host_root && !to_memory;
  root.source = "rootfs";
  plan.config.mounts.push_back(root);
  plan.hidden = {{0, "dev"}};

  std::vector<MountConfig>& mounts = plan.config.mounts;
  mounts.push_back(MakeMount(Kind::kProc, "/proc", "proc"));
  mounts.push_back(MakeMount(Kind::kSysfs, "/sys", "sysfs"));
  mounts.back().read_only = true;
  mounts.push_back(MakeMount(Kind::kDev, "/dev", "devtmpfs"));
  mounts.push_back(MakeMount(Kind::kDevpts, "/dev/pts", "devpts"));
  mounts.push_back(MakeMount(Kind::kTmpfs, "/dev/shm", "tmpfs"));
  if (!host_root) mounts.push_back(MakeMount(Kind::kTmpfs, "/tmp", "tmpfs"));
  for (const std::string& text : options.volumes) {
    const Volume volume = TRY(ParseVolume(text));
    MountConfig mount;
    mount.destination = volume.guest;
    mount.attach = TRY(Attach(plan, "--volume", volume.host, volume.read_only));
    mount.shared_cache = true;
    mount.read_only = volume.read_only;
    mount.source = volume.host;
    mounts.push_back(mount);
  }
  return {};
}

HostResult<void> FillEnvironment(const DoOptions& options, boot::BootConfig& config) {
  for (char** entry = environ; *entry != nullptr; ++entry) config.env.emplace_back(*entry);
  for (const std::string& setting : options.env) {
    const size_t equals = setting.find('=');
    if (equals == 0 || equals == std::string::npos) {
      return HostFail("--env " + setting + ": write NAME=VALUE");
    }
    const std::string prefix = setting.substr(0, equals + 1);
    std::erase_if(config.env, [&](const std::string& old) { return old.starts_with(prefix); });
    config.env.push_back(setting);
  }
  return {};
}

HostResult<User> ChooseUser(const DoOptions& options, const runtime::Caller& caller) {
  if (options.user.empty()) return User{caller.uid, caller.gid, caller.groups};
  if (!options.rootfs.empty()) return ParseUser(options.user, nullptr);
  UserDatabase database;
  database.passwd = host::ReadWholeFile("/etc/passwd", kDatabaseMax).value_or("");
  database.group = host::ReadWholeFile("/etc/group", kDatabaseMax).value_or("");
  return ParseUser(options.user, &database);
}

void FillIdentity(const User& user, boot::BootConfig& config) {
  config.uid = user.uid;
  config.gid = user.gid;
  config.groups = user.groups;
  const mode_t mask = umask(0);
  umask(mask);
  config.umask = mask;
  config.capabilities.bounding = kAllCapabilities;
  if (user.uid == 0) {
    config.capabilities.effective = kAllCapabilities;
    config.capabilities.permitted = kAllCapabilities;
  }
}

// The guest starts with the limits that the caller has.
void FillRlimits(boot::BootConfig& config) {
  for (int resource = 0; resource < RLIM_NLIMITS; ++resource) {
    rlimit limit{};
    const auto got = host::Call(SYS_prlimit64, 0, resource, 0, &limit);
    if (got) config.rlimits.push_back({resource, limit.rlim_cur, limit.rlim_max});
  }
}

HostResult<std::string> ChooseCwd(const DoOptions& options, const Reporter& reporter) {
  std::string cwd = options.cwd;
  if (cwd.empty()) {
    if (!options.rootfs.empty()) return "/";
    const std::unique_ptr<char, void (*)(void*)> current(getcwd(nullptr, 0), &free);
    // Removed or unreachable: there is no such place in the sandbox either.
    if (!current || current.get()[0] != '/') {
      reporter.Warning("the working directory has been removed: the command starts in /");
      return "/";
    }
    cwd = current.get();
  }
  if (cwd[0] != '/') return HostFail("--cwd " + cwd + ": not an absolute path");
  if (cwd.size() >= PATH_MAX) {
    return HostFail(
        fmt::format("the path of the working directory has {} bytes, more than the {} "
                    "that a path may have; choose another with --cwd",
                    cwd.size(), PATH_MAX - 1));
  }
  return cwd;
}

HostResult<std::string> CheckHostname(const std::string& name) {
  if (name.size() <= HOST_NAME_MAX) return name;
  return HostFail(fmt::format("--hostname: {} bytes are more than the {} that a name may have",
                              name.size(), HOST_NAME_MAX));
}

HostResult<void> PlanTestModes(const DoOptions& options, SandboxPlan& plan) {
  plan.config.jail_self_test = options.jail_self_test;
  plan.config.crash = options.crash;
  if (options.image.empty()) return {};
  const int create = options.from_image ? 0 : O_CREAT | O_TRUNC;
  Result<OwnedFd> image = host::Open(options.image.c_str(), O_RDWR | create | O_CLOEXEC, 0600);
  if (!image) return HostFail("--image " + options.image, image.error().code());
  plan.image = std::move(*image);
  plan.checkpoint_after_ms = options.checkpoint_after;
  plan.checkpoint_only = options.checkpoint_only;
  plan.restore = options.from_image;
  plan.config.checkpoint_scan = true;
  return {};
}

// On the heap, because it is large.
HostResult<std::unique_ptr<SandboxPlan>> MakePlan(const GlobalOptions& global,
                                                  const DoOptions& options,
                                                  const Reporter& reporter) {
  auto made = std::make_unique<SandboxPlan>();
  SandboxPlan& plan = *made;
  boot::BootConfig& config = plan.config;
  TRY(ApplyGlobalOptions(global, plan));
  const runtime::Caller caller = runtime::WhoCalls();
  const User user = TRY(ChooseUser(options, caller));
  if (!options.memory.empty()) {
    const HostResult<uint64_t> limit = ParseSize(options.memory);
    if (!limit) return HostFail("--memory: " + limit.error().message);
    config.memory_limit = *limit;
  }
  config.id = options.name.empty() ? fmt::format("do-{}", getpid()) : options.name;
  config.argv = options.command;
  // The command is the guest's process 1 for want of another, but not an init: its exit code is
  // ours, and `kill -9 $$` in it is to mean 137. With an init of our own above it there would be a
  // second process to see, to reap and to pass signals on.
  config.unkillable_init = false;
  config.cwd = TRY(ChooseCwd(options, reporter));
  config.hostname = TRY(CheckHostname(options.hostname));
  config.pids_limit = static_cast<uint64_t>(options.pids);
  config.terminal =
      !options.attach.detach && RawTerminal::Usable() && !global.closed[0] && !global.closed[1];
  TRY(PlanTestModes(options, plan));
  FillIdentity(user, config);
  FillRlimits(config);
  TRY(FillEnvironment(options, config));
  plan.caller = caller;
  if (!caller.privileged) {
    plan.uids = {{user.uid, caller.uid, 1}};
    plan.gids = {{user.gid, caller.gid, 1}};
  }
  TRY(AddMounts(global, options, plan));
  return made;
}

HostResult<void> CheckTogether(const DoOptions& options) {
  if (!options.sandbox.empty() && (options.name.empty() || !options.attach.detach)) {
    return HostFail("--in: give the container a --name, and --detach it");
  }
  if (!options.sandbox.empty() && !options.memory.empty()) {
    return HostFail("--memory: the limit is that of the sandbox, which runs already");
  }
  if (options.name.empty() && options.attach.detach) {
    return HostFail("--detach: give the sandbox a --name");
  }
  return {};
}

HostResult<int> DoWith(const GlobalOptions& global, const DoOptions& options,
                       const Reporter& reporter, const SignalSet& signals,
                       StateDirectory* directory, SandboxPlan& plan) {
  if (const int code = FindPlannedProgram(plan, reporter)) return code;
  runtime::SandboxCgroup group = HoldMemory(plan, "", reporter);
  const ContainerState state = {options.name, "creating",  "", TimeNow(), 0,
                                std::nullopt, group.path()};
  if (directory != nullptr) TRY(directory->Write(state));
  const SessionOptions session = {.global = global,
                                  .attach = options.attach,
                                  .signals = signals,
                                  .directory = directory,
                                  .state = state,
                                  .group = &group};
  const Ending ending = TRY(options.sandbox.empty()
                                ? RunSandbox(std::move(plan), reporter, session)
                                : JoinSandbox(std::move(plan), reporter, session, options.sandbox));
  if (ending.kind == Ending::Kind::kDetached) return kDetachedCode;
  return ending.code;
}

// Signals are blocked after the plan is made: an open may wait (a FIFO without a reader, a network
// file system), and a signal must end this command then. The name's directory is the first thing
// that is made: another command may have taken the name.
HostResult<int> DoNamed(const GlobalOptions& global, const DoOptions& options,
                        const Reporter& reporter) {
  TRY(CheckTogether(options));
  const std::unique_ptr<SandboxPlan> plan = TRY(MakePlan(global, options, reporter));
  const SignalSet signals = TRY(SignalSet::Block());
  std::optional<StateDirectory> directory;
  if (!options.name.empty()) {
    directory = TRY(StateDirectory::Make(StateRoot(global), options.name));
  }
  StateDirectory* const named = directory ? &*directory : nullptr;
  HostResult<int> code = DoWith(global, options, reporter, signals, named, *plan);
  const bool goes_on = code && *code == kDetachedCode;
  if (named != nullptr && !goes_on) (void)named->Remove();
  return code;
}

}  // namespace

int Do(const GlobalOptions& global, const DoOptions& options, const Reporter& reporter) {
  const HostResult<int> code = DoNamed(global, options, reporter);
  if (code) return *code == kDetachedCode ? 0 : *code;
  reporter.Error(code.error().message);
  return kOwnError;
}

}  // namespace skep::cli
