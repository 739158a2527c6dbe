// Nodes: the inodes a gofer's client knows, and the table that finds them by handle and identity.
//
// A node is named by its identity and, while it has one, by (parent, name). Its O_PATH descriptor
// is opened when needed and closed when descriptors run short (least recently used first), so a
// client may know more inodes than a process may have descriptors. Opening it again goes one
// component down from the parent and compares the identity: a node is never silently another file
// (ESTALE).
//
// Invariants: a node is in the table while a client owns references to it, while it has children,
// or while it is permanent (roots and hidden paths). Following parents ends at a root or at a node
// without a name. A node without a name keeps its descriptor (it is pinned) or is stale.
#pragma once

#include <cstdint>
#include <list>
#include <memory>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "base/owned_fd.h"
#include "base/result.h"
#include "gofer/server/host_file.h"

namespace skep::gofer {

struct Node {
  NodeId id = NodeId::kNone;
  uint32_t attach = 0;
  uint32_t type = 0;  // S_IFMT bits; an inode's never change
  FileIdentity identity;
  int64_t btime_sec = 0;
  uint32_t btime_nsec = 0;

  Node* parent = nullptr;  // none: a root, or no name is known
  std::string name;
  // Other names of a hard-linked file, as far as they were seen; the next in line when `name` goes.
  std::vector<std::pair<Node*, std::string>> aliases;
  uint32_t children = 0;  // nodes that name this one as parent, and aliases that do
  uint64_t client_references = 0;

  OwnedFd path_fd;
  std::list<Node*>::iterator lru;  // valid while path_fd is open and not pinned
  uint32_t holds = 0;              // HeldFds
  bool pinned = false;             // path_fd must not be closed
  bool permanent = false;
  bool hidden = false;  // shown as an empty directory
  bool stale = false;   // its inode is gone; only the handle is left

  bool IsDirectory() const { return type == 0040000; }
};

// A node's descriptor, which stays open as long as this lives.
class HeldFd {
 public:
  HeldFd(Node& node, int fd) : node_(&node), fd_(fd) { ++node.holds; }
  HeldFd(HeldFd&& other) noexcept : node_(std::exchange(other.node_, nullptr)), fd_(other.fd_) {}
  HeldFd& operator=(HeldFd&&) = delete;
  ~HeldFd() {
    if (node_ != nullptr) --node_->holds;
  }
  int get() const { return fd_; }

 private:
  Node* node_;
  const int fd_;
};

class NodeTable {
 public:
  struct Limits {
    size_t nodes;
    size_t open_fds;
  };
  explicit NodeTable(Limits limits) : limits_(limits) {}
  NodeTable(const NodeTable&) = delete;
  NodeTable& operator=(const NodeTable&) = delete;

  // EBADF: the client owns no such handle.
  Result<Node*> Find(NodeId id) const;
  Node* FindIdentity(uint32_t attach, const FileIdentity& identity) const;
  // The root of an attach point; takes the descriptor.
  Node* AddRoot(uint32_t attach, NodeId id, OwnedFd fd, const FileInfo& info);
  // The node of what was just found as `name` in `parent`: known or new. A new one goes away at the
  // next Collect unless it is referenced. EMFILE: too many nodes.
  Result<Node*> Intern(Node& parent, std::string_view name, const FileInfo& info);

  // The node's O_PATH descriptor, opened if it is not. ESTALE: what has its name is another file.
  Result<HeldFd> Hold(Node& node);
  // Its attributes, without opening it.
  Result<FileInfo> Stat(Node& node);

  void Reference(Node& node) { ++node.client_references; }
  void Release(Node& node, uint64_t count);
  // Frees the node, and then its parents, if nobody needs them.
  void Collect(Node* node);

  // Around a change of names: before one goes, SetName makes it the node's current one and Pin
  // keeps the inode reachable; afterwards LoseName or SetName tells what became of it.
  void Pin(Node& node);
  void Unpin(Node& node);  // one that has a name
  void LoseName(Node& node);
  enum class OldName : uint8_t { kGone, kStays };
  void SetName(Node& node, Node& parent, std::string_view name, OldName old);
  // Before ChangeId: no new node gets the wanted id any more, and one that no client knows gives it
  // up. EINVAL: not an id to choose.
  Result<void> Reserve(NodeId wanted);
  // Gives a node that no client knows the id that a client wants.
  Result<void> ChangeId(Node& node, NodeId wanted);

  size_t size() const { return nodes_.size(); }
  size_t open_fds() const { return open_.size() + pinned_; }

 private:
  struct Key {
    uint32_t attach;
    FileIdentity identity;
    friend bool operator==(const Key&, const Key&) = default;
  };
  struct KeyHash {
    size_t operator()(const Key& key) const {
      uint64_t h = key.identity.ino * 0x9e3779b97f4a7c15;
      h = (h ^ key.identity.dev ^ (key.identity.mount << 20)) * 0xbf58476d1ce4e5b9;
      return (h ^ key.attach) ^ (h >> 29);
    }
  };

  static Key KeyOf(const Node& node) { return {node.attach, node.identity}; }
  Result<void> OpenFd(Node& node, int parent_fd);
  Result<void> MakeRoom();
  Result<void> JudgeMount(Node& node);
  void ForgetCycle(Node& node, Node& parent);
  void CloseFd(Node& node);
  void MakeStale(Node& node);
  void Unlink(Node& node);
  void DropAliases(Node& node);
  void RememberAlias(Node& node, Node& parent, std::string_view name);
  void Renumber(Node& node, NodeId id);

  const Limits limits_;
  uint64_t next_id_ = 1;
  std::unordered_map<uint64_t, std::unique_ptr<Node>> nodes_;
  std::unordered_map<Key, Node*, KeyHash> by_identity_;
  std::list<Node*> open_;  // nodes with a descriptor that may be closed; last used first
  size_t pinned_ = 0;
};

// Keeps a node that perhaps no client knows in the table while names change around it.
class KeptNode {
 public:
  KeptNode(NodeTable& table, Node* node) : table_(&table), node_(node) {
    if (node_ != nullptr) ++node_->holds;
  }
  KeptNode(KeptNode&& other) noexcept
      : table_(other.table_), node_(std::exchange(other.node_, nullptr)) {}
  KeptNode& operator=(KeptNode&&) = delete;
  ~KeptNode() {
    if (node_ == nullptr) return;
    --node_->holds;
    table_->Collect(node_);
  }
  explicit operator bool() const { return node_ != nullptr; }
  Node& operator*() const { return *node_; }
  Node* operator->() const { return node_; }
  Node* get() const { return node_; }

 private:
  NodeTable* const table_;
  Node* node_;
};

}  // namespace skep::gofer
