// `skep list`, `kill`, `wait`, `logs` and `delete`: what one does with named sandboxes.
#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <sys/syscall.h>
#include <unistd.h>
#include <algorithm>
#include <array>
#include <csignal>
#include <span>

#include "base/host_call.h"
#include "runsc-cli/parse.h"
#include "runsc-cli/session.h"
#include "runsc-cli/state.h"
#include "runsc-cli/verbs.h"
#include "runtime/cgroup.h"

namespace skep::cli {
namespace {

using runtime::SandboxClient;

constexpr int kAnswerMs = 2000;  // of a sentry that is asked how things are
constexpr int kEndMs = 5000;     // of one that is told to end
constexpr useconds_t kFollowUs = 100'000;

// What there is to say of a sandbox now.
struct Standing {
  ContainerState state;
  bool running = false;
  bool silent = false;  // its sentry lives and does not answer
};

Standing StandingOf(const StateDirectory& directory, const std::string& id) {
  Standing standing;
  standing.state = directory.Read().value_or(ContainerState{});
  standing.state.id = id;
  Result<SandboxClient> client = directory.Connect();
  if (!client) {
    standing.state.status = directory.IsLocked() ? "creating" : "stopped";
    standing.state.pid = 0;
    return standing;
  }
  standing.state.pid = client->SentryPid().value_or(0);
  const Result<boot::Reply> reply = client->Call(boot::ListRequest{}, kAnswerMs);
  if (!reply && reply.error() != Errno(ETIMEDOUT)) {  // it has just ended
    standing.state.status = "stopped";
    standing.state.pid = 0;
    return standing;
  }
  const auto* list = reply ? std::get_if<boot::ListReply>(&*reply) : nullptr;
  if (list == nullptr) {
    standing.silent = true;
    standing.running = true;
    standing.state.status = "hangs";
    return standing;
  }
  const auto found =
      std::find_if(list->containers.begin(), list->containers.end(),
                   [&](const boot::ContainerEntry& entry) { return entry.id == id; });
  if (found == list->containers.end()) {  // the sandbox goes on without it, or not yet with it
    standing.state.status = directory.IsLocked() ? "creating" : "stopped";
    standing.state.pid = 0;
    return standing;
  }
  const boot::ContainerEntry& entry = *found;
  standing.running = entry.running;
  standing.state.status = entry.running ? "running" : "stopped";
  if (!entry.running) standing.state.exit_code = ExitCodeOf(entry.status);
  return standing;
}

int Fail1(const Reporter& reporter, const std::string& text) {
  reporter.Error(text);
  return 1;
}

// Connected to a sandbox whose container runs, or at least whose status is there to be asked for.
struct Reached {
  StateDirectory directory;
  SandboxClient client;
};

HostResult<Reached> Reach(const GlobalOptions& global, const std::string& id) {
  StateDirectory directory = TRY(StateDirectory::Open(StateRoot(global), id));
  Result<SandboxClient> client = directory.Connect();
  if (!client) return HostFail(fmt::format("the container '{}' does not run", id));
  return Reached{std::move(directory), std::move(*client)};
}

HostResult<void> JudgeReply(const Result<boot::Reply>& reply, const std::string& id) {
  if (!reply) return HostFail(fmt::format("the sandbox of '{}' does not answer", id));
  const auto* error = std::get_if<boot::ErrorReply>(&*reply);
  if (error != nullptr) return HostFail(fmt::format("{}: {}", id, error->text));
  return {};
}

HostResult<int> ParseSignal(const std::string& text) {
  if (const auto number = ParseNumber(text); number && *number >= 1 && *number <= 64) {
    return static_cast<int>(*number);
  }
  const std::string name = text.starts_with("SIG") ? text.substr(3) : text;
  for (int number = 1; number < NSIG; ++number) {
    const char* known = sigabbrev_np(number);
    if (known != nullptr && name == known) return number;
  }
  return HostFail(fmt::format("there is no signal '{}'", text));
}

HostResult<void> NoteEnd(StateDirectory& directory, const std::string& id, int code) {
  TRY(directory.Lock());
  ContainerState state = directory.Read().value_or(ContainerState{});
  state.id = id;
  state.status = "stopped";
  state.exit_code = code;
  TRY(directory.Write(state));
  directory.Unlock();
  return {};
}

HostResult<int> WaitFor(const GlobalOptions& global, const std::string& id,
                        const Reporter& reporter) {
  StateDirectory directory = TRY(StateDirectory::Open(StateRoot(global), id));
  Result<SandboxClient> client = directory.Connect();
  if (!client) {
    const auto state = directory.Read();
    if (state && state->exit_code) return *state->exit_code;
    return HostFail(fmt::format("'{}' has ended and left no status", id));
  }
  const Result<boot::Reply> reply = client->Call(boot::WaitRequest{id, ""});
  TRY(JudgeReply(reply, id));
  const auto* ended = std::get_if<boot::ExitReply>(&*reply);
  if (ended == nullptr) return HostFail(fmt::format("the sandbox of '{}' answers nonsense", id));
  if (!ended->text.empty()) reporter.Warning(ended->text);
  const int code = ExitCodeOf(ended->status);
  // Noted first: the sandbox, which knows it too, ends then.
  if (const HostResult<void> noted = NoteEnd(directory, id, code); !noted) {
    reporter.Warning(noted.error().message + ": the sandbox goes on keeping the status");
    return code;
  }
  (void)client->Call(boot::ReleaseRequest{id}, kEndMs);
  return code;
}

// Waits for the process's end.
bool HasEnded(int pidfd, int timeout_ms) {
  pollfd entry{pidfd, POLLIN, 0};
  const Result<int> ready = host::Poll(std::span(&entry, 1), timeout_ms);
  return ready && *ready == 1;
}

// The container ends, and with the last one of its sandbox the sentry, by itself or not.
HostResult<void> EndContainer(SandboxClient client, const std::string& id) {
  const pid_t pid = client.SentryPid().value_or(0);
  const Result<OwnedFd> pidfd = host::CallFd(SYS_pidfd_open, pid, 0);
  const Result<boot::Reply> reply = client.Call(boot::EndRequest{id}, kEndMs);
  if (reply) {
    const auto* error = std::get_if<boot::ErrorReply>(&*reply);
    if (error == nullptr || error->code == ENOENT) return {};
    return HostFail(fmt::format("{}: {}", id, error->text));
  }
  if (!pidfd || (reply.error() != Errno(ETIMEDOUT) && HasEnded(pidfd->get(), kEndMs))) return {};
  // It is still the one that listens: the connection would have ended with it.
  pollfd entry{client.fd(), 0, 0};
  (void)host::Poll(std::span(&entry, 1), 0);
  if ((entry.revents & POLLHUP) == 0) {
    (void)host::Call(SYS_pidfd_send_signal, pidfd->get(), SIGKILL, nullptr, 0);
  }
  if (HasEnded(pidfd->get(), kEndMs)) return {};
  return HostFail(fmt::format("the sandbox of '{}' (pid {}) cannot be killed", id, pid));
}

HostResult<void> DeleteOne(const GlobalOptions& global, const std::string& id, bool force) {
  HostResult<StateDirectory> directory = StateDirectory::Open(StateRoot(global), id);
  if (!directory) {
    if (force && directory.error().host_errno == ENOENT) return {};
    return HostFail(directory.error().message);
  }
  const Standing standing = StandingOf(*directory, id);
  if (standing.running && !force) {
    return HostFail(fmt::format("'{}' runs{}; --force ends it", id,
                                standing.silent ? " and does not answer" : ""));
  }
  TRY(directory->Lock());
  Result<SandboxClient> client = directory->Connect();
  if (client) TRY(EndContainer(std::move(*client), id));
  runtime::SandboxCgroup::RemoveLeft(standing.state.cgroup);
  return directory->Remove();
}

HostResult<void> CopyLog(const StateDirectory& directory, const std::string& id, bool follow) {
  const Result<OwnedFd> log = directory.OpenFile(kOutputLog, O_RDONLY);
  if (!log) return HostFail("it is not detached: its output went to whoever started it");
  std::vector<std::byte> buffer(64 << 10);
  for (;;) {
    // Whether it runs is asked first: what it wrote before its end is there then.
    const bool runs =
        follow && directory.Connect().has_value() && StandingOf(directory, id).running;
    for (;;) {
      const Result<size_t> n = host::Read(log->get(), buffer);
      if (!n) return HostFail("cannot read the log", n.error().code());
      if (*n == 0) break;
      const Result<void> written = host::WriteAll(1, std::span(buffer).first(*n));
      if (!written) return HostFail("cannot write", written.error().code());
    }
    if (!runs) return {};
    usleep(kFollowUs);
  }
}

}  // namespace

int List(const GlobalOptions& global, const ListOptions& options, const Reporter& reporter) {
  const std::string root = StateRoot(global);
  std::string json;
  std::string text =
      fmt::format("{:<20} {:<9} {:>8} {:<21} {}\n", "ID", "STATUS", "PID", "CREATED", "BUNDLE");
  std::string names;
  for (const std::string& id : StateDirectory::List(root)) {
    const HostResult<StateDirectory> directory = StateDirectory::Open(root, id);
    if (!directory) continue;
    names += id + "\n";
    if (options.quiet) continue;
    const ContainerState state = StandingOf(*directory, id).state;
    std::string entry = StateJson(state);
    entry.pop_back();
    json += (json.empty() ? "" : ",\n ") + entry;
    text += fmt::format("{:<20} {:<9} {:>8} {:<21} {}\n", id, state.status, state.pid,
                        Printable(state.created), Printable(state.bundle));
  }
  if (options.quiet) return reporter.Print(names);
  return reporter.Print(options.format == "json" ? "[" + json + "]\n" : text);
}

int Kill(const GlobalOptions& global, const KillOptions& options, const Reporter& reporter) {
  const HostResult<int> signo = ParseSignal(options.signal);
  if (!signo) return Fail1(reporter, signo.error().message);
  HostResult<Reached> reached = Reach(global, options.id);
  if (!reached) return Fail1(reporter, reached.error().message);
  const Result<boot::Reply> reply =
      reached->client.Call(boot::SignalRequest{options.id, "", *signo}, kEndMs);
  const HostResult<void> done = JudgeReply(reply, options.id);
  return done ? 0 : Fail1(reporter, done.error().message);
}

int Wait(const GlobalOptions& global, const WaitOptions& options, const Reporter& reporter) {
  const HostResult<int> code = WaitFor(global, options.id, reporter);
  if (!code) return Fail1(reporter, code.error().message);
  return reporter.Print(fmt::format("{}\n", *code));
}

int Logs(const GlobalOptions& global, const LogsOptions& options, const Reporter& reporter) {
  const HostResult<StateDirectory> directory = StateDirectory::Open(StateRoot(global), options.id);
  if (!directory) return Fail1(reporter, directory.error().message);
  const HostResult<void> copied = CopyLog(*directory, options.id, options.follow);
  return copied ? 0 : Fail1(reporter, fmt::format("{}: {}", options.id, copied.error().message));
}

int Delete(const GlobalOptions& global, const DeleteOptions& options, const Reporter& reporter) {
  int code = 0;
  for (const std::string& id : options.ids) {
    const HostResult<void> deleted = DeleteOne(global, id, options.force);
    if (!deleted) code = Fail1(reporter, deleted.error().message);
  }
  return code;
}

}  // namespace skep::cli
