#include <linux/capability.h>

#include "base/check.h"
#include "base/host_call.h"
#include "sentry/vfs/file.h"
#include "sentry/vfs/locks.h"
#include "sentry/vfs/path.h"
#include "sentry/vfs/permission.h"
#include "sentry/vfs/special_files.h"

namespace skep::vfs {

Timestamp CurrentTime() {
  const uint64_t ns = host::RealtimeNs();
  return {.sec = static_cast<int64_t>(ns / 1'000'000'000),
          .nsec = static_cast<uint32_t>(ns % 1'000'000'000)};
}

Inode::Inode(FileSystem& fs, uint64_t ino, uint32_t type) : fs_(fs), ino_(ino), type_(type) {}

Inode::~Inode() { const std::unique_ptr<FileLocks> locks(locks_.load(std::memory_order_acquire)); }

Result<void> Inode::SetAttributes(const AttributeChange&) { return Fail(EPERM); }

Result<Ref<Inode>> Inode::Lookup(std::string_view) { return Fail(IsDir() ? ENOENT : ENOTDIR); }

// As Linux's vfs answers where a file system has no such operation.
Result<Ref<Inode>> Inode::Create(std::string_view, const NewNode& node) {
  return Fail((node.mode & S_IFMT) == S_IFREG ? EACCES : EPERM);
}
Result<Ref<Inode>> Inode::Symlink(std::string_view, std::string_view, const NewNode&) {
  return Fail(EPERM);
}
Result<void> Inode::Link(std::string_view, Inode&) { return Fail(EPERM); }
Result<void> Inode::Unlink(std::string_view, Inode&) { return Fail(EPERM); }
Result<void> Inode::Rmdir(std::string_view, Inode&) { return Fail(EPERM); }
Result<void> Inode::Rename(std::string_view, Inode&, Inode&, std::string_view, Inode*, uint32_t) {
  return Fail(EPERM);
}
Result<Ref<Inode>> Inode::TemporaryFile(const NewNode&) { return Fail(EOPNOTSUPP); }

Result<std::string> Inode::ReadLink(Caller&) { return Fail(EINVAL); }
Result<std::optional<Path>> Inode::FollowMagic(Caller&) { return std::optional<Path>(); }

Result<std::string> Inode::GetXattr(std::string_view) { return Fail(EOPNOTSUPP); }
Result<void> Inode::SetXattr(std::string_view, std::string_view, int) { return Fail(EOPNOTSUPP); }
Result<void> Inode::RemoveXattr(std::string_view) { return Fail(EOPNOTSUPP); }
Result<std::vector<std::string>> Inode::ListXattrs() { return std::vector<std::string>(); }
Result<std::string> Inode::AccessAcl() { return std::string(); }
Result<void> Inode::RemoveFileCapabilities() { return {}; }

Result<void> Inode::CheckPermission(const auth::Credentials& creds, int mask) {
  // The answer for a privileged search, whatever the mode is.
  if (IsDir() && (mask & kMayWrite) == 0 && creds.HasInFirst(CAP_DAC_READ_SEARCH)) return {};
  const Attributes attributes = TRY(GetAttributes());
  const Result<void> by_mode = GenericPermission(attributes, creds, mask);
  if (!MayHaveAcl(attributes, creds) || CapabilitiesGrant(attributes, creds, mask)) return by_mode;
  const std::string acl = TRY(AccessAcl());
  return acl.empty() ? by_mode : AclPermission(acl, attributes, creds, mask);
}

FileLocks& Inode::locks() {
  FileLocks* existing = locks_.load(std::memory_order_acquire);
  if (existing != nullptr) return *existing;
  auto made = std::make_unique<FileLocks>();
  if (locks_.compare_exchange_strong(existing, made.get(), std::memory_order_acq_rel)) {
    return *made.release();
  }
  return *existing;
}

FileLocks* Inode::locks_or_null() const { return locks_.load(std::memory_order_acquire); }

Result<void> Inode::TakeWriteAccess() {
  int old = writers_.load(std::memory_order_relaxed);
  do {
    if (old < 0) return Fail(ETXTBSY);
  } while (!writers_.compare_exchange_weak(old, old + 1));
  return {};
}

void Inode::DropWriteAccess() { writers_.fetch_sub(1); }

Result<void> Inode::DenyWriteAccess() {
  int old = writers_.load(std::memory_order_relaxed);
  do {
    if (old > 0) return Fail(ETXTBSY);
  } while (!writers_.compare_exchange_weak(old, old - 1));
  return {};
}

void Inode::AllowWriteAccess() { writers_.fetch_add(1); }

Ref<RefCountedAny> Inode::attached() const {
  MutexLock lock(mutex_);
  return attachment_;
}

void Inode::SetAttachment(Ref<RefCountedAny> object) {
  MutexLock lock(mutex_);
  std::swap(attachment_, object);
}

Result<Ref<File>> OpenSpecial(Inode& inode, Caller& caller, const Path& path, uint32_t flags) {
  SpecialFiles* special = inode.fs().special_files.get();
  if (special == nullptr || inode.type() == S_IFSOCK) return Fail(ENXIO);
  if (inode.type() == S_IFIFO) return special->OpenFifo(inode, caller, path, flags);
  if (inode.type() != S_IFCHR && inode.type() != S_IFBLK) return Fail(ENXIO);
  const Attributes attributes = TRY(inode.GetAttributes());
  return special->OpenDevice(inode.type(), attributes.rdev_major, attributes.rdev_minor, caller,
                             path, flags);
}

}  // namespace skep::vfs
