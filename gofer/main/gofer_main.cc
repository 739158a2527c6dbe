#include "gofer/main/gofer_main.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <malloc.h>
#include <sched.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>
#include <algorithm>
#include <csignal>

#include "base/host_call.h"
#include "base/last_words.h"
#include "gofer/main/gofer_config.h"

namespace skep::gofer {
namespace {

constexpr uint64_t kOpenFdsMax = 1 << 16;
constexpr uint64_t kOtherFds = 64;  // sockets, directory streams, files on their way to the client
constexpr int kFailed = 1;
constexpr unsigned kFilterPart = 2;  // 0 and 1: the sentry's, with notify and ptrace

// Descriptors 0 and 1 lead nowhere; 2 is for last words. What else was inherited by mistake goes.
Result<void> TidyDescriptors(int control, const GoferConfig& config) {
  OwnedFd null = TRY(host::Open("/dev/null", O_RDWR));
  TRY(host::Dup2(null.get(), 0));
  TRY(host::Dup2(null.get(), 1));
  if (config.log) TRY(host::Dup2(config.log.get(), 2));
  std::vector<int> kept = {0, 1, 2, control, config.client.get()};
  if (config.log) kept.push_back(config.log.get());
  if (config.filter_use) kept.push_back(config.filter_use.get());
  for (const AttachPoint& point : config.attach_points) kept.push_back(point.root.get());
  if (null.get() <= 2) (void)null.Release();
  null.Reset();
  std::sort(kept.begin(), kept.end());
  unsigned from = 3;
  for (const int fd : kept) {
    const unsigned keep = static_cast<unsigned>(fd);
    if (keep > from) TRY(host::Call(SYS_close_range, from, keep - 1, 0));
    from = std::max(from, keep + 1);
  }
  TRY(host::Call(SYS_close_range, from, ~0U, 0));
  return {};
}

// As many descriptors as the host lets us have.
Result<uint64_t> RaiseFdLimit() {
  rlimit limit{};
  TRY(host::Call(SYS_prlimit64, 0, RLIMIT_NOFILE, 0, &limit));
  limit.rlim_cur = limit.rlim_max;
  TRY(host::Call(SYS_prlimit64, 0, RLIMIT_NOFILE, &limit, 0));
  return std::min<uint64_t>(limit.rlim_cur, kOpenFdsMax);
}

// The same file by its name: a mount can be cloned in its own mount namespace only, and `root` may
// have been opened in the one that ours is a copy of.
Result<OwnedFd> OpenHere(int root) {
  const std::string link = fmt::format("/proc/self/fd/{}", root);
  std::string path(PATH_MAX, '\0');
  const int64_t size =
      TRY(host::Call(SYS_readlinkat, AT_FDCWD, link.c_str(), path.data(), path.size()));
  path.resize(static_cast<size_t>(size));
  OwnedFd here = TRY(host::Open(path.c_str(), O_PATH));
  const struct stat wanted = TRY(host::Stat(root));
  const struct stat found = TRY(host::Stat(here.get()));
  // Somebody may have put another one there.
  if (wanted.st_dev != found.st_dev || wanted.st_ino != found.st_ino) return Fail(ESTALE);
  return here;
}

Result<OwnedFd> IsolateTreeAnywhere(int root, bool read_only) {
  Result<OwnedFd> tree = IsolateTree(root, read_only);
  if (tree) return tree;
  const OwnedFd here = TRY(OpenHere(root));
  return IsolateTree(here.get(), read_only);
}

void IsolateTrees(GoferConfig& config, JailReport& report) {
  report.trees_isolated = 1;
  for (AttachPoint& point : config.attach_points) {
    Result<OwnedFd> tree = IsolateTreeAnywhere(point.root.get(), point.read_only);
    if (tree) point.root = std::move(*tree);
    if (!tree) report.trees_isolated = 0;
  }
}

// The pid to wait for, or 0 in the process that goes on as the gofer.
pid_t EnterNamespaces(uint32_t wanted, JailReport& report) {
  if (wanted == 0) return 0;
  if ((wanted & CLONE_NEWPID) == 0) {
    if (host::Call(SYS_unshare, wanted)) report.namespaces = wanted;
    return 0;
  }
  const Result<int64_t> pid = host::Call(SYS_clone, wanted | SIGCHLD, 0, 0, 0, 0);
  if (!pid) return 0;  // goes on where it is, and says so in the report
  if (*pid != 0) return static_cast<pid_t>(*pid);
  (void)host::Call(SYS_prctl, PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
  report.namespaces = wanted;
  return 0;
}

int WaitFor(pid_t pid, GoferConfig config, int control) {
  config = GoferConfig();  // the sockets are the child's now
  (void)host::Call(SYS_close, control);
  int status = 0;
  if (!host::WaitPid(pid, &status, 0)) return kFailed;
  return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

Result<void> EnterJail(const GoferConfig& config, std::span<const int> trees, int proc,
                       JailReport& report) {
  report.root_empty = EmptyRoot().has_value();
  report.capabilities_dropped = DropCapabilities().has_value();
  const auto refusal = config.self_test ? jail::Refusal::kErrno : jail::Refusal::kKill;
  const HostResult<void> filtered = InstallFilter(refusal, {config.filter_use.get(), kFilterPart});
  if (!filtered) {
    SKEP_LOG(kError, "gofer: {}", filtered.error().message);
    return Fail(EPERM);
  }
  report.filtered = 1;
  if (config.self_test) report.breaches = TryToBreakOut(trees, proc);
  return {};
}

// From here on in the process that serves.
Result<void> RunGofer(GoferConfig config, OwnedFd control, JailReport report) {
  const uint64_t fd_limit = TRY(RaiseFdLimit());
  OwnedFd proc = TRY(OpenProcSelfFd());
  const int proc_number = proc.get();
  std::vector<int> trees;
  for (const AttachPoint& point : config.attach_points) trees.push_back(point.root.get());
  ServerConfig server_config;
  server_config.attach_points = std::move(config.attach_points);
  server_config.hidden = std::move(config.hidden);
  server_config.proc_self_fd = std::move(proc);
  server_config.allow_fifos = config.allow_fifos;
  server_config.allow_sockets = config.allow_sockets;
  server_config.max_nodes = config.max_nodes;
  server_config.max_open_fds = fd_limit - std::min(fd_limit / 2, kOtherFds);
  std::unique_ptr<Server> server = TRY(Server::Make(std::move(server_config)));
  if (config.jail) TRY(EnterJail(config, trees, proc_number, report));
  TRY(SendReport(control.get(), report));
  control.Reset();
  // For a second heap libc would look the CPUs up in /sys, which the filter answers with a kill.
  (void)mallopt(M_ARENA_MAX, 1);
  // Its threads may be in calls that hang: the process ends without them.
  return server.release()->Serve(config.client.get());
}

}  // namespace

uint32_t AllNamespaces() {
  return CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS;
}

int GoferMain(int control) {
  (void)host::Call(SYS_prctl, PR_SET_NAME, "skep-gofer", 0, 0, 0);
  Result<GoferConfig> config = ReceiveConfig(control);
  if (!config) {
    SKEP_LOG(kError, "gofer: no configuration: errno {}", config.error().code());
    return kFailed;
  }
  if (config->last_words) {
    KeepLastWords(config->last_words.get());
    config->last_words.Reset();
  }
  CatchFatalSignals();
  if (!TidyDescriptors(control, *config)) return kFailed;
  if (config->log) {
    ConfigureLog(STDERR_FILENO, config->log_format, config->log_level, "gofer");
    config->log.Reset();
  }
  JailReport report;
  if (config->jail) {
    IsolateTrees(*config, report);
    if (const HostResult<void> entered = jail::EnterIdentity(config->identity); !entered) {
      SKEP_LOG(kError, "gofer: {}", entered.error().message);
      return kFailed;
    }
    const pid_t child = EnterNamespaces(config->namespaces, report);
    if (child != 0) return WaitFor(child, std::move(*config), control);
  }
  const Result<void> done = RunGofer(std::move(*config), OwnedFd(control), report);
  if (done) return 0;
  SKEP_LOG(kError, "gofer: errno {}", done.error().code());
  return kFailed;
}

}  // namespace skep::gofer
