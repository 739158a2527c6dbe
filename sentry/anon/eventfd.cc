#include "sentry/anon/eventfd.h"

#include <sys/epoll.h>
#include <algorithm>
#include <span>

namespace skep::anon {
namespace {

constexpr uint64_t kMax = ~uint64_t{0};

}  // namespace

Result<size_t> EventFd::Read(vfs::Caller&, mm::IoSequence& to, uint64_t) {
  if (to.size() < sizeof(uint64_t)) return Fail(EINVAL);
  uint64_t taken = 0;
  {
    MutexLock lock(mutex_);
    if (count_ == 0) return Fail(EAGAIN);
    taken = semaphore_ ? 1 : count_;
    count_ -= taken;
  }
  waiters_.Wake(EPOLLOUT);
  const mm::CopyResult copied = to.CopyOut(std::as_bytes(std::span(&taken, 1)));
  if (copied.fault != 0) return Fail(copied.fault);
  return sizeof taken;
}

Result<size_t> EventFd::Write(vfs::Caller&, mm::IoSequence& from, uint64_t*) {
  if (from.size() != sizeof(uint64_t)) return Fail(EINVAL);
  uint64_t added = 0;
  mm::IoSequence part = from;  // the caller may come again after EAGAIN
  const mm::CopyResult copied = part.CopyIn(std::as_writable_bytes(std::span(&added, 1)));
  if (copied.fault != 0) return Fail(copied.fault);
  if (added == kMax) return Fail(EINVAL);
  {
    MutexLock lock(mutex_);
    if (kMax - count_ <= added) return Fail(EAGAIN);
    count_ += added;
  }
  waiters_.Wake(EPOLLIN);
  from = std::move(part);
  return sizeof added;
}

void EventFd::Signal(uint64_t n) {
  {
    MutexLock lock(mutex_);
    count_ += std::min(n, kMax - count_);
  }
  waiters_.Wake(EPOLLIN | EPOLLERR);
}

vfs::EventMask EventFd::Poll(vfs::EventMask) {
  MutexLock lock(mutex_);
  vfs::EventMask ready = 0;
  if (count_ > 0) ready |= EPOLLIN;
  if (count_ == kMax) ready |= EPOLLERR;
  if (kMax - 1 > count_) ready |= EPOLLOUT;
  return ready;
}

}  // namespace skep::anon
