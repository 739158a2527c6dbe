// Handles: attach, walk, release, and naming nodes across a checkpoint.
#include <fcntl.h>
#include <sys/stat.h>
#include <algorithm>
#include <vector>

#include "base/limits.h"
#include "gofer/server/server.h"

namespace skep::gofer {
namespace {

constexpr int kLookupRetries = 3;
// What a walk's last record may need beside itself: a symlink's target.
constexpr size_t kWalkSlack = sizeof(NodeRecord) + kPathMax;

}  // namespace

AttachRecord Server::RecordOf(uint32_t attach, const FileInfo& info) const {
  AttachRecord record;
  record.attach = attach;
  record.flags = config_.attach_points[attach].read_only ? kAttachReadOnly : 0;
  record.root = {roots_[attach]->id, info.attributes};
  return record;
}

Result<void> Server::Mounts(Reader& in, Writer& out) {
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

Result<void> Server::Attach(Reader& in, Writer& out) {
  const AttachRequest request = TRY(in.Get<AttachRequest>());
  TRY(in.End());
  if (request.attach >= roots_.size()) return Fail(ENOENT);
  const FileInfo info = TRY(nodes_.Stat(*roots_[request.attach]));
  nodes_.Reference(*roots_[request.attach]);
  out.Put(RecordOf(request.attach, info));
  return {};
}

Result<FileInfo> Server::Lookup(Node& dir, const std::string& name, Node** found) {
  if (!dir.IsDirectory()) return Fail(ENOTDIR);
  if (dir.hidden) return Fail(ENOENT);
  const HeldFd dir_fd = TRY(nodes_.Hold(dir));
  for (int i = 0;; ++i) {
    FileInfo info = TRY(StatName(dir_fd.get(), name));
    Result<Node*> node = nodes_.Intern(dir, name, info);
    if (node) {
      *found = *node;
      return info;
    }
    // Replaced between two looks at it.
    if (node.error() != Errno(ESTALE) || i == kLookupRetries) return std::unexpected(node.error());
  }
}

// A relative path of valid names, for Reopen and hidden paths: no node on it is referenced.
Result<Node*> Server::LookupPath(Node& root, std::string_view path, FileInfo* info) {
  *info = TRY(nodes_.Stat(root));
  Node* at = &root;
  while (!path.empty()) {
    const size_t end = std::min(path.find('/'), path.size());
    const std::string name(path.substr(0, end));
    path.remove_prefix(std::min(end + 1, path.size()));
    Node* next = nullptr;
    Result<void> valid = CheckName(name);
    Result<FileInfo> found = valid ? Lookup(*at, name, &next) : std::unexpected(valid.error());
    if (!found) {
      nodes_.Collect(at);
      return std::unexpected(found.error());
    }
    *info = *found;
    at = next;
  }
  return at;
}

Result<void> Server::Walk(Reader& in, Writer& out) {
  const WalkRequest request = TRY(in.Get<WalkRequest>());
  Node* at = TRY(nodes_.Find(request.parent));
  if (request.count > kMaxWalkNames || (request.flags & ~kWalkOpens) != 0) return Fail(EINVAL);
  std::vector<std::string> names(request.count);
  for (std::string& name : names) name = TRY(TakeName(in));
  TRY(in.End());

  WalkReply reply{};
  const size_t reply_at = out.size();
  out.Put(reply);
  std::string target;
  for (const std::string& name : names) {
    Node* next = nullptr;
    if (out.room() < kWalkSlack) {
      reply.stop = static_cast<uint16_t>(WalkStop::kFull);
      break;
    }
    Result<FileInfo> info = Lookup(*at, name, &next);
    const bool is_symlink = info && S_ISLNK(info->attributes.mode);
    if (is_symlink) {
      const HeldFd dir = TRY(nodes_.Hold(*at));
      // By name, not from a descriptor of its own: if it is replaced meanwhile, the client gets
      // another symlink's text, which is just text to it.
      Result<std::string> text = ReadLinkAt(dir.get(), name.c_str());
      if (text) target = std::move(*text);
      if (!text) info = Fail(ESTALE);
    }
    if (!info) {
      if (next != nullptr) nodes_.Collect(next);
      reply.stop = static_cast<uint16_t>(WalkStop::kError);
      reply.error = static_cast<uint16_t>(info.error().code());
      break;
    }
    nodes_.Reference(*next);
    out.Put(NodeRecord{next->id, info->attributes});
    ++reply.reached;
    at = next;
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
    if (file) Donate(std::move(*file));
  }
  return {};
}

Result<void> Server::Release(Reader& in, Writer&) {
  silent_ = true;
  const uint32_t count = TRY(in.Get<uint32_t>());
  TRY(in.Get<uint32_t>());
  for (uint32_t i = 0; i < count; ++i) {
    const ReleaseRecord record = TRY(in.Get<ReleaseRecord>());
    const Result<Node*> node = nodes_.Find(record.node);
    if (node) nodes_.Release(**node, record.count);
  }
  return {};
}

Result<void> Server::PathOf(Reader& in, Writer& out) {
  const Node* node = TRY(TakeNode(in));
  TRY(in.End());
  std::vector<const Node*> parts;
  size_t size = 0;
  const Node* at = node;
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

Result<void> Server::Reopen(Reader& in, Writer& out) {
  const ReopenRequest request = TRY(in.Get<ReopenRequest>());
  const std::string_view path = TRY(in.GetString());
  TRY(in.End());
  if (request.attach >= roots_.size()) return Fail(ENOENT);
  TRY(nodes_.Reserve(request.wanted));
  FileInfo info;
  Node* node = TRY(LookupPath(*roots_[request.attach], path, &info));
  if (Result<void> changed = nodes_.ChangeId(*node, request.wanted); !changed) {
    nodes_.Collect(node);
    return changed;
  }
  nodes_.Reference(*node);
  out.Put(NodeRecord{node->id, info.attributes});
  return {};
}

}  // namespace skep::gofer
