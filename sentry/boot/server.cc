#include "sentry/boot/server.h"

#include <fmt/format.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>
#include <algorithm>
#include <csignal>
#include <cstring>

#include "base/host_call.h"
#include "base/log.h"
#include "sentry/arena/arena.h"
#include "sentry/boot/checkpoint.h"
#include "sentry/boot/job.h"
#include "sentry/boot/sandbox.h"
#include "sentry/kernel/signals.h"

namespace skep::boot {
namespace {

constexpr size_t kMaxClients = 64;
constexpr size_t kMaxSessions = 1024;
constexpr uint64_t kMsNs = 1'000'000;

ErrorReply MakeError(int code, std::string_view text) { return {code, std::string(text)}; }

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

winsize WindowOf(uint32_t rows, uint32_t columns) {
  winsize size{};
  size.ws_row = static_cast<uint16_t>(rows);
  size.ws_col = static_cast<uint16_t>(columns);
  return size;
}

// The container's environment with what is added, by name.
std::vector<std::string> Merge(std::vector<std::string> env,
                               const std::vector<std::string>& added) {
  for (const std::string& setting : added) {
    const std::string name = setting.substr(0, setting.find('=') + 1);
    std::erase_if(env, [&](const std::string& old) { return old.starts_with(name); });
    env.push_back(setting);
  }
  return env;
}

}  // namespace

void GoferLost(int control) {
  const arena::HostScope host;
  (void)SendEvent(control, {SentryEvent::Kind::kLost, 0,
                            "the gofer, which serves the sandbox's files, ended unexpectedly"});
  _exit(1);
}

HostResult<void> ControlServer::Listen() {
  const int socket = sandbox_.config.listen_fd;
  if (socket < 0) return {};
  // Here and not by whoever has bound it: clients find this process by SO_PEERCRED.
  const Result<int64_t> listens = host::Call(SYS_listen, socket, kMaxClients);
  if (!listens) return HostFail("cannot listen for clients", listens.error().code());
  listener_ = arena::HostTable::Get().Add(OwnedFd(socket));
  if (sandbox_.config.lock_fd >= 0) OwnedFd(sandbox_.config.lock_fd).Reset();
  return {};
}

void ControlServer::Serve(int maps_fd) {
  const BootConfig& config = sandbox_.config;
  if (config.kill_after_ms != 0 && listens()) {
    kill_at_ns_ = host::MonotonicNs() + config.kill_after_ms * kMsNs;
  }
  bool owned = true;
  for (;;) {
    std::vector<pollfd> fds;
    fds.push_back({owned ? config.control_fd : -1, POLLIN, 0});
    fds.push_back({listens() ? arena::HostTable::Get().Get(listener_) : -1, POLLIN, 0});
    // A container that has ended needs no files: its status can still be asked for.
    fds.push_back({sandbox_.gofer && !HasEnded() ? sandbox_.gofer.hangup_fd() : -1, 0, 0});
    for (const Ref<ControlClient>& client : clients_) {
      fds.push_back({arena::HostTable::Get().Get(client->socket), POLLIN, 0});
    }
    if (!host::Poll(fds, TimeoutMs())) continue;
    KillIfDue();
    if (fds[0].revents != 0 && !ServeCommand(maps_fd)) {
      owned = false;
      LoseOwner();
    }
    if (fds[2].revents != 0) GoferLost(config.control_fd);
    const arena::ArenaScope arena_heap;
    constexpr size_t kFirstClient = 3;
    std::vector<Ref<ControlClient>> gone;
    for (size_t i = kFirstClient; i < fds.size(); ++i) {
      const Ref<ControlClient>& client = clients_[i - kFirstClient];
      if (fds[i].revents != 0 && !ServeClient(client)) gone.push_back(client);
    }
    for (const Ref<ControlClient>& client : gone) Drop(*client);
    if (fds[1].revents != 0) Accept();
  }
}

int ControlServer::TimeoutMs() const {
  if (kill_at_ns_ == 0) return -1;
  const uint64_t now = host::MonotonicNs();
  constexpr uint64_t kLongestMs = 1'000'000;
  return now >= kill_at_ns_
             ? 0
             : static_cast<int>(std::min((kill_at_ns_ - now) / kMsNs + 1, kLongestMs));
}

void ControlServer::KillIfDue() {
  if (kill_at_ns_ == 0 || host::MonotonicNs() < kill_at_ns_) return;
  kill_at_ns_ = 0;
  SKEP_LOG(kWarning, "the guest's time is up (--kill-after): it is killed");
  (void)SignalFirst(sandbox_, SIGKILL);
}

bool ControlServer::ServeCommand(int maps_fd) {
  OwnedFd file;
  const auto command = ReceiveCommand(sandbox_.config.control_fd, &file);
  if (!command) return false;
  const int value = static_cast<int>(command->value);
  switch (command->kind) {
    case CliCommand::Kind::kSignal:
      (void)SignalFirst(sandbox_, value);
      Tell(SentryEvent::Kind::kTaken, value, "");
      break;
    case CliCommand::Kind::kContinue:
      ContinueGroup(sandbox_, command->value != 0);
      break;
    case CliCommand::Kind::kSuspend:
      // By SIGSTOP: the CLI stops whatever the guest makes of it, and waits for no answer.
      if (SuspendGroup(sandbox_, value) && value != SIGSTOP) {
        Tell(SentryEvent::Kind::kStopped, value, "");
      }
      break;
    case CliCommand::Kind::kCheckpoint:
      ServeCheckpoint(sandbox_, file, maps_fd);
      break;
    case CliCommand::Kind::kRelease: {
      MutexLock lock(mutex_);
      if (ended_) _exit(0);
      break;
    }
    case CliCommand::Kind::kWindow: {
      const arena::ArenaScope arena_heap;
      sandbox_.terminals.SetConsoleWindow(WindowOf(command->value >> 16, command->value & 0xffff));
      break;
    }
  }
  return true;
}

void ControlServer::LoseOwner() {
  if (!listens()) _exit(1);  // the CLI is gone: so is the reason to run
  // What it has stopped would wait for it for ever.
  if (sandbox_.suspended.load()) ContinueGroup(sandbox_, false);
  const arena::ArenaScope arena_heap;
  sandbox_.terminals.StopConsole();
}

void ControlServer::Tell(SentryEvent::Kind kind, int status, std::string_view text) {
  const arena::HostScope host;
  (void)SendEvent(sandbox_.config.control_fd, {kind, status, std::string(text)});
}

void ControlServer::ContainerEnded(int status) {
  SKEP_LOG(kInfo, "the container's first process has ended with status {:#x}", status);
  {
    MutexLock lock(mutex_);
    ended_ = true;
    status_ = status;
    for (const PendingWait& wait : waits_) AnswerLocked(*wait.client, wait.id, ExitReply{status});
    waits_.clear();
  }
  // The owner answers by a release, which counts from here on.
  Tell(SentryEvent::Kind::kExited, status, "");
  if (!listens()) _exit(0);
}

void ControlServer::Accept() {
  const int listener = arena::HostTable::Get().Get(listener_);
  Result<OwnedFd> socket =
      host::CallFd(SYS_accept4, listener, nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK);
  if (!socket || clients_.size() >= kMaxClients) return;
  auto client = MakeRef<ControlClient>();
  client->socket = arena::HostTable::Get().Add(std::move(*socket));
  clients_.push_back(std::move(client));
}

bool ControlServer::ServeClient(Ref<ControlClient> client) {
  Result<Packet<Request>> packet = ReceiveRequest(arena::HostTable::Get().Get(client->socket));
  if (!packet) return packet.error() == Errno(EAGAIN);
  std::visit([&](auto& request) { Do(client, *packet, request); }, packet->message);
  return true;
}

void ControlServer::Drop(ControlClient& client) {
  std::vector<Ref<anon::Console>> consoles;
  {
    MutexLock lock(mutex_);
    client.gone = true;
    const auto is_theirs = [&](const PendingWait& wait) { return wait.client.get() == &client; };
    std::erase_if(waits_, is_theirs);
    for (auto& [id, session] : sessions_) {
      std::erase_if(session->waits, is_theirs);
      if (session->owner.get() == &client && session->running && session->console) {
        consoles.push_back(session->console);
      }
    }
    std::erase_if(starts_, [&](const auto& start) { return is_theirs(start.second); });
    std::erase_if(sessions_, [&](const auto& entry) {
      return entry.second->owner.get() == &client && entry.second->status.has_value();
    });
    arena::HostScope host;
    OwnedFd socket = arena::HostTable::Get().Remove(client.socket);
  }
  // Nobody is at these terminals any more.
  for (const Ref<anon::Console>& console : consoles) console->Stop();
  std::erase_if(clients_, [&](const Ref<ControlClient>& c) { return c.get() == &client; });
}

void ControlServer::Answer(ControlClient& client, uint64_t id, const Reply& reply) {
  MutexLock lock(mutex_);
  AnswerLocked(client, id, reply);
}

// A client that does not read its replies loses them.
void ControlServer::AnswerLocked(ControlClient& client, uint64_t id, const Reply& reply) {
  if (client.gone) return;
  (void)SendReply(arena::HostTable::Get().Get(client.socket), id, reply);
}

bool ControlServer::HasEnded() {
  MutexLock lock(mutex_);
  return ended_;
}

bool ControlServer::IsContainer(const std::string& id) const { return id == sandbox_.config.id; }

Ref<ExecSession> ControlServer::Find(const std::string& exec) {
  const auto found = sessions_.find(exec);
  return found == sessions_.end() ? Ref<ExecSession>() : found->second;
}

void ControlServer::Do(Ref<ControlClient> client, Packet<Request>& packet, ListRequest&) {
  MutexLock lock(mutex_);
  ContainerEntry entry = {sandbox_.config.id, !ended_, status_, {}};
  for (const auto& [id, session] : sessions_) {
    if (!session->status) entry.execs.push_back(id);
  }
  AnswerLocked(*client, packet.id, ListReply{{std::move(entry)}});
}

void ControlServer::Do(Ref<ControlClient> client, Packet<Request>& packet, ExecRequest& request) {
  const Reply reply = MakeSession(client, packet, request);
  if (std::holds_alternative<ErrorReply>(reply)) Answer(*client, packet.id, reply);
}

// DoneReply: it starts, and Started will answer.
Reply ControlServer::MakeSession(Ref<ControlClient> client, Packet<Request>& packet,
                                 ExecRequest& request) {
  if (!IsContainer(request.container)) return MakeError(ENOENT, "no such container");
  ProcessConfig& process = request.process;
  const ProcessConfig& first = sandbox_.config;
  if (process.argv.empty()) return MakeError(EINVAL, "no command");
  size_t next = 0;
  for (int& fd : process.stdio_fds) {
    if (fd < 0) continue;
    if (next == packet.fds.size()) return MakeError(EINVAL, "too few descriptors came along");
    fd = packet.fds[next++].get();
  }
  process.env = Merge(first.env, process.env);
  process.umask = first.umask;
  process.no_new_privs = first.no_new_privs;
  process.rlimits = first.rlimits;
  process.oom_score_adj = first.oom_score_adj;
  process.capabilities = first.capabilities;
  if (!request.has_cwd) process.cwd = first.cwd;
  if (!request.has_user) {
    process.uid = first.uid;
    process.gid = first.gid;
    process.groups = first.groups;
  } else if (process.uid != 0) {
    process.capabilities.effective = process.capabilities.permitted = 0;
    process.capabilities.ambient = 0;
  }
  auto session = MakeRef<ExecSession>();
  session->owner = client;
  {
    MutexLock lock(mutex_);
    if (ended_) return MakeError(ESRCH, "the container has ended");
    if (sessions_.size() >= kMaxSessions) return MakeError(EAGAIN, "too many exec sessions");
    session->id = fmt::format("e{}", ++last_session_);
    sessions_[session->id] = session;
    starts_[session->id] = {client, packet.id};
  }
  session->process = std::move(process);
  AdoptStdio(session->process, session->stdio);
  for (OwnedFd& fd : packet.fds) (void)fd.Release();
  // From here on fibers may see it.
  if (const Result<void> started = StartSession(sandbox_, session, *this); !started) {
    MutexLock lock(mutex_);
    sessions_.erase(session->id);
    starts_.erase(session->id);
    return MakeError(started.error().code(), "cannot start a process");
  }
  return DoneReply{};
}

void ControlServer::Started(ExecSession& session, int error) {
  MutexLock lock(mutex_);
  const auto start = starts_.find(session.id);
  if (start != starts_.end()) {
    const PendingWait asked = start->second;
    starts_.erase(start);
    AnswerLocked(
        *asked.client, asked.id,
        error == 0 ? Reply(ExecReply{session.id}) : Reply(MakeError(error, session.failure)));
  }
  SKEP_LOG(kInfo, "exec session {}: {}", session.id, error == 0 ? "runs" : session.failure);
  session.running = error == 0;
  if (error != 0) sessions_.erase(session.id);
}

void ControlServer::Ended(ExecSession& session, int status) {
  MutexLock lock(mutex_);
  session.status = status;
  session.running = false;
  for (const PendingWait& wait : session.waits) {
    AnswerLocked(*wait.client, wait.id, ExitReply{status});
  }
  const bool told = !session.waits.empty();
  session.waits.clear();
  if (told || session.owner->gone) sessions_.erase(session.id);
}

void ControlServer::Do(Ref<ControlClient> client, Packet<Request>& packet, WaitRequest& request) {
  MutexLock lock(mutex_);
  if (!IsContainer(request.container)) {
    return AnswerLocked(*client, packet.id, MakeError(ENOENT, "no such container"));
  }
  if (request.exec.empty()) {
    if (ended_) return AnswerLocked(*client, packet.id, ExitReply{status_});
    waits_.push_back({client, packet.id});
    return;
  }
  const Ref<ExecSession> session = Find(request.exec);
  if (!session) return AnswerLocked(*client, packet.id, MakeError(ESRCH, "no such exec session"));
  if (!session->status) {
    session->waits.push_back({client, packet.id});
    return;
  }
  AnswerLocked(*client, packet.id, ExitReply{*session->status});
  sessions_.erase(session->id);
}

void ControlServer::Do(Ref<ControlClient> client, Packet<Request>& packet, SignalRequest& request) {
  const Reply missing = MakeError(ESRCH, "it has ended");
  if (request.signo < 1 || request.signo > kernel::kSignals) {
    return Answer(*client, packet.id, MakeError(EINVAL, "no such signal"));
  }
  if (!IsContainer(request.container)) {
    return Answer(*client, packet.id, MakeError(ENOENT, "no such container"));
  }
  if (request.exec.empty()) {
    const bool sent = SignalFirst(sandbox_, request.signo);
    return Answer(*client, packet.id, sent ? Reply(DoneReply{}) : missing);
  }
  Ref<kernel::StartedProcess> process;
  {
    MutexLock lock(mutex_);
    if (const Ref<ExecSession> session = Find(request.exec)) process = session->started;
  }
  bool sent = false;
  if (process) {
    kernel::TasksLock lock(sandbox_.kernel);
    kernel::ThreadGroup* group = process->group();
    sent = group != nullptr && kernel::SendFromOperator(*group, request.signo).has_value();
  }
  Answer(*client, packet.id, sent ? Reply(DoneReply{}) : missing);
}

void ControlServer::Do(Ref<ControlClient> client, Packet<Request>& packet, WindowRequest& request) {
  const winsize size = WindowOf(request.rows, request.columns);
  Ref<anon::Console> console;
  if (request.exec.empty()) {
    sandbox_.terminals.SetConsoleWindow(size);
  } else {
    MutexLock lock(mutex_);
    const Ref<ExecSession> session = Find(request.exec);
    if (session && session->running) console = session->console;
  }
  if (console) console->terminal().SetWindow(size);
  Answer(*client, packet.id, DoneReply{});
}

void ControlServer::Do(Ref<ControlClient> client, Packet<Request>& packet, ReleaseRequest&) {
  MutexLock lock(mutex_);
  if (!ended_) return AnswerLocked(*client, packet.id, MakeError(EBUSY, "the container runs"));
  AnswerLocked(*client, packet.id, DoneReply{});
  _exit(0);
}

void ControlServer::Do(Ref<ControlClient>, Packet<Request>&, EndRequest&) { _exit(0); }

}  // namespace skep::boot
