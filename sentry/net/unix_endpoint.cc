#include "sentry/net/unix_endpoint.h"

#include <sys/epoll.h>

#include "sentry/net/unix_packet.h"

namespace skep::net {
namespace {

constexpr int kReceive = 1, kSend = 2;  // Linux: RCV_SHUTDOWN, SEND_SHUTDOWN
constexpr vfs::EventMask kReadable = EPOLLIN | EPOLLRDNORM;
constexpr vfs::EventMask kWritable = EPOLLOUT | EPOLLWRNORM | EPOLLWRBAND;

}  // namespace

UnixEndpoint::UnixEndpoint(UnixNamespace& space, int type) : space_(space), type_(type) {}
UnixEndpoint::~UnixEndpoint() = default;

void UnixEndpoint::MakePair(UnixEndpoint& a, UnixEndpoint& b, const Sender& credentials) {
  for (auto [end, other] : {std::pair(&a, &b), std::pair(&b, &a)}) {
    MutexLock lock(end->mutex_);
    end->state_ = State::kConnected;
    end->peer_ = Ref<UnixEndpoint>(other);
    end->peer_credentials_ = credentials;
  }
}

// Linux: unix_release_sock.
void UnixEndpoint::Close() {
  std::deque<PacketPtr> queue;
  std::deque<Ref<UnixEndpoint>> pending;
  std::vector<Ref<UnixEndpoint>> blocked;
  Ref<UnixEndpoint> peer;
  UnixName name;
  vfs::Path node;
  {
    MutexLock lock(mutex_);
    state_ = State::kClosed;
    shutdown_ = kReceive | kSend;
    queue.swap(queue_);
    pending.swap(pending_);
    blocked.swap(blocked_);
    peer = std::move(peer_);
    if (name_is_ours_) name = name_;
    node = node_;
    node_ = {};
  }
  if (name.kind == UnixName::Kind::kAbstract) space_.Unbind(type_, name.text);
  if (node) node.inode()->SetAttachment({});
  if (peer && connection_oriented()) peer->OnPeerClosed(!queue.empty());
  for (const Ref<UnixEndpoint>& end : pending) end->CloseUnaccepted();
  for (const Ref<UnixEndpoint>& sender : blocked) sender->waiters_.WakeAll(kWritable);
  waiters_.WakeAll();
}

// A connection that nobody accepted: to the client it was reset.
void UnixEndpoint::CloseUnaccepted() {
  space_.in_flight().RemoveEmbryo(*this);
  Ref<UnixEndpoint> client;
  {
    MutexLock lock(mutex_);
    client = peer_;
  }
  if (client) client->OnPeerClosed(true);
  Close();
}

void UnixEndpoint::OnPeerClosed(bool reset) {
  {
    MutexLock lock(mutex_);
    shutdown_ = kReceive | kSend;
    if (reset) error_ = ECONNRESET;
  }
  waiters_.WakeAll();
}

Result<void> UnixEndpoint::SetName(UnixName name) {
  {
    MutexLock lock(mutex_);
    if (name_.kind != UnixName::Kind::kUnnamed) return Fail(EINVAL);
  }
  if (name.kind == UnixName::Kind::kUnnamed) {
    name.kind = UnixName::Kind::kAbstract;
    name.text = TRY(space_.BindAny(type_, *this));
  } else if (name.kind == UnixName::Kind::kAbstract) {
    TRY(space_.Bind(type_, name.text, *this));
  }
  MutexLock lock(mutex_);
  name_is_ours_ = name.kind == UnixName::Kind::kAbstract;
  name_ = std::move(name);
  return {};
}

void UnixEndpoint::SetPathNode(vfs::Path node) {
  node.inode()->SetAttachment(Ref<UnixEndpoint>(this));
  MutexLock lock(mutex_);
  node_ = std::move(node);
}

UnixName UnixEndpoint::name() {
  MutexLock lock(mutex_);
  return name_;
}

// Linux: unix_listen.
Result<void> UnixEndpoint::Listen(int backlog, const Sender& credentials,
                                  std::vector<uint32_t> groups) {
  if (!connection_oriented()) return Fail(EOPNOTSUPP);
  {
    MutexLock lock(mutex_);
    if (name_.kind == UnixName::Kind::kUnnamed) return Fail(EINVAL);
    if (state_ != State::kUnconnected && state_ != State::kListening) return Fail(EINVAL);
    state_ = State::kListening;
    backlog_ = backlog < 0 || backlog > kMaxBacklog ? kMaxBacklog : backlog;
    peer_credentials_ = credentials;
    peer_groups_ = std::move(groups);
  }
  waiters_.WakeAll(kWritable);
  return {};
}

Result<void> UnixEndpoint::CanTakeConnection() {
  if (state_ != State::kListening || (shutdown_ & kReceive) != 0) return Fail(ECONNREFUSED);
  if (pending_.size() > static_cast<size_t>(backlog_)) return Fail(EAGAIN);
  return {};
}

// Linux: unix_stream_connect. The client is connected first and taken back if the listener went
// away meanwhile.
Result<void> UnixEndpoint::ConnectFrom(UnixEndpoint& client, const Sender& credentials,
                                       std::vector<uint32_t> groups) {
  auto end = MakeRef<UnixEndpoint>(space_, type_);
  std::optional<Sender> listener_credentials;
  std::vector<uint32_t> listener_groups;
  UnixName name;
  {
    MutexLock lock(mutex_);
    TRY(CanTakeConnection());
    listener_credentials = peer_credentials_;
    listener_groups = peer_groups_;
    name = name_;
  }
  {
    MutexLock lock(end->mutex_);
    end->state_ = State::kConnected;
    end->pass_credentials_ = pass_credentials_.load();
    end->peer_ = Ref<UnixEndpoint>(&client);
    end->peer_credentials_ = credentials;
    end->peer_groups_ = std::move(groups);
    end->name_ = std::move(name);
  }
  {
    MutexLock lock(client.mutex_);
    if (client.state_ == State::kConnected) return Fail(EISCONN);
    if (client.state_ != State::kUnconnected) return Fail(EINVAL);
    // The client may send descriptors at once.
    space_.in_flight().AddEmbryo(*this, *end);
    client.state_ = State::kConnected;
    client.peer_ = end;
    client.peer_credentials_ = listener_credentials;
    client.peer_groups_ = std::move(listener_groups);
  }
  Result<void> taken;
  {
    MutexLock lock(mutex_);
    taken = CanTakeConnection();
    if (taken) pending_.push_back(end);
  }
  if (!taken) {
    space_.in_flight().RemoveEmbryo(*end);
    MutexLock lock(client.mutex_);
    client.state_ = State::kUnconnected;
    client.peer_ = {};
    return taken;
  }
  waiters_.Wake(kReadable);
  client.waiters_.Wake(kWritable);
  return {};
}

Result<Ref<UnixEndpoint>> UnixEndpoint::Accept() {
  if (!connection_oriented()) return Fail(EOPNOTSUPP);
  Ref<UnixEndpoint> end;
  {
    MutexLock lock(mutex_);
    if (state_ != State::kListening) return Fail(EINVAL);
    if (pending_.empty()) return Fail((shutdown_ & kReceive) != 0 ? EINVAL : EAGAIN);
    end = std::move(pending_.front());
    pending_.pop_front();
  }
  space_.in_flight().RemoveEmbryo(*end);
  waiters_.WakeAll(kWritable);  // who waits to connect
  return end;
}

// Linux: unix_dgram_connect. A change of peer discards what the old one sent.
Result<void> UnixEndpoint::SetPeer(Ref<UnixEndpoint> peer) {
  if (peer && !peer->MaySendTo(*this)) return Fail(EPERM);
  std::deque<PacketPtr> discarded;
  Ref<UnixEndpoint> old;
  sched::SleepLockHold hold(read_lock_);
  {
    MutexLock lock(mutex_);
    if (peer_ && peer_ != peer) discarded.swap(queue_);
    old = std::move(peer_);
    peer_ = std::move(peer);
    state_ = peer_ ? State::kConnected : State::kUnconnected;
  }
  waiters_.Wake(kWritable);
  return {};
}

bool UnixEndpoint::MaySendTo(const UnixEndpoint& from) {
  MutexLock lock(mutex_);
  return !peer_ || peer_.get() == &from;
}

Ref<UnixEndpoint> UnixEndpoint::peer() {
  MutexLock lock(mutex_);
  return peer_;
}

bool UnixEndpoint::connected() {
  MutexLock lock(mutex_);
  return state_ == State::kConnected;
}

bool UnixEndpoint::listening() {
  MutexLock lock(mutex_);
  return state_ == State::kListening;
}

std::optional<Sender> UnixEndpoint::peer_credentials() {
  MutexLock lock(mutex_);
  return peer_credentials_;
}

std::vector<uint32_t> UnixEndpoint::peer_groups() {
  MutexLock lock(mutex_);
  return peer_groups_;
}

void UnixEndpoint::Shutdown(int mask) {
  Ref<UnixEndpoint> peer;
  {
    MutexLock lock(mutex_);
    shutdown_ |= mask;
    peer = peer_;
  }
  waiters_.WakeAll();
  if (!peer || !connection_oriented()) return;
  {
    MutexLock lock(peer->mutex_);
    if ((mask & kReceive) != 0) peer->shutdown_ |= kSend;
    if ((mask & kSend) != 0) peer->shutdown_ |= kReceive;
  }
  peer->waiters_.WakeAll();
}

int UnixEndpoint::TakeError() {
  MutexLock lock(mutex_);
  return std::exchange(error_, 0);
}

// Linux: unix_poll, unix_dgram_poll.
vfs::EventMask UnixEndpoint::Poll(vfs::EventMask wanted) {
  vfs::EventMask ready = 0;
  Ref<UnixEndpoint> peer;
  {
    MutexLock lock(mutex_);
    if (error_ != 0) ready |= EPOLLERR;
    if (shutdown_ == (kReceive | kSend)) ready |= EPOLLHUP;
    if ((shutdown_ & kReceive) != 0) ready |= EPOLLRDHUP | kReadable;
    if (!queue_.empty() || !pending_.empty()) ready |= kReadable;
    if (connection_oriented() && state_ == State::kUnconnected) ready |= EPOLLHUP;
    if (state_ != State::kListening && Writable()) ready |= kWritable;
    if (!connection_oriented()) peer = peer_;
  }
  if (peer && (wanted & ready & kWritable) != 0 && peer->BlocksSender(*this)) ready &= ~kWritable;
  return ready;
}

size_t UnixEndpoint::ReadableBytes(bool first_only) {
  MutexLock lock(mutex_);
  size_t total = 0;
  for (const PacketPtr& packet : queue_) {
    total += packet->left();
    if (first_only) break;
  }
  return total;
}

}  // namespace skep::net
