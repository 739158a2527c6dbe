// Server: the gofer's side of the protocol. A thread takes a request, judges it, acts, answers.
//
// Each connection has threads enough that one waits for the next request while others are in calls
// of the host that take long: one more is made when the last is busy, up to a bound. What the
// server knows is guarded by the NodeTable's mutex, which nobody holds across a host call that
// looks at a file system. So a mount that hangs holds up those who ask for its files.
//
// The client is assumed hostile. What holds it in:
// - A name is one component: never "", ".", "..", with a '/' or a NUL, or longer than 255 bytes.
//   It is resolved in its parent's descriptor, following nothing (openat2 beneath, no symlinks, no
//   magic links). So a client reaches exactly what lies below its attach points.
// - A descriptor is donated only for regular files (and FIFOs where allowed), opened from the
//   node's own O_PATH descriptor through a private descriptor of /proc/self/fd. That is the very
//   inode that was judged: no second lookup that a rename could win.
// - Nothing is changed below a read-only attach point.
// - File systems that show the host (proc, sysfs, cgroup, ...) and hidden paths are empty
//   directories.
// It does not check permissions: the sentry knows the guest's credentials, the gofer only its own.
#pragma once

#include <array>
#include <atomic>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/mutex.h"
#include "base/owned_fd.h"
#include "base/result.h"
#include "gofer/protocol/messages.h"
#include "gofer/server/host_file.h"
#include "gofer/server/node_table.h"

namespace skep::gofer {

struct AttachPoint {
  OwnedFd root;  // O_PATH, of a directory or a regular file
  bool read_only = false;
};

struct HiddenPath {
  uint32_t attach = 0;
  std::string path;  // relative, "a/b"; no symlink is followed
};

struct ServerConfig {
  std::vector<AttachPoint> attach_points;
  std::vector<HiddenPath> hidden;
  OwnedFd proc_self_fd;        // O_PATH, of this process's /proc/self/fd
  bool allow_fifos = false;    // FIFOs may be made and opened
  bool allow_sockets = false;  // socket inodes may be made (mknod); they cannot be opened
  size_t max_nodes = size_t{1} << 20;
  size_t max_open_fds = 4096;
};

// A reply that is being put together.
class ReplyWriter : public Writer {
 public:
  using Writer::Writer;
  OwnedFd donated;
  bool silent = false;  // the request gets no reply
};

class Server {
 public:
  // Sets the process's umask to 0: modes on the wire are final. EINVAL: an attach point is neither
  // a directory nor a regular file.
  static Result<std::unique_ptr<Server>> Make(ServerConfig config);
  Server(const Server&) = delete;
  Server& operator=(const Server&) = delete;
  ~Server();  // waits for its threads: their clients are gone

  // Serves a SOCK_SEQPACKET socket, with more threads than this one, until its peer is gone.
  Result<void> Serve(int socket);

  struct Answer {
    size_t size = 0;  // of what was written to `reply`; 0: no reply
    OwnedFd file;     // to donate with it
  };
  // Answers one request. `reply` has kMessageMax bytes. Any thread.
  Answer Handle(std::span<const std::byte> request, std::span<std::byte> reply);

  NodeTable& nodes() { return nodes_; }

 private:
  static constexpr size_t kDirentBytes = size_t{32} << 10;
  using Handler = Result<void> (Server::*)(Reader&, ReplyWriter&);
  struct Connection;
  struct ThreadStart;
  struct DirStream {
    NodeId dir = NodeId::kNone;
    OwnedFd fd;
    uint64_t position = 0;
  };

  explicit Server(ServerConfig config);
  static Handler HandlerOf(uint16_t op);
  Result<void> HidePath(const HiddenPath& hidden);

