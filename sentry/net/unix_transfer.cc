// Sending and receiving over AF_UNIX sockets.
#include <sys/epoll.h>
#include <algorithm>

#include "sentry/net/unix_endpoint.h"
#include "sentry/net/unix_packet.h"

namespace skep::net {
namespace {

constexpr int kReceive = 1, kSend = 2;
constexpr vfs::EventMask kReadable = EPOLLIN | EPOLLRDNORM | EPOLLRDBAND;
constexpr vfs::EventMask kWritable = EPOLLOUT | EPOLLWRNORM | EPOLLWRBAND;
constexpr size_t kStreamChunk = 32 << 10;
constexpr size_t kMaxQueuedPackets = 10;  // net.unix.max_dgram_qlen
constexpr size_t kPacketMargin = 32;      // Linux: unix_dgram_sendmsg refuses more than sndbuf - 32

// What Linux's skb of this size costs (SKB_TRUESIZE).
size_t ChargeFor(size_t bytes) {
  constexpr size_t kHead = 256, kShared = 320, kLeast = 512, kUnit = 64;
  return kHead + std::max(kLeast, (bytes + kShared + kUnit - 1) / kUnit * kUnit);
}

}  // namespace

UnixEndpoint::Packet::Packet(Ref<UnixEndpoint> from, size_t bytes)
    : sender(std::move(from)),
      size(bytes),
      charge(ChargeFor(bytes)),
      data(std::make_unique_for_overwrite<std::byte[]>(bytes)) {
  sender->charged_ += charge;
}

UnixEndpoint::Packet::~Packet() {
  DropFiles();
  sender->Uncharge(charge);
}

void UnixEndpoint::Packet::DropFiles() {
  sender->space_.in_flight().Remove(in_flight);
  control.files.clear();
}

void UnixEndpoint::Uncharge(size_t bytes) {
  charged_ -= bytes;
  if (Writable()) waiters_.Wake(kWritable);
}

// Linux: unix_writable.
bool UnixEndpoint::Writable() const {
  return charged_.load() * 4 <= static_cast<size_t>(send_buffer_.load());
}

// Linux: maybe_add_creds. A connection that nobody has accepted yet may still ask for credentials,
// so its messages carry them.
Sender UnixEndpoint::CredentialsFor(const Outgoing& message, UnixEndpoint& to) const {
  if (message.control.credentials) return *message.control.credentials;
  if (pass_credentials_.load() || to.pass_credentials_.load() || !to.has_file()) return message.own;
  return {};
}

Result<UnixEndpoint::PacketPtr> UnixEndpoint::MakePacket(Outgoing& message, size_t size,
                                                         UnixEndpoint& to) {
  auto packet = std::make_unique<Packet>(Ref<UnixEndpoint>(this), size);
  mm::IoSequence part = message.data.TakeFirst(size);
  const mm::CopyResult copied = part.CopyIn({packet->data.get(), size});
  if (copied.fault != 0) return Fail(copied.fault);
  packet->control.credentials = CredentialsFor(message, to);
  if (!message.control.files.empty()) {
    TRY(space_.in_flight().Add(packet->in_flight, message.sender, message.control.files, to));
    packet->control.files = std::move(message.control.files);
    message.control.files.clear();
  }
  return packet;
}

// Linux: what sock_alloc_send_pskb looks at.
Result<void> UnixEndpoint::CheckSend() {
  MutexLock lock(mutex_);
  if (error_ != 0) return Fail(std::exchange(error_, 0));
  if ((shutdown_ & kSend) != 0) return Fail(EPIPE);
  if (charged_.load() >= static_cast<size_t>(send_buffer_.load())) return Fail(EAGAIN);
  return {};
}

// Linux: unix_stream_sendmsg.
Result<size_t> UnixEndpoint::SendStream(Outgoing message) {
  Ref<UnixEndpoint> other;
  {
    MutexLock lock(mutex_);
    if (!peer_) return Fail(ENOTCONN);
    if ((shutdown_ & kSend) != 0) return Fail(EPIPE);
    other = peer_;
  }
  size_t done = 0;
  Result<void> step;
  while (step && !message.data.empty()) {
    step = CheckSend();
    if (!step) break;
    const auto half = static_cast<size_t>(send_buffer_.load() / 2);
    const size_t size = std::min({message.data.size(), kStreamChunk, half});
    Result<PacketPtr> packet = MakePacket(message, size, *other);
    step = packet ? other->Enqueue(std::move(*packet), *this)
                  : Result<void>(Fail(packet.error().code()));
    if (!step) break;
    message.data.DropFirst(size);
    done += size;
  }
  if (done == 0 && !step) return std::unexpected(step.error());
  return done;
}

// Linux: unix_dgram_sendmsg.
Result<size_t> UnixEndpoint::SendPacket(Outgoing message, Ref<UnixEndpoint> to) {
  const bool connected_send = !to;
  if (connected_send) {
    MutexLock lock(mutex_);
    if (!peer_ || state_ != State::kConnected) return Fail(ENOTCONN);
    to = peer_;
  }
  const size_t size = message.data.size();
  if (size + kPacketMargin > static_cast<size_t>(send_buffer_.load())) return Fail(EMSGSIZE);
  TRY(CheckSend());
  if (to->BlocksSender(*this)) return Fail(EAGAIN);
  PacketPtr packet = TRY(MakePacket(message, size, *to));
  const Result<void> queued = to->Enqueue(std::move(packet), *this);
  if (!queued) {
    if (queued.error().code() == ECONNREFUSED && connected_send) (void)SetPeer({});
    return std::unexpected(queued.error());
  }
  message.data.DropFirst(size);
  return size;
}

bool UnixEndpoint::QueueFullFor(const UnixEndpoint& from) {
  return !connection_oriented() && state_ != State::kClosed && (shutdown_ & kReceive) == 0 &&
         peer_.get() != &from && queue_.size() > kMaxQueuedPackets;
}

bool UnixEndpoint::BlocksSender(UnixEndpoint& from) {
  MutexLock lock(mutex_);
  if (!QueueFullFor(from)) return false;
  const Ref<UnixEndpoint> sender(&from);
  if (std::find(blocked_.begin(), blocked_.end(), sender) == blocked_.end()) {
    blocked_.push_back(sender);
  }
  return true;
}

Result<void> UnixEndpoint::Enqueue(PacketPtr packet, UnixEndpoint& from) {
  {
    MutexLock lock(mutex_);
    if (!connection_oriented()) {
      if (peer_ && peer_.get() != &from) return Fail(EPERM);
      if (state_ == State::kClosed) return Fail(ECONNREFUSED);
    }
    if (state_ == State::kClosed || (shutdown_ & kReceive) != 0) return Fail(EPIPE);
    queue_.push_back(std::move(packet));
  }
  waiters_.Wake(kReadable);
  return {};
}

// The i-th message; it stays where it is while the caller holds read_lock_.
UnixEndpoint::Packet* UnixEndpoint::At(size_t i) {
  MutexLock lock(mutex_);
  return i < queue_.size() ? queue_[i].get() : nullptr;
}

void UnixEndpoint::DiscardMessages() {
  std::vector<Ref<UnixEndpoint>> pending;
  std::deque<PacketPtr> queue;
  {
    MutexLock lock(mutex_);
    queue.swap(queue_);
    pending.assign(pending_.begin(), pending_.end());
  }
  for (const Ref<UnixEndpoint>& end : pending) {
    std::deque<PacketPtr> unaccepted;
    MutexLock lock(end->mutex_);
    unaccepted.swap(end->queue_);
  }
}

void UnixEndpoint::PopFront() {
  PacketPtr packet;
  std::vector<Ref<UnixEndpoint>> blocked;
  {
    MutexLock lock(mutex_);
    packet = std::move(queue_.front());
    queue_.pop_front();
    if (queue_.size() <= kMaxQueuedPackets) blocked.swap(blocked_);
  }
  for (const Ref<UnixEndpoint>& sender : blocked) sender->waiters_.Wake(kWritable);
}

Result<Received> UnixEndpoint::NothingToReceive(int flags) {
  MutexLock lock(mutex_);
  if (error_ != 0) return Fail(std::exchange(error_, 0));
  const bool tells_end = connection_oriented() || (flags & MSG_DONTWAIT) == 0;
  if ((shutdown_ & kReceive) != 0 && tells_end) return Received{};
  return Fail(EAGAIN);
}

void UnixEndpoint::TakeControl(Packet& packet, Received& received, bool peek) {
  received.control.credentials = packet.control.credentials;
  if (peek) {
    if (!packet.control.files.empty()) {
      received.control.files = packet.sender->space_.in_flight().Copy(packet.control.files);
    }
    return;
  }
  received.control.files = std::move(packet.control.files);
  packet.DropFiles();
}

// Linux: unix_stream_read_generic. Messages of different senders are not glued together if the
// receiver asks who they are, and nothing follows descriptors.
Result<Received> UnixEndpoint::ReceiveStream(mm::IoSequence& to, int flags) {
  {
    MutexLock lock(mutex_);
    if (state_ != State::kConnected || (flags & MSG_OOB) != 0) return Fail(EINVAL);
  }
  const bool peek = (flags & MSG_PEEK) != 0;
  Received received;
  size_t index = 0;
  sched::SleepLockHold hold(read_lock_);
  for (;;) {
    Packet* packet = At(index);
    if (packet == nullptr) {
      if (received.size != 0 || index != 0) return received;
      Result<Received> end = NothingToReceive(flags);
      if (end) end->control.credentials = Sender{{}, 0, 0};  // as Linux, which has read no message
      return end;
    }
    const bool first = received.size == 0;
    if (!first && pass_credentials_.load() &&
        received.control.credentials != packet->control.credentials) {
      return received;
    }
    const size_t size = std::min(packet->left(), to.size());
    const mm::CopyResult copied = to.CopyOut(packet->unread().first(size));
    received.size += copied.bytes;
    if (copied.fault != 0 && received.size == 0) return Fail(copied.fault);
    if (first) {
      const UnixName name = packet->sender->name();
      if (name.kind != UnixName::Kind::kUnnamed) received.address = UnixAddressOf(name);
    }
    const bool has_files = !packet->control.files.empty();
    TakeControl(*packet, received, peek);
    const bool whole = copied.bytes == packet->left();
    if (!peek) packet->offset += copied.bytes;
    if (whole && !peek) PopFront();
    if (whole && peek) ++index;
    if (!whole || has_files || to.empty()) return received;
  }
}

// Linux: __unix_dgram_recvmsg.
Result<Received> UnixEndpoint::ReceivePacket(mm::IoSequence& to, int flags) {
  if (type_ == SOCK_SEQPACKET && !connected()) return Fail(ENOTCONN);
  if ((flags & MSG_OOB) != 0) return Fail(EOPNOTSUPP);
  sched::SleepLockHold hold(read_lock_);
  Packet* packet = At(0);
  if (packet == nullptr) return NothingToReceive(flags);
  const bool peek = (flags & MSG_PEEK) != 0;
  Received received;
  const size_t size = std::min(packet->left(), to.size());
  const mm::CopyResult copied = to.CopyOut(packet->unread().first(size));
  if (copied.fault != 0) {
    if (!peek) PopFront();
    return Fail(copied.fault);
  }
  if (size < packet->left()) received.flags |= MSG_TRUNC;
  received.size = (flags & MSG_TRUNC) != 0 ? packet->left() : size;
  const UnixName name = packet->sender->name();
  if (name.kind != UnixName::Kind::kUnnamed) received.address = UnixAddressOf(name);
  TakeControl(*packet, received, peek);
  if (!peek) PopFront();
  return received;
}

}  // namespace skep::net
