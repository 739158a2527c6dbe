// Handles: attach, walk, release, and naming nodes across a checkpoint.
#include <fcntl.h>
#include <sys/stat.h>
#include <algorithm>
#include <vector>

#include "base/limits.h"
#include "gofer/server/server.h"

namespace skep::gofer {
namespace {

constexpr int kLookupRetries = 16;
// What a walk's last record may need beside itself: a symlink's target.
constexpr size_t kWalkSlack = sizeof(NodeRecord) + kPathMax;

}  // namespace

AttachRecord Server::RecordOf(uint32_t attach, const FileInfo& info) const {
  AttachRecord record;
  record.attach = attach;
  record.flags = config_.attach_points[attach].read_only ? kAttachReadOnly : 0;
  record.root = RecordOf(*roots_[attach], info);
  return record;
}

NodeRecord Server::RecordOf(const Node& node, const FileInfo& info) {
  NodeRecord record = {node.id, info.attributes};
  record.attributes.remote = node.remote ? 1 : 0;
  return record;
}

Result<void> Server::Mounts(Reader& in, ReplyWriter& out) {
  TRY(in.End());
  out.Put(static_cast<uint32_t>(roots_.size()));
  for (uint32_t i = 0; i < roots_.size(); ++i) {
    const FileInfo info = TRY(nodes_.Stat(*roots_[i]));
    out.Put(RecordOf(i, info));
  }
  if (!out.ok()) return Fail(EMSGSIZE);
  for (Node* root : roots_) nodes_.Reference(*root);
  return {};
}

Result<void> Server::Attach(Reader& in, ReplyWriter& out) {
  const AttachRequest request = TRY(in.Get<AttachRequest>());
  TRY(in.End());
  if (request.attach >= roots_.size()) return Fail(ENOENT);
  const FileInfo info = TRY(nodes_.Stat(*roots_[request.attach]));
  nodes_.Reference(*roots_[request.attach]);
  out.Put(RecordOf(request.attach, info));
  return {};
}

Result<FileInfo> Server::Lookup(Node& dir, const std::string& name, KeptNode* found) {
  if (!dir.IsDirectory()) return Fail(ENOTDIR);
  if (dir.hidden) return Fail(ENOENT);
  const HeldFd dir_fd = TRY(nodes_.Hold(dir));
  for (int i = 0;; ++i) {
    const uint64_t seen = nodes_.changes(dir.attach);
    FileInfo info = TRY(Outside([&] { return StatName(dir_fd.get(), name); }));
    // Another thread changed names meanwhile: what was found may have another by now.
    if (nodes_.changes(dir.attach) != seen && i < kLookupRetries) continue;
    Result<KeptNode> node = nodes_.Intern(dir, name, info);
    if (node) {
      *found = std::move(*node);
      return info;
    }
    // Replaced between two looks at it.
    if (node.error() != Errno(ESTALE) || i == kLookupRetries) return std::unexpected(node.error());
  }
}

// A relative path of valid names, for Reopen and hidden paths: no node on it is referenced.
Result<KeptNode> Server::LookupPath(Node& root, std::string_view path, FileInfo* info) {
  *info = TRY(nodes_.Stat(root));
  KeptNode at(nodes_, &root);
  while (!path.empty()) {
    const size_t end = std::min(path.find('/'), path.size());
    const std::string name(path.substr(0, end));
    path.remove_prefix(std::min(end + 1, path.size()));
    TRY(CheckName(name));
    KeptNode next;
    *info = TRY(Lookup(*at, name, &next));
    at = std::move(next);
  }
  return at;
}

Result<void> Server::Walk(Reader& in, ReplyWriter& out) {
  const WalkRequest request = TRY(in.Get<WalkRequest>());
  KeptNode at = TRY(nodes_.Find(request.parent));
  if (request.count > kMaxWalkNames || (request.flags & ~kWalkOpens) != 0) return Fail(EINVAL);
  std::vector<std::string> names(request.count);
  for (std::string& name : names) name = TRY(TakeName(in));
  TRY(in.End());

  WalkReply reply{};
  const size_t reply_at = out.size();
  out.Put(reply);
  std::string target;
  for (const std::string& name : names) {
    KeptNode next;
    if (out.room() < kWalkSlack) {
      reply.stop = static_cast<uint16_t>(WalkStop::kFull);
      break;
    }
    Result<FileInfo> info = Lookup(*at, name, &next);
    const bool is_symlink = info && S_ISLNK(info->attributes.mode);
    if (is_symlink) {
      // By name, not from a descriptor of its own: if it is replaced meanwhile, the client gets
      // another symlink's text, which is just text to it.
      const Result<HeldFd> dir = nodes_.Hold(*at);
      Result<std::string> text = Fail(ESTALE);
      if (dir) text = Outside([&] { return ReadLinkAt(dir->get(), name.c_str()); });
      if (text) target = std::move(*text);
      if (!text) info = Fail(ESTALE);
    }
    if (!info) {
      reply.stop = static_cast<uint16_t>(WalkStop::kError);
      reply.error = static_cast<uint16_t>(info.error().code());
      break;
    }
    nodes_.Reference(*next);
    out.Put(RecordOf(*next, *info));
    ++reply.reached;
    at = std::move(next);
    if (is_symlink) {
      reply.stop = static_cast<uint16_t>(WalkStop::kSymlink);
      break;
    }
  }
  reply.target_size = static_cast<uint16_t>(target.size());
  out.PutBytes(std::as_bytes(std::span(target)));
  out.Patch(reply_at, reply);
  const bool whole = reply.reached == names.size();
  if ((request.flags & kWalkOpens) != 0 && whole && S_ISREG(at->type)) {
    Result<OwnedFd> file = OpenNode(*at, O_RDONLY);
    if (file) out.donated = std::move(*file);
  }
  return {};
}

Result<void> Server::Release(Reader& in, ReplyWriter& out) {
  out.silent = true;
  const uint32_t count = TRY(in.Get<uint32_t>());
  TRY(in.Get<uint32_t>());
  for (uint32_t i = 0; i < count; ++i) {
    const ReleaseRecord record = TRY(in.Get<ReleaseRecord>());
    const Result<KeptNode> node = nodes_.Find(record.node);
    if (node) nodes_.Release(**node, record.count);
  }
  return {};
}

Result<void> Server::PathOf(Reader& in, ReplyWriter& out) {
  const KeptNode node = TRY(TakeNode(in));
  TRY(in.End());
  std::vector<const Node*> parts;
  size_t size = 0;
  const Node* at = node.get();
  for (; at->parent != nullptr; at = at->parent) {
    parts.push_back(at);
    size += at->name.size() + 1;
  }
  if (at != roots_[at->attach]) return Fail(ENOENT);
  if (size > kPathOfMax) return Fail(ENAMETOOLONG);
  std::string path;
  path.reserve(size);
  for (auto it = parts.rbegin(); it != parts.rend(); ++it) {
    if (!path.empty()) path += '/';
    path += (*it)->name;
  }
  out.Put(AttachRequest{node->attach, 0});
  out.PutString(path);
  return {};
}

Result<void> Server::Reopen(Reader& in, ReplyWriter& out) {
  const ReopenRequest request = TRY(in.Get<ReopenRequest>());
  const std::string_view path = TRY(in.GetString());
  TRY(in.End());
  if (request.attach >= roots_.size()) return Fail(ENOENT);
  TRY(nodes_.Reserve(request.wanted));
  FileInfo info;
  const KeptNode node = TRY(LookupPath(*roots_[request.attach], path, &info));
  TRY(nodes_.ChangeId(*node, request.wanted));
  nodes_.Reference(*node);
  out.Put(RecordOf(*node, info));
  return {};
}

}  // namespace skep::gofer
