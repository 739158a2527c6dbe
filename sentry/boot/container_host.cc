#include "sentry/boot/container_host.h"

#include <fmt/format.h>
#include <cstring>

#include "base/log.h"
#include "sentry/arena/arena.h"
#include "sentry/boot/credentials.h"
#include "sentry/boot/mounts.h"
#include "sentry/boot/sandbox.h"
#include "sentry/kernel/tasks_lock.h"

namespace skep::boot {
namespace {

constexpr uint64_t kDrainNs = 1'000'000'000;

winsize WindowOf(uint32_t rows, uint32_t columns) {
  winsize size{};
  size.ws_row = static_cast<uint16_t>(rows);
  size.ws_col = static_cast<uint16_t>(columns);
  return size;
}

Result<Ref<kernel::Container>> MakeContainer(kernel::Kernel& kernel,
                                             const ContainerConfig& config) {
  kernel::ContainerRequest request;
  request.id = config.id;
  request.hostname = config.hostname;
  if (!config.domainname.empty()) request.domainname = config.domainname;
  request.pids_limit = config.pids_limit;
  request.unkillable_init = config.unkillable_init;
  return kernel::Container::Make(kernel, std::move(request));
}

// Their numbers mean nothing after a restore.
ProcessConfig WithoutDescriptors(ProcessConfig process) {
  for (int& fd : process.stdio_fds) fd = -1;
  return process;
}

// A terminal of ours over the host's, which is standard input and output.
Result<Ref<vfs::File>> OpenConsole(Sandbox& sandbox, ContainerHost& host, kernel::Task& init) {
  const ProcessConfig& process = host.process;
  TRY(host.terminals().StartConsole(host.stdio.fds[0], host.stdio.fds[1],
                                    WindowOf(process.terminal_rows, process.terminal_columns)));
  ContainerEvents& events = sandbox.events();
  // The host has the console, until Dismantle.
  host.terminals().OnWantedConsoleInput(
      [host = Ref<ContainerHost>(&host), &events] { events.WantsInput(*host); });
  if (!process.terminal_input) host.terminals().SetConsoleInput(anon::Input::kHeld);
  return host.terminals().OpenConsole(init);
}

// Standard input that is the host's terminal, where standard output is none: whoever started the
// container hears of a read while it is in the background, and stops itself as natively the reader
// would be stopped.
void WatchInput(Sandbox& sandbox, ContainerHost& host) {
  auto* input = dynamic_cast<anon::HostFile*>(host.stdio.files[0].get());
  if (input == nullptr || !input->IsTerminal()) return;
  ContainerEvents& events = sandbox.events();
  // Dismantle lets the input flow before the host goes.
  input->host_inode().OnWantedInput([&host, &events] { events.WantsInput(host); });
  host.terminal_input = Ref<anon::HostFile>(input);
  if (!host.process.terminal_input) host.SetInput(anon::Input::kHeld);
}

Result<void> PrepareFirst(Sandbox& sandbox, ContainerHost& host, kernel::Task& init) {
  const MountContext context = {.kernel = sandbox.kernel,
                                .config = host.config,
                                .process = host.process,
                                .gofer = host.gofer,
                                .donated = sandbox.donated,
                                .devices = host.devices,
                                .container = *host.container,
                                .mounts = host.mounts,
                                .gofer_trees = host.gofer_trees};
  TRY(MountAll(context, init, &host.failed_step));
  Ref<vfs::File> console;
  if (host.process.terminal) console = TRY(OpenConsole(sandbox, host, init));
  TRY(OpenStdio(init, host.process, host.stdio, std::move(console)));
  if (!host.process.terminal) WatchInput(sandbox, host);
  return {};
}

std::string WhyNotStarted(const ContainerHost& host, int error, bool in_files) {
  const char* known = strerrordesc_np(error);
  const char* name = known != nullptr ? known : "unknown error";
  if (!in_files) return fmt::format("cannot execute {}: {}", host.process.argv[0], name);
  return fmt::format(
      "{}: {}", host.failed_step.empty() ? "cannot set up the container's files" : host.failed_step,
      name);
}

// The body of the fiber that tells whoever asks when all is over.
void WatchFirst(Sandbox& sandbox, ContainerHost& host, kernel::StartedProcess& init) {
  while (!init.exited()) {
    sched::WaitUntil(init.changes(), sched::kAllEvents, std::nullopt,
                     sched::Sleep::kUninterruptible,
                     [&] { return init.exited() || init.stopped(); });
    if (const int signo = init.TakeStop(); signo != 0) {
      host.SetInput(anon::Input::kHeld);
      if (!host.suspending.exchange(false)) sandbox.events().Stopped(host, signo);
    }
  }
  host.terminals().DrainConsole(sandbox.kernel.scheduler.clock().MonotonicNs() + kDrainNs);
  sandbox.events().Ended(host, init.status());
  host.NoteOver();
}

}  // namespace

void ContainerHost::SetInput(anon::Input input) {
  terminals().SetConsoleInput(input);
  if (terminal_input) terminal_input->host_inode().SetInput(input);
}

ContainerHost::ContainerHost(kernel::Kernel& kernel, ContainerNumber number_in,
                             ContainerConfig config_in, ProcessConfig process_in)
    : number(number_in),
      config(std::move(config_in)),
      process(std::move(process_in)),
      devices(MakeRef<ContainerDevices>(kernel)) {}

std::function<void()> TellGoferLost(Sandbox& sandbox, ContainerNumber number) {
  // From a fiber of its own: whoever has noticed it holds locks.
  return [&sandbox, number] {
    const arena::ArenaHeapScope arena_heap;
    const auto told = sched::Fiber::Spawn(sandbox.kernel.scheduler.worker(0), [&sandbox, number] {
      sandbox.events().GoferLost(number);
    });
    if (!told) SKEP_LOG(kError, "cannot tell that a gofer is gone");
  };
}

Result<Ref<ContainerHost>> MakeContainerHost(Sandbox& sandbox, ContainerConfig config,
                                             const ProcessConfig& process, OwnedFd gofer) {
  const auto number = ContainerNumber{++sandbox.last_container};
  config.gofer_fd = -1;
  auto host = MakeRef<ContainerHost>(sandbox.kernel, number, std::move(config),
                                     WithoutDescriptors(process));
  if (gofer) {
    host->gofer = TRY(fs::GoferConnection::Add(std::move(gofer), &sandbox.kernel.scheduler,
                                               TellGoferLost(sandbox, number)));
  }
  host->container = TRY(MakeContainer(sandbox.kernel, host->config));
  AdoptStdio(process, host->stdio);
  return host;
}

Result<void> StartContainer(Sandbox& sandbox, Ref<ContainerHost> host) {
  const ProcessConfig& process = host->process;
  kernel::ProcessRequest request;
  // It is a command like any other: whoever started it continues it, as a shell does.
  request.job_control = !host->config.unkillable_init;
  request.credentials = CredentialsOf(process);
  request.limits = LimitsOf(process);
  request.path = process.exec_path.empty() ? process.argv[0] : process.exec_path;
  request.argv = process.argv;
  request.envp = process.env;
  request.oom_score_adj = process.oom_score_adj;
  request.prepare = [&sandbox, host](kernel::Task& init) {
    return PrepareFirst(sandbox, *host, init);
  };
  request.started = [&sandbox, host](int error, bool in_files) {
    if (error == 0) host->NoteRuns();
    sandbox.events().Started(*host, error, in_files,
                             error == 0 ? "" : WhyNotStarted(*host, error, in_files));
  };
  Ref<kernel::StartedProcess> init = TRY(host->container->StartInit(std::move(request)));
  TRY(sched::Fiber::Spawn(sandbox.kernel.scheduler.worker(0),
                          [&sandbox, host, init] { WatchFirst(sandbox, *host, *init); }));
  return {};
}

void Dismantle(ContainerHost& host) {
  kernel::Container& container = *host.container;
  {
    kernel::TasksLock lock(container.kernel());
    container.KillAll();
  }
  sched::WaitUntil(host.changes(), sched::kAllEvents, std::nullopt, sched::Sleep::kUninterruptible,
                   [&] { return host.over(); });
  sched::WaitUntil(container.empty_queue(), sched::kAllEvents, std::nullopt,
                   sched::Sleep::kUninterruptible, [&] {
                     kernel::TasksLock lock(container.kernel());
                     return container.task_count() == 0;
                   });
  (void)container.Remove();  // EBUSY: nobody starts a process in it any more
  // Nobody asks for it any more.
  if (host.terminal_input) host.terminal_input->host_inode().SetInput(anon::Input::kFlowing);
  host.terminals().Forget();
  ReleaseStdio(host.stdio);
  host.gofer_trees.clear();
  host.mounts = {};
  host.gofer = {};
}

}  // namespace skep::boot
