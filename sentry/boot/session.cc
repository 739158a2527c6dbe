#include "sentry/boot/session.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <cstring>

#include "base/user_database.h"
#include "sentry/boot/container_host.h"
#include "sentry/boot/credentials.h"
#include "sentry/kernel/clone.h"
#include "sentry/loader/elf.h"
#include "sentry/vfs/name_ops.h"

namespace skep::boot {
namespace {

constexpr uint64_t kDrainNs = 1'000'000'000;

std::string ErrorName(int error) {
  const char* known = strerrordesc_np(error);
  return known != nullptr ? known : fmt::format("error {}", error);
}

std::string_view PathVariable(const std::vector<std::string>& env) {
  for (const std::string& entry : env) {
    if (entry.starts_with("PATH=")) return std::string_view(entry).substr(5);
  }
  return "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
}

// As execvp(3): what is found first and may be executed.
Result<std::string> FindProgram(kernel::Task& task, const ProcessConfig& process) {
  const std::string& name = process.argv[0];
  if (name.find('/') != std::string::npos) return name;
  int error = ENOENT;
  std::string_view path = PathVariable(process.env);
  for (;;) {
    const size_t end = std::min(path.find(':'), path.size());
    const std::string_view directory = path.substr(0, end);
    std::string candidate = directory.empty() ? "./" + name : fmt::format("{}/{}", directory, name);
    vfs::NameOps walker(task, *task.fs);
    const Result<vfs::Path> found = walker.Resolve(candidate, {});
    if (found && found->inode() != nullptr && !found->inode()->IsDir()) {
      if (loader::OpenExecutable(walker, *found)) return candidate;
      error = EACCES;
    }
    if (end == path.size()) return Fail(error);
    path.remove_prefix(end + 1);
  }
}

Result<Ref<vfs::File>> OpenTerminal(kernel::Task& task, ExecSession& session) {
  const ProcessConfig& process = session.process;
  winsize size{};
  size.ws_row = process.terminal_rows;
  size.ws_col = process.terminal_columns;
  ContainerTerminals& terminals = session.host->terminals();
  ContainerTerminals::Console made = TRY(terminals.MakeConsole(
      session.stdio.fds[0], session.stdio.fds[1], size, process.uid, process.gid));
  session.console = std::move(made.console);
  session.console_index = made.index;
  return terminals.OpenConsole(task, *session.console, session.console_index);
}

constexpr size_t kDatabaseMax = size_t{4} << 20;

// What is not there is empty, as for getpwnam(3).
std::string ReadFile(vfs::NameOps& walker, const char* path) {
  const Result<vfs::Path> found = walker.Resolve(path, {});
  if (!found || found->inode() == nullptr || found->inode()->type() != S_IFREG) return "";
  const Result<Ref<vfs::File>> file = found->inode()->Open(walker.caller(), *found, O_RDONLY);
  if (!file) return "";
  std::string text;
  std::vector<std::byte> block(64 << 10);
  while (text.size() < kDatabaseMax) {
    mm::IoSequence io = mm::IoSequence::FromKernel(std::span(block));
    const Result<size_t> n = (*file)->Read(walker.caller(), io, text.size());
    if (!n || *n == 0) break;
    text.append(reinterpret_cast<const char*>(block.data()), *n);
  }
  return text;
}

// The process becomes who the request names.
Result<void> BecomeUser(kernel::Task& task, ExecSession& session) {
  if (session.user.empty()) return {};
  vfs::NameOps walker(task, *task.fs);
  const UserDatabase database = {ReadFile(walker, "/etc/passwd"), ReadFile(walker, "/etc/group")};
  HostResult<User> user = ParseUser(session.user, &database);
  if (!user) {
    session.failure = user.error().message;
    return Fail(EINVAL);
  }
  ProcessConfig& process = session.process;
  process.uid = user->uid;
  process.gid = user->gid;
  process.groups = std::move(user->groups);
  if (process.uid != 0) {
    process.capabilities.effective = process.capabilities.permitted = 0;
    process.capabilities.ambient = 0;
  }
  auto creds = std::make_shared<auth::Credentials>(*CredentialsOf(process));
  creds->user_namespace = session.host->container->user_namespace();
  kernel::TasksLock lock(task.kernel);
  task.credentials.Set(std::move(creds));
  return {};
}

Result<void> PrepareFiles(kernel::Task& task, ExecSession& session) {
  ContainerHost& host = *session.host;
  sched::WaitUntil(host.changes(), sched::kAllEvents, std::nullopt, sched::Sleep::kUninterruptible,
                   [&] { return host.runs() || host.over(); });
  if (!host.runs()) {
    session.failure = "the container does not run";
    return Fail(ESRCH);
  }
  const ProcessConfig& process = session.process;
  const Ref<vfs::MountNamespace>& mounts = session.host->mounts;
  const vfs::Path root = mounts->root();
  {
    auto fs = MakeRef<vfs::FsContext>(mounts, root, root, process.umask);
    kernel::TasksLock lock(task.kernel);
    task.fs.Set(std::move(fs));
  }
  TRY(BecomeUser(task, session));
  vfs::NameOps walker(task, *task.fs);
  const Result<vfs::Path> cwd = walker.Resolve(process.cwd, {.directory = true});
  if (!cwd) {
    session.failure = fmt::format("cannot enter the working directory {}: {}", process.cwd,
                                  ErrorName(cwd.error().code()));
    return Fail(cwd.error().code());
  }
  task.fs->SetCwd(*cwd);
  Ref<vfs::File> console;
  if (process.terminal) console = TRY(OpenTerminal(task, session));
  return OpenStdio(task, process, session.stdio, std::move(console));
}

Result<void> Prepare(kernel::Task& task, ExecSession& session) {
  const Result<void> prepared = PrepareFiles(task, session);
  if (!prepared && !session.console) ReleaseStdio(session.stdio);
  return prepared;
}

// Waits for its end on a fiber of its own.
Result<void> Watch(kernel::Kernel& kernel, Ref<ExecSession> session,
                   Ref<kernel::StartedProcess> started, SessionEvents& events) {
  TRY(sched::Fiber::Spawn(kernel.scheduler.worker(0), [&kernel, session = std::move(session),
                                                       started = std::move(started), &events] {
    sched::WaitUntil(started->changes(), sched::kAllEvents, std::nullopt,
                     sched::Sleep::kUninterruptible, [&] { return started->exited(); });
    if (session->console) {
      session->console->Drain(kernel.scheduler.clock().MonotonicNs() + kDrainNs);
      session->console->Stop();
      session->host->terminals().RemoveConsole(session->console_index);
    }
    {
      kernel::TasksLock lock(kernel);
      session->host->container->Forget(*started);
    }
    events.Ended(*session, started->status());
    // Here, where a file may wait for its end.
    session->console = {};
    ReleaseStdio(session->stdio);
  }));
  return {};
}

}  // namespace

Result<void> StartSession(Ref<ExecSession> session, SessionEvents& events) {
  kernel::ProcessRequest request;
  request.credentials = CredentialsOf(session->process);
  request.limits = LimitsOf(session->process);
  request.argv = session->process.argv;
  request.envp = session->process.env;
  request.oom_score_adj = session->process.oom_score_adj;
  request.prepare = [session](kernel::Task& task) { return Prepare(task, *session); };
  request.find = [session](kernel::Task& task) { return FindProgram(task, session->process); };
  request.started = [session, &events](int error, bool in_prepare) {
    if (error != 0 && session->failure.empty()) {
      session->failure =
          fmt::format("cannot {} {}: {}", in_prepare ? "set up the files of" : "execute",
                      session->process.argv[0], ErrorName(error));
    }
    // The errno of execve is for the exit code; another one says nothing of the program.
    events.Started(*session, in_prepare && error != 0 ? ECANCELED : error);
  };
  Ref<kernel::StartedProcess> started =
      TRY(session->host->container->StartExec(session->id, std::move(request)));
  session->started = started;
  kernel::Kernel& kernel = session->host->container->kernel();
  return Watch(kernel, std::move(session), std::move(started), events);
}

}  // namespace skep::boot
