// UnixEndpoint: the state of an AF_UNIX socket that its peer holds too: queues of messages, the
// connection, the name (Linux: struct unix_sock).
//
// Messages are copied from the guest before they are queued and to the guest before they are
// removed; `read_lock_` (a SleepLock) keeps readers apart meanwhile. mutex_ guards the rest; of two
// endpoints only one is locked at a time. Who holds whom: a socket file -> its endpoint; endpoints
// -> peer and, through queued messages, their senders; Close() cuts all of it.
#pragma once

#include <deque>
#include <memory>
#include <optional>
#include <vector>

#include "sentry/net/unix_names.h"
#include "sentry/sched/sleep_lock.h"

namespace skep::net {

class UnixEndpoint final : public RefCountedAny {
 public:
  UnixEndpoint(UnixNamespace& space, int type);
  ~UnixEndpoint() override;

  int type() const { return type_; }
  bool is_stream() const { return type_ == SOCK_STREAM; }
  bool connection_oriented() const { return type_ != SOCK_DGRAM; }
  UnixNamespace& space() { return space_; }
  sched::WaitQueue& waiters() { return waiters_; }
  std::atomic<int>& send_buffer() { return send_buffer_; }
  std::atomic<bool>& pass_credentials() { return pass_credentials_; }

  static void MakePair(UnixEndpoint& a, UnixEndpoint& b, const Sender& credentials);
  void Close();

  // -- names --
  Result<void> SetName(UnixName name);  // EINVAL: it has one
  void SetPathNode(vfs::Path node);
  UnixName name();

  // -- connections --
  Result<void> Listen(int backlog, const Sender& credentials, std::vector<uint32_t> groups);
  // Connects `client` (a stream or seqpacket socket) to this listening endpoint. ECONNREFUSED,
  // EAGAIN (backlog full), EISCONN, EINVAL.
  Result<void> ConnectFrom(UnixEndpoint& client, const Sender& credentials,
                           std::vector<uint32_t> groups);
  Result<Ref<UnixEndpoint>> Accept();
  // Datagram sockets; null disconnects. EPERM.
  Result<void> SetPeer(Ref<UnixEndpoint> peer);
  Ref<UnixEndpoint> peer();
  bool connected();
  bool listening();
  std::optional<Sender> peer_credentials();
  std::vector<uint32_t> peer_groups();
  void Shutdown(int mask);  // 1: receive, 2: send
  int TakeError();

  // -- data --
  struct Outgoing {
    mm::IoSequence& data;
    Control& control;  // its files go with the first packet
    FileSender sender;
    Sender own;  // go along if either end has asked for credentials
  };
  // One packet, or as much of a stream as fits. EPIPE, EAGAIN, EMSGSIZE, EFAULT, ...
  Result<size_t> SendStream(Outgoing message);
  // `to`: whom to; none: the peer.
  Result<size_t> SendPacket(Outgoing message, Ref<UnixEndpoint> to);
  Result<Received> ReceiveStream(mm::IoSequence& to, int flags);
  Result<Received> ReceivePacket(mm::IoSequence& to, int flags);

  // Throws away what is queued here and at connections that nobody accepted. For a socket that
  // nobody can reach any more.
  void DiscardMessages();

  vfs::EventMask Poll(vfs::EventMask wanted);
  size_t ReadableBytes(bool first_only);
  size_t UnreadBySelf() const { return charged_.load(); }  // SIOCOUTQ

  // For InFlight, under its mutex.
  InFlightNode& in_flight_node() { return in_flight_node_; }
  const InFlightNode& in_flight_node() const { return in_flight_node_; }
  // The open file of this endpoint is made.
  void SetFile(vfs::File& file) {
    in_flight_node_.file = &file;
    has_file_ = true;
  }
  bool has_file() const { return has_file_.load(); }  // false: not accepted yet

 private:
  struct Packet;
  using PacketPtr = std::unique_ptr<Packet>;
  enum class State : uint8_t { kUnconnected, kListening, kConnected, kClosed };

  Sender CredentialsFor(const Outgoing& message, UnixEndpoint& to) const;
  Result<PacketPtr> MakePacket(Outgoing& message, size_t size, UnixEndpoint& to);
  // Into this endpoint's queue, or why not.
  Result<void> Enqueue(PacketPtr packet, UnixEndpoint& from);
  Packet* At(size_t i);
  void PopFront();
  // What a receive that found nothing answers.
  Result<Received> NothingToReceive(int flags);
  static void TakeControl(Packet& packet, Received& received, bool peek);
  Result<void> CheckSend();
  void OnPeerClosed(bool reset);
  void CloseUnaccepted();
  Result<void> CanTakeConnection() REQUIRES(mutex_);
  bool MaySendTo(const UnixEndpoint& from);
  // Our queue is full for `from`, which will be told when it no longer is.
  bool BlocksSender(UnixEndpoint& from);
  void Uncharge(size_t bytes);
  bool Writable() const;
  bool QueueFullFor(const UnixEndpoint& from) REQUIRES(mutex_);

  UnixNamespace& space_;
  const int type_;
  // tidy: allow(guards) one reader of a stream at a time, over its copies to the guest
  sched::SleepLock read_lock_{LockRank::kInodeIo};
  sched::WaitQueue waiters_;
  std::atomic<int> send_buffer_{kDefaultBuffer};
  std::atomic<bool> pass_credentials_{false}, has_file_{false};
  std::atomic<size_t> charged_{0};  // bytes of ours in others' queues, with overhead
  InFlightNode in_flight_node_;     // before queue_: messages leave the graph when they go

  Mutex mutex_{LockRank::kFile};
  State state_ GUARDED_BY(mutex_) = State::kUnconnected;
  int shutdown_ GUARDED_BY(mutex_) = 0;  // 1: receive, 2: send
  int error_ GUARDED_BY(mutex_) = 0;
  int backlog_ GUARDED_BY(mutex_) = 0;
  UnixName name_ GUARDED_BY(mutex_);
  bool name_is_ours_ GUARDED_BY(mutex_) =
      false;  // in the abstract table; accepted sockets only tell it
  vfs::Path node_ GUARDED_BY(mutex_);
  Ref<UnixEndpoint> peer_ GUARDED_BY(mutex_);
  std::optional<Sender> peer_credentials_ GUARDED_BY(mutex_);
  std::vector<uint32_t> peer_groups_ GUARDED_BY(mutex_);
  std::deque<PacketPtr> queue_ GUARDED_BY(mutex_);
  std::deque<Ref<UnixEndpoint>> pending_ GUARDED_BY(mutex_);   // to be accepted
  std::vector<Ref<UnixEndpoint>> blocked_ GUARDED_BY(mutex_);  // they found our queue full
};

}  // namespace skep::net
