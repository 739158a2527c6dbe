// Client: what a gofer can be asked for. Each call is one exchange of messages (a long walk may be
// more), which a Transport carries: it decides how a caller waits, and which connection it uses.
//
// Host side: made inside HostHeapScope, never in the arena, and it knows nothing of fibers. What it
// returns is malloc's. Any thread or fiber may call it, if the transport says so. Errors are the
// gofer's, and those of Transport::Ask.
#pragma once

#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/mutex.h"
#include "base/owned_fd.h"
#include "base/result.h"
#include "gofer/protocol/lane.h"
#include "gofer/protocol/messages.h"
#include "gofer/protocol/replies.h"

namespace skep::gofer {

struct Opened {
  OwnedFd file;
  Attributes attributes;
};
struct Created {
  OwnedFd file;
  NodeRecord node;
};

// What a new inode is to be. Ids that are kKeepId stay as the host makes them.
struct NewNode {
  uint32_t mode = 0;  // final: no umask is applied
  uint32_t uid = kKeepId;
  uint32_t gid = kKeepId;
};

class Transport {
 public:
  virtual ~Transport() = default;
  // Sends the request and waits until its reply has been parsed. The errno that the gofer answered;
  // EIO: the connection is broken; kKilled: the caller was killed meanwhile; ENOMEM, ENAMETOOLONG:
  // it was not sent.
  virtual Result<void> Ask(Call& call) = 0;
  // Give references back, sooner or later. FlushReleases: now.
  virtual void Release(NodeId node, uint64_t count) = 0;
  virtual void FlushReleases() = 0;
};

// One connection, one call at a time: callers wait for one another as threads do.
class BlockingTransport final : public Transport {
 public:
  explicit BlockingTransport(OwnedFd socket) : lane_(std::move(socket)) {}
  Result<void> Ask(Call& call) override;
  void Release(NodeId node, uint64_t count) override;
  void FlushReleases() override;
  int socket() const { return socket_; }

 private:
  Mutex mutex_{LockRank::kGoferClient};
  Lane lane_ GUARDED_BY(mutex_);
  const int socket_ = lane_.socket();
};

class Client {
 public:
  explicit Client(std::unique_ptr<Transport> transport) : transport_(std::move(transport)) {}
  // `socket`: a connected SOCK_SEQPACKET unix socket; blocking.
  explicit Client(OwnedFd socket)
      : Client(std::make_unique<BlockingTransport>(std::move(socket))) {}
  Client(const Client&) = delete;
  Client& operator=(const Client&) = delete;
  ~Client() { FlushReleases(); }

  Result<std::vector<AttachRecord>> Mounts();
  Result<AttachRecord> Attach(uint32_t attach);

  // Resolves names one below the other, none of them "." or "..", following no symlink. One
  // message, unless the records of some hundred names do not fit one.
  enum class WalkOpens : bool { kNo, kLast };
  Result<Walked> Walk(NodeId parent, std::span<const std::string_view> names,
                      WalkOpens opens = WalkOpens::kNo);
  Result<DirPage> Readdir(NodeId dir, uint64_t cookie, bool with_nodes,
                          uint32_t max_bytes = 64 << 10);
  Result<std::string> Readlink(NodeId node);

  // A host descriptor of a regular file (or, where allowed, a FIFO). flags: the access mode and
  // O_TRUNC, O_APPEND, O_NONBLOCK, O_SYNC, O_DSYNC, O_NOATIME.
  Result<Opened> Open(NodeId node, int flags);
  // Always O_CREAT|O_EXCL: EEXIST sends the caller back to Walk.
  Result<Created> Create(NodeId dir, std::string_view name, const NewNode& what, int open_flags);
  Result<NodeRecord> Mkdir(NodeId dir, std::string_view name, const NewNode& what);
  Result<NodeRecord> Mknod(NodeId dir, std::string_view name, const NewNode& what);
  Result<NodeRecord> Symlink(NodeId dir, std::string_view name, std::string_view target,
                             const NewNode& what);
  Result<NodeRecord> Link(NodeId node, NodeId dir, std::string_view name);
  Result<void> Unlink(NodeId dir, std::string_view name);
  Result<void> Rmdir(NodeId dir, std::string_view name);
  Result<void> Rename(NodeId old_dir, std::string_view old_name, NodeId new_dir,
                      std::string_view new_name, uint32_t flags);

  Result<Attributes> GetAttr(NodeId node);
  Result<Attributes> SetAttr(const SetAttrRequest& change);
  Result<FsStatistics> Statfs(NodeId node);
  Result<void> Fsync(NodeId node, bool data_only);

  // As getxattr(2): size 0 asks for the size. Returns the size of the value.
  Result<size_t> GetXattr(NodeId node, std::string_view name, std::span<std::byte> value);
  Result<void> SetXattr(NodeId node, std::string_view name, std::span<const std::byte> value,
                        int flags);
  Result<size_t> ListXattr(NodeId node, std::span<std::byte> names);
  Result<void> RemoveXattr(NodeId node, std::string_view name);

  // Gives references back. Batched: sent when enough have gathered, or by FlushReleases.
  void Release(NodeId node, uint64_t count = 1) { transport_->Release(node, count); }
  void FlushReleases() { transport_->FlushReleases(); }

  // For a checkpoint: where a node is. ENOENT: it has no name any more.
  Result<NodePath> PathOf(NodeId node);
  // After a restore, before any other call on a new gofer's connection but Attach, for every node
  // that was known, in any order: makes `path` known as `wanted` again, with one reference. Roots
  // have their ids already. Whatever this answers, no other inode will be called `wanted`.
  Result<NodeRecord> Reopen(NodeId wanted, uint32_t attach, std::string_view path);

  // The client's end of one more connection to the same gofer.
  Result<OwnedFd> Connect();

 private:
  template <class T, class Write, class Decode>
  Result<T> Ask(Op op, Write write, Decode decode);
  template <class Write>
  Result<void> AskForNothing(Op op, Write write);
  Result<Walked> WalkSome(NodeId parent, std::span<const std::string_view> names, WalkOpens opens);
  void GiveBack(std::span<const NodeRecord> nodes);
  Result<Created> Make(Op op, NodeId dir, std::string_view name, const NewNode& what,
                       std::string_view target, uint32_t flags);
  Result<size_t> ReadXattr(Op op, NodeId node, std::string_view name, std::span<std::byte> to);
  Result<void> Remove(NodeId dir, std::string_view name, uint32_t flags);

  const std::unique_ptr<Transport> transport_;
};

}  // namespace skep::gofer
