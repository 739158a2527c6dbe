#include "sentry/net/unix_socket.h"

#include <linux/sockios.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <algorithm>
#include <csignal>
#include <cstring>

#include "sentry/vfs/walk.h"

namespace skep::net {
namespace {

ucred EffectiveOf(vfs::Caller& caller) {
  const auth::Credentials& creds = caller.creds();
  return {.pid = caller.ThreadGroupId(), .uid = creds.euid, .gid = creds.egid};
}

ucred RealOf(vfs::Caller& caller) {
  const auth::Credentials& creds = caller.creds();
  return {.pid = caller.ThreadGroupId(), .uid = creds.uid, .gid = creds.gid};
}

bool IsUnspecified(std::string_view address) {
  sa_family_t family = 0;
  if (address.size() < sizeof family) return false;
  memcpy(&family, address.data(), sizeof family);
  return family == AF_UNSPEC;
}

vfs::Path NewPath(UnixNamespace& space, vfs::Caller& caller) {
  return space.fs().NewPath("socket", S_IFSOCK | 0777, caller.creds());
}

// Linux: unix_create.
Result<int> TypeOf(int type, int protocol) {
  if (protocol != 0 && protocol != PF_UNIX) return Fail(EPROTONOSUPPORT);
  if (type == SOCK_RAW) return SOCK_DGRAM;
  if (type != SOCK_STREAM && type != SOCK_DGRAM && type != SOCK_SEQPACKET) {
    return Fail(ESOCKTNOSUPPORT);
  }
  return type;
}

}  // namespace

UnixSocket::UnixSocket(vfs::Path path, Ref<UnixEndpoint> endpoint, uint32_t flags)
    : Socket(std::move(path), AF_UNIX, endpoint->type(), 0, flags), end_(std::move(endpoint)) {}

UnixSocket::~UnixSocket() { end_->Close(); }

// Linux: unix_find_other.
Result<Ref<UnixEndpoint>> UnixSocket::Find(const SocketCaller& caller, const UnixName& name) {
  if (name.kind == UnixName::Kind::kAbstract) {
    Ref<UnixEndpoint> found = end_->space().Find(type(), name.text);
    if (!found) return Fail(ECONNREFUSED);
    return found;
  }
  vfs::Walker walker(caller.caller, *caller.fs);
  const vfs::Path path = TRY(walker.Resolve(name.text, {}));
  TRY(walker.Access(path, vfs::kMayWrite, caller.caller.creds()));
  if (path.inode()->type() != S_IFSOCK) return Fail(ECONNREFUSED);
  const Ref<RefCountedAny> attached = path.inode()->attachment();
  auto* endpoint = dynamic_cast<UnixEndpoint*>(attached.get());
  if (endpoint == nullptr) return Fail(ECONNREFUSED);
  if (endpoint->type() != type()) return Fail(EPROTOTYPE);
  return Ref<UnixEndpoint>(endpoint);
}

Result<void> UnixSocket::Bind(const SocketCaller& caller, std::string_view address) {
  UnixName name = TRY(ParseUnixName(address));
  if (name.kind == UnixName::Kind::kPath) return BindPath(caller, std::move(name));
  if (name.kind == UnixName::Kind::kUnnamed && end_->name().kind != UnixName::Kind::kUnnamed) {
    return {};  // autobind of a socket that has a name
  }
  return end_->SetName(std::move(name));
}

Result<void> UnixSocket::BindPath(const SocketCaller& caller, UnixName name) {
  if (end_->name().kind != UnixName::Kind::kUnnamed) return Fail(EINVAL);
  vfs::Walker walker(caller.caller, *caller.fs);
  const uint32_t mode = S_IFSOCK | (0777 & ~caller.fs->umask());
  Result<vfs::Path> node = walker.MakeNode(name.text, mode);
  if (!node) return Fail(node.error().code() == EEXIST ? EADDRINUSE : node.error().code());
  TRY(end_->SetName(std::move(name)));
  end_->SetPathNode(std::move(*node));
  return {};
}

Result<void> UnixSocket::Connect(const SocketCaller& caller, std::string_view address) {
  if (!end_->connection_oriented() && IsUnspecified(address)) return end_->SetPeer({});
  const UnixName name = TRY(ParseUnixName(address));
  if (name.kind == UnixName::Kind::kUnnamed) return Fail(EINVAL);
  const bool needs_name =
      options().pass_credentials.load() && end_->name().kind == UnixName::Kind::kUnnamed;
  if (needs_name) TRY(end_->SetName({}));
  if (end_->connection_oriented()) return ConnectStream(caller, name);
  Ref<UnixEndpoint> other = TRY(Find(caller, name));
  return end_->SetPeer(std::move(other));
}

// Sleeps while the listener's backlog is full.
Result<void> UnixSocket::ConnectStream(const SocketCaller& caller, const UnixName& name) {
  const uint64_t timeout = options().send_timeout_ns.load();
  const sched::Deadline deadline = DeadlineAfter(timeout);
  for (;;) {
    const Ref<UnixEndpoint> listener = TRY(Find(caller, name));
    const auto attempt = [&] {
      return listener->ConnectFrom(*end_, EffectiveOf(caller.caller), caller.caller.creds().groups);
    };
    Result<void> connected = attempt();
    if (connected || connected.error().code() != EAGAIN || nonblocking()) return connected;
    sched::FiberWaiter waiter(listener->waiters(), sched::kAllEvents);
    connected = attempt();
    if (connected || connected.error().code() != EAGAIN) return connected;
    const sched::WakeReason reason = sched::Suspend(deadline, sched::Sleep::kInterruptible);
    if (reason != sched::WakeReason::kWoken) return Fail(EndOfSleep(reason, timeout != 0));
  }
}

Result<void> UnixSocket::Listen(vfs::Caller& caller, int backlog) {
  return end_->Listen(backlog, EffectiveOf(caller), caller.creds().groups);
}

Result<void> UnixSocket::Shutdown(int how) {
  if (how < SHUT_RD || how > SHUT_RDWR) return Fail(EINVAL);
  end_->Shutdown(how + 1);
  return {};
}

Result<Address> UnixSocket::LocalName() { return UnixAddressOf(end_->name()); }

Result<Address> UnixSocket::PeerName() {
  const Ref<UnixEndpoint> peer = end_->peer();
  if (!peer) return Fail(ENOTCONN);
  return UnixAddressOf(peer->name());
}

Result<std::vector<uint32_t>> UnixSocket::PeerGroups() {
  if (!end_->peer()) return Fail(ENODATA);
  return end_->peer_groups();
}

Result<Ref<Socket>> UnixSocket::TryAccept(vfs::Caller& caller, uint32_t flags) {
  Ref<UnixEndpoint> end = TRY(end_->Accept());
  auto socket = MakeRef<UnixSocket>(NewPath(end_->space(), caller), std::move(end), flags);
  return Ref<Socket>(std::move(socket));
}

Result<size_t> UnixSocket::TrySend(const SocketCaller& caller, SendRequest& request) {
  if ((request.flags & MSG_OOB) != 0) return Fail(EOPNOTSUPP);
  if (!request.control.credentials) request.control.credentials = RealOf(caller.caller);
  const Result<size_t> sent = Dispatch(caller, request);
  const bool signals = end_->is_stream() && (request.flags & MSG_NOSIGNAL) == 0;
  if (!sent && sent.error().code() == EPIPE && signals) caller.caller.SignalSelf(SIGPIPE);
  return sent;
}

Result<size_t> UnixSocket::Dispatch(const SocketCaller& caller, SendRequest& request) {
  const UnixEndpoint::Outgoing message{request.data, request.control};
  if (type() == SOCK_STREAM) {
    if (!request.address.empty()) return Fail(end_->connected() ? EISCONN : EOPNOTSUPP);
    return end_->SendStream(message);
  }
  Ref<UnixEndpoint> to;
  if (!request.address.empty() && type() == SOCK_DGRAM) {
    const UnixName name = TRY(ParseUnixName(request.address));
    if (name.kind == UnixName::Kind::kUnnamed) return Fail(EINVAL);
    to = TRY(Find(caller, name));
  }
  return end_->SendPacket(message, std::move(to));
}

Result<Received> UnixSocket::TryReceive(vfs::Caller&, mm::IoSequence& to, int flags) {
  end_->pass_credentials() = options().pass_credentials.load();
  return type() == SOCK_STREAM ? end_->ReceiveStream(to, flags) : end_->ReceivePacket(to, flags);
}

Result<uint64_t> UnixSocket::Ioctl(vfs::Caller& caller, uint64_t command, uint64_t argument) {
  size_t bytes = 0;
  switch (command) {
    case SIOCINQ:  // FIONREAD
      if (end_->listening()) return Fail(EINVAL);
      bytes = end_->ReadableBytes(type() == SOCK_DGRAM);
      break;
    case SIOCOUTQ:
      bytes = end_->UnreadBySelf();
      break;
    default:
      return Fail(ENOTTY);
  }
  const auto count = static_cast<int32_t>(std::min<size_t>(bytes, INT32_MAX));
  TRY(caller.memory().CopyOut(mm::UserPtr<int32_t>(argument), count));
  return 0;
}

Result<Ref<Socket>> MakeUnixSocket(UnixNamespace& space, vfs::Caller& caller, int type,
                                   int protocol, uint32_t flags) {
  const int kind = TRY(TypeOf(type, protocol));
  auto socket =
      MakeRef<UnixSocket>(NewPath(space, caller), MakeRef<UnixEndpoint>(space, kind), flags);
  return Ref<Socket>(std::move(socket));
}

Result<SocketPair> MakeUnixPair(UnixNamespace& space, vfs::Caller& caller, int type, int protocol,
                                uint32_t flags) {
  const int kind = TRY(TypeOf(type, protocol));
  auto a = MakeRef<UnixEndpoint>(space, kind);
  auto b = MakeRef<UnixEndpoint>(space, kind);
  UnixEndpoint::MakePair(*a, *b, EffectiveOf(caller));
  return SocketPair{MakeRef<UnixSocket>(NewPath(space, caller), std::move(a), flags),
                    MakeRef<UnixSocket>(NewPath(space, caller), std::move(b), flags)};
}

}  // namespace skep::net
