#include "sentry/fs/overlay/overlay_fs.h"

#include <linux/magic.h>

#include "sentry/fs/overlay/overlay_inode.h"

namespace skep::fs {

OverlayFs::OverlayFs(uint32_t dev_minor, Ref<vfs::FileSystem> lower, Ref<vfs::FileSystem> upper)
    : FileSystem(dev_minor), lower_(std::move(lower)), upper_(std::move(upper)) {
  source = "overlay";
}

Result<Ref<OverlayFs>> OverlayFs::Make(uint32_t dev_minor, Ref<vfs::FileSystem> lower,
                                       Ref<vfs::FileSystem> upper) {
  Ref<vfs::Inode> lower_root = lower->RootInode();
  Ref<vfs::Inode> upper_root = upper->RootInode();
  if (!lower_root->IsDir() || !upper_root->IsDir()) return Fail(ENOTDIR);
  // The root looks like the lower one.
  const vfs::Attributes from = TRY(lower_root->GetAttributes());
  vfs::AttributeChange change;
  change.mode = from.mode & 07777;
  change.uid = from.uid;
  change.gid = from.gid;
  change.atime = from.atime;
  change.mtime = from.mtime;
  TRY(upper_root->SetAttributes(change));
  Ref<OverlayFs> fs(new OverlayFs(dev_minor, std::move(lower), std::move(upper)));
  fs->root_ = fs->Get(std::move(upper_root), std::move(lower_root), {}, "");
  return fs;
}

OverlayFs::~OverlayFs() {
  DropCache();
  std::vector<Ref<OverlayInode>> pinned;
  {
    MutexLock lock(mutex_);
    for (const auto& [upper, inode] : by_upper_) {
      if (Ref<OverlayInode> held = Ref<OverlayInode>::TryFrom(inode)) {
        pinned.push_back(std::move(held));
      }
    }
  }
  for (const Ref<OverlayInode>& inode : pinned) inode->Unpin();
  pinned.clear();
  root_ = {};
}

Ref<vfs::Inode> OverlayFs::RootInode() { return root_; }

Result<vfs::StatFs> OverlayFs::GetStatFs() {
  vfs::StatFs stat = TRY(upper_->GetStatFs());
  // A memory file system without a limit says nothing: then what lies below does.
  if (stat.blocks == 0) stat = TRY(lower_->GetStatFs());
  stat.type = OVERLAYFS_SUPER_MAGIC;
  return stat;
}

Ref<OverlayInode> OverlayFs::Get(Ref<vfs::Inode> upper, Ref<vfs::Inode> lower,
                                 Ref<OverlayInode> parent, std::string_view name) {
  Ref<OverlayInode> made;
  for (;;) {
    {
      MutexLock lock(mutex_);
      auto& table = upper ? by_upper_ : by_lower_;
      OverlayInode*& slot = table[upper ? upper.get() : lower.get()];
      if (Ref<OverlayInode> known = Ref<OverlayInode>::TryFrom(slot)) return known;
      if (made) {
        slot = made.get();
        if (upper && lower) by_lower_[lower.get()] = made.get();
        return made;
      }
    }
    const uint64_t ino = lower ? lower->ino() : kUpperInoBase + upper->ino();
    made = MakeRef<OverlayInode>(*this, ino, upper, lower, parent, name);
  }
}

uint64_t OverlayFs::InoOfUpper(const vfs::Inode& upper) const {
  MutexLock lock(mutex_);
  const auto it = by_upper_.find(&upper);
  if (it != by_upper_.end()) return it->second->ino();
  return kUpperInoBase + upper.ino();
}

void OverlayFs::NoteCopiedUp(OverlayInode& inode, const vfs::Inode& upper) {
  MutexLock lock(mutex_);
  by_upper_[&upper] = &inode;
}

void OverlayFs::OnDestroy(OverlayInode& inode) {
  MutexLock lock(mutex_);
  Forget(inode);
}

// Inodes are found in the tables under mutex_ only. So an inode that only the caller holds, and
// that is no longer there, cannot be found by others.
Ref<OverlayInode> OverlayFs::TakeParentOfLast(OverlayInode& inode) {
  MutexLock lock(mutex_);
  if (inode.RefCount() != 1) return {};
  Forget(inode);
  return std::move(inode.parent_);
}

// Not analysed: nobody else has the inode, so its copy_lock_ is not needed.
void OverlayFs::Forget(OverlayInode& inode) NO_THREAD_SAFETY_ANALYSIS {
  const auto erase = [&](auto& table, const vfs::Inode* key) {
    const auto it = key == nullptr ? table.end() : table.find(key);
    if (it != table.end() && it->second == &inode) table.erase(it);
  };
  erase(by_upper_, inode.upper_.get());
  erase(by_lower_, inode.lower_.get());
}

}  // namespace skep::fs
