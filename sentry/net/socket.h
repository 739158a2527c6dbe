// Socket: an open file with an address family behind it.
//
// Families implement the Try... calls, which never sleep (EAGAIN, EINPROGRESS); the calls beside
// them sleep as O_NONBLOCK, MSG_DONTWAIT and the socket's timeouts say (vfs/blocking.h). Read and
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

#include "sentry/net/address.h"
#include "sentry/vfs/file.h"
#include "sentry/vfs/fs_context.h"
#include "sentry/vfs/mount.h"

namespace skep::net {

class NetNamespace;

inline constexpr int kMaxBacklog = 4096;       // net.core.somaxconn
inline constexpr int kDefaultBuffer = 212992;  // net.core.{r,w}mem_default, as getsockopt tells it
inline constexpr int kMaxBuffer = 212992;      // net.core.{r,w}mem_max

// A connect that was answered EAGAIN waits on this queue: that of the listener that is full.
struct ConnectWait {
  Ref<RefCountedAny> holder;  // keeps the queue
  sched::WaitQueue* queue = nullptr;
};

// What getsockopt(2) answers. `room`: how much the caller has space for.
class OptionReply {
 public:
  explicit OptionReply(size_t room) : room_(room), size_(room) {}
  size_t room() const { return room_; }
  // The value; what there is no room for is cut off.
  void SetBytes(std::string_view value) {
    bytes_ = value.substr(0, room_);
    size_ = bytes_.size();
  }
  template <class T>
  void Set(const T& value) {
    // SAFETY: options are integers and structures without padding.
    SetBytes({reinterpret_cast<const char*>(&value), sizeof value});
  }
  // How much room would be needed, told beside an error (ERANGE).
  void SetNeeded(size_t size) { size_ = size; }

  std::string_view bytes() const { return bytes_; }
  size_t size() const { return size_; }  // goes back as the option's length

 private:
  const size_t room_;
  size_t size_;
  std::string bytes_;
};

// Who has sent a message or made a connection, in the kernel's own numbers (Linux: scm_cookie's pid
// and creds).
struct Sender {
  Ref<vfs::ProcessId> process;  // null: not told
  uint32_t uid = auth::kNoId, gid = auth::kNoId;

  static Sender EffectiveOf(const vfs::Caller& caller);
  static Sender RealOf(const vfs::Caller& caller);
  ucred SeenBy(const vfs::Caller& receiver) const;
  friend bool operator==(const Sender&, const Sender&) = default;
};

// Descriptors and credentials that travel with a message (SCM_RIGHTS, SCM_CREDENTIALS).
struct Control {
  std::vector<Ref<vfs::File>> files;
  std::optional<Sender> credentials;
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

  // What bind, listen, ... do; errors in Linux's order.
  virtual Result<void> Bind(vfs::Caller& caller, const Address& address) = 0;
  virtual Result<void> Listen(vfs::Caller& caller, int backlog) = 0;
  virtual Result<void> Shutdown(int how) = 0;
  virtual Result<Address> LocalName() = 0;
  virtual Result<Address> PeerName() = 0;
  virtual Result<void> GetOption(vfs::Caller& caller, int level, int name, OptionReply& reply);
  virtual Result<void> SetOption(vfs::Caller& caller, int level, int name, std::string_view value);

  // Begins to connect. EINPROGRESS: under way; EndConnect tells how it went. EAGAIN: the other side
  // cannot take it now; `wait` says whom to ask again.
  virtual Result<void> TryConnect(vfs::Caller& caller, const Address& address,
                                  ConnectWait& wait) = 0;
  virtual Result<Ref<Socket>> TryAccept(vfs::Caller& caller, uint32_t flags) = 0;
  virtual Result<size_t> TrySend(vfs::Caller& caller, SendRequest& request) = 0;
  virtual Result<Received> TryReceive(vfs::Caller& caller, mm::IoSequence& to, int flags) = 0;

  // The same, sleeping. While a connection is under way: EINPROGRESS for the call that began it,
  // EALREADY for later ones; its error is told by a call that waits, else by SO_ERROR.
  Result<void> Connect(vfs::Caller& caller, const Address& address);
  // `flags`: SOCK_NONBLOCK or 0.
  Result<Ref<Socket>> Accept(vfs::Caller& caller, uint32_t flags);
  Result<size_t> Send(vfs::Caller& caller, SendRequest& request);
  Result<Received> Receive(vfs::Caller& caller, mm::IoSequence& to, int flags);

  bool passes_credentials() const { return options_.pass_credentials.load(); }  // SO_PASSCRED

  // Interface ioctls (net/interfaces.h), which every family answers, then the family's own.
  Result<uint64_t> Ioctl(vfs::Caller& caller, uint64_t command, uint64_t argument) final;

  bool seekable() const override { return false; }
  Result<size_t> Read(vfs::Caller& caller, mm::IoSequence& to, uint64_t offset) override;
  Result<size_t> Write(vfs::Caller& caller, mm::IoSequence& from, uint64_t* offset) override;
  vfs::WaitPolicy wait_policy(vfs::Direction direction) const override;

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
  const Options& options() const { return options_; }

  // For families whose TryConnect answers EINPROGRESS: called before the connect begins, and when
  // it has ended (0, or why it failed; any thread).
  void BeginConnect();
  void EndConnect(int error);
  // SO_ERROR: takes the pending error.
  virtual int TakeError() { return error_.exchange(0); }
  virtual bool IsListening() { return false; }
  // nullopt: nobody is known yet.
  virtual Result<std::optional<Sender>> PeerCredentials() { return Fail(ENOPROTOOPT); }
  virtual Result<std::vector<uint32_t>> PeerGroups() { return Fail(ENOPROTOOPT); }
  virtual void OnOptionsChanged() {}
  virtual NetNamespace& net_namespace() = 0;
  virtual Result<uint64_t> FamilyIoctl(vfs::Caller& caller, uint64_t command, uint64_t argument);

 private:
  Result<void> SetSocketOption(vfs::Caller& caller, int name, std::string_view value);
  Result<void> GetSocketOption(vfs::Caller& caller, int name, OptionReply& reply);
  Result<void> PeerGroupsOption(vfs::Caller& caller, OptionReply& reply);
  Result<void> AwaitConnect(int pending);

  const int family_, type_, protocol_;
  Options options_;
  std::atomic<bool> connecting_{false};
  std::atomic<int> error_{0};
};

}  // namespace skep::net
