#include <sys/mount.h>

#include "base/check.h"
#include "sentry/vfs/dentry_cache.h"
#include "sentry/vfs/path.h"
#include "sentry/vfs/special_files.h"

namespace skep::vfs {

Dentry::Dentry(FileSystem* fs, Ref<Inode> inode, Ref<Dentry> parent, std::string_view name,
               Kind kind)
    : fs_(fs), inode_(std::move(inode)), kind_(kind), parent_(std::move(parent)), name_(name) {}

Dentry::~Dentry() {
  DCHECK(mounts_here.load() == 0);
  if (parent_ || hashed_) fs_->cache().OnDestroy(*this);
}

Ref<Dentry> Dentry::MakeRoot(Ref<Inode> inode) {
  FileSystem* fs = &inode->fs();
  return Ref<Dentry>(new Dentry(fs, std::move(inode), {}, "/", Kind::kRoot));
}

Ref<Dentry> Dentry::MakeAnonymous(Ref<Inode> inode, std::string name) {
  FileSystem* fs = &inode->fs();
  return Ref<Dentry>(new Dentry(fs, std::move(inode), {}, name, Kind::kAnonymous));
}

Ref<Dentry> Dentry::MakeTemporary(Ref<Dentry> parent, Ref<Inode> inode) {
  FileSystem* fs = parent->fs();
  const std::string name = "#" + std::to_string(inode->ino());
  Ref<Dentry> made(new Dentry(fs, std::move(inode), std::move(parent), name, Kind::kNamed));
  made->unlinked_.store(true, std::memory_order_relaxed);
  return made;
}

Ref<Dentry> Dentry::parent() const {
  if (kind_ != Kind::kNamed) return {};
  MutexLock lock(fs_->cache().mutex());
  return parent_;
}

std::string Dentry::name() const {
  if (kind_ != Kind::kNamed) return name_;
  MutexLock lock(fs_->cache().mutex());
  return name_;
}

FileSystem::FileSystem(uint32_t dev_minor, size_t cached)
    : dev_minor_(dev_minor), cache_(std::make_unique<DentryCache>(cached)) {}

FileSystem::~FileSystem() = default;

void FileSystem::DropCache() { cache_->Shutdown(); }

Ref<Dentry> FileSystem::root() {
  {
    MutexLock lock(cache_->mutex_);
    if (cache_->root_) return cache_->root_;
  }
  Ref<Dentry> made = Dentry::MakeRoot(RootInode());
  MutexLock lock(cache_->mutex_);
  if (!cache_->root_) cache_->root_ = made;
  return cache_->root_;
}

bool Mount::read_only() const { return (flags() & MS_RDONLY) != 0; }

}  // namespace skep::vfs
