// Server: the gofer's side of the protocol. One thread takes a request, judges it, acts, answers.
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
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/owned_fd.h"
#include "base/result.h"
#include "gofer/protocol/messages.h"
#include "gofer/server/client_cpu.h"
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

class Server {
 public:
  // Sets the process's umask to 0: modes on the wire are final. EINVAL: an attach point is neither
  // a directory nor a regular file.
  static Result<std::unique_ptr<Server>> Make(ServerConfig config);
  Server(const Server&) = delete;
  Server& operator=(const Server&) = delete;

  // Serves a SOCK_SEQPACKET socket until its peer is gone.
  Result<void> Serve(int socket);

  struct Answer {
    size_t size = 0;  // of what was written to `reply`; 0: no reply
    OwnedFd file;     // to donate with it
  };
  // Answers one request. `reply` has kMessageMax bytes.
  Answer Handle(std::span<const std::byte> request, std::span<std::byte> reply);

  const NodeTable& nodes() const { return nodes_; }

 private:
  static constexpr size_t kDirentBytes = size_t{32} << 10;
  using Handler = Result<void> (Server::*)(Reader&, Writer&);
  struct DirStream {
    NodeId dir = NodeId::kNone;
    OwnedFd fd;
    uint64_t position = 0;
  };

  explicit Server(ServerConfig config);
  static Handler HandlerOf(uint16_t op);
  Result<void> HidePath(const HiddenPath& hidden);

  // lookups (server_lookup.cc)
  Result<void> Mounts(Reader& in, Writer& out);
  Result<void> Attach(Reader& in, Writer& out);
  Result<void> Walk(Reader& in, Writer& out);
  Result<void> PathOf(Reader& in, Writer& out);
  Result<void> Reopen(Reader& in, Writer& out);
  Result<void> Release(Reader& in, Writer& out);
  // inodes (server_inode.cc)
  Result<void> Open(Reader& in, Writer& out);
  Result<void> GetAttr(Reader& in, Writer& out);
  Result<void> SetAttr(Reader& in, Writer& out);
  Result<void> Readlink(Reader& in, Writer& out);
  Result<void> Statfs(Reader& in, Writer& out);
  Result<void> Fsync(Reader& in, Writer& out);
  Result<void> GetXattr(Reader& in, Writer& out);
  Result<void> SetXattr(Reader& in, Writer& out);
  Result<void> ListXattr(Reader& in, Writer& out);
  Result<void> RemoveXattr(Reader& in, Writer& out);
  // changes of names (server_change.cc)
  Result<void> Create(Reader& in, Writer& out);
  Result<void> Mkdir(Reader& in, Writer& out);
  Result<void> Mknod(Reader& in, Writer& out);
  Result<void> Symlink(Reader& in, Writer& out);
  Result<void> Link(Reader& in, Writer& out);
  Result<void> Unlink(Reader& in, Writer& out);
  Result<void> Rename(Reader& in, Writer& out);
  // directories (server_readdir.cc)
  Result<void> Readdir(Reader& in, Writer& out);
  Result<DirStream*> StreamOf(Node& dir);
  struct RawEntry;
  bool PutEntry(Node& dir, int dir_fd, const RawEntry& entry, bool with_nodes, Writer& out);

  Result<Node*> TakeNode(Reader& in);
  // One name of a directory: its node (not yet referenced) and attributes.
  Result<FileInfo> Lookup(Node& dir, const std::string& name, Node** found);
  Result<Node*> LookupPath(Node& root, std::string_view path, FileInfo* info);
  Result<void> CheckWritable(const Node& node) const;
  Result<HeldFd> HoldChangeable(Node& dir);
  // Answers a new inode: its node, referenced once.
  Result<void> PutNew(Node& dir, const std::string& name, Writer& out);
  Result<void> FinishNew(int fd, const MakeRequest& request, bool is_symlink);
  Result<void> FinishMade(Node& dir, int dir_fd, const std::string& name,
                          const MakeRequest& request, Writer& out);
  KeptNode BeforeRemoval(Node& dir, int dir_fd, const std::string& name);
  Result<OwnedFd> OpenNode(Node& node, int flags);
  Result<void> Truncate(Node& node, uint64_t size);
  AttachRecord RecordOf(uint32_t attach, const FileInfo& info) const;
  void Donate(OwnedFd file) { donated_ = std::move(file); }

  const ServerConfig config_;
  NodeTable nodes_;
  std::vector<Node*> roots_;
  std::array<DirStream, 8> streams_;
  size_t next_stream_ = 0;
  const std::unique_ptr<char[]> dirent_buffer_{new char[kDirentBytes]};
  ClientCpu cpu_;
  OwnedFd donated_;
  bool silent_ = false;  // the current request gets no reply
};

// One component of a path, as it may come from a client. ENAMETOOLONG, EINVAL.
Result<std::string> TakeName(Reader& in);
Result<void> CheckName(std::string_view name);

}  // namespace skep::gofer
