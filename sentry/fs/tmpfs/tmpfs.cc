#include "sentry/fs/tmpfs/tmpfs.h"

#include <linux/magic.h>

#include "sentry/fs/tmpfs/tmpfs_inode.h"

namespace skep::fs {

Result<void> TmpQuota::Charge(uint64_t bytes) {
  const uint64_t used = bytes_.fetch_add(bytes) + bytes;
  const uint64_t limit = max_bytes();
  if (limit == 0 || used <= limit) return {};
  bytes_.fetch_sub(bytes);
  return Fail(ENOSPC);
}

Result<void> TmpQuota::ChargeInode() {
  const uint64_t used = inodes_.fetch_add(1) + 1;
  if (max_inodes_ == 0 || used <= max_inodes_) return {};
  inodes_.fetch_sub(1);
  return Fail(ENOSPC);
}

TmpFs::TmpFs(mm::MemoryFile& memory, const TmpFsOptions& wanted)
    : FileSystem(wanted.dev_minor),
      memory_(memory),
      type_name_(wanted.type_name),
      quota_(MakeRef<TmpQuota>(wanted.max_bytes, wanted.max_inodes)) {
  source = wanted.type_name;
  const vfs::Inode::NewNode node{
      .mode = S_IFDIR | wanted.mode, .uid = wanted.uid, .gid = wanted.gid};
  (void)quota_->ChargeInode();
  root_ = MakeRef<TmpDirectory>(*this, node);
}

TmpFs::~TmpFs() { DropCache(); }

Ref<vfs::Inode> TmpFs::RootInode() { return root_; }

Result<Ref<vfs::Inode>> TmpFs::NewFile(const vfs::Inode::NewNode& node) {
  TRY(quota_->ChargeInode());
  return Ref<vfs::Inode>(MakeRef<TmpRegular>(*this, node, 0u));
}

Result<vfs::StatFs> TmpFs::GetStatFs() {
  vfs::StatFs stat{.type = TMPFS_MAGIC};
  if (const uint64_t limit = quota_->max_bytes(); limit != 0) {
    const uint64_t used = quota_->bytes();
    stat.blocks = limit / kPageSize;
    stat.blocks_free = stat.blocks_available = used < limit ? (limit - used) / kPageSize : 0;
  }
  if (const uint64_t limit = quota_->max_inodes(); limit != 0) {
    stat.files = limit;
    stat.files_free = limit - std::min(limit, quota_->inodes());
  }
  return stat;
}

}  // namespace skep::fs
