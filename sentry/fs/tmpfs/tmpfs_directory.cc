#include <dirent.h>
#include <linux/fs.h>

#include "base/check.h"
#include "sentry/fs/tmpfs/tmpfs_inode.h"
#include "sentry/vfs/listing_file.h"

namespace skep::fs {
namespace {

class TmpDirectoryFile final : public vfs::ListingFile {
 public:
  TmpDirectoryFile(TmpDirectory& directory, const vfs::Path& path, uint32_t flags)
      : ListingFile(path, flags), directory_(directory) {}

 protected:
  Result<void> List(vfs::Caller&, uint64_t cookie, const vfs::DirSink& sink) override {
    directory_.TouchAccessed(*this);
    sched::SleepLockHold hold(directory_.directory_lock());
    // A name that is added while somebody reads is seen at the next reading: no reading is endless.
    if (IsStart(cookie) || end_ == 0) end_ = directory_.next_cookie();
    const auto& entries = directory_.entries();
    for (auto it = entries.upper_bound(cookie); it != entries.end() && it->first < end_; ++it) {
      const TmpDirectory::Entry& entry = it->second;
      if (!sink({.name = entry.name,
                 .ino = entry.inode->ino(),
                 .type = vfs::DirEntryType(entry.inode->type()),
                 .next_cookie = it->first})) {
        break;
      }
    }
    return {};
  }

