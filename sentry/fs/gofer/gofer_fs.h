// GoferFs: a tree of the host, served by a gofer. Metadata is asked for in short
// messages and cached; contents go straight between a donated host descriptor and guest
// pages.
//
// kExclusive: nobody else changes the tree, so what is known stays true. kShared: names and
// attributes are asked for again when they are older than kSharedTtlNs.
#pragma once

#include <list>
#include <unordered_map>

#include "sentry/arena/arena.h"
#include "sentry/arena/host_table.h"
#include "sentry/fs/gofer/connection.h"
#include "sentry/fs/gofer/donated_files.h"
#include "sentry/vfs/path.h"

namespace skep::fs {

class GoferInode;

enum class GoferCaching : uint8_t { kExclusive, kShared };
inline constexpr uint64_t kSharedTtlNs = 1'000'000'000;

struct GoferFsOptions {
  uint32_t dev_minor = 0;
  uint32_t attach = 0;  // which of the gofer's attach points
  GoferCaching caching = GoferCaching::kExclusive;
  bool read_only = false;          // or if the attach point is
  Ref<DonatedFiles> donated = {};  // shared by all trees of a sandbox; none: one of its own
};

class GoferFs final : public vfs::FileSystem {
 public:
  // One message. Errors as the gofer answers.
  static Result<Ref<GoferFs>> Make(Ref<GoferConnection> connection, const GoferFsOptions& options);
  ~GoferFs() override;

  const char* type_name() const override { return "9p"; }  // what guests take for a host share
  Result<vfs::StatFs> GetStatFs() override;
  // ext4's with blocks of 4 KiB; what the host's file system cannot hold, it refuses itself.
  uint64_t max_file_size() const override { return (uint64_t{1} << 44) - 4096; }
  Ref<vfs::Inode> RootInode() override;
  bool Revalidate(vfs::Dentry& dentry) override;

  // The only way to the gofer: calls `f` with its Client, for whose results malloc's heap is the
  // right one. Under no Mutex: the fiber may sleep, killable (kKilled).
  template <class F>
  auto Call(F f) const {
    const arena::HostHeapScope host;
    return f(connection_->client());
  }
  // Whether something that was heard at that time may still be taken for true.
  bool StillTrue(uint64_t heard_ns) const;
  bool exclusive() const { return caching_ == GoferCaching::kExclusive; }
  bool read_only() const { return read_only_; }
  DonatedFiles& donated() const { return *donated_; }

  // The inode of a node the gofer has just referenced for us: a known one, or new.
  Ref<GoferInode> Intern(const gofer::NodeRecord& record);
  // `inode` is being destroyed: its node is released.
  void OnDestroy(GoferInode& inode, gofer::NodeId node, uint64_t references);
  // `inode` remembers `count` more children; directories that were listed long ago forget theirs.
  void NoteChildren(GoferInode& inode, size_t count);

  // Lets directories forget their children, to give memory back.
  void DropChildren();
  // Number of inodes known, for tests and for /proc.
  size_t inode_count() const;

  // -- Checkpoint. --
  // Before: remembers where each node is. After: makes the same nodes known to a new gofer, where
  // the tree has the number `attach`, and opens again what was open. EROFS: the tree can(not) be
  // written now; another error: it has changed under the checkpoint.
  Result<void> PrepareCheckpoint();
  Result<void> Reattach(uint32_t attach);

 private:
  GoferFs(Ref<GoferConnection> connection, const GoferFsOptions& options, bool attached_read_only);
  std::vector<Ref<GoferInode>> LiveInodes();

  struct Place {
    gofer::NodeId node;
    std::string path;
  };

  const Ref<GoferConnection> connection_;
  const GoferCaching caching_;
  const bool attached_read_only_, read_only_;
  const Ref<DonatedFiles> donated_;

  mutable Mutex mutex_{LockRank::kFile};
  // Those who live; each takes itself out.
  std::unordered_map<uint64_t, GoferInode*> inodes_ GUARDED_BY(mutex_);
  std::list<GoferInode*> listed_ GUARDED_BY(mutex_);  // oldest first
  size_t children_ GUARDED_BY(mutex_) = 0;
  std::vector<Place> places_;  // between PrepareCheckpoint and Reattach
  Ref<GoferInode> root_;
};

}  // namespace skep::fs
