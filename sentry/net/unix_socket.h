// AF_UNIX sockets: the open file over a UnixEndpoint (Linux: net/unix/af_unix.c).
#pragma once

#include "sentry/net/families.h"
#include "sentry/net/net_namespace.h"
#include "sentry/net/socket.h"
#include "sentry/net/unix_endpoint.h"

namespace skep::net {

class UnixSocket final : public Socket {
 public:
  UnixSocket(NetNamespace& space, vfs::Path path, Ref<UnixEndpoint> endpoint, uint32_t flags);
  ~UnixSocket() override;

  Result<void> Bind(vfs::Caller& caller, const Address& address) override;
  Result<void> TryConnect(vfs::Caller& caller, const Address& address, ConnectWait& wait) override;
  Result<void> Listen(vfs::Caller& caller, int backlog) override;
  Result<void> Shutdown(int how) override;
  Result<Address> LocalName() override;
  Result<Address> PeerName() override;

  Result<Ref<Socket>> TryAccept(vfs::Caller& caller, uint32_t flags) override;
  Result<size_t> TrySend(vfs::Caller& caller, SendRequest& request) override;
  Result<Received> TryReceive(vfs::Caller& caller, mm::IoSequence& to, int flags) override;

  vfs::EventMask Poll(vfs::EventMask wanted) override { return end_->Poll(wanted); }
  sched::WaitQueue* Waiters() override { return &end_->waiters(); }
  UnixEndpoint& endpoint() { return *end_; }

 protected:
  int TakeError() override { return end_->TakeError(); }
  bool IsListening() override { return end_->listening(); }
  Result<std::optional<Sender>> PeerCredentials() override { return end_->peer_credentials(); }
  Result<std::vector<uint32_t>> PeerGroups() override;
  NetNamespace& net_namespace() override { return *space_; }
  Result<uint64_t> FamilyIoctl(vfs::Caller& caller, uint64_t command, uint64_t argument) override;
  void OnOptionsChanged() override {
    end_->send_buffer() = options().send_buffer.load();
    end_->pass_credentials() = passes_credentials();
  }

 private:
  Result<Ref<UnixEndpoint>> Find(vfs::Caller& caller, const UnixName& name);
  Result<void> BindPath(vfs::Caller& caller, UnixName name);
  Result<size_t> Dispatch(vfs::Caller& caller, SendRequest& request);

  const Ref<NetNamespace> space_;
  const Ref<UnixEndpoint> end_;
};

// socket(2). `type` without SOCK_NONBLOCK and SOCK_CLOEXEC; flags: O_NONBLOCK or 0.
// EPROTONOSUPPORT, ESOCKTNOSUPPORT.
Result<Ref<Socket>> MakeUnixSocket(NetNamespace& space, vfs::Caller& caller, int type, int protocol,
                                   uint32_t flags);
Result<SocketPair> MakeUnixPair(NetNamespace& space, vfs::Caller& caller, int type, int protocol,
                                uint32_t flags);

}  // namespace skep::net
