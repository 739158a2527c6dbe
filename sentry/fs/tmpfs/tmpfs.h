// TmpFs: a file system in the sandbox's memory (Linux: mm/shmem.c). Also what an overlay writes to.
#pragma once

#include <atomic>
#include <cstdint>

#include "sentry/mm/file_pages.h"
#include "sentry/vfs/path.h"

namespace skep::fs {

class TmpInode;

struct TmpFsOptions {
  uint32_t dev_minor = 0;
  uint64_t max_bytes = 0;   // size=; 0: no limit of its own
  uint64_t max_inodes = 0;  // nr_inodes=; 0: none
  uint32_t mode = 01777;    // of the root
  uint32_t uid = 0, gid = 0;
  const char* type_name = "tmpfs";  // a constant; as /proc/mounts shows it
};

// Counts what a TmpFs uses. Outlives it: pages that a guest still maps are given back later.
class TmpQuota final : public mm::FilePages::Budget, public RefCounted<TmpQuota> {
 public:
  TmpQuota(uint64_t max_bytes, uint64_t max_inodes)
      : max_bytes_(max_bytes), max_inodes_(max_inodes) {}
  Result<void> Charge(uint64_t bytes) override;
  void Uncharge(uint64_t bytes) override { bytes_.fetch_sub(bytes); }
  Result<void> ChargeInode();
  void UnchargeInode() { inodes_.fetch_sub(1); }

  uint64_t max_bytes() const { return max_bytes_.load(); }
  uint64_t max_inodes() const { return max_inodes_; }
  uint64_t bytes() const { return bytes_.load(); }
  uint64_t inodes() const { return inodes_.load(); }

 private:
  std::atomic<uint64_t> max_bytes_;
  const uint64_t max_inodes_;
  std::atomic<uint64_t> bytes_{0}, inodes_{0};
};

class TmpFs final : public vfs::FileSystem {
 public:
  TmpFs(mm::MemoryFile& memory, const TmpFsOptions& wanted);
  ~TmpFs() override;

  const char* type_name() const override { return type_name_; }
  Result<vfs::StatFs> GetStatFs() override;
  Ref<vfs::Inode> RootInode() override;

  // A file without a name (memfd, O_TMPFILE of an overlay). mode: S_IFREG and permissions.
  Result<Ref<vfs::Inode>> NewFile(const vfs::Inode::NewNode& node);

  mm::MemoryFile& memory() { return memory_; }
  TmpQuota& quota() { return *quota_; }
  uint64_t NextIno() { return ++last_ino_; }

 private:
  mm::MemoryFile& memory_;
  const char* const type_name_;
  const Ref<TmpQuota> quota_;
  std::atomic<uint64_t> last_ino_{0};
  Ref<TmpInode> root_;
};

}  // namespace skep::fs
