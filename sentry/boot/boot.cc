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
#include "sentry/boot/jail.h"
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
  SKEP_LOG(kError, "{}", text);
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

auth::CredentialsRef CredentialsOf(const BootConfig& config) {
  auto creds = std::make_shared<auth::Credentials>();
  creds->uid = creds->euid = creds->suid = creds->fsuid = config.uid;
  creds->gid = creds->egid = creds->sgid = creds->fsgid = config.gid;
  creds->groups = config.groups;
  std::sort(creds->groups.begin(), creds->groups.end());
  const uint64_t all = auth::kAllCapabilities;
  creds->effective = config.capabilities.effective & all;
  creds->permitted = config.capabilities.permitted & all;
  creds->inheritable = config.capabilities.inheritable & all;
  creds->bounding = config.capabilities.bounding & all;
  creds->ambient = config.capabilities.ambient & all;
  creds->no_new_privs = config.no_new_privs;
  return creds;
}

kernel::Limits LimitsOf(const BootConfig& config) {
  kernel::Limits limits = kernel::Limits::Default();
  for (const BootConfig::Rlimit& l : config.rlimits) {
    if (l.resource >= 0 && l.resource < RLIM_NLIMITS) {
      limits.values[static_cast<size_t>(l.resource)] = {l.soft, l.hard};
    }
  }
  return limits;
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
  TRY(sandbox.terminals.StartConsole(sandbox.stdio[0], sandbox.stdio[1],
                                     WindowOf(config.terminal_rows, config.terminal_columns)));
  if (!config.terminal_input) sandbox.terminals.SetConsoleInput(anon::Console::Input::kHeld);
  return sandbox.terminals.OpenConsole(init);
}

// Descriptors 0, 1 and 2 of the first process. With a terminal, standard error may still go
// elsewhere.
Result<void> OpenStdio(Sandbox& sandbox, kernel::Task& init) {
  {
    auto files = MakeRef<vfs::FdTable>();
    kernel::TasksLock lock(init.kernel);
    init.files.Set(vfs::FdTableHold(std::move(files)));
  }
  Ref<vfs::File> console;
  if (sandbox.config.terminal) console = TRY(OpenConsole(sandbox, init));
  for (int i = 0; i < 3; ++i) {
    if (!sandbox.stdio[i]) continue;
    kernel::Kernel& kernel = sandbox.kernel;
    vfs::FdReservation slot = TRY(init.files->Reserve(1024, i));
    if (console && (i != 2 || sandbox.config.terminal_errors)) {
      std::move(slot).Commit(console, vfs::CloseOnExec::kNo);
      continue;
    }
    Ref<anon::HostFile> file =
        TRY(anon::HostFile::Make(*kernel.anon_fs, kernel.scheduler, sandbox.stdio[i]));
    if (const auto& owners = sandbox.config.stdio_owners; owners.size() == 6) {
      const size_t at = static_cast<size_t>(i) * 2;
      file->SetOwner(owners[at], owners[at + 1]);
    }
    sandbox.stdio_files[i] = file;
    std::move(slot).Commit(std::move(file), vfs::CloseOnExec::kNo);
  }
  return {};
}

void SendHostEvent(const BootConfig& config, SentryEvent::Kind kind, int status,
                   std::string_view text) {
  arena::HostScope host;
  (void)SendEvent(config.control_fd, {kind, status, std::string(text)});
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
    TRY(MountAll({sandbox.kernel, sandbox.config, sandbox.gofer, sandbox.donated,
                  sandbox.special_files, sandbox.terminals, *sandbox.container, sandbox.mounts, sandbox.gofer_trees},
                 init));
    return OpenStdio(sandbox, init);
  };
  request.started = [&sandbox](int error, bool in_prepare) {
    const BootConfig& config = sandbox.config;
    if (error == 0) {
      SendHostEvent(config, SentryEvent::Kind::kStarted, 0, sandbox.kernel.config.engine_name);
      return;
    }
    if (error == kKilled) return;  // by a signal to the CLI: its exit status tells
    const char* known = strerrordesc_np(error);
    const char* name = known != nullptr ? known : "unknown error";
    const std::string text = in_prepare
                                 ? fmt::format("cannot set up the sandbox's files: {}", name)
                                 : fmt::format("cannot execute {}: {}", config.argv[0], name);
    SendHostEvent(config, SentryEvent::Kind::kFailed, error, text);
  };
  auto started = sandbox.container->StartInit(std::move(request));
  if (!started) Die(sandbox.config, "cannot start the first process");
  // Tells the CLI when all is over, and ends the sentry.
  auto watcher = sched::Fiber::Spawn(kernel.scheduler.worker(0), [&sandbox, init = *started] {
    while (!init->exited()) {
      sched::WaitUntil(init->changes(), sched::kAllEvents, std::nullopt,
                       sched::Sleep::kUninterruptible,
                       [&] { return init->exited() || init->stopped(); });
      if (const int signo = init->TakeStop(); signo != 0) {
        sandbox.terminals.SetConsoleInput(anon::Console::Input::kHeld);
        SendHostEvent(sandbox.config, SentryEvent::Kind::kStopped, signo, "");
      }
    }
    const uint64_t now = sandbox.kernel.scheduler.clock().MonotonicNs();
    sandbox.terminals.DrainConsole(now + 1'000'000'000);
    SendHostEvent(sandbox.config, SentryEvent::Kind::kExited, init->status(), "");
    _exit(0);
  });
  if (!watcher) Die(sandbox.config, "cannot start the watcher of the first process");
  if (!sandbox.config.crash.empty()) CrashForTest(kernel, sandbox.config.crash);
}

