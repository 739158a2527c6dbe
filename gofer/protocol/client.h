// Client: the sentry's end of a gofer connection. Each call is one blocking round trip; threads may
// share a client.
//
// Host side: made inside HostScope, never in the arena, and it knows nothing of fibers. After
// construction it allocates only what it returns. A connection that broke answers EIO for ever.
#pragma once

#include <array>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/mutex.h"
#include "base/owned_fd.h"
#include "base/result.h"
#include "gofer/protocol/messages.h"

namespace skep::gofer {

struct Walked {
  std::vector<NodeRecord> nodes;    // one per name reached, in order
  WalkStop stop = WalkStop::kDone;  // never kFull
  int error = 0;                    // kError: of name number nodes.size()
  std::string target;               // kSymlink: of nodes.back()
  OwnedFd file;                     // kDone, if asked for: can read nodes.back(), a regular file
};

struct DirEntry {
  std::string name;
  uint64_t ino = 0;
  uint64_t next_cookie = 0;  // resumes after this entry
  uint8_t type = 0;
  NodeRecord node;  // kNone unless asked for and to be had
};
struct DirPage {
  std::vector<DirEntry> entries;  // without "." and ".."
  bool at_end = false;
};

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

struct NodePath {
  uint32_t attach = 0;
  std::string path;  // relative to the attach point; "" is its root
};

class Client {
 public:
  // `socket`: a connected SOCK_SEQPACKET unix socket.
  explicit Client(OwnedFd socket);
  Client(const Client&) = delete;
  Client& operator=(const Client&) = delete;
  ~Client();

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
  void Release(NodeId node, uint64_t count = 1);
  void FlushReleases();

  // For a checkpoint: where a node is. ENOENT: it has no name any more.
  Result<NodePath> PathOf(NodeId node);
  // After a restore, before any other call on a new gofer's connection but Attach, for every node
  // that was known, in any order: makes `path` known as `wanted` again, with one reference. Roots
  // have their ids already. Whatever this answers, no other inode will be called `wanted`.
  Result<NodeRecord> Reopen(NodeId wanted, uint32_t attach, std::string_view path);

 private:
  struct Reply {
    Reader body;
    OwnedFd file;
  };

  Writer Begin(Op op) REQUIRES(mutex_);
  Result<Reply> Exchange(const Writer& request) REQUIRES(mutex_);
  Result<void> Send(size_t size) REQUIRES(mutex_);
  void FlushReleasesLocked() REQUIRES(mutex_);
  Result<void> WalkSome(NodeId parent, std::span<const std::string_view> names, WalkOpens opens,
                        Walked& walked) REQUIRES(mutex_);
  Result<NodeRecord> Make(Op op, NodeId dir, std::string_view name, const NewNode& what,
                          std::string_view target, uint32_t flags, OwnedFd* file);
  Result<size_t> ReadXattr(Op op, NodeId node, std::string_view name, std::span<std::byte> to);
  Result<void> Remove(NodeId dir, std::string_view name, uint32_t flags);

  Mutex mutex_{LockRank::kGoferClient};
  const OwnedFd socket_;
  const std::unique_ptr<std::byte[]> request_;
  const std::unique_ptr<std::byte[]> reply_;
  uint32_t last_id_ GUARDED_BY(mutex_) = 0;
  bool broken_ GUARDED_BY(mutex_) = false;
  size_t release_count_ GUARDED_BY(mutex_) = 0;
  std::array<ReleaseRecord, 128> releases_ GUARDED_BY(mutex_);
};

}  // namespace skep::gofer
