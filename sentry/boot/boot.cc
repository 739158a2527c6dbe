// BootMain: puts a sentry together.
//
// In this order: configuration, arena, empty root, no capabilities, kernel objects, workers with
// their engines, seccomp, the first process. From then on the main thread only listens to the CLI.
#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <sched.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <unistd.h>
#include <algorithm>
#include <array>
#include <csignal>
#include <cstring>

#include "base/check.h"
#include "base/fd_room.h"
#include "base/host_call.h"
#include "base/last_words.h"
#include "base/log.h"
#include "platform/engines.h"
#include "sentry/anon/host_file.h"
#include "sentry/arena/arena.h"
#include "sentry/boot/checkpoint.h"
#include "sentry/boot/control.h"
#include "sentry/boot/credentials.h"
#include "sentry/boot/jail.h"
#include "sentry/boot/job.h"
#include "sentry/boot/mounts.h"
#include "sentry/boot/sandbox.h"
#include "sentry/boot/test_hooks.h"
#include "sentry/fs/dev/memory_devices.h"
#include "sentry/kernel/clone.h"
#include "sentry/kernel/kernel.h"
#include "sentry/kernel/oom.h"
#include "sentry/kernel/signals.h"
#include "sentry/kernel/vdso_clock.h"
#include "sentry/mm/copy.h"
#include "sentry/syscalls/strace.h"
#include "sentry/syscalls/syscall_table.h"

