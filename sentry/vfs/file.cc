#include "sentry/vfs/file.h"

#include <dirent.h>
#include <sys/epoll.h>
#include <sys/mount.h>

#include "sentry/vfs/locks.h"
#include "sentry/vfs/permission.h"

namespace skep::vfs {

File::~File() {
  Inode* inode = path_.inode();
  if (inode == nullptr) return;
  if (FileLocks* locks = inode->locks_or_null()) locks->ReleaseFile(*this);
  if (holds_write_access_) inode->DropWriteAccess();
  AllowWrites();
}

FileOwner File::owner() const {
  MutexLock lock(owner_mutex_);
  return owner_;
}

void File::SetOwner(FileOwner owner) {
  MutexLock lock(owner_mutex_);
  std::swap(owner_, owner);
}

Result<void> File::DenyWrites() {
  TRY(inode()->DenyWriteAccess());
  denies_writes_ = true;
  return {};
}

void File::AllowWrites() {
  if (denies_writes_.exchange(false)) inode()->AllowWriteAccess();
}

Result<size_t> File::Read(Caller&, mm::IoSequence&, uint64_t) { return Fail(EINVAL); }
Result<size_t> File::Write(Caller&, mm::IoSequence&, uint64_t*) { return Fail(EINVAL); }
Result<uint64_t> File::ReadDir(Caller&, uint64_t, const DirSink&) { return Fail(ENOTDIR); }

Result<uint64_t> File::Seek(int64_t offset, int whence) {
  if (!seekable()) return Fail(ESPIPE);
  int64_t base = 0;
  switch (whence) {
    case SEEK_SET:
      break;
    case SEEK_CUR:
      base = static_cast<int64_t>(position);
      break;
    case SEEK_END: {
      const Attributes attributes = TRY(inode()->GetAttributes());
      base = static_cast<int64_t>(attributes.size);
      break;
    }
    case SEEK_DATA:
    case SEEK_HOLE: {
      if (offset < 0) return Fail(ENXIO);
      const uint64_t found = TRY(FindData(static_cast<uint64_t>(offset), whence == SEEK_HOLE));
      position = found;
      return found;
    }
    default:
      return Fail(EINVAL);
  }
  int64_t target = 0;
  if (__builtin_add_overflow(base, offset, &target)) return Fail(EINVAL);  // Linux: it wraps
  if (target < 0 || static_cast<uint64_t>(target) > inode()->fs().max_file_size())
    return Fail(EINVAL);
  position = static_cast<uint64_t>(target);
  return position;
}

// Linux: generic_file_llseek: the file is data all through, with a hole at its end.
Result<uint64_t> File::FindData(uint64_t offset, bool hole) {
  const Attributes attributes = TRY(inode()->GetAttributes());
  if (offset >= attributes.size) return Fail(ENXIO);
  return hole ? attributes.size : offset;
}

Result<uint64_t> File::Ioctl(Caller&, uint64_t, uint64_t) { return Fail(ENOTTY); }
Result<Ref<mm::Mappable>> File::Mappable() { return Fail(ENODEV); }
Result<void> File::Truncate(Caller&, uint64_t) { return Fail(EINVAL); }
Result<void> File::Allocate(Caller&, int, uint64_t, uint64_t) { return Fail(EOPNOTSUPP); }
Result<void> File::Sync(bool) { return Fail(EINVAL); }

bool EmitDots(const File& directory, uint64_t* cookie, const DirSink& sink) {
  Inode& self = *directory.inode();
  if (*cookie == 0) {
    if (!sink({.name = ".", .ino = self.ino(), .type = DT_DIR, .next_cookie = 1})) return false;
    *cookie = 1;
  }
  if (*cookie == 1) {
    const Ref<Dentry> parent = directory.path().dentry->parent();
    const uint64_t ino = parent ? parent->raw_inode()->ino() : self.ino();
    if (!sink({.name = "..", .ino = ino, .type = DT_DIR, .next_cookie = 2})) return false;
    *cookie = 2;
  }
  return true;
}

bool NeedsAtime(const File& file, const Attributes& attributes) {
  constexpr int64_t kDay = 24 * 60 * 60;
  if ((file.flags() & O_NOATIME) != 0) return false;
  const Mount* mount = file.path().mount.get();
  if (mount != nullptr && (mount->flags() & (MS_NOATIME | MS_RDONLY)) != 0) return false;
  if (attributes.IsDir() && mount != nullptr && (mount->flags() & MS_NODIRATIME) != 0) return false;
  if (attributes.atime <= attributes.mtime || attributes.atime <= attributes.ctime) return true;
  return CurrentTime().sec - attributes.atime.sec >= kDay;
}

EventMask File::Poll(EventMask wanted) {
  return wanted & (EPOLLIN | EPOLLOUT | EPOLLRDNORM | EPOLLWRNORM);
}

}  // namespace skep::vfs
