#include "sentry/net/socket.h"

#include <sys/epoll.h>

#include "sentry/sched/scheduler.h"

namespace skep::net {
namespace {

constexpr vfs::EventMask kReadWake = EPOLLIN | EPOLLRDHUP | EPOLLERR | EPOLLHUP;
constexpr vfs::EventMask kWriteWake = EPOLLOUT | EPOLLERR | EPOLLHUP;

bool IsAgain(Errno error) { return error.code() == EAGAIN; }

// Repeats `attempt` until it answers anything but EAGAIN; `on_end` makes an errno of a sleep's end.
template <class Attempt, class OnEnd>
auto SleepUntil(sched::WaitQueue& queue, vfs::EventMask events, sched::Deadline deadline,
                Attempt attempt, OnEnd on_end) -> decltype(attempt()) {
  sched::FiberWaiter waiter(queue, events);
  for (;;) {
    auto result = attempt();
    if (result || !IsAgain(result.error())) return result;
    const sched::WakeReason reason = sched::Suspend(deadline, sched::Sleep::kInterruptible);
    if (reason == sched::WakeReason::kWoken) continue;
    result = attempt();
    if (result || !IsAgain(result.error())) return result;
    return Fail(on_end(reason));
  }
}

}  // namespace

Socket::~Socket() = default;

sched::Deadline Socket::DeadlineAfter(uint64_t timeout_ns) {
  if (timeout_ns == 0) return std::nullopt;
  return sched::Fiber::Current().worker().scheduler().clock().MonotonicNs() + timeout_ns;
}

int Socket::EndOfSleep(sched::WakeReason reason, bool has_timeout) {
  if (reason == sched::WakeReason::kTimedOut) return EAGAIN;
  return has_timeout ? EINTR : kRestartSys;
}

Result<Ref<Socket>> Socket::Accept(vfs::Caller& caller, uint32_t flags) {
  const auto attempt = [&] { return TryAccept(caller, flags); };
  Result<Ref<Socket>> first = attempt();
  if (first || !IsAgain(first.error()) || nonblocking()) return first;
  const uint64_t timeout = options_.receive_timeout_ns.load();
  return SleepUntil(*Waiters(), kReadWake, DeadlineAfter(timeout), attempt,
                    [&](sched::WakeReason reason) { return EndOfSleep(reason, timeout != 0); });
}

// A stream goes on until all is sent; what was sent wins over the error that stopped it.
Result<size_t> Socket::Send(const SocketCaller& caller, SendRequest& request) {
  const bool waits = !nonblocking() && (request.flags & MSG_DONTWAIT) == 0;
  const uint64_t timeout = options_.send_timeout_ns.load();
  const sched::Deadline deadline = waits ? DeadlineAfter(timeout) : std::nullopt;
  const auto attempt = [&] { return TrySend(caller, request); };
  size_t done = 0;
  for (;;) {
    Result<size_t> sent = attempt();
    if (!sent && IsAgain(sent.error()) && waits) {
      sent = SleepUntil(*Waiters(), kWriteWake, deadline, attempt,
                        [&](sched::WakeReason reason) { return EndOfSleep(reason, timeout != 0); });
    }
    if (!sent) {
      if (done != 0) return done;
      return sent;
    }
    done += *sent;
    if (request.data.empty() || type_ != SOCK_STREAM || *sent == 0) return done;
    request.control = {};
    request.flags |= MSG_NOSIGNAL;  // no SIGPIPE once something was sent
  }
}

Result<Received> Socket::Receive(vfs::Caller& caller, mm::IoSequence& to, int flags) {
  const bool waits = !nonblocking() && (flags & MSG_DONTWAIT) == 0;
  const uint64_t timeout = options_.receive_timeout_ns.load();
  const sched::Deadline deadline = waits ? DeadlineAfter(timeout) : std::nullopt;
  const auto attempt = [&] { return TryReceive(caller, to, waits ? flags : flags | MSG_DONTWAIT); };
  const bool all = (flags & MSG_WAITALL) != 0 && (flags & MSG_PEEK) == 0 && type_ == SOCK_STREAM;
  Received total;
  for (;;) {
    Result<Received> got = attempt();
    if (!got && IsAgain(got.error()) && waits) {
      got = SleepUntil(*Waiters(), kReadWake, deadline, attempt,
                       [&](sched::WakeReason reason) { return EndOfSleep(reason, timeout != 0); });
    }
    if (!got) {
      if (total.size != 0) return total;
      return got;
    }
    if (!all || to.empty() || got->size == 0 || !got->control.files.empty()) {
      got->size += total.size;
      if (got->address.empty()) got->address = std::move(total.address);
      if (!got->control.credentials) got->control.credentials = total.control.credentials;
      return got;
    }
    total.size += got->size;
    total.address = std::move(got->address);
    total.control.credentials = got->control.credentials;
  }
}

Result<size_t> Socket::Read(vfs::Caller& caller, mm::IoSequence& to, uint64_t) {
  Received received = TRY(TryReceive(caller, to, nonblocking() ? MSG_DONTWAIT : 0));
  return received.size;
}

Result<size_t> Socket::Write(vfs::Caller& caller, mm::IoSequence& from, uint64_t*) {
  SendRequest request{.data = from, .address = {}, .control = {}, .flags = 0};
  return TrySend(SocketCaller{caller}, request);
}

}  // namespace skep::net
