#include "gofer/server/node_table.h"

#include <sys/syscall.h>
#include <ctime>
#include <optional>
#include <vector>

#include "base/check.h"
#include "base/host_call.h"

namespace skep::gofer {
namespace {

// Pinned descriptors leave this many for everything else.
constexpr size_t kUnpinnedFdsMin = 64;
constexpr size_t kAliasesMax = 16;
constexpr int kTriesMax = 100;  // while names change: some 0.1 s

}  // namespace

HeldFd::~HeldFd() {
  if (node_ == nullptr) return;
  --node_->holds;
  if (node_->unwanted) table_->Collect(node_);
}

KeptNode::~KeptNode() {
  if (node_ == nullptr) return;
  --node_->holds;
  table_->Collect(node_);
}

Result<KeptNode> NodeTable::Find(NodeId id) {
  mutex_.AssertHeld();
  const auto it = nodes_.find(static_cast<uint64_t>(id));
  if (it == nodes_.end()) return Fail(EBADF);
  Node* node = it->second.get();
  if (node->client_references == 0 && !node->permanent) return Fail(EBADF);
  return KeptNode(*this, node);
}

size_t NodeTable::size() const {
  MutexLock lock(mutex_);
  return nodes_.size();
}

size_t NodeTable::open_fds() const {
  MutexLock lock(mutex_);
  return open_.size() + pinned_;
}

Node* NodeTable::FindIdentity(uint32_t attach, const FileIdentity& identity) const {
  mutex_.AssertHeld();
  const auto it = by_identity_.find(Key{attach, identity});
  return it == by_identity_.end() ? nullptr : it->second;
}

Node* NodeTable::AddRoot(uint32_t attach, NodeId id, OwnedFd fd, const FileInfo& info) {
  mutex_.AssertHeld();
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

Result<KeptNode> NodeTable::Intern(Node& parent, std::string_view name, const FileInfo& info) {
  mutex_.AssertHeld();
  Node* known = FindIdentity(parent.attach, info.identity);
  if (known != nullptr) {
    // Without a descriptor of ours the inode may have died and its number been given away.
    const bool same = known->type == info.type() &&
                      (known->path_fd || (known->btime_sec == info.attributes.btime_sec &&
                                          known->btime_nsec == info.attributes.btime_nsec));
    if (same) {
      const bool linked = !known->IsDirectory() && info.attributes.nlink > 1;
      SetName(*known, parent, name, linked ? OldName::kStays : OldName::kGone);
      return KeptNode(*this, known);
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
  node->remote = parent.remote;
  ++parent.children;
  by_identity_[KeyOf(*node)] = node;
  nodes_.emplace(static_cast<uint64_t>(node->id), std::move(owned));
  KeptNode kept(*this, node);
  const FileIdentity& above = parent.identity;
  if (info.identity.mount != above.mount || info.identity.dev != above.dev) {
    TRY(JudgeMount(*kept));
  }
  return kept;
}

// Another file system begins here: one that shows the host is hidden.
Result<void> NodeTable::JudgeMount(Node& node) {
  const HeldFd fd = TRY(Hold(node));
  const FsStatistics fs = TRY(Outside([&] { return StatfsFd(fd.get()); }));
  node.hidden = IsHostView(fs.type);
  node.remote = IsRemote(fs.type);
  return {};
}

// What was not found, or not the same, was perhaps renamed while we looked: by us, who do not know
// yet, or by another thread that was faster.
bool NodeTable::MayTryAgain(uint32_t attach, uint64_t seen, int tries) {
  if (tries >= kTriesMax) return false;
  if (names_[attach].changes != seen) return true;
  if (names_[attach].changing == 0) return false;
  const timespec pause = {0, 1'000'000};
  (void)Outside(
      [&] { return host::Call(SYS_clock_nanosleep, CLOCK_MONOTONIC, 0, &pause, nullptr); });
  return true;
}

Result<HeldFd> NodeTable::Hold(Node& node) {
  mutex_.AssertHeld();
  for (int tries = 0;; ++tries) {
    const uint64_t seen = changes(node.attach);
    Result<HeldFd> held = HoldOnce(node);
    if (held || held.error() != Errno(ESTALE)) return held;
    if (!MayTryAgain(node.attach, seen, tries)) return held;
  }
}

Result<HeldFd> NodeTable::HoldOnce(Node& node) {
  mutex_.AssertHeld();
  if (node.path_fd) {
    if (!node.pinned) open_.splice(open_.begin(), open_, node.lru);
    return HeldFd(*this, node);
  }
  std::vector<KeptNode> closed;  // from `node` up to the nearest that is open
  Node* at = &node;
  for (; !at->path_fd; at = at->parent) {
    if (at->parent == nullptr) return Fail(ESTALE);
    closed.emplace_back(*this, at);
  }
  std::optional<HeldFd> held(HeldFd(*this, *at));
  while (!closed.empty()) {
    const KeptNode next = std::move(closed.back());
    closed.pop_back();
    TRY(OpenFd(*next, held->get()));
    held.emplace(HeldFd(*this, *next));
  }
  return *std::move(held);
}

// A node that the caller keeps, in a parent that it holds.
Result<void> NodeTable::OpenFd(Node& node, int parent_fd) {
  mutex_.AssertHeld();
  if (node.path_fd) return {};  // another thread was faster
  TRY(MakeRoom());
  Result<FileInfo> info = Fail(ESTALE);
  Result<OwnedFd> fd = Outside([&, name = node.name] {
    Result<OwnedFd> opened = OpenPath(parent_fd, name);
    if (opened) info = StatFd(opened->get());
    return opened;
  });
  if (!fd) {
    const int code = fd.error().code();
    return Fail(code == ENOENT || code == ENOTDIR ? ESTALE : code);
  }
  if (!info) return std::unexpected(info.error());
  if (info->identity != node.identity || info->type() != node.type) return Fail(ESTALE);
  if (node.path_fd) return {};
  if (node.stale) return Fail(ESTALE);
  node.path_fd = std::move(*fd);
  node.lru = open_.insert(open_.begin(), &node);
  return {};
}

Result<void> NodeTable::MakeRoom() {
  mutex_.AssertHeld();
  if (open_.size() + pinned_ < limits_.open_fds) return {};
  for (auto it = open_.rbegin(); it != open_.rend(); ++it) {
    if ((*it)->holds != 0) continue;
    CloseFd(**it);
    return {};
  }
  return Fail(EMFILE);
}

void NodeTable::CloseFd(Node& node) {
  mutex_.AssertHeld();
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
  mutex_.AssertHeld();
  for (int tries = 0;; ++tries) {
    if (node.path_fd) {
      const HeldFd held(*this, node);
      return Outside([&] { return StatFd(held.get()); });
    }
    if (node.parent == nullptr) return Fail(ESTALE);
    const uint64_t seen = changes(node.attach);
    const HeldFd parent = TRY(Hold(*node.parent));
    Result<FileInfo> info = Outside([&, name = node.name] { return StatName(parent.get(), name); });
    if (!info && info.error() != Errno(ENOENT)) return info;
    const bool same = info && info->identity == node.identity && info->type() == node.type;
    if (same) return info;
    if (!MayTryAgain(node.attach, seen, tries)) return Fail(ESTALE);
  }
}

void NodeTable::Release(Node& node, uint64_t count) {
  node.client_references -= std::min(node.client_references, count);
  Collect(&node);
}

void NodeTable::Collect(Node* node) {
  mutex_.AssertHeld();
  while (node != nullptr && node->client_references == 0 && node->children == 0 &&
         !node->permanent) {
    if (node->holds != 0) {
      node->unwanted = true;
      return;
    }
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
  mutex_.AssertHeld();
  if (node.pinned || pinned_ + kUnpinnedFdsMin > limits_.open_fds) return;
  // Failing to open it, the node becomes stale with its name: open files have descriptors of
  // their own, so only calls on the bare inode are lost.
  if (HoldOnce(node)) (void)PinOpen(node);
}

// False: it has no descriptor, or too many are pinned.
bool NodeTable::PinOpen(Node& node) {
  mutex_.AssertHeld();
  if (node.pinned) return true;
  if (!node.path_fd || pinned_ + kUnpinnedFdsMin > limits_.open_fds) return false;
  open_.erase(node.lru);
  node.pinned = true;
  ++pinned_;
  return true;
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
  // Another thread that saw the name a last time may have unpinned it.
  if (!PinOpen(node)) {
    MakeStale(node);
    return;
  }
  Unlink(node);
}

void NodeTable::MakeStale(Node& node) {
  mutex_.AssertHeld();
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
  mutex_.AssertHeld();
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
    LoseName(*below);
    return;
  }
}

Result<void> NodeTable::Reserve(NodeId wanted) {
  mutex_.AssertHeld();
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
  mutex_.AssertHeld();
  if (node.id == wanted) return {};
  if (node.client_references != 0 || node.permanent) return Fail(EEXIST);
  if (nodes_.contains(static_cast<uint64_t>(wanted))) return Fail(EEXIST);
  Renumber(node, wanted);
  return {};
}

void NodeTable::Renumber(Node& node, NodeId id) {
  mutex_.AssertHeld();
  auto entry = nodes_.extract(static_cast<uint64_t>(node.id));
  entry.key() = static_cast<uint64_t>(id);
  CHECK(nodes_.insert(std::move(entry)).inserted);
  node.id = id;
}

}  // namespace skep::gofer
