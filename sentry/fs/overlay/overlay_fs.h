// OverlayFs: a lower tree that is only read under an upper one that takes the changes (Linux:
// fs/overlayfs, without redirect_dir: renaming a directory that has a lower half is EXDEV).
//
// The upper tree mirrors the overlay: a directory of the overlay that was changed has a directory
// there. A character device 0:0 there hides a lower name (whiteout); a directory with the extended
// attribute trusted.overlay.opaque hides the whole lower one. Nobody else may use either tree.
#pragma once

#include <unordered_map>

#include "sentry/vfs/path.h"

namespace skep::fs {

class OverlayInode;

class OverlayFs final : public vfs::FileSystem {
 public:
  // `lower` must not change under us (a gofer's tree: GoferCaching::kExclusive).
  static Result<Ref<OverlayFs>> Make(uint32_t dev_minor, Ref<vfs::FileSystem> lower,
                                     Ref<vfs::FileSystem> upper);
  ~OverlayFs() override;

  const char* type_name() const override { return "overlay"; }
  Result<vfs::StatFs> GetStatFs() override;
  // A file of the lower file system must fit into the upper one and stay what it was.
  uint64_t max_file_size() const override {
    return std::min(upper_->max_file_size(), lower_->max_file_size());
  }
  Ref<vfs::Inode> RootInode() override;
  Result<void> SyncAll() override { return upper_->SyncAll(); }

  // The overlay's inode of what was found in either tree (not both null). `parent` and `name` say
  // where a copy of a lower inode belongs.
  Ref<OverlayInode> Get(Ref<vfs::Inode> upper, Ref<vfs::Inode> lower, Ref<OverlayInode> parent,
                        std::string_view name);
  // st_ino of an entry of an upper directory: that of its origin if it was copied up.
  uint64_t InoOfUpper(const vfs::Inode& upper) const;

  void NoteCopiedUp(OverlayInode& inode, const vfs::Inode& upper);
  void OnDestroy(OverlayInode& inode);
  // For an inode that only the caller holds: takes its parent from it, and takes it out of the
  // tables. None if others hold it too.
  Ref<OverlayInode> TakeParentOfLast(OverlayInode& inode);

 private:
  OverlayFs(uint32_t dev_minor, Ref<vfs::FileSystem> lower, Ref<vfs::FileSystem> upper);
  void Forget(OverlayInode& inode) REQUIRES(mutex_);

  const Ref<vfs::FileSystem> lower_, upper_;
  mutable Mutex mutex_{LockRank::kFile};
  // Inodes that live, by the inodes they stand for; each takes itself out.
  std::unordered_map<const vfs::Inode*, OverlayInode*> by_upper_ GUARDED_BY(mutex_);
  std::unordered_map<const vfs::Inode*, OverlayInode*> by_lower_ GUARDED_BY(mutex_);
  Ref<OverlayInode> root_;
};

}  // namespace skep::fs
