// ControlServer: knows a sandbox's containers and serves its clients. Its loop is the sentry's main
// thread, which does nothing else; what a request has to do in the kernel runs on fibers, and its
// reply comes from there.
//
// Two kinds of clients. The starter, who has started the sandbox with its first container, holds
// the control socket of the configuration (CliCommand, SentryEvent), which is about that container;
// others connect to the socket in the state directory (sentry/boot/protocol.h) and name a
// container. A sandbox that listens there is nobody's: it ends when the last of its containers has
// ended and somebody has fetched the status, or is told to end. One that does not, ends with the
// control socket.
#pragma once

#include <map>
#include <optional>
#include <vector>

#include "base/mutex.h"
#include "sentry/boot/container_host.h"
#include "sentry/boot/protocol.h"
#include "sentry/boot/session.h"

namespace skep::boot {

struct Sandbox;

class ControlServer final : public SessionEvents, public ContainerEvents {
 public:
  explicit ControlServer(Sandbox& sandbox) : sandbox_(sandbox) {}
  ControlServer(const ControlServer&) = delete;
  ControlServer& operator=(const ControlServer&) = delete;

  // Before the sentry's filter, of each process that runs the sandbox: takes the configuration's
  // sockets and listens.
  HostResult<void> Open(const SandboxConfig& config);
  // Once, before it serves: the starter's container.
  void AddStarters(Ref<ContainerHost> host) EXCLUDES(mutex_);
  // `maps_fd`: for checkpoints; -1: none.
  [[noreturn]] void Serve(int maps_fd);

  // To the starter, if it is still there. Any thread.
  void Tell(SentryEvent::Kind kind, int status, std::string_view text);

  // For checkpoints. All containers, by id.
  std::vector<Ref<ContainerHost>> Hosts() EXCLUDES(mutex_);
  const ContainerHost& starters() const { return *starters_; }
  // A name of somebody outside who has a descriptor in the sandbox that no other could give it
  // back; empty: there is none.
  std::string WhoHoldsDescriptors() EXCLUDES(mutex_);
  // In a new process: the clients of before are gone.
  void ForgetClients() EXCLUDES(mutex_);

  // SessionEvents
  void Started(ExecSession& session, int error) override;
  void Ended(ExecSession& session, int status) override;
  // ContainerEvents
  void Started(ContainerHost& host, int error, bool in_files, std::string_view text) override;
  void Stopped(ContainerHost& host, int signo) override;
  void WantsInput(ContainerHost& host) override;
  void GoferLost(ContainerNumber number) override;
  void Ended(ContainerHost& host, int status) override;

 private:
  // A container as clients see it.
  struct Served {
    Ref<ContainerHost> host;
    bool ended = false;
    bool leaving = false;                // it is being dismantled
    int status = 0;                      // once it has ended
    std::string text;                    // why, where it was not its own doing
    std::optional<ErrorReply> failed;    // it never ran
    std::optional<PendingWait> starter;  // a StartContainerRequest to be answered
    std::vector<PendingWait> waits;      // for its end
    std::vector<PendingWait> leavers;    // until it is gone
    std::map<std::string, Ref<ExecSession>> sessions;
    std::map<std::string, PendingWait> starts;  // ExecRequests to be answered
    uint64_t last_session = 0;
  };

  bool listens() const { return static_cast<bool>(listener_); }
  int TimeoutMs() const;
  void KillIfDue();
  // False: the peer is gone.
  bool ServeCommand(int maps_fd);
  void LoseStarter();
  void ReleaseStarters() EXCLUDES(mutex_);
  void Accept();
  bool ServeClient(Ref<ControlClient> client);
  void Drop(ControlClient& client) EXCLUDES(mutex_);
  void Answer(ControlClient& client, uint64_t id, const Reply& reply) EXCLUDES(mutex_);
  void AnswerLocked(ControlClient& client, uint64_t id, const Reply& reply) REQUIRES(mutex_);
  // Those that wait for its end.
  void AnswerWaits(Served& container) REQUIRES(mutex_);

  // One for each request.
  void Do(Ref<ControlClient> client, Packet<Request>& packet, ListRequest& request);
  void Do(Ref<ControlClient> client, Packet<Request>& packet, ExecRequest& request);
  void Do(Ref<ControlClient> client, Packet<Request>& packet, WaitRequest& request);
  void Do(Ref<ControlClient> client, Packet<Request>& packet, SignalRequest& request);
  void Do(Ref<ControlClient> client, Packet<Request>& packet, WindowRequest& request);
  void Do(Ref<ControlClient> client, Packet<Request>& packet, ReleaseRequest& request);
  void Do(Ref<ControlClient> client, Packet<Request>& packet, EndRequest& request);
  void Do(Ref<ControlClient> client, Packet<Request>& packet, StartContainerRequest& request);

  Served* Find(const std::string& id) REQUIRES(mutex_);
  Served* Find(ContainerNumber number) REQUIRES(mutex_);
  Ref<ExecSession> FindSession(const std::string& id, const std::string& exec) REQUIRES(mutex_);
  bool IsStarters(const ContainerHost& host) const { return starters_.get() == &host; }
  Reply MakeSession(Ref<ControlClient> client, Packet<Request>& packet, ExecRequest& request);
  Reply MakeContainer(Ref<ControlClient> client, Packet<Request>& packet,
                      StartContainerRequest& request);
  Reply Admit(Ref<ContainerHost> host, const PendingWait& starter) EXCLUDES(mutex_);
  // Dismantles it on a fiber; the sandbox ends with its last. False: there is no fiber to be had.
  bool Leave(const Ref<ContainerHost>& host) EXCLUDES(mutex_);
  void LeaveOnFiber(ContainerHost& host) EXCLUDES(mutex_);

  Sandbox& sandbox_;
  arena::HostFd control_, listener_;
  Ref<ContainerHost> starters_;
  // Main thread only.
  uint64_t kill_at_ns_ = 0;
  std::vector<Ref<ControlClient>> clients_;

  Mutex mutex_{LockRank::kControl};
  std::map<std::string, Served> containers_ GUARDED_BY(mutex_);  // by id
};

}  // namespace skep::boot
