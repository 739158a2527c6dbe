// How containers come and go, and what their clients are told of it.
#include <fmt/format.h>
#include <unistd.h>

#include "base/log.h"
#include "sentry/arena/arena.h"
#include "sentry/boot/sandbox.h"
#include "sentry/boot/server.h"
#include "sentry/kernel/tasks_lock.h"

namespace skep::boot {
namespace {

constexpr size_t kMaxContainers = 512;  // a client that asks for more is refused with EMFILE
constexpr size_t kMaxId = 255;

ErrorReply MakeError(int code, std::string_view text) { return {code, std::string(text)}; }

}  // namespace

ControlServer::Served* ControlServer::Find(const std::string& id) {
  const auto found = containers_.find(id);
  return found == containers_.end() ? nullptr : &found->second;
}

ControlServer::Served* ControlServer::Find(ContainerNumber number) {
  for (auto& [id, container] : containers_) {
    if (container.host->number == number) return &container;
  }
  return nullptr;
}

void ControlServer::Do(Ref<ControlClient> client, Packet<Request>& packet,
                       StartContainerRequest& request) {
  const Reply reply = MakeContainer(client, packet, request);
  if (std::holds_alternative<ErrorReply>(reply)) Answer(*client, packet.id, reply);
}

// DoneReply: it starts, and Started or Ended will answer.
Reply ControlServer::MakeContainer(Ref<ControlClient> client, Packet<Request>& packet,
                                   StartContainerRequest& request) {
  ContainerConfig& config = request.container;
  ProcessConfig& process = request.process;
  if (config.id.empty() || config.id.size() > kMaxId) return MakeError(EINVAL, "no such id");
  if (process.argv.empty()) return MakeError(EINVAL, "no command");
  if (config.mounts.empty() || config.mounts[0].destination != "/") {
    return MakeError(EINVAL, "the first mount is not /");
  }
  if (packet.fds.empty()) return MakeError(EINVAL, "no connection to a gofer came along");
  {
    MutexLock lock(mutex_);
    if (containers_.size() >= kMaxContainers) {
      return MakeError(EMFILE, "the sandbox has too many containers");
    }
  }
  size_t next = 1;
  for (int& fd : process.stdio_fds) {
    if (fd < 0) continue;
    if (next == packet.fds.size()) return MakeError(EINVAL, "too few descriptors came along");
    fd = packet.fds[next++].get();
  }
  Result<Ref<ContainerHost>> host =
      MakeContainerHost(sandbox_, std::move(config), process, std::move(packet.fds.front()));
  if (!host) {
    const int code = host.error().code();
    return MakeError(code, code == EEXIST   ? "the sandbox has a container of this name"
                           : code == ENFILE ? "the sandbox has too many gofers"
                                            : "cannot make the container");
  }
  for (OwnedFd& fd : packet.fds) (void)fd.Release();  // AdoptStdio has taken them
  return Admit(std::move(*host), {std::move(client), packet.id});
}

Reply ControlServer::Admit(Ref<ContainerHost> host, const PendingWait& starter) {
  {
    MutexLock lock(mutex_);
    Served& served = containers_[host->id()];
    served.host = host;
    served.starter = starter;
  }
  // From here on fibers may see it.
  const Result<void> started = StartContainer(sandbox_, host);
  if (started) return DoneReply{};
  {
    MutexLock lock(mutex_);
    if (Served* served = Find(host->number)) {
      served->failed = MakeError(started.error().code(), "cannot start a process");
    }
  }
  host->NoteOver();
  if (!Leave(host)) SKEP_LOG(kError, "cannot tidy up after container {}", host->id());
  return DoneReply{};
}

void ControlServer::Started(ContainerHost& host, int error, bool in_files, std::string_view text) {
  bool alone = false;
  {
    MutexLock lock(mutex_);
    alone = containers_.size() == 1;
    Served* served = Find(host.number);
    if (served == nullptr) return;
    if (error == 0 && served->starter) {
      AnswerLocked(*served->starter->client, served->starter->id, DoneReply{});
      served->starter.reset();
    }
    // The errno of execve is for the exit code; another one says nothing of the program. One that
    // was killed meanwhile has a status like any other.
    if (error != 0 && error != kKilled)
      served->failed = MakeError(in_files ? ECANCELED : error, text);
  }
  SKEP_LOG(kInfo, "container {}: {}", host.id(), error == 0 ? "runs" : text);
  if (!IsStarters(host)) return;
  if (error == 0) {
    Tell(SentryEvent::Kind::kStarted, 0, sandbox_.kernel.config.engine_name);
    return;
  }
  if (error == kKilled) return;  // by a signal to the CLI: its exit status tells
  Tell(SentryEvent::Kind::kFailed, in_files ? 0 : error, text);
  // Nobody will ask how a container has ended that never ran.
  if (alone) _exit(1);
}

void ControlServer::Stopped(ContainerHost& host, int signo) {
  if (IsStarters(host)) Tell(SentryEvent::Kind::kStopped, signo, "");
}

void ControlServer::WantsInput(ContainerHost& host) {
  if (IsStarters(host)) Tell(SentryEvent::Kind::kWantsInput, 0, "");
}

// Without its files a container is none; the others have gofers of their own.
void ControlServer::GoferLost(ContainerNumber number) {
  Ref<ContainerHost> host;
  std::string text;
  {
    MutexLock lock(mutex_);
    Served* served = Find(number);
    if (served == nullptr || served->ended || served->leaving) return;
    host = served->host;
    if (host->gofer_lost.exchange(true)) return;
    served->text =
        fmt::format("the gofer, which serves the files of '{}', ended unexpectedly", host->id());
    text = served->text;
  }
  SKEP_LOG(kError, "{}", text);
  if (!listens()) {  // nobody else is here, or will come
    Tell(SentryEvent::Kind::kLost, 0, text);
    _exit(1);
  }
  kernel::TasksLock lock(sandbox_.kernel);
  host->container->KillAll();
}

void ControlServer::Ended(ContainerHost& host, int status) {
  SKEP_LOG(kInfo, "the first process of '{}' has ended with status {:#x}", host.id(), status);
  std::string text;
  bool failed = false;
  {
    MutexLock lock(mutex_);
    if (Served* served = Find(host.number)) {
      served->ended = true;
      served->status = status;
      failed = served->failed.has_value();
      text = served->text;
      AnswerWaits(*served);
      if (served->starter && !failed) {
        AnswerLocked(*served->starter->client, served->starter->id,
                     MakeError(ECANCELED, "it was killed while it started"));
        served->starter.reset();
      }
    }
  }
  // The starter answers by a release, which counts from here on.
  if (IsStarters(host)) Tell(SentryEvent::Kind::kExited, status, text);
  if (!listens()) _exit(0);
  if (failed) (void)Leave(Ref<ContainerHost>(&host));
}

void ControlServer::ReleaseStarters() {
  const arena::ArenaHeapScope arena_heap;
  {
    MutexLock lock(mutex_);
    Served* served = Find(starters_->number);
    if (served == nullptr || !served->ended) return;
    if (containers_.size() == 1) _exit(0);
  }
  (void)Leave(starters_);
}

bool ControlServer::Leave(const Ref<ContainerHost>& host) {
  {
    MutexLock lock(mutex_);
    Served* served = Find(host->number);
    if (served == nullptr || std::exchange(served->leaving, true)) return true;
  }
  const auto spawned = sched::Fiber::Spawn(sandbox_.kernel.scheduler.worker(0),
                                           [this, host] { LeaveOnFiber(*host); });
  if (spawned) return true;
  MutexLock lock(mutex_);
  if (Served* served = Find(host->number)) served->leaving = false;
  return false;
}

void ControlServer::LeaveOnFiber(ContainerHost& host) {
  Dismantle(host);
  std::map<std::string, Served>::node_type gone;
  bool last = false;
  {
    MutexLock lock(mutex_);
    gone = containers_.extract(host.id());
    last = containers_.empty();
    const Served& served = gone.mapped();
    if (served.starter && served.failed) {
      AnswerLocked(*served.starter->client, served.starter->id, *served.failed);
    }
    for (const PendingWait& leaver : served.leavers) {
      AnswerLocked(*leaver.client, leaver.id, DoneReply{});
    }
  }
  if (IsStarters(host)) Tell(SentryEvent::Kind::kReleased, 0, "");
  if (last) _exit(0);
}

void ControlServer::Do(Ref<ControlClient> client, Packet<Request>& packet,
                       ReleaseRequest& request) {
  Ref<ContainerHost> host;
  {
    MutexLock lock(mutex_);
    Served* served = Find(request.container);
    if (served == nullptr) {
      return AnswerLocked(*client, packet.id, MakeError(ENOENT, "no such container"));
    }
    if (!served->ended) {
      return AnswerLocked(*client, packet.id, MakeError(EBUSY, "the container runs"));
    }
    if (containers_.size() == 1) {
      AnswerLocked(*client, packet.id, DoneReply{});
      _exit(0);
    }
    served->leavers.push_back({client, packet.id});
    host = served->host;
  }
  if (!Leave(host)) Answer(*client, packet.id, MakeError(EAGAIN, "no fiber to be had"));
}

void ControlServer::Do(Ref<ControlClient> client, Packet<Request>& packet, EndRequest& request) {
  Ref<ContainerHost> host;
  {
    MutexLock lock(mutex_);
    Served* served = Find(request.container);
    if (served == nullptr && !request.container.empty()) {
      return AnswerLocked(*client, packet.id, MakeError(ENOENT, "no such container"));
    }
    if (served == nullptr || containers_.size() == 1) _exit(0);
    served->leavers.push_back({client, packet.id});
    host = served->host;
  }
  if (!Leave(host)) Answer(*client, packet.id, MakeError(EAGAIN, "no fiber to be had"));
}

}  // namespace skep::boot
