// What clients ask about containers and exec sessions that are there.
#include <fmt/format.h>
#include <unistd.h>
#include <algorithm>

#include "base/log.h"
#include "sentry/boot/job.h"
#include "sentry/boot/sandbox.h"
#include "sentry/boot/server.h"
#include "sentry/kernel/signals.h"

namespace skep::boot {
namespace {

constexpr size_t kMaxSessions = 1024;  // of a container; a client that asks for more gets EAGAIN

ErrorReply MakeError(int code, std::string_view text) { return {code, std::string(text)}; }
ErrorReply NoContainer() { return MakeError(ENOENT, "no such container"); }

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

// What the request leaves to the container.
void Complete(const ProcessConfig& first, ExecRequest& request) {
  ProcessConfig& process = request.process;
  process.env = Merge(first.env, process.env);
  process.umask = first.umask;
  process.no_new_privs = first.no_new_privs;
  process.rlimits = first.rlimits;
  process.oom_score_adj = first.oom_score_adj;
  process.capabilities = first.capabilities;
  if (!request.has_cwd) process.cwd = first.cwd;
  // Whom the request names, it becomes when it runs.
  process.uid = first.uid;
  process.gid = first.gid;
  process.groups = first.groups;
}

// `map`: ContainerConfig::uid_map. Linux: overflowuid, for those that it does not have.
uint32_t InsideOf(const std::vector<uint32_t>& map, uint32_t outside) {
  constexpr uint32_t kOverflow = 65534;
  for (size_t i = 0; i + 2 < map.size(); i += 3) {
    if (outside >= map[i + 1] && outside - map[i + 1] < map[i + 2]) {
      return map[i] + (outside - map[i + 1]);
    }
  }
  return kOverflow;
}

}  // namespace

Ref<ExecSession> ControlServer::FindSession(const std::string& id, const std::string& exec) {
  Served* container = Find(id);
  if (container == nullptr) return {};
  const auto found = container->sessions.find(exec);
  return found == container->sessions.end() ? Ref<ExecSession>() : found->second;
}

void ControlServer::Do(Ref<ControlClient> client, Packet<Request>& packet, ListRequest&) {
  ListReply reply;
  MutexLock lock(mutex_);
  for (const auto& [id, container] : containers_) {
    ContainerEntry entry = {id, !container.ended, container.status, {}};
    for (const auto& [exec, session] : container.sessions) {
      if (!session->status) entry.execs.push_back(exec);
    }
    reply.containers.push_back(std::move(entry));
  }
  AnswerLocked(*client, packet.id, reply);
}

void ControlServer::Do(Ref<ControlClient> client, Packet<Request>& packet, ExecRequest& request) {
  const Reply reply = MakeSession(client, packet, request);
  if (std::holds_alternative<ErrorReply>(reply)) Answer(*client, packet.id, reply);
}

// DoneReply: it starts, and Started will answer.
Reply ControlServer::MakeSession(Ref<ControlClient> client, Packet<Request>& packet,
                                 ExecRequest& request) {
  ProcessConfig& process = request.process;
  if (process.argv.empty()) return MakeError(EINVAL, "no command");
  size_t next = 0;
  for (int& fd : process.stdio_fds) {
    if (fd < 0) continue;
    if (next == packet.fds.size()) return MakeError(EINVAL, "too few descriptors came along");
    fd = packet.fds[next++].get();
  }
  auto session = MakeRef<ExecSession>();
  session->owner = client;
  {
    MutexLock lock(mutex_);
    Served* container = Find(request.container);
    if (container == nullptr) return NoContainer();
    if (container->ended || container->leaving) {
      return MakeError(ESRCH, "the container has ended");
    }
    if (container->sessions.size() >= kMaxSessions) {
      return MakeError(EAGAIN, "too many exec sessions");
    }
    session->host = container->host;
    session->id = fmt::format("e{}", ++container->last_session);
    container->sessions[session->id] = session;
    container->starts[session->id] = {client, packet.id};
  }
  Complete(session->host->process, request);
  session->user = std::move(request.user);
  const ContainerConfig& config = session->host->config;
  for (size_t i = 0; i < process.stdio_owners.size(); ++i) {
    uint32_t& id = process.stdio_owners[i];
    id = InsideOf(i % 2 == 0 ? config.uid_map : config.gid_map, id);
  }
  session->process = std::move(process);
  AdoptStdio(session->process, session->stdio);
  for (OwnedFd& fd : packet.fds) (void)fd.Release();
  // From here on fibers may see it.
  if (const Result<void> started = StartSession(session, *this); !started) {
    MutexLock lock(mutex_);
    if (Served* container = Find(session->host->number)) {
      container->sessions.erase(session->id);
      container->starts.erase(session->id);
    }
    return MakeError(started.error().code(), "cannot start a process");
  }
  return DoneReply{};
}

void ControlServer::Started(ExecSession& session, int error) {
  SKEP_LOG(kInfo, "exec session {} in {}: {}", session.id, session.host->id(),
           error == 0 ? "runs" : session.failure);
  MutexLock lock(mutex_);
  session.running = error == 0;
  Served* container = Find(session.host->number);
  if (container == nullptr) return;
  if (auto start = container->starts.extract(session.id)) {
    const PendingWait& asked = start.mapped();
    AnswerLocked(
        *asked.client, asked.id,
        error == 0 ? Reply(ExecReply{session.id}) : Reply(MakeError(error, session.failure)));
  }
  if (error != 0) container->sessions.erase(session.id);
}

void ControlServer::Ended(ExecSession& session, int status) {
  MutexLock lock(mutex_);
  session.status = status;
  session.running = false;
  for (const PendingWait& wait : session.waits) {
    AnswerLocked(*wait.client, wait.id, ExitReply{status, ""});
  }
  const bool told = !session.waits.empty();
  session.waits.clear();
  Served* container = Find(session.host->number);
  if (container == nullptr) return;
  if (told || session.owner->gone) container->sessions.erase(session.id);
}

void ControlServer::Do(Ref<ControlClient> client, Packet<Request>& packet, WaitRequest& request) {
  MutexLock lock(mutex_);
  Served* container = Find(request.container);
  if (container == nullptr) return AnswerLocked(*client, packet.id, NoContainer());
  if (request.exec.empty()) {
    container->waits.push_back({client, packet.id});
    if (container->ended) AnswerWaits(*container);
    return;
  }
  const Ref<ExecSession> session = FindSession(request.container, request.exec);
  if (!session) return AnswerLocked(*client, packet.id, MakeError(ESRCH, "no such exec session"));
  if (!session->status) {
    session->waits.push_back({client, packet.id});
    return;
  }
  AnswerLocked(*client, packet.id, ExitReply{*session->status, ""});
  container->sessions.erase(session->id);
}

void ControlServer::Do(Ref<ControlClient> client, Packet<Request>& packet, SignalRequest& request) {
  const Reply missing = MakeError(ESRCH, "it has ended");
  if (request.signo < 1 || request.signo > kernel::kSignals) {
    return Answer(*client, packet.id, MakeError(EINVAL, "no such signal"));
  }
  Ref<ContainerHost> host;
  Ref<kernel::StartedProcess> process;
  {
    MutexLock lock(mutex_);
    Served* container = Find(request.container);
    if (container == nullptr) return AnswerLocked(*client, packet.id, NoContainer());
    host = container->host;
    const Ref<ExecSession> session = FindSession(request.container, request.exec);
    if (session) process = session->started;
  }
  bool sent = false;
  if (request.exec.empty()) {
    sent = SignalFirst(*host, request.signo);
  } else if (process) {
    kernel::TasksLock lock(sandbox_.kernel);
    kernel::ThreadGroup* group = process->group();
    sent = group != nullptr && kernel::SendFromOperator(*group, request.signo).has_value();
  }
  Answer(*client, packet.id, sent ? Reply(DoneReply{}) : missing);
}

void ControlServer::Do(Ref<ControlClient> client, Packet<Request>& packet, WindowRequest& request) {
  const winsize size = WindowOf(request.rows, request.columns);
  Ref<ContainerHost> host;
  Ref<anon::Console> console;
  {
    MutexLock lock(mutex_);
    Served* container = Find(request.container);
    if (container == nullptr) return AnswerLocked(*client, packet.id, NoContainer());
    host = container->host;
    const Ref<ExecSession> session = FindSession(request.container, request.exec);
    if (session && session->running) console = session->console;
  }
  if (request.exec.empty()) host->terminals().SetConsoleWindow(size);
  if (console) console->terminal().SetWindow(size);
  Answer(*client, packet.id, DoneReply{});
}

}  // namespace skep::boot
