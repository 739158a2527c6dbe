// GoferConnection: a gofer by number. The connections themselves are a host resource in malloc's
// heap; a file system in the arena holds the number, which survives a checkpoint.
#pragma once

#include <cstdint>
#include <functional>

#include "sentry/fs/gofer/fiber_transport.h"

namespace skep::fs {

class GoferConnection {
 public:
  GoferConnection() = default;

  struct Options {
    int workers = 0;                // of the scheduler; 0: callers wait as threads do
    std::function<void()> on_lost;  // FiberTransport::on_lost
  };
  // `socket`: connected to the gofer. ENFILE: there are too many gofers.
  static Result<GoferConnection> Add(OwnedFd socket, Options options);
  // After a restore: a new gofer for the same tree. Whoever was there before is gone.
  void Restore(OwnedFd socket, Options options) const;
  // The container is gone, and its file systems: the number will be another's.
  void Remove() const;

  // See FiberTransport.
  uint64_t trusted_since() const { return transport().trusted_since(); }
  int hangup_fd() const { return transport().hangup_fd(); }
  explicit operator bool() const { return index_ != 0; }

 private:
  friend class GoferFs;
  explicit GoferConnection(uint32_t index) : index_(index) {}
  // CHECK that there is one.
  gofer::Client& client() const;
  FiberTransport& transport() const;

  uint32_t index_ = 0;  // 0: none
};

}  // namespace skep::fs
