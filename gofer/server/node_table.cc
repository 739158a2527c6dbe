#include "gofer/server/node_table.h"

#include <vector>

#include "base/check.h"

namespace skep::gofer {
namespace {

// Pinned descriptors leave this many for everything else.
constexpr size_t kUnpinnedFdsMin = 64;
constexpr size_t kAliasesMax = 16;

}  // namespace

Result<Node*> NodeTable::Find(NodeId id) const {
  const auto it = nodes_.find(static_cast<uint64_t>(id));
  if (it == nodes_.end()) return Fail(EBADF);
  Node* node = it->second.get();
  if (node->client_references == 0 && !node->permanent) return Fail(EBADF);
  return node;
}

Node* NodeTable::FindIdentity(uint32_t attach, const FileIdentity& identity) const {
  const auto it = by_identity_.find(Key{attach, identity});
  return it == by_identity_.end() ? nullptr : it->second;
}

Node* NodeTable::AddRoot(uint32_t attach, NodeId id, OwnedFd fd, const FileInfo& info) {
  auto owned = std::make_unique<Node>();
  Node* node = owned.get();
  node->id = id;
  node->attach = attach;
  node->type = info.type();
  node->identity = info.identity;
  node->path_fd = std::move(fd);
  node->pinned = true;
  node->permanent = true;
  ++pinned_;
  by_identity_[KeyOf(*node)] = node;
  const uint64_t number = static_cast<uint64_t>(id);
  CHECK(nodes_.emplace(number, std::move(owned)).second);
  next_id_ = std::max(next_id_, number + 1);
  return node;
}

Result<Node*> NodeTable::Intern(Node& parent, std::string_view name, const FileInfo& info) {
  Node* known = FindIdentity(parent.attach, info.identity);
  if (known != nullptr) {
    // Without a descriptor of ours the inode may have died and its number been given away.
    const bool same = known->type == info.type() &&
                      (known->path_fd || (known->btime_sec == info.attributes.btime_sec &&
                                          known->btime_nsec == info.attributes.btime_nsec));
    if (same) {
      const bool linked = !known->IsDirectory() && info.attributes.nlink > 1;
      SetName(*known, parent, name, linked ? OldName::kStays : OldName::kGone);
      return known;
    }
    MakeStale(*known);
  }
  if (nodes_.size() >= limits_.nodes) return Fail(EMFILE);
  auto owned = std::make_unique<Node>();
  Node* node = owned.get();
  node->id = NodeId{next_id_++};
  node->attach = parent.attach;
  node->type = info.type();
  node->identity = info.identity;
  node->btime_sec = info.attributes.btime_sec;
  node->btime_nsec = info.attributes.btime_nsec;
  node->parent = &parent;
  node->name = name;
  ++parent.children;
  by_identity_[KeyOf(*node)] = node;
  nodes_.emplace(static_cast<uint64_t>(node->id), std::move(owned));
  const FileIdentity& above = parent.identity;
  if (info.identity.mount != above.mount || info.identity.dev != above.dev) {
    if (Result<void> judged = JudgeMount(*node); !judged) {
      Collect(node);
      return std::unexpected(judged.error());
    }
  }
  return node;
}

// Another file system begins here: one that shows the host is hidden.
Result<void> NodeTable::JudgeMount(Node& node) {
  const HeldFd fd = TRY(Hold(node));
  const FsStatistics fs = TRY(StatfsFd(fd.get()));
  node.hidden = IsHostView(fs.type);
  return {};
}

Result<HeldFd> NodeTable::Hold(Node& node) {
  if (node.path_fd) {
    if (!node.pinned) open_.splice(open_.begin(), open_, node.lru);
    return HeldFd(node, node.path_fd.get());
  }
  std::vector<Node*> closed;  // from `node` up to the nearest that is open
  Node* at = &node;
  for (; !at->path_fd; at = at->parent) {
    if (at->parent == nullptr) return Fail(ESTALE);
    closed.push_back(at);
  }
  while (!closed.empty()) {
    Node* next = closed.back();
    closed.pop_back();
    const HeldFd parent(*at, at->path_fd.get());
    TRY(OpenFd(*next, parent.get()));
    at = next;
  }
  return HeldFd(node, node.path_fd.get());
}

Result<void> NodeTable::OpenFd(Node& node, int parent_fd) {
  TRY(MakeRoom());
  Result<OwnedFd> fd = OpenPath(parent_fd, node.name);
  if (!fd) {
    const int code = fd.error().code();
    return Fail(code == ENOENT || code == ENOTDIR ? ESTALE : code);
  }
  const FileInfo info = TRY(StatFd(fd->get()));
  if (info.identity != node.identity || info.type() != node.type) return Fail(ESTALE);
  node.path_fd = std::move(*fd);
  node.lru = open_.insert(open_.begin(), &node);
  return {};
}

Result<void> NodeTable::MakeRoom() {
  if (open_fds() < limits_.open_fds) return {};
  for (auto it = open_.rbegin(); it != open_.rend(); ++it) {
    if ((*it)->holds != 0) continue;
    CloseFd(**it);
    return {};
  }
  return Fail(EMFILE);
}

void NodeTable::CloseFd(Node& node) {
  if (!node.path_fd) return;
  CHECK(node.holds == 0);
  if (node.pinned) {
    node.pinned = false;
    --pinned_;
  } else {
    open_.erase(node.lru);
  }
  node.path_fd.Reset();
}

Result<FileInfo> NodeTable::Stat(Node& node) {
  if (node.path_fd) return StatFd(node.path_fd.get());
  if (node.parent == nullptr) return Fail(ESTALE);
  const HeldFd parent = TRY(Hold(*node.parent));
  Result<FileInfo> info = StatName(parent.get(), node.name);
  if (!info) return Fail(info.error().code() == ENOENT ? ESTALE : info.error().code());
  if (info->identity != node.identity || info->type() != node.type) return Fail(ESTALE);
  return info;
}

void NodeTable::Release(Node& node, uint64_t count) {
  node.client_references -= std::min(node.client_references, count);
  Collect(&node);
}

void NodeTable::Collect(Node* node) {
  while (node != nullptr && node->client_references == 0 && node->children == 0 &&
         node->holds == 0 && !node->permanent) {
    ++node->holds;
    DropAliases(*node);
    --node->holds;
    Node* parent = node->parent;
    if (parent != nullptr) --parent->children;
    CloseFd(*node);
    if (!node->stale) by_identity_.erase(KeyOf(*node));
    nodes_.erase(static_cast<uint64_t>(node->id));
    node = parent;
  }
}

void NodeTable::Pin(Node& node) {
  if (node.pinned || pinned_ + kUnpinnedFdsMin > limits_.open_fds) return;
  // Failing to open it, the node becomes stale with its name: open files have descriptors of
  // their own, so only calls on the bare inode are lost.
  if (!Hold(node)) return;
  open_.erase(node.lru);
  node.pinned = true;
  ++pinned_;
}

// Cuts the node from its name.
void NodeTable::Unlink(Node& node) {
  Node* parent = std::exchange(node.parent, nullptr);
  node.name.clear();
  if (parent == nullptr) return;
  --parent->children;
  Collect(parent);
}

void NodeTable::LoseName(Node& node) {
  if (!node.aliases.empty()) {
    const auto [parent, name] = std::move(node.aliases.back());
    node.aliases.pop_back();
    Unlink(node);
    node.parent = parent;  // and the alias's count of children with it
    node.name = name;
    Unpin(node);
    return;
  }
  if (!node.pinned) {
    MakeStale(node);
    return;
  }
  Unlink(node);
}

void NodeTable::MakeStale(Node& node) {
  if (node.stale || node.permanent) return;
  by_identity_.erase(KeyOf(node));
  node.stale = true;
  if (node.holds == 0) CloseFd(node);
  ++node.holds;
  DropAliases(node);
  Unlink(node);
  --node.holds;
  // The caller may still hold a pointer; the node goes with the client's last reference. One that
  // no client knows goes now.
  Collect(&node);
}

void NodeTable::Unpin(Node& node) {
  if (!node.pinned || node.permanent) return;
  node.pinned = false;
  --pinned_;
  node.lru = open_.insert(open_.begin(), &node);
}

void NodeTable::DropAliases(Node& node) {
  for (const auto& [parent, name] : std::exchange(node.aliases, {})) {
    --parent->children;
    Collect(parent);
  }
}

void NodeTable::RememberAlias(Node& node, Node& parent, std::string_view name) {
  if (node.aliases.size() == kAliasesMax) return;
  ++parent.children;
  node.aliases.emplace_back(&parent, name);
}

void NodeTable::SetName(Node& node, Node& parent, std::string_view name, OldName old) {
  // A file system may number a directory and its entry alike (FUSE).
  if (node.permanent || &node == &parent) return;
  Unpin(node);
  if (node.parent == &parent && node.name == name) return;
  // While names are taken away below, neither end of the new one may be collected.
  ++parent.children;
  ++node.holds;
  std::erase_if(node.aliases, [&](const auto& alias) {
    const bool same = alias.first == &parent && alias.second == name;
    if (same) --parent.children;
    return same;
  });
  if (old == OldName::kStays && node.parent != nullptr) {
    RememberAlias(node, *node.parent, node.name);
  }
  if (node.IsDirectory()) ForgetCycle(node, parent);
  Unlink(node);
  node.parent = &parent;
  node.name = name;
  --node.holds;
}

// If `node` is believed to be above `parent`, where it is about to be put, then the host has moved
// directories: what we believe about the one just below `node` is outdated.
void NodeTable::ForgetCycle(Node& node, Node& parent) {
  Node* below = nullptr;
  for (Node* up = &parent; up != nullptr; below = up, up = up->parent) {
    if (up != &node || below == nullptr) continue;
    Pin(*below);
    LoseName(*below);
    return;
  }
}

Result<void> NodeTable::Reserve(NodeId wanted) {
  const uint64_t number = static_cast<uint64_t>(wanted);
  if (number == 0 || number >= kMaxChosenNode) return Fail(EINVAL);
  next_id_ = std::max(next_id_, number + 1);
  const auto it = nodes_.find(number);
  if (it == nodes_.end()) return {};
  Node& node = *it->second;
  if (node.client_references == 0 && !node.permanent) Renumber(node, NodeId{next_id_++});
  return {};
}

Result<void> NodeTable::ChangeId(Node& node, NodeId wanted) {
  if (node.id == wanted) return {};
  if (node.client_references != 0 || node.permanent) return Fail(EEXIST);
  if (nodes_.contains(static_cast<uint64_t>(wanted))) return Fail(EEXIST);
  Renumber(node, wanted);
  return {};
}

void NodeTable::Renumber(Node& node, NodeId id) {
  auto entry = nodes_.extract(static_cast<uint64_t>(node.id));
  entry.key() = static_cast<uint64_t>(id);
  CHECK(nodes_.insert(std::move(entry)).inserted);
  node.id = id;
}

}  // namespace skep::gofer
