#include "gofer/server/server.h"

#include <sys/stat.h>
#include <sys/syscall.h>
#include <algorithm>

#include "base/host_call.h"
#include "base/limits.h"

namespace skep::gofer {

Server::Server(ServerConfig config)
    : config_(std::move(config)),
      nodes_({.nodes = config_.max_nodes, .open_fds = std::max<size_t>(config_.max_open_fds, 128)},
             config_.attach_points.size()) {}

Result<std::unique_ptr<Server>> Server::Make(ServerConfig config) {
  TRY(host::Call(SYS_umask, 0));
  std::vector<OwnedFd> root_fds;
  for (AttachPoint& point : config.attach_points) root_fds.push_back(std::move(point.root));
  const size_t count = root_fds.size();
  std::unique_ptr<Server> server(new Server(std::move(config)));
  MutexLock lock(server->nodes_.mutex());
  for (uint32_t i = 0; i < count; ++i) {
    const FileInfo info = TRY(StatFd(root_fds[i].get()));
    const bool is_directory = S_ISDIR(info.attributes.mode);
    if (!is_directory && !S_ISREG(info.attributes.mode)) return Fail(EINVAL);
    const FsStatistics fs = TRY(StatfsFd(root_fds[i].get()));
    Node* root = server->nodes_.AddRoot(i, NodeId{i + 1}, std::move(root_fds[i]), info);
    root->hidden = IsHostView(fs.type);
    root->remote = IsRemote(fs.type);
    server->roots_.push_back(root);
  }
  for (const HiddenPath& hidden : server->config_.hidden) TRY(server->HidePath(hidden));
  return server;
}

// A hidden path that does not exist now needs no entry: only the guest can create it later.
Result<void> Server::HidePath(const HiddenPath& hidden) {
  if (hidden.attach >= roots_.size()) return Fail(EINVAL);
  FileInfo info;
  Result<KeptNode> node = LookupPath(*roots_[hidden.attach], hidden.path, &info);
  if (!node) {
    if (node.error() == Errno(ENOENT)) return {};
    return std::unexpected(node.error());
  }
  TRY(nodes_.Hold(**node));
  nodes_.Pin(**node);
  (*node)->permanent = true;
  (*node)->hidden = true;
  return {};
}

Server::Handler Server::HandlerOf(uint16_t op) {
  switch (static_cast<Op>(op)) {
    case Op::kMounts:
      return &Server::Mounts;
    case Op::kAttach:
      return &Server::Attach;
    case Op::kWalk:
      return &Server::Walk;
    case Op::kReaddir:
      return &Server::Readdir;
    case Op::kOpen:
      return &Server::Open;
    case Op::kCreate:
      return &Server::Create;
    case Op::kMkdir:
      return &Server::Mkdir;
    case Op::kMknod:
      return &Server::Mknod;
    case Op::kSymlink:
      return &Server::Symlink;
    case Op::kLink:
      return &Server::Link;
    case Op::kUnlink:
      return &Server::Unlink;
    case Op::kRename:
      return &Server::Rename;
    case Op::kSetAttr:
      return &Server::SetAttr;
    case Op::kGetAttr:
      return &Server::GetAttr;
    case Op::kReadlink:
      return &Server::Readlink;
    case Op::kStatfs:
      return &Server::Statfs;
    case Op::kGetXattr:
      return &Server::GetXattr;
    case Op::kSetXattr:
      return &Server::SetXattr;
    case Op::kListXattr:
      return &Server::ListXattr;
    case Op::kRemoveXattr:
      return &Server::RemoveXattr;
    case Op::kFsync:
      return &Server::Fsync;
    case Op::kRelease:
      return &Server::Release;
    case Op::kPathOf:
      return &Server::PathOf;
    case Op::kReopen:
      return &Server::Reopen;
    case Op::kConnect:
      return &Server::Connect;
    case Op::kEnd:
      break;
  }
  return nullptr;
}

Server::Answer Server::Handle(std::span<const std::byte> request, std::span<std::byte> reply) {
  Reader in(request);
  ReplyWriter out(reply);
  ReplyHeader header{};
  out.Put(header);
  Result<void> done = Fail(EPROTO);
  if (const Result<RequestHeader> asked = in.Get<RequestHeader>()) {
    header.id = asked->id;
    header.op = asked->op;
    const Handler handler = HandlerOf(asked->op);
    done = Fail(EINVAL);
    MutexLock lock(nodes_.mutex());
    if (handler != nullptr) done = (this->*handler)(in, out);
  }
  if (out.silent) return {};
  if (done && !out.ok()) done = Fail(EMSGSIZE);
  if (!done) {
    header.error = static_cast<uint16_t>(done.error().code());
    memcpy(reply.data(), &header, sizeof header);
    return {sizeof header, OwnedFd()};
  }
  memcpy(reply.data(), &header, sizeof header);
  return {out.size(), std::move(out.donated)};
}

Result<void> CheckName(std::string_view name) {
  if (name.size() > kNameMax) return Fail(ENAMETOOLONG);
  if (name.empty() || name == "." || name == "..") return Fail(EINVAL);
  if (name.find('/') != name.npos || name.find('\0') != name.npos) return Fail(EINVAL);
  return {};
}

Result<std::string> TakeName(Reader& in) {
  const std::string_view name = TRY(in.GetString());
  TRY(CheckName(name));
  return std::string(name);
}

Result<KeptNode> Server::TakeNode(Reader& in) {
  const NodeId id = TRY(in.Get<NodeId>());
  return nodes_.Find(id);
}

Result<void> Server::CheckWritable(const Node& node) const {
  if (node.hidden || config_.attach_points[node.attach].read_only) return Fail(EROFS);
  return {};
}

Result<HeldFd> Server::HoldChangeable(Node& dir) {
  TRY(CheckWritable(dir));
  return nodes_.Hold(dir);
}

}  // namespace skep::gofer
