#include "runtime/client.h"

#include <fmt/format.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>
#include <cstring>

#include "base/host_call.h"

namespace skep::runtime {
namespace {

// Paths of sockets are short: through the directory's descriptor.
sockaddr_un AddressOf(int directory, const std::string& name) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  const std::string path = fmt::format("/proc/self/fd/{}/{}", directory, name);
  path.copy(address.sun_path, sizeof address.sun_path - 1);
  return address;
}

}  // namespace

HostResult<OwnedFd> BindControlSocket(int directory, const std::string& name) {
  Result<OwnedFd> socket = host::CallFd(SYS_socket, AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
  if (!socket) return HostFail("cannot make the control socket", socket.error().code());
  const sockaddr_un address = AddressOf(directory, name);
  // Nobody can connect before somebody listens; by then it is its owner's alone.
  Result<int64_t> done = host::Call(SYS_bind, socket->get(), &address, sizeof address);
  if (done) done = host::Call(SYS_fchmodat, directory, name.c_str(), 0600);
  if (!done) return HostFail("cannot bind the control socket", done.error().code());
  return std::move(*socket);
}

Result<SandboxClient> SandboxClient::Connect(int directory, const std::string& name) {
  OwnedFd socket = TRY(host::CallFd(SYS_socket, AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0));
  const sockaddr_un address = AddressOf(directory, name);
  TRY(host::Call(SYS_connect, socket.get(), &address, sizeof address));
  return SandboxClient(std::move(socket));
}

Result<pid_t> SandboxClient::SentryPid() const {
  ucred peer{};
  socklen_t size = sizeof peer;
  TRY(host::Call(SYS_getsockopt, socket_.get(), SOL_SOCKET, SO_PEERCRED, &peer, &size));
  return peer.pid;
}

Result<uint64_t> SandboxClient::Send(const boot::Request& request, const std::vector<int>& fds) {
  TRY(boot::SendRequest(socket_.get(), ++last_id_, request, fds));
  return last_id_;
}

Result<boot::Packet<boot::Reply>> SandboxClient::Receive() {
  return boot::ReceiveReply(socket_.get());
}

Result<boot::Reply> SandboxClient::Call(const boot::Request& request, int timeout_ms) {
  const uint64_t id = TRY(Send(request));
  const uint64_t deadline = host::MonotonicNs() + static_cast<uint64_t>(timeout_ms) * 1'000'000;
  for (;;) {
    if (timeout_ms >= 0) {
      const uint64_t now = host::MonotonicNs();
      if (now >= deadline) return Fail(ETIMEDOUT);
      pollfd entry{socket_.get(), POLLIN, 0};
      const int left = static_cast<int>((deadline - now) / 1'000'000 + 1);
      const int ready = TRY(host::Poll(std::span(&entry, 1), left));
      if (ready == 0) continue;
    }
    boot::Packet<boot::Reply> packet = TRY(Receive());
    if (packet.id == id) return std::move(packet.message);
  }
}

}  // namespace skep::runtime
