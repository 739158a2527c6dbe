// GoferConnection: a gofer by number. The connections themselves are a host resource in malloc's
// heap; this object, in the arena, holds the number, which survives a checkpoint. A container and
// its file systems share it. When the last of them is gone, the connections are closed (the gofer
// ends then) and the number is free for another gofer.
#pragma once

#include <cstdint>
#include <functional>

#include "base/ref.h"
#include "sentry/fs/gofer/fiber_transport.h"

namespace skep::fs {

class GoferConnection final : public RefCounted<GoferConnection> {
 public:
  // A sandbox that has this many gofers gets no other (ENFILE).
  static constexpr uint32_t kMaxConnections = 1023;

  // `socket`: connected to the gofer. `scheduler`: whose fibers ask; null: callers wait as threads
  // do. `on_lost`: see FiberTransport. ENFILE: there are too many gofers.
  static Result<Ref<GoferConnection>> Add(OwnedFd socket, sched::Scheduler* scheduler,
                                          std::function<void()> on_lost);
  // After a restore: a new gofer for the same tree. The one before is gone.
  void Restore(OwnedFd socket, std::function<void()> on_lost) const;
  ~GoferConnection();

  // See FiberTransport.
  uint64_t trusted_since() const { return transport().trusted_since(); }
  int hangup_fd() const { return transport().hangup_fd(); }
  uint32_t number() const { return index_; }

 private:
  friend class GoferFs;
  GoferConnection(uint32_t index, sched::Scheduler* scheduler)
      : index_(index), scheduler_(scheduler) {}
  gofer::Client& client() const;
  FiberTransport& transport() const;

  const uint32_t index_;  // from 1 on
  sched::Scheduler* const scheduler_;
};

}  // namespace skep::fs
