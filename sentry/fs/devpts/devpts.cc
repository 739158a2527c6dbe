#include "sentry/fs/devpts/devpts.h"

#include <linux/magic.h>
#include <charconv>

#include "base/host_call.h"
#include "sentry/vfs/dentry_cache.h"
#include "sentry/vfs/file.h"
#include "sentry/vfs/listing_file.h"
#include "sentry/vfs/special_files.h"

namespace skep::fs {
namespace {

constexpr uint64_t kRootIno = 1, kPtmxIno = 2, kFirstPtyIno = 3;
constexpr uint32_t kPtmxMajor = 5, kPtmxMinor = 2, kPtyMajor = 136;
constexpr int kPtmxIndex = -1;

vfs::Timestamp Now() {
  const uint64_t ns = host::RealtimeNs();
  constexpr uint64_t kSecond = 1'000'000'000;
  return {.sec = static_cast<int64_t>(ns / kSecond), .nsec = static_cast<uint32_t>(ns % kSecond)};
}

// What root directory and device nodes have in common.
class DevptsInode : public vfs::Inode {
 public:
  DevptsInode(vfs::FileSystem& fs, uint64_t ino, uint32_t mode, uint32_t uid, uint32_t gid)
      : Inode(fs, ino, mode & S_IFMT) {
    attributes_.ino = ino;
    attributes_.dev_minor = fs.dev_minor();
    attributes_.mode = mode;
    attributes_.uid = uid;
    attributes_.gid = gid;
    attributes_.blksize = 1024;
    attributes_.atime = attributes_.mtime = attributes_.ctime = Now();
  }
  void SetDevice(uint32_t major, uint32_t minor) {
    MutexLock lock(mutex_);
    attributes_.rdev_major = major;
    attributes_.rdev_minor = minor;
  }

  Result<vfs::Attributes> GetAttributes() override {
    MutexLock lock(mutex_);
    return attributes_;
  }
  Result<void> SetAttributes(const vfs::AttributeChange& change) override {
    if (change.size) return Fail(EINVAL);
    MutexLock lock(mutex_);
    if (change.mode) attributes_.mode = (attributes_.mode & S_IFMT) | (*change.mode & 07777);
    if (change.uid) attributes_.uid = *change.uid;
    if (change.gid) attributes_.gid = *change.gid;
    if (change.atime) attributes_.atime = *change.atime;
    if (change.mtime) attributes_.mtime = *change.mtime;
    attributes_.ctime = Now();
    return {};
  }
  Result<Ref<vfs::File>> Open(vfs::Caller& caller, const vfs::Path& path, uint32_t flags) override {
    return vfs::OpenSpecial(*this, caller, path, flags);
  }

 private:
  Mutex mutex_{LockRank::kInode};
  vfs::Attributes attributes_ GUARDED_BY(mutex_);
};

// Positions: 0 ".", 1 "..", 2 ptmx, 3 + n: pty n.
class RootFile final : public vfs::ListingFile {
 public:
  RootFile(DevptsFs& fs, const vfs::Path& path, uint32_t flags)
      : ListingFile(path, flags), fs_(fs) {}
  Result<void> Sync(bool data_only) override { return File::Sync(data_only); }

 protected:
  Result<void> List(vfs::Caller&, uint64_t cookie, const vfs::DirSink& sink) override {
    for (const DevptsFs::Entry& entry : fs_.List()) {
      const uint64_t next = kFirstPtyIno + static_cast<uint64_t>(entry.index + 1);
      if (next <= cookie) continue;
      if (!sink({.name = entry.name,
                 .ino = entry.ino,
                 .type = vfs::DirEntryType(S_IFCHR),
                 .next_cookie = next})) {
        break;
      }
    }
    return {};
  }