void ServeSignal(Sandbox& sandbox, int signo) {
  if (signo < 1 || signo > kernel::kSignals) return;
  const arena::ArenaScope arena_heap;
  kernel::Kernel& kernel = sandbox.kernel;
  kernel::TasksLock lock(kernel);
  kernel::ThreadGroup* init = sandbox.container->init();
  if (init != nullptr) (void)kernel::SendFromOperator(*init, signo);
}

// `fg` or `bg` of the shell that started us: for all that it stopped.
void ServeContinue(Sandbox& sandbox, bool foreground) {
  const arena::ArenaScope arena_heap;
  kernel::Kernel& kernel = sandbox.kernel;
  using Input = anon::Console::Input;
  sandbox.terminals.SetConsoleInput(foreground ? Input::kFlowing : Input::kHeld);
  kernel::TasksLock lock(kernel);
  kernel::ThreadGroup* init = sandbox.container->init();
  if (init == nullptr) return;
  init->process_group->ForEach([](kernel::ThreadGroup& group) REQUIRES(kernel::tasks) {
    (void)kernel::SendFromOperator(group, SIGCONT);
  });
}

void ServeCheckpoint(Sandbox& sandbox, const OwnedFd& image, int maps_fd) {
  const int control = sandbox.config.control_fd;
  const SaveOptions options = {.scan_maps_fd = maps_fd};
  const HostResult<void> saved = image ? SaveSandbox(sandbox, image.get(), options)
                                       : HostFail("no file for the image came along");
  if (!saved) {
    (void)SendEvent(control, {SentryEvent::Kind::kCheckpointed, EIO, saved.error().message});
    return;
  }
  (void)SendEvent(control, {SentryEvent::Kind::kCheckpointed, 0, ""});
  _exit(0);  // the sandbox is in the file now
}

// Without its files a sandbox is none.
[[noreturn]] void GoferLost(int control) {
  const arena::HostScope host;
  (void)SendEvent(control, {SentryEvent::Kind::kLost, 0,
                            "the gofer, which serves the sandbox's files, ended unexpectedly"});
  _exit(1);
}

fs::GoferConnection::Options GoferOptions(const BootConfig& config, int workers) {
  return {.workers = workers, .on_lost = [control = config.control_fd] { GoferLost(control); }};
}

// Returns when the CLI has something to say.
void AwaitCommand(const Sandbox& sandbox) {
  std::array<pollfd, 2> fds = {pollfd{sandbox.config.control_fd, POLLIN, 0},
                               pollfd{sandbox.gofer ? sandbox.gofer.hangup_fd() : -1, 0, 0}};
  do {
    (void)host::Poll(fds, -1);
    if (fds[0].revents == 0 && fds[1].revents != 0) GoferLost(sandbox.config.control_fd);
  } while (fds[0].revents == 0);
}

[[noreturn]] void ServeCommands(Sandbox& sandbox, int maps_fd) {
  for (;;) {
    AwaitCommand(sandbox);
    OwnedFd file;
    const auto command = ReceiveCommand(sandbox.config.control_fd, &file);
    if (!command) {
      // The CLI is gone: so is the reason to run.
      _exit(1);
    }
    switch (command->kind) {
      case CliCommand::Kind::kSignal:
        ServeSignal(sandbox, static_cast<int>(command->value));
        break;
      case CliCommand::Kind::kContinue:
        ServeContinue(sandbox, command->value != 0);
        break;
      case CliCommand::Kind::kCheckpoint:
        ServeCheckpoint(sandbox, file, maps_fd);
        break;
      case CliCommand::Kind::kWindow: {
        const arena::ArenaScope arena_heap;
        sandbox.terminals.SetConsoleWindow(WindowOf(command->value >> 16, command->value & 0xffff));
        break;
      }
    }
  }
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
  for (int i = 0; i < 3; ++i) {
    if (config.stdio_fds[i] >= 0) sandbox->stdio[i] = table.Add(OwnedFd(config.stdio_fds[i]));
  }
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

}  // namespace

int BootMain(int config_fd) {
  auto read = ReadConfig(config_fd);
  if (!read) {
    (void)!write(2, read.error().message.c_str(), read.error().message.size());
    return 1;
  }
  const BootConfig config = *std::move(read);
  if (config.check_locks) Mutex::CheckOrder();
  (void)prctl(PR_SET_NAME, "skep-sentry");
  close(config_fd);
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
    SendHostEvent(config, SentryEvent::Kind::kStarted, 0, platform::InfoOf(engines.kind).name);
  } else {
    const arena::ArenaScope arena_heap;
    StartFirstProcess(*sandbox);
  }
  ServeCommands(*sandbox, maps_fd);
}

}  // namespace skep::boot
