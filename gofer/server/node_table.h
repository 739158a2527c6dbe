// Nodes: the inodes a gofer's client knows, and the table that finds them by handle and identity.
//
// A node is named by its identity and, while it has one, by (parent, name). Its O_PATH descriptor
// is opened when needed and closed when descriptors run short (least recently used first), so a
// client may know more inodes than a process may have descriptors. Opening it again goes one
// component down from the parent and compares the identity: a node is never silently another file
// (ESTALE).
//
// Threads: everything here, nodes included, is used with mutex() held, but for what Outside runs:
// host calls, which may take long. A thread that goes outside keeps the nodes that it goes on with
// (KeptNode, HeldFd) and expects that names have changed meanwhile: `changes` tells.
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

#include "base/mutex.h"
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
  uint32_t holds = 0;              // HeldFds and KeptNodes
  bool pinned = false;             // path_fd must not be closed
  bool permanent = false;
  bool hidden = false;    // shown as an empty directory
  bool stale = false;     // its inode is gone; only the handle is left
  bool remote = false;    // its file system may wait for more than a disk
  bool unwanted = false;  // could not go while it was held

  bool IsDirectory() const { return type == 0040000; }
};

class NodeTable;

// A node's descriptor, which stays open as long as this lives.
class HeldFd {
 public:
  HeldFd(NodeTable& table, Node& node) : table_(&table), node_(&node), fd_(node.path_fd.get()) {
    ++node.holds;
  }
  HeldFd(HeldFd&& other) noexcept
      : table_(other.table_), node_(std::exchange(other.node_, nullptr)), fd_(other.fd_) {}
  HeldFd& operator=(HeldFd&&) = delete;
  ~HeldFd();
  int get() const { return fd_; }

 private:
  NodeTable* const table_;
  Node* node_;
  const int fd_;
};

// Keeps a node in the table, known to a client or not. One that nobody needs goes with this.
class KeptNode {
 public:
  KeptNode() = default;
  KeptNode(NodeTable& table, Node* node) : table_(&table), node_(node) {
    if (node_ != nullptr) ++node_->holds;
  }
  KeptNode(KeptNode&& other) noexcept
      : table_(other.table_), node_(std::exchange(other.node_, nullptr)) {}
  KeptNode& operator=(KeptNode&& other) noexcept {
    std::swap(table_, other.table_);
    std::swap(node_, other.node_);
    return *this;
  }
  ~KeptNode();
  explicit operator bool() const { return node_ != nullptr; }
  Node& operator*() const { return *node_; }
  Node* operator->() const { return node_; }
  Node* get() const { return node_; }

 private:
  NodeTable* table_ = nullptr;
  Node* node_ = nullptr;
};

class NodeTable {
 public:
  struct Limits {
    size_t nodes;
    size_t open_fds;
  };
  NodeTable(Limits limits, size_t attach_points) : limits_(limits), names_(attach_points) {}
  NodeTable(const NodeTable&) = delete;
  NodeTable& operator=(const NodeTable&) = delete;

  Mutex& mutex() { return mutex_; }
  // Calls `f` without the mutex.
  template <class F>
  auto Outside(F f) NO_THREAD_SAFETY_ANALYSIS {
    mutex_.Unlock();
    auto result = f();
    mutex_.Lock();
    return result;
  }

  // EBADF: the client owns no such handle.
  Result<KeptNode> Find(NodeId id);
  Node* FindIdentity(uint32_t attach, const FileIdentity& identity) const;
  // The root of an attach point; takes the descriptor.
  Node* AddRoot(uint32_t attach, NodeId id, OwnedFd fd, const FileInfo& info);
  // The node of what was just found as `name` in `parent`, which the caller holds: known or new. A
  // new one goes unless it is referenced. EMFILE: too many nodes.
  Result<KeptNode> Intern(Node& parent, std::string_view name, const FileInfo& info);

  // The node's O_PATH descriptor, opened if it is not. ESTALE: what has its name is another file.
  Result<HeldFd> Hold(Node& node);
  // Its attributes, without opening it. The caller keeps it.
  Result<FileInfo> Stat(Node& node);

  // While one lives, names below an attach point are being changed.
  class Change {
   public:
    Change(NodeTable& table, uint32_t attach) : names_(table.names_[attach]) { ++names_.changing; }
    ~Change() {
      --names_.changing;
      ++names_.changes;
    }
    Change(const Change&) = delete;
    Change& operator=(const Change&) = delete;

   private:
    friend class NodeTable;
    struct Names {
      uint32_t changing = 0;
      uint64_t changes = 0;
    };
    Names& names_;
  };
  // How often they were.
  uint64_t changes(uint32_t attach) const { return names_[attach].changes; }

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

  // For tests.
  size_t size() const;
  size_t open_fds() const;

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
  friend class Change;
  Result<HeldFd> HoldOnce(Node& node);
  bool MayTryAgain(uint32_t attach, uint64_t seen, int tries);
  Result<void> OpenFd(Node& node, int parent_fd);
  bool PinOpen(Node& node);
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
  mutable Mutex mutex_{LockRank::kLeaf};
  std::vector<Change::Names> names_;  // by attach point
  uint64_t next_id_ GUARDED_BY(mutex_) = 1;
  std::unordered_map<uint64_t, std::unique_ptr<Node>> nodes_ GUARDED_BY(mutex_);
  std::unordered_map<Key, Node*, KeyHash> by_identity_ GUARDED_BY(mutex_);
  std::list<Node*> open_
      GUARDED_BY(mutex_);  // nodes with a descriptor that may be closed; last used first
  size_t pinned_ GUARDED_BY(mutex_) = 0;
};

}  // namespace skep::gofer