namespace skep::boot {
namespace {

constexpr size_t kMaxConfig = 16u << 20;
constexpr unsigned kRoomForFds = 4096;  // two for each guest process, and open files

[[gnu::noinline]] HostResult<BootConfig> ReadConfig(int fd) {
  std::string text;
  char block[4096 / 2];
  for (uint64_t offset = 0;;) {
    auto n = host::PRead(fd, std::as_writable_bytes(std::span(block)), offset);
    if (!n) return HostFail("cannot read the configuration", n.error().code());
    if (*n == 0) break;
    text.append(block, *n);
    offset += *n;
    if (text.size() > kMaxConfig) return HostFail("the configuration is too large", E2BIG);
  }
  return FromJson(text);
}

int AllowedCpus() {
  cpu_set_t set;
  CPU_ZERO(&set);
  if (sched_getaffinity(0, sizeof set, &set) != 0) return 1;
  return CPU_COUNT(&set);
}

struct Engines {
  platform::EngineKind kind;
  std::unique_ptr<platform::EngineGroup> group;
};

// The first that starts. What ptrace lacks shows when workers make their engines.
[[gnu::noinline]] HostResult<Engines> StartEngines(const BootConfig& config) {
  platform::EngineOptions options;
  options.files = &arena::HostTable::Get();
  options.ptrace.poison_unloaded = config.ptrace_poison;
  options.stubs.cgroup_fd = config.stub_cgroup_fd;
  options.device_fd = config.engine_fd;
  const std::string& name = config.platform;
  std::string reasons;
  for (const platform::EngineInfo& engine : platform::kEngines) {
    if (name != "auto" && name != engine.name) continue;
    HostResult<std::unique_ptr<platform::EngineGroup>> group =
        platform::MakeEngineGroup(engine.kind, options);
    if (group) return Engines{engine.kind, std::move(*group)};
    // A trial finds a better reason than the start, where there is one.
    const std::string why_not = engine.WhyUnavailable().value_or(group.error().message);
    if (name == "auto" && engine.kind == platform::EngineKind::kNotify) {
      SKEP_LOG(kWarning, "guests run under ptrace, which is slower: no notify: {}", why_not);
    }
    reasons += fmt::format("{}{}: {}", reasons.empty() ? "" : "; ", engine.name, why_not);
  }
  return HostFail(reasons.empty() ? fmt::format("there is no platform '{}'", name)
                                  : fmt::format("no platform works here ({})", reasons));
}

[[noreturn]] void Die(const BootConfig& config, const std::string& text, int status = 1) {
  // The CLI says it; a log of its own, where there is one, keeps it.
  if (config.log_fd >= 0 || config.control_fd < 0) SKEP_LOG(kError, "{}", text);
  if (config.control_fd >= 0) {
    (void)SendEvent(config.control_fd, {SentryEvent::Kind::kFailed, 0, text});
  }
  _exit(status);
}

template <class T>
T OrDie(const BootConfig& config, HostResult<T> result) {
  if (!result) Die(config, result.error().message);
  if constexpr (!std::is_void_v<T>) return *std::move(result);
}

winsize WindowOf(uint32_t rows, uint32_t columns) {
  winsize size{};
  size.ws_row = static_cast<uint16_t>(rows);
  size.ws_col = static_cast<uint16_t>(columns);
  return size;
}

// A terminal of ours over the host's, which is standard input and output.
Result<Ref<vfs::File>> OpenConsole(Sandbox& sandbox, kernel::Task& init) {
  const BootConfig& config = sandbox.config;
  TRY(sandbox.terminals.StartConsole(sandbox.stdio.fds[0], sandbox.stdio.fds[1],
                                     WindowOf(config.terminal_rows, config.terminal_columns)));
  sandbox.terminals.OnWantedConsoleInput(
      [&sandbox] { sandbox.server->Tell(SentryEvent::Kind::kWantsInput, 0, ""); });
  if (!config.terminal_input) sandbox.terminals.SetConsoleInput(anon::Console::Input::kHeld);
  return sandbox.terminals.OpenConsole(init);
}

void StartFirstProcess(Sandbox& sandbox) {
  kernel::Kernel& kernel = sandbox.kernel;
  kernel::ProcessRequest request;
  // It is a command like any other: whoever started it continues it, as a shell does.
  request.job_control = !sandbox.config.init_is_spared;
  request.credentials = CredentialsOf(sandbox.config);
  request.limits = LimitsOf(sandbox.config);
  request.path =
      sandbox.config.exec_path.empty() ? sandbox.config.argv[0] : sandbox.config.exec_path;
  request.argv = sandbox.config.argv;
  request.envp = sandbox.config.env;
  request.oom_score_adj = sandbox.config.oom_score_adj;
  request.prepare = [&sandbox](kernel::Task& init) -> Result<void> {
    const MountContext context = {.kernel = sandbox.kernel,
                                  .config = sandbox.config,
                                  .gofer = sandbox.gofer,
                                  .donated = sandbox.donated,
                                  .special_files = sandbox.special_files,
                                  .terminals = sandbox.terminals,
                                  .container = *sandbox.container,
                                  .mounts = sandbox.mounts,
                                  .gofer_trees = sandbox.gofer_trees};
    TRY(MountAll(context, init, &sandbox.failed_step));
    Ref<vfs::File> console;
    if (sandbox.config.terminal) console = TRY(OpenConsole(sandbox, init));
    return OpenStdio(init, sandbox.config, sandbox.stdio, std::move(console));
  };
  request.started = [&sandbox](int error, bool in_prepare) {
    const BootConfig& config = sandbox.config;
    if (error == 0) {
      sandbox.server->Tell(SentryEvent::Kind::kStarted, 0, sandbox.kernel.config.engine_name);
      return;
    }
    if (error == kKilled) return;  // by a signal to the CLI: its exit status tells
    const char* known = strerrordesc_np(error);
    const char* name = known != nullptr ? known : "unknown error";
    const std::string text =
        in_prepare ? fmt::format("{}: {}",
                                 sandbox.failed_step.empty() ? "cannot set up the sandbox's files"
                                                             : sandbox.failed_step,
                                 name)
                   : fmt::format("cannot execute {}: {}", config.argv[0], name);
    sandbox.server->Tell(SentryEvent::Kind::kFailed, in_prepare ? 0 : error, text);
    // Nobody will ask how a container has ended that never ran.
    _exit(1);
  };
  auto started = sandbox.container->StartInit(std::move(request));
  if (!started) Die(sandbox.config, "cannot start the first process");
  // Tells whoever asks when all is over.
  auto watcher = sched::Fiber::Spawn(kernel.scheduler.worker(0), [&sandbox, init = *started] {
    while (!init->exited()) {
      sched::WaitUntil(init->changes(), sched::kAllEvents, std::nullopt,
                       sched::Sleep::kUninterruptible,
                       [&] { return init->exited() || init->stopped(); });
      if (const int signo = init->TakeStop(); signo != 0) {
        sandbox.terminals.SetConsoleInput(anon::Console::Input::kHeld);
        if (!sandbox.suspending.exchange(false)) {
          sandbox.server->Tell(SentryEvent::Kind::kStopped, signo, "");
        }
      }
    }
    const uint64_t now = sandbox.kernel.scheduler.clock().MonotonicNs();
    sandbox.terminals.DrainConsole(now + 1'000'000'000);
    sandbox.server->ContainerEnded(init->status());
  });
  if (!watcher) Die(sandbox.config, "cannot start the watcher of the first process");
  if (!sandbox.config.crash.empty()) CrashForTest(kernel, sandbox.config.crash);
}

fs::GoferConnection::Options GoferOptions(const BootConfig& config, int workers) {
  return {.workers = workers, .on_lost = [control = config.control_fd] { GoferLost(control); }};
}

kernel::KernelConfig KernelConfigOf(const BootConfig& config, platform::EngineKind engine) {
  kernel::KernelConfig out;
  out.workers = config.workers > 0 ? config.workers : AllowedCpus();
  out.memory_limit = config.memory_limit;
  out.scrub_stacks = config.checkpoint_scan;
  out.engine_name = platform::InfoOf(engine).name;
  return out;
}

Ref<kernel::Container> MakeContainer(kernel::Kernel& kernel, const BootConfig& config) {
  kernel::ContainerRequest request;
  request.id = "init";
  request.hostname = config.hostname;
  if (!config.domainname.empty()) request.domainname = config.domainname;
  request.pids_limit = config.pids_limit;
  request.unkillable_init = config.init_is_spared;
  auto container = kernel::Container::Make(kernel, std::move(request));
  CHECK(container.has_value());  // the kernel has no other
  return *container;
}

// Kernel objects that are there before the first fiber. Arena heap.
[[gnu::noinline]] Sandbox* MakeSandbox(const BootConfig& config, platform::EngineKind engine,
                                       OwnedFd gofer) {
  const arena::ArenaScope arena_heap;
  auto* sandbox = new Sandbox(
      KernelConfigOf(config, engine));  // tidy: allow(new) the arena's root, never freed
  sandbox->config = config;
  kernel::Kernel& kernel = sandbox->kernel;
  kernel.memory = OrDie(config, mm::MemoryFile::Make());
  kernel.memory->GiveBackWhenIdle(kernel.scheduler);
  if (config.memory_limit != 0) {
    kernel.oom = std::make_unique<kernel::OomKiller>(kernel);
    if (!kernel.oom->Start()) Die(config, "cannot hold the memory limit");
  }
  auto pages = OrDie(config, loader::VdsoPages::Make(*kernel.memory));
  kernel.vdso_clock =
      std::make_unique<kernel::VdsoClock>(kernel.scheduler.clock(), std::move(pages));
  kernel.anon_fs = MakeRef<vfs::AnonFs>(++kernel.last_dev_minor);
  kernel.anon_fs->SetSpecialFiles(&sandbox->special_files);
  sandbox->container = MakeContainer(kernel, config);
  kernel.hooks.syscall = &syscalls::Dispatch;
  sandbox->terminals.RegisterDevices(sandbox->special_files.devices());
  fs::RegisterMemoryDevices(sandbox->special_files.devices(), *kernel.memory);
  arena::HostTable& table = arena::HostTable::Get();
  if (gofer) {
    fs::GoferConnection::Options options = GoferOptions(config, kernel.scheduler.worker_count());
    const auto added = fs::GoferConnection::Add(std::move(gofer), std::move(options));
    if (!added) Die(config, "there are too many gofers");
    sandbox->gofer = *added;
  }
  sandbox->donated = MakeRef<fs::DonatedFiles>(fs::DonatedFiles::BudgetOfHost());
  AdoptStdio(config, sandbox->stdio);
  if (config.strace_fd >= 0) {
    sandbox->strace = table.Add(OwnedFd(config.strace_fd));
    kernel.strace = std::make_unique<syscalls::Strace>(sandbox->strace);
  }
  arena::SetRoot(sandbox);
  return sandbox;
}

// The only one it may run on; -1: it has a choice.
int CpuOfThisThread() {
  cpu_set_t cpus;
  CPU_ZERO(&cpus);
  if (sched_getaffinity(0, sizeof cpus, &cpus) != 0 || CPU_COUNT(&cpus) != 1) return -1;
  return sched_getcpu();
}

void StartWorkers(Sandbox& sandbox, const BootConfig& config, platform::EngineGroup& engines) {
  const auto make_engine = [&](int worker) {
    return engines.MakeEngine(worker, CpuOfThisThread());
  };
  if (config.move_tasks) sandbox.kernel.scheduler.MoveForTest();
  using StartAs = sched::Scheduler::StartAs;
  const StartAs as = config.restore_fd >= 0 ? StartAs::kFrozen : StartAs::kRunning;
  OrDie(config, sandbox.kernel.scheduler.Start(make_engine, true, as));
}

[[noreturn]] void Boot(const BootConfig& config) {
  if (config.check_locks) Mutex::CheckOrder();
  (void)prctl(PR_SET_NAME, "skep-sentry");
  ConfigureLog(config.log_fd, config.log_format == "json" ? LogFormat::kJson : LogFormat::kText,
               config.debug ? LogLevel::kDebug : LogLevel::kWarning, "sentry");
  if (config.last_words_fd >= 0) {
    KeepLastWords(config.last_words_fd);
    close(config.last_words_fd);
  }
  CatchFatalSignals();
  signal(SIGPIPE, SIG_IGN);
  host::ReserveFds(kRoomForFds);
  const bool restore = config.restore_fd >= 0;
  if (!restore) OrDie(config, arena::Create());
  mm::InstallCopyFaultHandler();
  OrDie(config, jail::EnterIdentity(config.identity));
  const int maps_fd = config.checkpoint_scan ? open("/proc/self/maps", O_RDONLY | O_CLOEXEC) : -1;
  OrDie(config, EnterEmptyRoot());
  OrDie(config, DropPrivileges());
  const Engines engines = OrDie(config, StartEngines(config));
  OwnedFd gofer(config.gofer_fd);
  Sandbox* sandbox =
      restore ? OrDie(config, RestoreSandbox(config.restore_fd, config, std::move(gofer),
                                             [&](int n) { return GoferOptions(config, n); }))
              : MakeSandbox(config, engines.kind, std::move(gofer));
  StartWorkers(*sandbox, config, *engines.group);
  if (config.stub_cgroup_fd >= 0) close(config.stub_cgroup_fd);
  if (config.engine_fd >= 0) close(config.engine_fd);
  OrDie(config, sandbox->server->Listen());
  OrDie(config, jail::StayUndumped());
  const unsigned part = engines.kind == platform::EngineKind::kPtrace ? 1 : 0;
  OrDie(config,
        jail::InstallFilter(FilterRows(engines.kind),
                            config.jail_self_test ? jail::Refusal::kErrno : jail::Refusal::kKill,
                            {config.filter_use_fd, part}));
  if (config.jail_self_test) {
    const JailTrial trial = JailSelfTest();
    if (!trial.breaches.empty()) Die(config, "the sentry's jail lets out: " + trial.breaches);
    SKEP_LOG(kInfo, "the sentry's jail refused {} ways out", trial.attempts);
  }
  if (restore) {
    OrDie(config, FinishRestore(*sandbox));
    sandbox->server->Tell(SentryEvent::Kind::kStarted, 0, platform::InfoOf(engines.kind).name);
  } else {
    const arena::ArenaScope arena_heap;
    SKEP_LOG(kInfo, "guests run under {}, served by {} workers",
             platform::InfoOf(engines.kind).name, sandbox->kernel.config.workers);
    if (!WatchCaller(*sandbox)) Die(config, "cannot watch the command line's process");
    StartFirstProcess(*sandbox);
  }
  sandbox->server->Serve(maps_fd);
}

}  // namespace

int BootMain(int config_fd) {
  const HostResult<BootConfig> config = ReadConfig(config_fd);
  if (!config) {
    (void)!write(2, config.error().message.c_str(), config.error().message.size());
    return 1;
  }
  close(config_fd);
  Boot(*config);
}

}  // namespace skep::boot