 private:
  DevptsFs& fs_;
};

class DirectoryInode final : public DevptsInode {
 public:
  explicit DirectoryInode(DevptsFs& fs)
      : DevptsInode(fs, kRootIno, S_IFDIR | 0755, 0, 0), fs_(fs) {}
  Result<Ref<vfs::Inode>> Lookup(std::string_view name) override {
    Ref<vfs::Inode> found = fs_.Find(name);
    if (!found) return Fail(ENOENT);
    return found;
  }
  Result<Ref<vfs::File>> Open(vfs::Caller&, const vfs::Path& path, uint32_t flags) override {
    return Ref<vfs::File>(MakeRef<RootFile>(fs_, path, flags));
  }

 private:
  DevptsFs& fs_;
};

int IndexOf(std::string_view name) {
  int index = -1;
  const auto [end, error] = std::from_chars(name.data(), name.data() + name.size(), index);
  const bool whole = error == std::errc() && end == name.data() + name.size();
  return whole && std::to_string(index) == name ? index : -1;
}

}  // namespace

DevptsFs::DevptsFs(const DevptsOptions& wanted) : FileSystem(wanted.dev_minor), wanted_(wanted) {
  root_ = MakeRef<DirectoryInode>(*this);
  auto ptmx = MakeRef<DevptsInode>(*this, kPtmxIno, S_IFCHR | wanted.ptmx_mode, 0u, 0u);
  ptmx->SetDevice(kPtmxMajor, kPtmxMinor);
  ptmx_ = std::move(ptmx);
}

DevptsFs::~DevptsFs() { DropCache(); }

Result<vfs::StatFs> DevptsFs::GetStatFs() { return vfs::StatFs{.type = DEVPTS_SUPER_MAGIC}; }

Ref<vfs::Inode> DevptsFs::RootInode() { return root_; }

void DevptsFs::Add(int index, uint32_t uid, uint32_t gid) {
  const uint64_t ino = kFirstPtyIno + static_cast<uint64_t>(index);
  const uint32_t group = wanted_.set_gid ? wanted_.gid : gid;
  auto inode = MakeRef<DevptsInode>(*this, ino, S_IFCHR | wanted_.mode, uid, group);
  inode->SetDevice(kPtyMajor, static_cast<uint32_t>(index));
  MutexLock lock(mutex_);
  ptys_.insert_or_assign(index, std::move(inode));
}

void DevptsFs::Remove(int index) {
  Ref<vfs::Inode> removed;  // let go of without the lock
  MutexLock lock(mutex_);
  const auto found = ptys_.find(index);
  if (found == ptys_.end()) return;
  removed = std::move(found->second);
  ptys_.erase(found);
}

Ref<vfs::Inode> DevptsFs::Find(std::string_view name) {
  if (name == "ptmx") return ptmx_;
  const int index = IndexOf(name);
  MutexLock lock(mutex_);
  const auto found = ptys_.find(index);
  return found == ptys_.end() ? Ref<vfs::Inode>() : found->second;
}

std::vector<DevptsFs::Entry> DevptsFs::List() {
  std::vector<Entry> entries{{"ptmx", kPtmxIno, kPtmxIndex}};
  MutexLock lock(mutex_);
  for (const auto& [index, inode] : ptys_) {
    entries.push_back({std::to_string(index), inode->ino(), index});
  }
  return entries;
}

// A number may have been given away and taken again since it was looked up.
bool DevptsFs::Revalidate(vfs::Dentry& dentry) {
  if (!dentry.parent()) return true;
  return Find(dentry.name()) == dentry.inode();
}

Result<Ref<vfs::Dentry>> DevptsFs::DentryOf(int index) {
  const std::string name = std::to_string(index);
  const Ref<vfs::Dentry> parent = root();
  sched::SleepLockHold hold(root_->directory_lock());
  Ref<vfs::Inode> inode = Find(name);
  if (!inode) return Fail(ENOENT);
  Ref<vfs::Dentry> known = cache().Find(*parent, name);
  if (known && known->inode() == inode) return known;
  if (known) cache().Forget(*known);
  return cache().Add(parent, name, std::move(inode));
}

}  // namespace skep::fs
