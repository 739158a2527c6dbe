#include "sentry/anon/signalfd.h"

#include <sys/epoll.h>
#include <csignal>
#include <span>

namespace skep::anon {
namespace {

constexpr uint64_t BitOf(int signo) { return uint64_t{1} << (signo - 1); }

}  // namespace

void SignalFd::SetMask(uint64_t mask) {
  mask_.store(mask & ~(BitOf(SIGKILL) | BitOf(SIGSTOP)));
  source_.Arrivals().Wake(EPOLLIN);
}

// As many as fit and are pending; an unreadable buffer costs the signal, as on Linux.
Result<size_t> SignalFd::Read(vfs::Caller&, mm::IoSequence& to, uint64_t) {
  if (to.size() < sizeof(signalfd_siginfo)) return Fail(EINVAL);
  size_t done = 0;
  while (to.size() >= sizeof(signalfd_siginfo)) {
    signalfd_siginfo info{};
    if (!source_.DequeueForCurrent(mask(), info)) break;
    const mm::CopyResult copied = to.CopyOut(std::as_bytes(std::span(&info, 1)));
    if (copied.fault != 0) return mm::CopyResult{done, copied.fault}.OrFault();
    done += sizeof info;
  }
  if (done == 0) return Fail(EAGAIN);
  return done;
}

vfs::EventMask SignalFd::Poll(vfs::EventMask) {
  return source_.PendingOfCurrent(mask()) != 0 ? vfs::EventMask{EPOLLIN} : 0;
}

}  // namespace skep::anon
