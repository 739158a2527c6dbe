#include "sentry/net/socket.h"

#include "sentry/net/interfaces.h"
#include "sentry/net/net_namespace.h"
#include "sentry/sched/scheduler.h"
#include "sentry/vfs/blocking.h"

namespace skep::net {

using vfs::BlockOn;
using vfs::Direction;
using vfs::WaitPolicy;
using vfs::WouldBlock;

Socket::~Socket() = default;

// Linux: sock_rcvtimeo, sock_sndtimeo, sock_intr_errno.
WaitPolicy Socket::wait_policy(Direction direction) const {
  const uint64_t timeout = direction == Direction::kRead ? options_.receive_timeout_ns.load()
                                                         : options_.send_timeout_ns.load();
  if (timeout == 0) return {};
  sched::Scheduler& scheduler = sched::Fiber::Current().worker().scheduler();
  return {.deadline = scheduler.clock().MonotonicNs() + timeout, .interrupted = EINTR};
}

void Socket::BeginConnect() {
  error_ = 0;
  connecting_ = true;
}

void Socket::EndConnect(int error) {
  error_ = error;
  connecting_ = false;
  Waiters()->WakeAll();
}

// Linux: inet_wait_for_connect.
Result<void> Socket::AwaitConnect(int pending) {
  if (nonblocking()) return Fail(pending);
  WaitPolicy policy = wait_policy(Direction::kWrite);
  policy.at_deadline = pending;
  return BlockOn(*Waiters(), sched::kAllEvents, policy, [this]() -> Result<void> {
    if (connecting_.load()) return Fail(EAGAIN);
    const int error = TakeError();
    if (error != 0) return Fail(error);
    return {};
  });
}

Result<void> Socket::Connect(vfs::Caller& caller, const Address& address) {
  if (connecting_.load()) return AwaitConnect(EALREADY);
  std::optional<WaitPolicy> policy;
  for (;;) {
    ConnectWait wait;
    Result<void> begun = TryConnect(caller, address, wait);
    if (WouldBlock(begun) && !nonblocking() && wait.queue != nullptr) {
      if (!policy) policy = wait_policy(Direction::kWrite);
      bool elsewhere = false;  // the address leads to another, whose queue is another
      begun = BlockOn(*wait.queue, sched::kAllEvents, *policy, [&]() -> Result<void> {
        ConnectWait now;
        Result<void> result = TryConnect(caller, address, now);
        elsewhere = WouldBlock(result) && now.queue != wait.queue;
        if (elsewhere) return {};
        return result;
      });
      if (elsewhere) continue;
    }
    if (!begun && begun.error().code() == EINPROGRESS) return AwaitConnect(EINPROGRESS);
    return begun;
  }
}

Result<Ref<Socket>> Socket::Accept(vfs::Caller& caller, uint32_t flags) {
  return BlockOn(*this, Direction::kRead, nonblocking(), [&] { return TryAccept(caller, flags); });
}

// A stream goes on until all is sent; what was sent wins over the error that stopped it.
Result<size_t> Socket::Send(vfs::Caller& caller, SendRequest& request) {
  const bool waits = !nonblocking() && (request.flags & MSG_DONTWAIT) == 0;
  const auto attempt = [&] { return TrySend(caller, request); };
  std::optional<WaitPolicy> policy;  // one deadline for all of it
  size_t done = 0;
  for (;;) {
    Result<size_t> sent = attempt();
    if (WouldBlock(sent) && waits) {
      if (!policy) policy = wait_policy(Direction::kWrite);
      sent = BlockOn(*Waiters(), vfs::EventsFor(Direction::kWrite), *policy, attempt);
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
  const auto attempt = [&] { return TryReceive(caller, to, waits ? flags : flags | MSG_DONTWAIT); };
  const bool all = (flags & MSG_WAITALL) != 0 && (flags & MSG_PEEK) == 0 && type_ == SOCK_STREAM;
  std::optional<WaitPolicy> policy;
  Received total;
  for (;;) {
    Result<Received> got = attempt();
    if (WouldBlock(got) && waits) {
      if (!policy) policy = wait_policy(Direction::kRead);
      got = BlockOn(*Waiters(), vfs::EventsFor(Direction::kRead), *policy, attempt);
    }
    if (!got) {
      if (total.size != 0) return total;
      return got;
    }
    if (!all || to.empty() || got->size == 0 || !got->control.files.empty()) {
      got->size += total.size;
      if (got->address.empty()) got->address = total.address;
      if (!got->control.credentials) got->control.credentials = total.control.credentials;
      return got;
    }
    total.size += got->size;
    total.address = got->address;
    total.control.credentials = got->control.credentials;
  }
}

Result<size_t> Socket::Read(vfs::Caller& caller, mm::IoSequence& to, uint64_t) {
  const Received received = TRY(TryReceive(caller, to, nonblocking() ? MSG_DONTWAIT : 0));
  return received.size;
}

Result<size_t> Socket::Write(vfs::Caller& caller, mm::IoSequence& from, uint64_t* before) {
  // No SIGPIPE once something was sent.
  SendRequest request{
      .data = from, .address = {}, .control = {}, .flags = *before != 0 ? MSG_NOSIGNAL : 0};
  return TrySend(caller, request);
}

Result<uint64_t> Socket::Ioctl(vfs::Caller& caller, uint64_t command, uint64_t argument) {
  if (IsInterfaceIoctl(command)) {
    return InterfaceIoctl(net_namespace().interfaces(), net_namespace().owner(), caller, command,
                          argument);
  }
  return FamilyIoctl(caller, command, argument);
}

Result<uint64_t> Socket::FamilyIoctl(vfs::Caller&, uint64_t, uint64_t) { return Fail(ENOTTY); }

}  // namespace skep::net
