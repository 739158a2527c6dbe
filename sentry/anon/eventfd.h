// eventfd(2): a counter that can be waited for (Linux: fs/eventfd.c).
#pragma once

#include <cstdint>

#include "base/mutex.h"
#include "sentry/vfs/file.h"
#include "sentry/vfs/mount.h"

namespace skep::anon {

class EventFd final : public vfs::File {
 public:
  // flags: O_NONBLOCK or nothing; `semaphore`: EFD_SEMAPHORE.
  EventFd(vfs::Path path, uint64_t count, bool semaphore, uint32_t flags)
      : File(std::move(path), O_RDWR | (flags & O_NONBLOCK)),
        semaphore_(semaphore),
        count_(count) {}

  bool seekable() const override { return false; }
  bool stream() const override { return false; }
  Result<size_t> Read(vfs::Caller& caller, mm::IoSequence& to, uint64_t offset) override;
  Result<size_t> Write(vfs::Caller& caller, mm::IoSequence& from, uint64_t* offset) override;
  vfs::EventMask Poll(vfs::EventMask wanted) override;
  sched::WaitQueue* Waiters() override { return &waiters_; }
  // As an asynchronous completion does: never EAGAIN, stops at the maximum.
  void Signal(uint64_t n);

 private:
  const bool semaphore_;
  Mutex mutex_{LockRank::kFile};
  uint64_t count_ GUARDED_BY(mutex_);
  sched::WaitQueue waiters_;
};

}  // namespace skep::anon
