// OverlayInode: what an OverlayFs shows for an upper inode, a lower one, or both. Internal to
// fs/overlay.
//
// Locks: the overlay directory's lock (held by the vfs), then copy_lock_, then the directory lock
// of an upper directory, which guards each use of its entries.
//
// An inode that was copied up is pinned while it has a name: it alone knows where it came from, and
// so its st_ino and, with several names in the lower tree, its contents.
#pragma once

#include <atomic>
#include <string>

#include "sentry/fs/overlay/overlay_fs.h"
#include "sentry/vfs/file.h"
#include "sentry/vfs/path.h"

namespace skep::fs {

inline constexpr uint64_t kUpperInoBase = uint64_t{1} << 48;  // beyond what lower trees use
inline constexpr uint64_t kCopyAll = ~uint64_t{0};

bool IsWhiteout(vfs::Inode& upper);

class OverlayInode final : public vfs::Inode {
 public:
  OverlayInode(OverlayFs& fs, uint64_t ino, Ref<vfs::Inode> upper, Ref<vfs::Inode> lower,
               Ref<OverlayInode> parent, std::string_view name);
  ~OverlayInode() override;

  Result<vfs::Attributes> GetAttributes() override;
  Result<void> SetAttributes(const vfs::AttributeChange& change) override;
  Result<Ref<vfs::Inode>> Lookup(std::string_view name) override;
  void PrefetchWalk(std::span<const std::string_view> names, LastName last) override;
  Result<Ref<vfs::Inode>> Create(std::string_view name, const NewNode& node) override;
  Result<Ref<vfs::Inode>> Symlink(std::string_view name, std::string_view target,
                                  const NewNode& node) override;
  Result<void> Link(std::string_view name, vfs::Inode& existing) override;
  Result<void> Unlink(std::string_view name, vfs::Inode& victim) override;
  Result<void> Rmdir(std::string_view name, vfs::Inode& victim) override;
  Result<void> Rename(std::string_view name, vfs::Inode& moved, vfs::Inode& new_directory,
                      std::string_view new_name, vfs::Inode* target, uint32_t flags) override;
  Result<Ref<vfs::Inode>> TemporaryFile(const NewNode& node) override;
  Result<std::string> ReadLink(vfs::Caller& caller) override;
  Result<Ref<vfs::File>> Open(vfs::Caller& caller, const vfs::Path& path, uint32_t flags) override;
  Result<std::string> GetXattr(std::string_view name) override;
  Result<void> SetXattr(std::string_view name, std::string_view value, int flags) override;
  Result<void> RemoveXattr(std::string_view name) override;
  Result<std::vector<std::string>> ListXattrs() override;
  // The lower file's also when it has been copied up: the copy has its owner, group and mode, which
  // chmod changes as it does an ACL's.
  Result<std::string> AccessAcl() override;
  Result<void> RemoveFileCapabilities() override;

  OverlayFs& overlay() const { return overlay_; }
  // Once there is an upper inode it stays the same one.
  vfs::Inode* upper() const { return upper_ptr_.load(std::memory_order_acquire); }
  vfs::Inode* lower() const { return lower_.get(); }
  vfs::Inode& real() const { return upper() != nullptr ? *upper() : *lower_; }
  // A directory that shows names of a lower one.
  bool HasLowerNames() const { return IsDir() && lower_; }

  // Makes sure that there is an upper inode, and upper directories above it (Linux: ovl_copy_up).
  // At most `size` bytes of a regular file are copied.
  Result<void> CopyUp(uint64_t size = kCopyAll);

  struct Entry {
    std::string name;
    uint64_t ino;
    uint8_t type;  // DT_*
  };
  // The merged names, without "." and "..". Under the directory lock.
  Result<std::vector<Entry>> Entries(vfs::Caller& caller);

  void Pin();
  void Unpin();

 private:
  friend class OverlayFs;
  Result<void> CopyUpOne(uint64_t size);
  Result<Ref<vfs::Inode>> MakeUpper(vfs::Inode& directory, const vfs::Attributes& from,
                                    uint64_t size);
  void CopyXattrs(vfs::Inode& to);
  void ChangeLinks(int delta);

  // For a directory with an upper half:
  Result<Ref<vfs::Inode>> UpperEntry(std::string_view name);
  bool LowerHas(std::string_view name);
  Result<bool> RemoveWhiteout(std::string_view name);
  Result<void> AddWhiteout(std::string_view name);
  Result<void> ClearWhiteouts();
  Result<bool> IsEmpty();
  Result<void> HaveUpperName(std::string_view name, OverlayInode& inode);
  Result<Ref<vfs::Inode>> FinishCreate(std::string_view name, Ref<vfs::Inode> made,
                                       bool was_whiteout);
  Result<void> CheckRename(OverlayInode& moved, OverlayInode* target, uint32_t flags) const;
  Result<void> MoveUpper(std::string_view name, OverlayInode& moved, OverlayInode& to,
                         std::string_view new_name, OverlayInode* target, uint32_t flags);

  OverlayFs& overlay_;
  const Ref<vfs::Inode> lower_;  // of a directory: null if an opaque upper one hides it
  Ref<OverlayInode> parent_;     // where a copy of lower_ belongs; constant until destroyed
  const std::string name_;
  sched::SleepLock copy_lock_{LockRank::kDirectory};
  Ref<vfs::Inode> upper_ GUARDED_BY(copy_lock_);  // set once; read through upper_ptr_
  std::atomic<vfs::Inode*> upper_ptr_{nullptr};
  std::atomic<int> link_delta_{0};  // names made less names removed, of an inode with lower_
  Mutex pin_mutex_{LockRank::kInode};
  Ref<OverlayInode> pin_ GUARDED_BY(pin_mutex_);  // itself
};

// For reading and writing inodes on the kernel's own behalf.
class KernelCaller final : public vfs::Caller {
 public:
  KernelCaller();
  const auth::Credentials& creds() const override { return creds_; }
  mm::UserMemory& memory() override;  // CHECKs: there is none
  void SignalSelf(int) override {}
  uint64_t FileSizeLimit() const override { return ~uint64_t{0}; }

 private:
  auth::Credentials creds_;
};

}  // namespace skep::fs
