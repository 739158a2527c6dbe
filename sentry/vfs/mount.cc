#include "sentry/vfs/mount.h"

#include <linux/capability.h>
#include <sys/mount.h>
#include <algorithm>
#include <unordered_map>
#include <utility>

namespace skep::vfs {

struct MountNamespace::State {
  // Where something is mounted: a mount and a dentry in it.
  using Place = std::pair<const Mount*, const Dentry*>;
  struct Hash {
    size_t operator()(const Place& place) const {
      return std::hash<const void*>()(place.first) * 31 + std::hash<const void*>()(place.second);
    }
  };
  std::vector<Ref<Mount>> mounts;  // in mount order; the first is the root
  std::unordered_map<Place, Mount*, Hash> at;
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

MountNamespace::MountNamespace(uint64_t number, Ref<auth::UserNamespace> owner)
    : number_(number), owner_(std::move(owner)), state_(std::make_unique<State>()) {}

MountNamespace::MountNamespace(Ref<FileSystem> root, uint64_t flags, uint64_t number,
                               Ref<auth::UserNamespace> owner)
    : MountNamespace(number, std::move(owner)) {
  Ref<Dentry> dentry = root->root();
  MutexLock lock(mutex_);
  Attach(Ref<Mount>(new Mount(std::move(root), std::move(dentry), flags, state_->next_id++)), {});
}

MountNamespace::~MountNamespace() {
  std::vector<Ref<Mount>> mounts;  // let go of outside the lock, as their points
  std::vector<Path> points;
  MutexLock lock(mutex_);
  mounts.swap(state_->mounts);
  for (const Ref<Mount>& mount : mounts) {
    mount->space_ = nullptr;
    if (mount->point_) mount->point_->mounts_here.fetch_sub(1);
    points.emplace_back(std::move(mount->parent_), std::move(mount->point_));
  }
}

// `point`: where; nothing for the root.
void MountNamespace::Attach(const Ref<Mount>& mount, const Path& point) {
  mount->space_ = this;
  if (point) {
    mount->parent_ = point.mount;
    mount->point_ = point.dentry;
    point.dentry->mounts_here.fetch_add(1);
    state_->at[{point.mount.get(), point.dentry.get()}] = mount.get();
  }
  state_->mounts.push_back(mount);
}

bool MountNamespace::MayChange(const auth::Credentials& creds) const {
  return creds.HasIn(owner_.get(), CAP_SYS_ADMIN);
}

Ref<MountNamespace> MountNamespace::Clone(uint64_t number, Ref<auth::UserNamespace> owner,
                                          std::span<Path* const> paths) const {
  Ref<MountNamespace> copy(new MountNamespace(number, std::move(owner)));
  std::vector<Path> old;  // let go of outside the lock
  std::unordered_map<const Mount*, Ref<Mount>> copies;
  MutexLock lock(mutex_);
  // Nobody else knows the copy yet, and two locks of one rank are not taken at once.
  const auto fill = [&]() NO_THREAD_SAFETY_ANALYSIS {
    for (const Ref<Mount>& mount : state_->mounts) {
      Ref<Mount> made(new Mount(mount->fs_, mount->root_, mount->flags(), copy->state_->next_id++));
      // A mount comes after its parent in the list.
      copy->Attach(made,
                   mount->point_ ? Path(copies.at(mount->parent_.get()), mount->point_) : Path());
      copies[mount.get()] = std::move(made);
    }
  };
  fill();
  for (Path* path : paths) {
    const auto found = copies.find(path->mount.get());
    if (found == copies.end()) continue;
    old.push_back(std::exchange(*path, Path(found->second, path->dentry)));
  }
  return copy;
}

Path MountNamespace::root() const {
  MutexLock lock(mutex_);
  const Ref<Mount>& first = state_->mounts.front();
  return Path(first, first->root_);
}

Result<Ref<Mount>> MountNamespace::Add(const Path& at, Ref<FileSystem> fs, uint64_t flags,
                                       Ref<Dentry> subtree) {
  Path point;
  Ref<Dentry> root = subtree ? std::move(subtree) : fs->root();
  if (!at || root->negative()) return Fail(ENOENT);
  MutexLock lock(mutex_);
  point = CrossLocked(at);
  if (root->raw_inode()->IsDir() != point.inode()->IsDir()) return Fail(ENOTDIR);
  if (point.dentry->unlinked()) return Fail(ENOENT);
  Ref<Mount> mount(new Mount(std::move(fs), std::move(root), flags, state_->next_id++));
  Attach(mount, point);
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
  // Mounts inside it go too (MNT_DETACH); a mount comes after its parent in the list.
  for (const Ref<Mount>& mount : mounts) {
    const bool inside = std::find(removed.begin(), removed.end(), mount->parent_) != removed.end();
    if (mount == mount_root.mount || inside) removed.push_back(mount);
  }
  for (const Ref<Mount>& mount : removed) {
    state_->at.erase({mount->parent_.get(), mount->point_.get()});
    mount->point_->mounts_here.fetch_sub(1);
    points.emplace_back(std::move(mount->parent_), std::move(mount->point_));
    std::erase(mounts, mount);
  }
  return {};
}

Path MountNamespace::Cross(Path path) const {
  if (!path || !path.dentry->IsMountpoint()) return path;
  MutexLock lock(mutex_);
  return CrossLocked(std::move(path));
}

// Lets go of no last reference: the list holds what is crossed, and that what is above it.
Path MountNamespace::CrossLocked(Path path) const {
  while (path && path.dentry->IsMountpoint()) {
    const auto found = state_->at.find({path.mount.get(), path.dentry.get()});
    if (found == state_->at.end()) break;
    path = Path(Ref<Mount>(found->second), found->second->root_);
  }
  return path;
}

std::vector<Ref<Mount>> MountNamespace::List() const {
  MutexLock lock(mutex_);
  return state_->mounts;
}

}  // namespace skep::vfs
