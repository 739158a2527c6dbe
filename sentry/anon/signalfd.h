// signalfd(2): signals that can be read (Linux: fs/signalfd.c). As on Linux they are those of the
// task that reads or polls, not of the one that made the file.
#pragma once

#include <sys/signalfd.h>
#include <atomic>
#include <cstdint>

#include "sentry/vfs/file.h"
#include "sentry/vfs/mount.h"

namespace skep::anon {

// The signals of whichever task runs. Implemented by kernel/.
class SignalSource {
 public:
  // Pending signals of the current task and its thread group that are in `mask` (bit n-1: signal
  // n).
  virtual uint64_t PendingOfCurrent(uint64_t mask) = 0;
  // Takes one of them; false if there is none.
  virtual bool DequeueForCurrent(uint64_t mask, signalfd_siginfo& info) = 0;
  // Woken with EPOLLIN whenever a signal is queued for any task. Outlives every SignalFd.
  virtual sched::WaitQueue& Arrivals() = 0;

 protected:
  ~SignalSource() = default;
};

class SignalFd final : public vfs::File {
 public:
  SignalFd(vfs::Path path, SignalSource& source, uint64_t mask, uint32_t flags)
      : File(std::move(path), O_RDWR | (flags & O_NONBLOCK)), source_(source) {
    SetMask(mask);
  }
  // SIGKILL and SIGSTOP are left out.
  void SetMask(uint64_t mask);
  uint64_t mask() const { return mask_.load(); }

  bool seekable() const override { return false; }
  bool stream() const override { return false; }
  Result<size_t> Read(vfs::Caller& caller, mm::IoSequence& to, uint64_t offset) override;
  vfs::EventMask Poll(vfs::EventMask wanted) override;
  sched::WaitQueue* Waiters() override { return &source_.Arrivals(); }

 private:
  SignalSource& source_;
  std::atomic<uint64_t> mask_{0};
};

}  // namespace skep::anon