  // threads and connections (serve.cc)
  Result<void> ServeLoop(const std::shared_ptr<Connection>& connection);
  void AddThread(const std::shared_ptr<Connection>& connection);
  bool StartThread(const std::shared_ptr<Connection>& connection);
  void AddSpare();
  bool HandToSpare(const std::shared_ptr<Connection>& connection);
  std::shared_ptr<Connection> AwaitConnection();
  void TellSpares(int count);
  static void* ThreadMain(void* start);
  Result<void> Connect(Reader& in, ReplyWriter& out);
  // lookups (server_lookup.cc)
  Result<void> Mounts(Reader& in, ReplyWriter& out);
  Result<void> Attach(Reader& in, ReplyWriter& out);
  Result<void> Walk(Reader& in, ReplyWriter& out);
  Result<void> PathOf(Reader& in, ReplyWriter& out);
  Result<void> Reopen(Reader& in, ReplyWriter& out);
  Result<void> Release(Reader& in, ReplyWriter& out);
  // inodes (server_inode.cc)
  Result<void> Open(Reader& in, ReplyWriter& out);
  Result<void> GetAttr(Reader& in, ReplyWriter& out);
  Result<void> SetAttr(Reader& in, ReplyWriter& out);
  Result<void> Readlink(Reader& in, ReplyWriter& out);
  Result<void> Statfs(Reader& in, ReplyWriter& out);
  Result<void> Fsync(Reader& in, ReplyWriter& out);
  Result<void> GetXattr(Reader& in, ReplyWriter& out);
  Result<void> SetXattr(Reader& in, ReplyWriter& out);
  Result<void> ListXattr(Reader& in, ReplyWriter& out);
  Result<void> RemoveXattr(Reader& in, ReplyWriter& out);
  // changes of names (server_change.cc)
  Result<void> Create(Reader& in, ReplyWriter& out);
  Result<void> Mkdir(Reader& in, ReplyWriter& out);
  Result<void> Mknod(Reader& in, ReplyWriter& out);
  Result<void> Symlink(Reader& in, ReplyWriter& out);
  Result<void> Link(Reader& in, ReplyWriter& out);
  Result<void> Unlink(Reader& in, ReplyWriter& out);
  Result<void> Rename(Reader& in, ReplyWriter& out);
  // directories (server_readdir.cc)
  Result<void> Readdir(Reader& in, ReplyWriter& out);
  Result<DirStream> TakeStream(Node& dir);
  void KeepStream(DirStream stream);
  struct RawEntry;
  bool PutEntry(Node& dir, const RawEntry& entry, bool with_nodes, ReplyWriter& out);

  Result<KeptNode> TakeNode(Reader& in);
  // One name of a directory that the caller keeps: its node (not yet referenced) and attributes.
  Result<FileInfo> Lookup(Node& dir, const std::string& name, KeptNode* found);
  Result<KeptNode> LookupPath(Node& root, std::string_view path, FileInfo* info);
  static NodeRecord RecordOf(const Node& node, const FileInfo& info);
  template <class F>
  auto Outside(F f) {
    return nodes_.Outside(std::move(f));
  }
  Result<void> CheckWritable(const Node& node) const;
  Result<HeldFd> HoldChangeable(Node& dir);
  // Answers a new inode: its node, referenced once.
  Result<void> PutNew(Node& dir, const std::string& name, ReplyWriter& out);
  Result<void> FinishNew(int fd, const MakeRequest& request, bool is_symlink);
  Result<void> FinishMade(Node& dir, int dir_fd, const std::string& name,
                          const MakeRequest& request, ReplyWriter& out);
  KeptNode BeforeRemoval(Node& dir, int dir_fd, const std::string& name);
  Result<OwnedFd> OpenNode(Node& node, int flags);
  Result<void> Truncate(Node& node, uint64_t size);
  AttachRecord RecordOf(uint32_t attach, const FileInfo& info) const;

  const ServerConfig config_;
  NodeTable nodes_;
  std::vector<Node*> roots_;
  std::array<DirStream, 8> streams_;  // nobody's at the moment; guarded by the table's mutex
  size_t next_stream_ = 0;            // as well
  std::atomic<int> connections_{0}, threads_{0};
  std::atomic<bool> ending_{false};
  Mutex spare_lock_{LockRank::kLeaf};
  int spares_ GUARDED_BY(spare_lock_) = 0;  // threads that nothing was handed to
  std::vector<std::shared_ptr<Connection>> handed_ GUARDED_BY(spare_lock_);
  std::atomic<uint32_t> spare_news_{0};  // a futex
};

// One component of a path, as it may come from a client. ENAMETOOLONG, EINVAL.
Result<std::string> TakeName(Reader& in);
Result<void> CheckName(std::string_view name);

}  // namespace skep::gofer
