// ControlServer: serves a sandbox's clients. Its loop is the sentry's main thread, which does
// nothing else; what a request has to do in the kernel runs on fibers, and its reply comes from
// there.
//
// Two kinds of clients. The one that has started the sandbox holds the control socket of the
// configuration (CliCommand, SentryEvent); others connect to the socket in the state directory
// (sentry/boot/protocol.h). A sandbox that listens there is nobody's: it ends when its container
// has ended and somebody has fetched the status, or is told to end. One that does not, ends with
// the control socket.
#pragma once

#include <map>
#include <vector>

#include "base/mutex.h"
#include "sentry/boot/protocol.h"
#include "sentry/boot/session.h"

namespace skep::boot {

struct Sandbox;

// Ends the sentry: without its files a sandbox is none. Whoever has the control socket is told.
[[noreturn]] void GoferLost(int control);

class ControlServer final : public SessionEvents {
 public:
  explicit ControlServer(Sandbox& sandbox) : sandbox_(sandbox) {}
  ControlServer(const ControlServer&) = delete;
  ControlServer& operator=(const ControlServer&) = delete;

  // Before the sentry's filter: listens on the configuration's socket, if it has one.
  HostResult<void> Listen();
  // `maps_fd`: for checkpoints; -1: none.
  [[noreturn]] void Serve(int maps_fd);

  // On a fiber: the container's first process has ended. Ends the sentry if nobody is left who
  // could ask for the status.
  void ContainerEnded(int status);
  // To the control socket, if somebody still has it. Any thread.
  void Tell(SentryEvent::Kind kind, int status, std::string_view text);

  // SessionEvents
  void Started(ExecSession& session, int error) override;
  void Ended(ExecSession& session, int status) override;

 private:
  bool listens() const { return static_cast<bool>(listener_); }
  int TimeoutMs() const;
  void KillIfDue();
  // False: the peer is gone.
  bool ServeCommand(int maps_fd);
  void LoseOwner();
  void Accept();
  bool ServeClient(Ref<ControlClient> client);
  void Drop(ControlClient& client);
  void Answer(ControlClient& client, uint64_t id, const Reply& reply) EXCLUDES(mutex_);
  void AnswerLocked(ControlClient& client, uint64_t id, const Reply& reply) REQUIRES(mutex_);

  // One for each request.
  void Do(Ref<ControlClient> client, Packet<Request>& packet, ListRequest& request);
  void Do(Ref<ControlClient> client, Packet<Request>& packet, ExecRequest& request);
  void Do(Ref<ControlClient> client, Packet<Request>& packet, WaitRequest& request);
  void Do(Ref<ControlClient> client, Packet<Request>& packet, SignalRequest& request);
  void Do(Ref<ControlClient> client, Packet<Request>& packet, WindowRequest& request);
  void Do(Ref<ControlClient> client, Packet<Request>& packet, ReleaseRequest& request);
  void Do(Ref<ControlClient> client, Packet<Request>& packet, EndRequest& request);

  bool HasEnded() EXCLUDES(mutex_);
  bool IsContainer(const std::string& id) const;
  Ref<ExecSession> Find(const std::string& exec) REQUIRES(mutex_);
  Reply MakeSession(Ref<ControlClient> client, Packet<Request>& packet, ExecRequest& request);

  Sandbox& sandbox_;
  // Main thread only.
  arena::HostFd listener_;
  uint64_t kill_at_ns_ = 0;
  std::vector<Ref<ControlClient>> clients_;

  Mutex mutex_{LockRank::kKernel};
  bool ended_ GUARDED_BY(mutex_) = false;
  int status_ GUARDED_BY(mutex_) = 0;
  std::vector<PendingWait> waits_ GUARDED_BY(mutex_);
  std::map<std::string, Ref<ExecSession>> sessions_ GUARDED_BY(mutex_);
  std::map<std::string, PendingWait> starts_ GUARDED_BY(mutex_);  // ExecRequests to be answered
  uint64_t last_session_ GUARDED_BY(mutex_) = 0;
};

}  // namespace skep::boot
