#include "sentry/net/unix_socket.h"

#include <linux/capability.h>
#include <linux/sockios.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <algorithm>
#include <csignal>

#include "sentry/vfs/name_ops.h"

namespace skep::net {
namespace {

bool IsUnspecified(const Address& address) {
  return address.size >= sizeof(sa_family_t) && address.family() == AF_UNSPEC;
}

vfs::Path NewPath(NetNamespace& space, vfs::Caller& caller) {
  return space.anon_fs().NewPath("socket", S_IFSOCK | 0777, caller.creds());
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

UnixSocket::UnixSocket(NetNamespace& space, vfs::Path path, Ref<UnixEndpoint> endpoint,
                       uint32_t flags)
    : Socket(std::move(path), AF_UNIX, endpoint->type(), 0, flags),
      space_(&space),
      end_(std::move(endpoint)) {
  end_->SetFile(*this);
  options().pass_credentials = end_->pass_credentials().load();  // the listener's
}

UnixSocket::~UnixSocket() {
  end_->Close();
  end_->space().in_flight().OnClose();
}

// Linux: unix_find_other.
Result<Ref<UnixEndpoint>> UnixSocket::Find(vfs::Caller& caller, const UnixName& name) {
  if (name.kind == UnixName::Kind::kAbstract) {
    Ref<UnixEndpoint> found = end_->space().Find(type(), name.text);
    if (!found) return Fail(ECONNREFUSED);
    return found;
  }
  vfs::NameOps walker(caller, *caller.fs_context());
  const vfs::Path path = TRY(walker.Resolve(name.text, {}));
  TRY(walker.Access(path, vfs::kMayWrite, caller.creds()));
  if (path.inode()->type() != S_IFSOCK) return Fail(ECONNREFUSED);
  Ref<UnixEndpoint> endpoint = path.inode()->attachment<UnixEndpoint>();
  if (!endpoint) return Fail(ECONNREFUSED);
  if (endpoint->type() != type()) return Fail(EPROTOTYPE);
  return endpoint;
}

Result<void> UnixSocket::Bind(vfs::Caller& caller, const Address& address) {
  UnixName name = TRY(ParseUnixName(address));
  if (name.kind == UnixName::Kind::kPath) return BindPath(caller, std::move(name));
  if (name.kind == UnixName::Kind::kUnnamed && end_->name().kind != UnixName::Kind::kUnnamed) {
    return {};  // autobind of a socket that has a name
  }
  return end_->SetName(std::move(name));
}

Result<void> UnixSocket::BindPath(vfs::Caller& caller, UnixName name) {
  if (end_->name().kind != UnixName::Kind::kUnnamed) return Fail(EINVAL);
  vfs::NameOps walker(caller, *caller.fs_context());
  // Linux: unix_bind_bsd: fchmod of the socket counts.
  const vfs::Attributes own = TRY(inode()->GetAttributes());
  const uint32_t mode = S_IFSOCK | (own.mode & 07777 & ~caller.fs_context()->umask());
  Result<vfs::Path> node = walker.MakeNode(name.text, mode);
  if (!node) return Fail(node.error().code() == EEXIST ? EADDRINUSE : node.error().code());
  TRY(end_->SetName(std::move(name)));
  end_->SetPathNode(std::move(*node));
  return {};
}

Result<void> UnixSocket::TryConnect(vfs::Caller& caller, const Address& address,
                                    ConnectWait& wait) {
  if (!end_->connection_oriented() && IsUnspecified(address)) return end_->SetPeer({});
  const UnixName name = TRY(ParseUnixName(address));
  if (name.kind == UnixName::Kind::kUnnamed) return Fail(EINVAL);
  if (passes_credentials() && end_->name().kind == UnixName::Kind::kUnnamed) {
    TRY(end_->SetName({}));
  }
  Ref<UnixEndpoint> other = TRY(Find(caller, name));
  if (!end_->connection_oriented()) return end_->SetPeer(std::move(other));
  // EAGAIN: its backlog is full.
  wait.holder = other;
  wait.queue = &other->waiters();
  return other->ConnectFrom(*end_, Sender::EffectiveOf(caller), caller.creds().groups);
}

Result<void> UnixSocket::Listen(vfs::Caller& caller, int backlog) {
  return end_->Listen(backlog, Sender::EffectiveOf(caller), caller.creds().groups);
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
  auto socket = MakeRef<UnixSocket>(*space_, NewPath(*space_, caller), std::move(end), flags);
  return Ref<Socket>(std::move(socket));
}

Result<size_t> UnixSocket::TrySend(vfs::Caller& caller, SendRequest& request) {
  if ((request.flags & MSG_OOB) != 0) return Fail(EOPNOTSUPP);
  const Result<size_t> sent = Dispatch(caller, request);
  const bool signals = end_->is_stream() && (request.flags & MSG_NOSIGNAL) == 0;
  if (!sent && sent.error().code() == EPIPE && signals) caller.SignalSelf(SIGPIPE);
  return sent;
}

Result<size_t> UnixSocket::Dispatch(vfs::Caller& caller, SendRequest& request) {
  const auth::Credentials& creds = caller.creds();
  const bool exempt = creds.HasInFirst(CAP_SYS_RESOURCE) || creds.HasInFirst(CAP_SYS_ADMIN);
  const UnixEndpoint::Outgoing message{
      request.data,
      request.control,
      {.user = creds.uid, .limit = exempt ? ~uint64_t{0} : caller.FileLimit()},
      Sender::RealOf(caller)};
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
  return type() == SOCK_STREAM ? end_->ReceiveStream(to, flags) : end_->ReceivePacket(to, flags);
}

Result<uint64_t> UnixSocket::FamilyIoctl(vfs::Caller& caller, uint64_t command, uint64_t argument) {
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

Result<Ref<Socket>> MakeUnixSocket(NetNamespace& space, vfs::Caller& caller, int type, int protocol,
                                   uint32_t flags) {
  const int kind = TRY(TypeOf(type, protocol));
  auto end = MakeRef<UnixEndpoint>(space.unix_names(), kind);
  return Ref<Socket>(MakeRef<UnixSocket>(space, NewPath(space, caller), std::move(end), flags));
}

Result<SocketPair> MakeUnixPair(NetNamespace& space, vfs::Caller& caller, int type, int protocol,
                                uint32_t flags) {
  const int kind = TRY(TypeOf(type, protocol));
  auto a = MakeRef<UnixEndpoint>(space.unix_names(), kind);
  auto b = MakeRef<UnixEndpoint>(space.unix_names(), kind);
  UnixEndpoint::MakePair(*a, *b, Sender::EffectiveOf(caller));
  return SocketPair{MakeRef<UnixSocket>(space, NewPath(space, caller), std::move(a), flags),
                    MakeRef<UnixSocket>(space, NewPath(space, caller), std::move(b), flags)};
}

}  // namespace skep::net
