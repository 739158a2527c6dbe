// BootMain: puts a sentry together.
//
// In this order: configuration, arena, empty root, no capabilities, kernel objects, workers with
// their engines, seccomp, the first process. From then on the main thread only listens to the CLI.
#include <fcntl.h>
#include <fmt/format.h>
#include <sched.h>
#include <sys/prctl.h>
#include <unistd.h>
#include <csignal>

#include "base/check.h"
#include "base/fd_room.h"
#include "base/host_call.h"
#include "base/last_words.h"
#include "base/log.h"
#include "platform/engines.h"
#include "sentry/arena/arena.h"
#include "sentry/boot/checkpoint.h"
#include "sentry/boot/control.h"
#include "sentry/boot/file_systems.h"
#include "sentry/boot/jail.h"
#include "sentry/boot/job.h"
#include "sentry/boot/sandbox.h"
#include "sentry/boot/test_hooks.h"
#include "sentry/kernel/kernel.h"
#include "sentry/kernel/oom.h"
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
  HostResult<std::optional<jail::Filter>> filter;  // none: there was no time for it yet
};

HostResult<jail::Filter> CompileFilter(const BootConfig& config, platform::EngineKind engine) {
  return jail::Filter::Compile(
      FilterRows(engine), config.jail_self_test ? jail::Refusal::kErrno : jail::Refusal::kKill);
}

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
    HostResult<std::optional<jail::Filter>> filter;
    if (config.filter_use_fd < 0) {
      options.meanwhile = [&] { filter = CompileFilter(config, engine.kind); };
    }
    HostResult<std::unique_ptr<platform::EngineGroup>> group =
        platform::MakeEngineGroup(engine.kind, options);
    if (group) return Engines{engine.kind, std::move(*group), std::move(filter)};
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

kernel::KernelConfig KernelConfigOf(const BootConfig& config, platform::EngineKind engine) {
  kernel::KernelConfig out;
  out.workers = config.workers > 0 ? config.workers : AllowedCpus();
  out.memory_limit = config.memory_limit;
  out.scrub_stacks = config.checkpoint_scan;
  out.engine_name = platform::InfoOf(engine).name;
  return out;
}

// Kernel objects that are there before the first fiber. Arena heap.
[[gnu::noinline]] Sandbox* MakeSandbox(const BootConfig& config, platform::EngineKind engine,
                                       OwnedFd gofer) {
  const arena::ArenaHeapScope arena_heap;
  auto* sandbox = new Sandbox(
      KernelConfigOf(config, engine));  // tidy: allow(new) the arena's root, never freed
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
  kernel.anon_fs = MakeRef<vfs::AnonFs>(kernel.NewDeviceMinor());
  kernel.anon_fs->SetSpecialFiles(MakeRef<AnonymousSpecialFiles>());
  kernel.hooks.syscall = &syscalls::Dispatch;
  kernel.hooks.file_systems = FileSystems();
  sandbox->donated = MakeRef<fs::DonatedFiles>(fs::DonatedFiles::BudgetOfHost());
  if (config.strace_fd >= 0) {
    sandbox->strace = arena::HostTable::Get().Add(OwnedFd(config.strace_fd));
    kernel.strace = std::make_unique<syscalls::Strace>(sandbox->strace);
  }
  auto host = MakeContainerHost(*sandbox, config, config, std::move(gofer));
  if (!host) Die(config, "cannot make the container");
  sandbox->server->AddStarters(std::move(*host));
  arena::SetRoot(sandbox);
  return sandbox;
}

void StartFirst(Sandbox& sandbox, const BootConfig& config) {
  const arena::ArenaHeapScope arena_heap;
  const Ref<ContainerHost> host = sandbox.server->Hosts()[0];
  if (!WatchCaller(sandbox, *host, config.caller_stat_fd)) {
    Die(config, "cannot watch the command line's process");
  }
  if (!StartContainer(sandbox, host)) Die(config, "cannot start the first process");
  if (!config.crash.empty()) CrashForTest(sandbox.kernel, config.crash);
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

HostResult<void> EnterJail(const BootConfig& config, Engines& engines) {
  if (config.filter_use_fd >= 0) {
    const unsigned part = engines.kind == platform::EngineKind::kPtrace ? 1 : 0;
    const jail::FilterUse use = {config.filter_use_fd, part};
    return jail::InstallFilter(FilterRows(engines.kind), jail::Refusal::kKill, use);
  }
  std::optional<jail::Filter> filter = TRY(std::move(engines.filter));
  if (!filter) filter = TRY(CompileFilter(config, engines.kind));
  return filter->Install();
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
  Engines engines = OrDie(config, StartEngines(config));
  OwnedFd gofer(config.gofer_fd);
  Sandbox* sandbox =
      restore ? OrDie(config, RestoreSandbox(config.restore_fd, config, std::move(gofer)))
              : MakeSandbox(config, engines.kind, std::move(gofer));
  StartWorkers(*sandbox, config, *engines.group);
  if (config.stub_cgroup_fd >= 0) close(config.stub_cgroup_fd);
  if (config.engine_fd >= 0) close(config.engine_fd);
  OrDie(config, sandbox->server->Open(config));
  OrDie(config, jail::StayUndumped());
  OrDie(config, EnterJail(config, engines));
  if (config.jail_self_test) {
    const JailTrial trial = JailSelfTest();
    if (!trial.breaches.empty()) Die(config, "the sentry's jail lets out: " + trial.breaches);
    SKEP_LOG(kInfo, "the sentry's jail refused {} ways out", trial.attempts);
  }
  if (restore) {
    OrDie(config, FinishRestore(*sandbox));
    sandbox->server->Tell(SentryEvent::Kind::kStarted, 0, platform::InfoOf(engines.kind).name);
  } else {
    SKEP_LOG(kInfo, "guests run under {}, served by {} workers",
             platform::InfoOf(engines.kind).name, sandbox->kernel.config.workers);
    StartFirst(*sandbox, config);
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
