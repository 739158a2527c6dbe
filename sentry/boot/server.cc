#include "sentry/boot/server.h"

#include <fmt/format.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>
#include <algorithm>
#include <csignal>

#include "base/host_call.h"
#include "base/log.h"
#include "sentry/arena/arena.h"
#include "sentry/boot/checkpoint.h"
#include "sentry/boot/job.h"
#include "sentry/boot/sandbox.h"

namespace skep::boot {
namespace {

constexpr size_t kMaxClients = 64;
constexpr uint64_t kMsNs = 1'000'000;

int FdOf(arena::HostFd fd) { return fd ? arena::HostTable::Get().Get(fd) : -1; }

void ServeCheckpoint(Sandbox& sandbox, const OwnedFd& image, int maps_fd) {
  const SaveOptions options = {.scan_maps_fd = maps_fd};
  const HostResult<void> saved = image ? SaveSandbox(sandbox, image.get(), options)
                                       : HostFail("no file for the image came along");
  if (!saved) {
    sandbox.server->Tell(SentryEvent::Kind::kCheckpointed, EIO, saved.error().message);
    return;
  }
  sandbox.server->Tell(SentryEvent::Kind::kCheckpointed, 0, "");
  _exit(0);  // the sandbox is in the file now
}

winsize WindowOf(uint32_t word) {
  winsize size{};
  size.ws_row = static_cast<uint16_t>(word >> 16);
  size.ws_col = static_cast<uint16_t>(word & 0xffff);
  return size;
}

}  // namespace

HostResult<void> ControlServer::Open(const SandboxConfig& config) {
  arena::HostTable& table = arena::HostTable::Get();
  if (config.control_fd >= 0) control_ = table.Add(OwnedFd(config.control_fd));
  listener_ = {};
  kill_at_ns_ = 0;
  if (config.listen_fd < 0) return {};
  // Here and not by whoever has bound it: clients find this process by SO_PEERCRED.
  const Result<int64_t> listens = host::Call(SYS_listen, config.listen_fd, kMaxClients);
  if (!listens) return HostFail("cannot listen for clients", listens.error().code());
  listener_ = table.Add(OwnedFd(config.listen_fd));
  if (config.lock_fd >= 0) OwnedFd(config.lock_fd).Reset();
  if (config.kill_after_ms != 0) kill_at_ns_ = host::MonotonicNs() + config.kill_after_ms * kMsNs;
  return {};
}

void ControlServer::AddStarters(Ref<ContainerHost> host) {
  starters_ = std::move(host);
  MutexLock lock(mutex_);
  containers_[starters_->id()].host = starters_;
}

void ControlServer::Serve(int maps_fd) {
  bool owned = true;
  for (;;) {
    std::vector<pollfd> fds;
    fds.push_back({owned ? FdOf(control_) : -1, POLLIN, 0});
    fds.push_back({FdOf(listener_), POLLIN, 0});
    for (const Ref<ControlClient>& client : clients_)
      fds.push_back({FdOf(client->socket), POLLIN, 0});
    const size_t first_gofer = fds.size();
    std::vector<ContainerNumber> gofers;
    {
      MutexLock lock(mutex_);
      for (const auto& [id, container] : containers_) {
        const ContainerHost& host = *container.host;
        // A container that has ended needs no files: its status can still be asked for.
        if (!host.gofer || container.ended || container.leaving || host.gofer_lost.load()) continue;
        fds.push_back({host.gofer->hangup_fd(), 0, 0});
        gofers.push_back(host.number);
      }
    }
    if (!host::Poll(fds, TimeoutMs())) continue;
    KillIfDue();
    if (fds[0].revents != 0 && !ServeCommand(maps_fd)) {
      owned = false;
      LoseStarter();
    }
    const arena::ArenaHeapScope arena_heap;
    for (size_t i = 0; i < gofers.size(); ++i) {
      if (fds[first_gofer + i].revents != 0) GoferLost(gofers[i]);
    }
    std::vector<Ref<ControlClient>> gone;
    constexpr size_t kFirstClient = 2;
    for (size_t i = kFirstClient; i < first_gofer; ++i) {
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
  (void)SignalFirst(*starters_, SIGKILL);
}

bool ControlServer::ServeCommand(int maps_fd) {
  OwnedFd file;
  const auto command = ReceiveCommand(FdOf(control_), &file);
  if (!command) return false;
  const int value = static_cast<int>(command->value);
  switch (command->kind) {
    case CliCommand::Kind::kSignal:
      (void)SignalFirst(*starters_, value);
      Tell(SentryEvent::Kind::kTaken, value, "");
      break;
    case CliCommand::Kind::kContinue:
      ContinueGroup(*starters_, command->value != 0);
      break;
    case CliCommand::Kind::kSuspend:
      // By SIGSTOP: the CLI stops whatever the guest makes of it, and waits for no answer.
      if (SuspendGroup(*starters_, value) && value != SIGSTOP) {
        Tell(SentryEvent::Kind::kStopped, value, "");
      }
      break;
    case CliCommand::Kind::kCheckpoint:
      ServeCheckpoint(sandbox_, file, maps_fd);
      break;
    case CliCommand::Kind::kRelease:
      ReleaseStarters();
      break;
    case CliCommand::Kind::kWindow: {
      const arena::ArenaHeapScope arena_heap;
      starters_->terminals().SetConsoleWindow(WindowOf(command->value));
      break;
    }
  }
  return true;
}

void ControlServer::LoseStarter() {
  if (!listens()) _exit(1);  // the CLI is gone: so is the reason to run
  // What it has stopped would wait for it for ever.
  if (starters_->suspended.load()) ContinueGroup(*starters_, false);
  const arena::ArenaHeapScope arena_heap;
  starters_->terminals().StopConsole();
}

void ControlServer::Tell(SentryEvent::Kind kind, int status, std::string_view text) {
  const arena::HostHeapScope host;
  if (control_) (void)SendEvent(FdOf(control_), {kind, status, std::string(text)});
}

void ControlServer::Accept() {
  Result<OwnedFd> socket =
      host::CallFd(SYS_accept4, FdOf(listener_), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK);
  if (!socket || clients_.size() >= kMaxClients) return;
  auto client = MakeRef<ControlClient>();
  client->socket = arena::HostTable::Get().Add(std::move(*socket));
  clients_.push_back(std::move(client));
}

bool ControlServer::ServeClient(Ref<ControlClient> client) {
  Result<Packet<Request>> packet = ReceiveRequest(FdOf(client->socket));
  if (!packet) return packet.error() == Errno(EAGAIN);
  std::visit([&](auto& request) { Do(client, *packet, request); }, packet->message);
  return true;
}

void ControlServer::Drop(ControlClient& client) {
  std::vector<Ref<anon::Console>> consoles;
  std::vector<Ref<ExecSession>> forgotten;
  {
    MutexLock lock(mutex_);
    client.gone = true;
    const auto is_theirs = [&](const PendingWait& wait) { return wait.client.get() == &client; };
    for (auto& [id, container] : containers_) {
      std::erase_if(container.waits, is_theirs);
      std::erase_if(container.leavers, is_theirs);
      if (container.starter && is_theirs(*container.starter)) container.starter.reset();
      std::erase_if(container.starts, [&](const auto& start) { return is_theirs(start.second); });
      for (auto& [exec, session] : container.sessions) {
        std::erase_if(session->waits, is_theirs);
        if (session->owner.get() != &client) continue;
        if (session->running && session->console) consoles.push_back(session->console);
        if (session->status) forgotten.push_back(session);
      }
      for (const Ref<ExecSession>& session : forgotten) container.sessions.erase(session->id);
    }
    arena::HostHeapScope host;
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
  (void)SendReply(FdOf(client.socket), id, reply);
}

void ControlServer::AnswerWaits(Served& container) {
  for (const PendingWait& wait : container.waits) {
    AnswerLocked(*wait.client, wait.id, ExitReply{container.status, container.text});
  }
  container.waits.clear();
}

std::vector<Ref<ContainerHost>> ControlServer::Hosts() {
  std::vector<Ref<ContainerHost>> hosts;
  MutexLock lock(mutex_);
  for (const auto& [id, container] : containers_) hosts.push_back(container.host);
  return hosts;
}

std::string ControlServer::WhoHoldsDescriptors() {
  MutexLock lock(mutex_);
  for (const auto& [id, container] : containers_) {
    for (const auto& [exec, session] : container.sessions) {
      if (!session->status) return fmt::format("the exec session {} in '{}'", exec, id);
    }
  }
  return "";
}

void ControlServer::ForgetClients() {
  std::vector<Ref<ControlClient>> clients;
  std::swap(clients, clients_);
  std::vector<std::map<std::string, Ref<ExecSession>>> sessions;
  MutexLock lock(mutex_);
  for (const Ref<ControlClient>& client : clients) client->gone = true;
  for (auto& [id, container] : containers_) {
    container.waits.clear();
    container.leavers.clear();
    container.starter.reset();
    container.starts.clear();
    sessions.push_back(std::exchange(container.sessions, {}));
  }
}

}  // namespace skep::boot
