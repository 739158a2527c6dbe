// FiberTransport: the connections to one gofer, one for each worker, and how fibers wait for it.
//
// A fiber writes its request on its worker's connection and looks for the reply for twice the least
// round trip of the first calls there: a gofer on the same CPU answers in that time. Else it parks,
// killable, and the worker goes on; its poller takes the reply when it comes. So a gofer that hangs
// holds up those who asked it and nobody else.
//
// A call whose caller was killed goes on in the gofer. If it was a change, nothing that was heard
// before its end is known to be true (trusted_since).
//
// Threads that are no fibers (boot, a checkpoint, unit tests) share one more connection and wait as
// threads do. Host side: malloc's heap. A worker's connection is used by its thread alone.
#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <optional>
#include <vector>

#include "base/mutex.h"
#include "gofer/protocol/client.h"
#include "sentry/sched/host_poller.h"

namespace skep::fs {

class FiberTransport final : public gofer::Transport {
 public:
  // `socket`: connected to the gofer. Workers' own connections are made when the first fiber asks;
  // with no workers, fibers wait as threads do.
  FiberTransport(OwnedFd socket, int workers);
  ~FiberTransport() override;

  Result<void> Ask(gofer::Call& call) override;
  void Release(gofer::NodeId node, uint64_t count) override;
  void FlushReleases() override;

  // What was heard of the host's files before this time (host's monotonic clock) may have been
  // changed by a call that nobody waited for. 0: there was none; ~0: one is still under way.
  uint64_t trusted_since() const {
    return unsettled_.load() != 0 ? ~uint64_t{0} : settled_at_ns_.load();
  }
  // Hangs up when the gofer is gone.
  int hangup_fd() const { return hangup_fd_; }
  // On a fiber: this worker's connection is closed. Nobody asks any more.
  void CloseHere();
  // Called once: the gofer is gone, or does not keep to the protocol. Set before the first call.
  std::function<void()> on_lost;

 private:
  struct Connection {
    std::unique_ptr<gofer::Lane> lane;
    std::optional<sched::LoopWatch> watch;
    size_t parked = 0;              // fibers that its watch is for
    bool watches_for_late = false;  // ... which is also for replies that nobody waits for
    int measured = 0;               // replies that round_trip_ns is the least of
    uint64_t round_trip_ns = ~uint64_t{0} / 2;
  };

  Connection* ConnectionHere();
  void ConnectAll() REQUIRES(mutex_);
  void Prepare(gofer::Lane& lane);
  Result<void> AskHere(Connection& here, gofer::Call& call);
  Result<void> AskAsThread(gofer::Call& call) REQUIRES(mutex_);
  Result<void> Send(Connection& here, gofer::CallUnderWay& call);
  void Park(Connection& here, gofer::CallUnderWay& call);
  void GiveUp(Connection& here, gofer::CallUnderWay& call);
  void TakeReplies(Connection& here);
  static bool LookFor(Connection& here, const gofer::CallUnderWay& call, uint64_t ns);

  std::vector<Connection> connections_;  // by worker
  std::atomic<bool> connected_{false};
  std::atomic<int> unsettled_{0};
  std::atomic<uint64_t> settled_at_ns_{0};
  std::atomic<bool> lost_{false};
  Mutex mutex_{LockRank::kGoferClient};
  gofer::Lane control_ GUARDED_BY(mutex_);
  const int hangup_fd_;
};

}  // namespace skep::fs
