// Socket: an open file with an address family behind it.
//
// Families implement the Try... calls, which never block on readiness (EAGAIN); the calls beside
// them sleep on Waiters() as O_NONBLOCK, MSG_DONTWAIT and the socket's timeouts say. Read and
// Write, as of every file, answer EAGAIN.
#pragma once

#include <sys/socket.h>
#include <atomic>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "sentry/vfs/file.h"
#include "sentry/vfs/fs_context.h"
#include "sentry/vfs/mount.h"

namespace skep::net {

inline constexpr size_t kMaxAddress = sizeof(sockaddr_storage);
inline constexpr int kMaxBacklog = 4096;       // net.core.somaxconn
inline constexpr int kDefaultBuffer = 212992;  // net.core.{r,w}mem_default, as getsockopt tells it
inline constexpr int kMaxBuffer = 212992;      // net.core.{r,w}mem_max

// The raw bytes of a sockaddr, family included; empty: none.
using Address = std::string;

// Who calls: named sockets need the task's root and working directory.
struct SocketCaller {
  vfs::Caller& caller;
  const vfs::FsContext* fs = nullptr;  // null: the call names no address
};

// Descriptors and credentials that travel with a message (SCM_RIGHTS, SCM_CREDENTIALS).
struct Control {
  std::vector<Ref<vfs::File>> files;
  std::optional<ucred> credentials;
  bool empty() const { return files.empty() && !credentials; }
};

struct SendRequest {
  mm::IoSequence& data;
  Address address;
  Control control;
  int flags = 0;  // MSG_*
};
struct Received {
  size_t size = 0;
  Address address;
  Control control;
  int flags = 0;  // MSG_TRUNC
};

class Socket : public vfs::File {
 public:
  Socket(vfs::Path path, int family, int type, int protocol, uint32_t flags)
      : File(std::move(path), O_RDWR | (flags & O_NONBLOCK)),
        family_(family),
        type_(type),
        protocol_(protocol) {}
  ~Socket() override;

  int family() const { return family_; }
  int type() const { return type_; }
  int protocol() const { return protocol_; }

  // What socket(2), bind, connect, ... do; errors in Linux's order. Connect may sleep.
  virtual Result<void> Bind(const SocketCaller& caller, std::string_view address) = 0;
  virtual Result<void> Connect(const SocketCaller& caller, std::string_view address) = 0;
  virtual Result<void> Listen(vfs::Caller& caller, int backlog) = 0;
  virtual Result<void> Shutdown(int how) = 0;
  virtual Result<Address> LocalName() = 0;
  virtual Result<Address> PeerName() = 0;
  // getsockopt: the value, cut to `size` by the caller; setsockopt: `value` as the guest gave it.
  virtual Result<std::string> GetOption(vfs::Caller& caller, int level, int name);
  virtual Result<void> SetOption(vfs::Caller& caller, int level, int name, std::string_view value);

  virtual Result<Ref<Socket>> TryAccept(vfs::Caller& caller, uint32_t flags) = 0;
  virtual Result<size_t> TrySend(const SocketCaller& caller, SendRequest& request) = 0;
  virtual Result<Received> TryReceive(vfs::Caller& caller, mm::IoSequence& to, int flags) = 0;

  // The same, sleeping. `flags` of Accept: SOCK_NONBLOCK or 0.
  Result<Ref<Socket>> Accept(vfs::Caller& caller, uint32_t flags);
  Result<size_t> Send(const SocketCaller& caller, SendRequest& request);
  Result<Received> Receive(vfs::Caller& caller, mm::IoSequence& to, int flags);

  bool seekable() const override { return false; }
  Result<size_t> Read(vfs::Caller& caller, mm::IoSequence& to, uint64_t offset) override;
  Result<size_t> Write(vfs::Caller& caller, mm::IoSequence& from, uint64_t* offset) override;

 protected:
  // What SO_* options keep; families look at what matters to them.
  struct Options {
    std::atomic<int> send_buffer{kDefaultBuffer}, receive_buffer{kDefaultBuffer};
    std::atomic<uint64_t> receive_timeout_ns{0}, send_timeout_ns{0};  // 0: for ever
    std::atomic<int> receive_low{1}, priority{0}, mark{0};
    std::atomic<bool> pass_credentials{false};
    std::atomic<uint32_t> flags{0};   // options that are only kept: bit SO_name
    std::atomic<uint64_t> linger{0};  // struct linger
  };
  Options& options() { return options_; }
  // SO_ERROR: takes the pending error.
  virtual int TakeError() { return 0; }
  virtual bool IsListening() { return false; }
  virtual Result<ucred> PeerCredentials() { return Fail(ENOPROTOOPT); }
  virtual Result<std::vector<uint32_t>> PeerGroups() { return Fail(ENOPROTOOPT); }
  virtual void OnOptionsChanged() {}
  // 0: for ever. Now + timeout on the sandbox's clock.
  static sched::Deadline DeadlineAfter(uint64_t timeout_ns);
  // A sleep on Waiters() ended: what the call answers (Linux: sock_intr_errno).
  static int EndOfSleep(sched::WakeReason reason, bool has_timeout);

 private:
  Result<void> SetSocketOption(vfs::Caller& caller, int name, std::string_view value);
  Result<std::string> GetSocketOption(vfs::Caller& caller, int name);

  const int family_, type_, protocol_;
  Options options_;
};

}  // namespace skep::net