 private:
  TmpDirectory& directory_;
  uint64_t end_ = 0;  // guarded by the directory lock
};

}  // namespace

// Subtrees that nobody else holds go in a loop: a guest chooses how deep they nest.
TmpDirectory::~TmpDirectory() {
  std::vector<Ref<TmpInode>> doomed;
  const auto take = [&](TmpDirectory& directory) {
    directory.by_name_.clear();
    for (auto& [cookie, entry] : directory.entries_) doomed.push_back(std::move(entry.inode));
    directory.entries_.clear();
  };
  take(*this);
  while (!doomed.empty()) {
    Ref<TmpInode> inode = std::move(doomed.back());
    doomed.pop_back();
    if (inode && inode->IsDir() && inode->RefCount() == 1) {
      take(static_cast<TmpDirectory&>(*inode));
    }
    inode = {};
    if (HoldsNoMutex()) (void)sched::YieldIfLong();  // a whole tree may go with its mount
  }
}

Result<Ref<vfs::File>> TmpDirectory::Open(vfs::Caller&, const vfs::Path& path, uint32_t flags) {
  return Ref<vfs::File>(MakeRef<TmpDirectoryFile>(*this, path, flags));
}

Result<Ref<vfs::Inode>> TmpDirectory::Lookup(std::string_view name) {
  const auto it = by_name_.find(name);
  if (it == by_name_.end()) return Fail(ENOENT);
  return Ref<vfs::Inode>(entries_.at(it->second).inode);
}

void TmpDirectory::AddEntry(std::string_view name, Ref<TmpInode> inode) {
  const uint64_t cookie = next_cookie_++;
  Entry& entry = entries_[cookie];
  entry.name = name;
  entry.inode = std::move(inode);
  by_name_[entry.name] = cookie;
  entry_count_.fetch_add(1, std::memory_order_relaxed);
}

Ref<TmpInode> TmpDirectory::RemoveEntry(std::string_view name) {
  const auto it = by_name_.find(name);
  CHECK(it != by_name_.end());
  const auto entry = entries_.find(it->second);
  Ref<TmpInode> inode = std::move(entry->second.inode);
  by_name_.erase(it);
  entries_.erase(entry);
  entry_count_.fetch_sub(1, std::memory_order_relaxed);
  return inode;
}

void TmpDirectory::ReplaceEntry(std::string_view name, Ref<TmpInode> inode) {
  const auto it = by_name_.find(name);
  CHECK(it != by_name_.end());
  entries_.at(it->second).inode = std::move(inode);
}

Result<Ref<vfs::Inode>> TmpDirectory::AddNew(std::string_view name, Ref<TmpInode> inode) {
  if (inode->IsDir()) ChangeLinks(1);
  AddEntry(name, inode);
  TouchModified();
  return Ref<vfs::Inode>(std::move(inode));
}

Result<Ref<vfs::Inode>> TmpDirectory::Create(std::string_view name, const NewNode& node) {
  TRY(tmpfs().quota().ChargeInode());
  switch (node.mode & S_IFMT) {
    case S_IFREG:
      return AddNew(name, MakeRef<TmpRegular>(tmpfs(), node, 1u));
    case S_IFDIR:
      return AddNew(name, MakeRef<TmpDirectory>(tmpfs(), node));
    default:
      return AddNew(name, MakeRef<TmpSpecial>(tmpfs(), node));
  }
}

Result<Ref<vfs::Inode>> TmpDirectory::Symlink(std::string_view name, std::string_view target,
                                              const NewNode& node) {
  TRY(tmpfs().quota().ChargeInode());
  return AddNew(name, MakeRef<TmpSymlink>(tmpfs(), node, target));
}

Result<Ref<vfs::Inode>> TmpDirectory::TemporaryFile(const NewNode& node) {
  return tmpfs().NewFile(node);
}

Result<void> TmpDirectory::Link(std::string_view name, vfs::Inode& existing) {
  auto& inode = static_cast<TmpInode&>(existing);
  inode.ChangeLinks(1);
  AddEntry(name, Ref<TmpInode>(&inode));
  TouchModified();
  return {};
}

Result<void> TmpDirectory::Unlink(std::string_view name, vfs::Inode& victim) {
  const Ref<TmpInode> removed = RemoveEntry(name);
  CHECK(removed.get() == &victim);
  removed->ChangeLinks(-1);
  TouchModified();
  return {};
}

Result<void> TmpDirectory::Rmdir(std::string_view name, vfs::Inode& victim) {
  auto& directory = static_cast<TmpDirectory&>(victim);
  if (!directory.empty()) return Fail(ENOTEMPTY);
  const Ref<TmpInode> removed = RemoveEntry(name);
  directory.ChangeLinks(-2);
  ChangeLinks(-1);
  TouchModified();
  return {};
}

Result<void> TmpDirectory::ExchangeEntries(std::string_view name, TmpInode& moved,
                                           TmpDirectory& other, std::string_view other_name,
                                           TmpInode& target) {
  if (moved.IsDir() != target.IsDir() && this != &other) {
    const int to_other = moved.IsDir() ? 1 : -1;
    ChangeLinks(-to_other);
    other.ChangeLinks(to_other);
  }
  ReplaceEntry(name, Ref<TmpInode>(&target));
  other.ReplaceEntry(other_name, Ref<TmpInode>(&moved));
  target.TouchChanged();
  return {};
}

Result<void> TmpDirectory::Rename(std::string_view name, vfs::Inode& moved_inode,
                                  vfs::Inode& new_directory, std::string_view new_name,
                                  vfs::Inode* target_inode, uint32_t flags) {
  auto& moved = static_cast<TmpInode&>(moved_inode);
  auto& to = static_cast<TmpDirectory&>(new_directory);
  auto* target = static_cast<TmpInode*>(target_inode);
  if ((flags & RENAME_EXCHANGE) != 0) {
    TRY(ExchangeEntries(name, moved, to, new_name, *target));
  } else {
    if (target != nullptr && target->IsDir() && !static_cast<TmpDirectory*>(target)->empty()) {
      return Fail(ENOTEMPTY);
    }
    Ref<TmpInode> whiteout;
    if ((flags & RENAME_WHITEOUT) != 0) {
      TRY(tmpfs().quota().ChargeInode());
      whiteout = MakeRef<TmpSpecial>(tmpfs(), NewNode{.mode = S_IFCHR, .uid = 0, .gid = 0});
    }
    Ref<TmpInode> inode = RemoveEntry(name);
    CHECK(inode.get() == &moved);
    if (target != nullptr) {
      const Ref<TmpInode> replaced = to.RemoveEntry(new_name);
      replaced->ChangeLinks(replaced->IsDir() ? -2 : -1);
      if (replaced->IsDir()) to.ChangeLinks(-1);
    }
    to.AddEntry(new_name, std::move(inode));
    if (whiteout) AddEntry(name, std::move(whiteout));
    if (moved.IsDir() && this != &to) {
      ChangeLinks(-1);
      to.ChangeLinks(1);
    }
  }
  moved.TouchChanged();
  TouchModified();
  if (this != &to) to.TouchModified();
  return {};
}

}  // namespace skep::fs
