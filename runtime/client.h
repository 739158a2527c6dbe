// SandboxClient: a connection to a running sandbox, by the socket in its state directory.
#pragma once

#include <string>
#include <vector>

#include "base/owned_fd.h"
#include "base/result.h"
#include "sentry/boot/protocol.h"

namespace skep::runtime {

// A socket bound to `name` in the directory, only for its owner; the sentry listens on it.
HostResult<OwnedFd> BindControlSocket(int directory, const std::string& name);

class SandboxClient {
 public:
  // ECONNREFUSED, ENOENT: nobody serves the sandbox any more.
  static Result<SandboxClient> Connect(int directory, const std::string& name);

  int fd() const { return socket_.get(); }
  // The sentry's pid, as this process sees it.
  Result<pid_t> SentryPid() const;

  // The number of the request. `fds`: lent.
  Result<uint64_t> Send(const boot::Request& request, const std::vector<int>& fds = {});
  // The next reply, whichever request it is for. ECONNRESET.
  Result<boot::Packet<boot::Reply>> Receive();
  // Send, and the reply to it; others that come before are dropped. `timeout_ms`: ETIMEDOUT then;
  // -1: none.
  Result<boot::Reply> Call(const boot::Request& request, int timeout_ms = -1);

 private:
  explicit SandboxClient(OwnedFd socket) : socket_(std::move(socket)) {}

  OwnedFd socket_;
  uint64_t last_id_ = 0;
};

}  // namespace skep::runtime
