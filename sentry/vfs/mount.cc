#include "sentry/vfs/mount.h"

#include <sys/mount.h>
#include <algorithm>

namespace skep::vfs {

struct MountNamespace::State {
  std::vector<Ref<Mount>> mounts;  // in mount order; the first is the root
  int next_id = 1;
};

Mount::Mount(Ref<FileSystem> fs, Ref<Dentry> root, uint64_t flags, int id)
    : fs_(std::move(fs)), root_(std::move(root)), flags_(flags), id_(id) {}

Mount::~Mount() = default;

Path Mount::point() const {
  if (space_ == nullptr) return {};
  MutexLock lock(space_->mutex_);
  return Path(parent_, point_);
}

MountNamespace::MountNamespace(Ref<FileSystem> root, uint64_t flags) {
  state_ = std::make_unique<State>();
  Ref<Dentry> dentry = root->root();
  Ref<Mount> mount(new Mount(std::move(root), std::move(dentry), flags, state_->next_id++));
  mount->space_ = this;
  state_->mounts.push_back(std::move(mount));
}

MountNamespace::~MountNamespace() {
  std::vector<Path> points;
  while (!state_->mounts.empty()) {
    Ref<Mount> mount = std::move(state_->mounts.back());
    state_->mounts.pop_back();
    MutexLock lock(mutex_);
    mount->space_ = nullptr;
    if (mount->point_) mount->point_->mounts_here.fetch_sub(1);
    points.emplace_back(std::move(mount->parent_), std::move(mount->point_));
  }
}

Path MountNamespace::root() const {
  MutexLock lock(mutex_);
  const Ref<Mount>& first = state_->mounts.front();
  return Path(first, first->root_);
}

Result<Ref<Mount>> MountNamespace::Add(const Path& at, Ref<FileSystem> fs, uint64_t flags,
                                       Ref<Dentry> subtree) {
  const Path point = Cross(at);
  Ref<Dentry> root = subtree ? std::move(subtree) : fs->root();
  if (!point || root->negative()) return Fail(ENOENT);
  if (root->raw_inode()->IsDir() != point.inode()->IsDir()) return Fail(ENOTDIR);
  if (point.dentry->unlinked()) return Fail(ENOENT);
  MutexLock lock(mutex_);
  Ref<Mount> mount(new Mount(std::move(fs), std::move(root), flags, state_->next_id++));
  mount->space_ = this;
  mount->parent_ = point.mount;
  mount->point_ = point.dentry;
  mount->point_->mounts_here.fetch_add(1);
  state_->mounts.push_back(mount);
  return mount;
}

Result<void> MountNamespace::Remove(const Path& mount_root, int flags) {
  if (!mount_root.mount || mount_root.dentry != mount_root.mount->root_) return Fail(EINVAL);
  std::vector<Path> points;  // let go of outside the lock
  std::vector<Ref<Mount>> removed;
  MutexLock lock(mutex_);
  std::vector<Ref<Mount>>& mounts = state_->mounts;
  const auto it = std::find(mounts.begin(), mounts.end(), mount_root.mount);
  if (it == mounts.end() || it == mounts.begin()) return Fail(EINVAL);
  // References: the list's and the caller's one path. Files and mounts inside hold others.
  if ((flags & MNT_DETACH) == 0 && (*it)->RefCount() > 2) return Fail(EBUSY);
  // What is mounted inside goes, too (MNT_DETACH); a mount comes after its parent in the list.
  for (const Ref<Mount>& mount : mounts) {
    const bool inside = std::find(removed.begin(), removed.end(), mount->parent_) != removed.end();
    if (mount == mount_root.mount || inside) removed.push_back(mount);
  }
  for (const Ref<Mount>& mount : removed) {
    mount->point_->mounts_here.fetch_sub(1);
    points.emplace_back(std::move(mount->parent_), std::move(mount->point_));
    std::erase(mounts, mount);
  }
  return {};
}

Path MountNamespace::Cross(Path path) const {
  while (path && path.dentry->IsMountpoint()) {
    Path next;
    MutexLock lock(mutex_);
    for (const Ref<Mount>& mount : state_->mounts) {
      if (mount->point_ == path.dentry && mount->parent_ == path.mount) {
        next = Path(mount, mount->root_);
        break;
      }
    }
    if (!next) return path;
    // Neither lets go of its last reference here: the list holds the mounts above this one.
    std::swap(path, next);
  }
  return path;
}

std::vector<Ref<Mount>> MountNamespace::List() const {
  MutexLock lock(mutex_);
  return state_->mounts;
}

}  // namespace skep::vfs
