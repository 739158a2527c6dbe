// Inodes of TmpFs: one class for each kind. Internal to fs/tmpfs.
//
// A directory holds its children by Ref. Attributes are guarded by `mutex_`, a directory's entries
// by its directory lock and `mutex_` (so that either is enough to read them), contents of a regular
// file by `io_lock()` as mm::FilePages asks.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <unordered_map>

#include "sentry/fs/tmpfs/tmpfs.h"
#include "sentry/vfs/file.h"
#include "sentry/vfs/path.h"

namespace skep::fs {

class TmpInode : public vfs::Inode {
 public:
  TmpInode(TmpFs& fs, const NewNode& node, uint32_t nlink);
  ~TmpInode() override;

  Result<vfs::Attributes> GetAttributes() override;
  Result<void> SetAttributes(const vfs::AttributeChange& change) override;
  Result<Ref<vfs::File>> Open(vfs::Caller& caller, const vfs::Path& path, uint32_t flags) override;
  Result<std::string> GetXattr(std::string_view name) override;
  Result<void> SetXattr(std::string_view name, std::string_view value, int flags) override;
  Result<void> RemoveXattr(std::string_view name) override;
  Result<std::vector<std::string>> ListXattrs() override;
  Result<void> RemoveFileCapabilities() override;

  TmpFs& tmpfs() const { return tmpfs_; }
  // nlink += delta, and ctime.
  void ChangeLinks(int delta);
  void TouchModified();  // mtime and ctime
  void TouchChanged();   // ctime
  void TouchAccessed(const vfs::File& file);
  // Whether a write takes anything away: set-id bits or capabilities.
  bool HasPrivileges();

 protected:
  virtual uint64_t Size() { return 0; }  // under mutex_
  virtual uint64_t Blocks() { return 0; }

  Mutex mutex_{LockRank::kInode};

 private:
  using Xattrs = std::map<std::string, std::string, std::less<>>;
  TmpFs& tmpfs_;
  const Ref<TmpQuota> quota_;
  vfs::Attributes attributes_ GUARDED_BY(mutex_);  // without size and blocks
  std::unique_ptr<Xattrs> xattrs_ GUARDED_BY(mutex_);
  bool has_capabilities_ GUARDED_BY(mutex_) = false;  // xattrs_ has security.capability
};

class TmpRegular final : public TmpInode {
 public:
  TmpRegular(TmpFs& fs, const NewNode& node, uint32_t nlink);
  Result<void> SetAttributes(const vfs::AttributeChange& change) override;
  Result<Ref<vfs::File>> Open(vfs::Caller& caller, const vfs::Path& path, uint32_t flags) override;
  mm::FilePages& pages() { return *pages_; }
  sched::SleepLock& io_lock() { return io_lock_; }

 protected:
  uint64_t Size() override { return pages_->size(); }
  uint64_t Blocks() override { return pages_->BytesUsed() / 512; }

 private:
  const Ref<mm::FilePages> pages_;
  // tidy: allow(guards) the order of writes, and a size that does not change meanwhile (i_rwsem)
  sched::SleepLock io_lock_{LockRank::kInodeIo};
};

class TmpSymlink final : public TmpInode {
 public:
  TmpSymlink(TmpFs& fs, const NewNode& node, std::string_view target)
      : TmpInode(fs, node, 1), target_(target) {}
  Result<std::string> ReadLink(vfs::Caller& caller) override;

 protected:
  uint64_t Size() override { return target_.size(); }

 private:
  const std::string target_;
};

// FIFOs, sockets and devices: a name for something that other layers open.
class TmpSpecial final : public TmpInode {
 public:
  TmpSpecial(TmpFs& fs, const NewNode& node) : TmpInode(fs, node, 1) {}
};

class TmpDirectory final : public TmpInode {
 public:
  struct Entry {
    std::string name;
    Ref<TmpInode> inode;
  };

  TmpDirectory(TmpFs& fs, const NewNode& node) : TmpInode(fs, node, 2) {}
  ~TmpDirectory() override;

  Result<Ref<vfs::Inode>> Lookup(std::string_view name) override;
  Result<Ref<vfs::Inode>> Create(std::string_view name, const NewNode& node) override;
  Result<Ref<vfs::Inode>> Symlink(std::string_view name, std::string_view target,
                                  const NewNode& node) override;
  Result<void> Link(std::string_view name, vfs::Inode& existing) override;
  Result<void> Unlink(std::string_view name, vfs::Inode& victim) override;
  Result<void> Rmdir(std::string_view name, vfs::Inode& victim) override;
  Result<void> Rename(std::string_view name, vfs::Inode& moved, vfs::Inode& new_directory,
                      std::string_view new_name, vfs::Inode* target, uint32_t flags) override;
  Result<Ref<vfs::Inode>> TemporaryFile(const NewNode& node) override;
  Result<Ref<vfs::File>> Open(vfs::Caller& caller, const vfs::Path& path, uint32_t flags) override;

  bool empty() const { return entries_.empty(); }
  // By cookie: position in the order of creation, so that it stays what it is whatever else comes
  // and goes. Under the directory lock.
  const std::map<uint64_t, Entry>& entries() const { return entries_; }
  uint64_t next_cookie() const { return next_cookie_; }

 protected:
  uint64_t Size() override { return (2 + entry_count_) * 20; }  // Linux: BOGO_DIRENT_SIZE

 private:
  void AddEntry(std::string_view name, Ref<TmpInode> inode);
  Ref<TmpInode> RemoveEntry(std::string_view name);
  void ReplaceEntry(std::string_view name, Ref<TmpInode> inode);
  Result<void> ExchangeEntries(std::string_view name, TmpInode& moved, TmpDirectory& other,
                               std::string_view other_name, TmpInode& target);
  Result<Ref<vfs::Inode>> AddNew(std::string_view name, Ref<TmpInode> inode);

  std::map<uint64_t, Entry> entries_;
  std::unordered_map<std::string_view, uint64_t> by_name_;  // the names are those of entries_
  uint64_t next_cookie_ = vfs::kFirstEntryCookie;
  std::atomic<uint64_t> entry_count_{0};
};

}  // namespace skep::fs
