#include "sentry/vfs/fs_context.h"

namespace skep::vfs {

FsContext::FsContext(Ref<MountNamespace> mounts, Path root, Path cwd, uint32_t umask)
    : mounts_(std::move(mounts)), root_(std::move(root)), cwd_(std::move(cwd)), umask_(umask) {}

Ref<FsContext> FsContext::Clone() const {
  MutexLock lock(mutex_);
  return MakeRef<FsContext>(mounts_, root_, cwd_, umask_);
}

Ref<FsContext> FsContext::CloneMounts(uint64_t number, Ref<auth::UserNamespace> owner) const {
  Path root, cwd;
  uint32_t umask = 0;
  {
    MutexLock lock(mutex_);
    root = root_, cwd = cwd_, umask = umask_;
  }
  Path* const moved[] = {&root, &cwd};
  Ref<MountNamespace> copy = mounts_->Clone(number, std::move(owner), moved);
  return MakeRef<FsContext>(std::move(copy), std::move(root), std::move(cwd), umask);
}

Path FsContext::root() const {
  MutexLock lock(mutex_);
  return root_;
}

Path FsContext::cwd() const {
  MutexLock lock(mutex_);
  return cwd_;
}

void FsContext::SetRoot(Path root) {
  MutexLock lock(mutex_);
  std::swap(root_.dentry, root.dentry);
  std::swap(root_.mount, root.mount);
}

void FsContext::SetCwd(Path cwd) {
  MutexLock lock(mutex_);
  std::swap(cwd_.dentry, cwd.dentry);
  std::swap(cwd_.mount, cwd.mount);
}

uint32_t FsContext::umask() const {
  MutexLock lock(mutex_);
  return umask_;
}

uint32_t FsContext::ExchangeUmask(uint32_t umask) {
  MutexLock lock(mutex_);
  return std::exchange(umask_, umask & 0777);
}

Ref<MountNamespace> FsContext::mounts() const { return mounts_; }

}  // namespace skep::vfs
