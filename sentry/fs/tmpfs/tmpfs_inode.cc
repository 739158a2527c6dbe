#include "sentry/fs/tmpfs/tmpfs_inode.h"

#include <sys/xattr.h>

#include "sentry/auth/exec_credentials.h"
#include "sentry/vfs/special_files.h"

namespace skep::fs {
namespace {

constexpr size_t kMaxXattrBytes = 256 << 10;  // of one inode, names and values

// Linux: xattr_resolve_name. EOPNOTSUPP for other namespaces, EINVAL for a bare prefix.
Result<void> CheckXattrName(std::string_view name) {
  for (const std::string_view prefix : {"user.", "trusted.", "security."}) {
    if (!name.starts_with(prefix)) continue;
    if (name.size() == prefix.size()) return Fail(EINVAL);
    return {};
  }
  return Fail(EOPNOTSUPP);
}

}  // namespace

TmpInode::TmpInode(TmpFs& fs, const NewNode& node, uint32_t nlink)
    : Inode(fs, fs.NextIno(), node.mode & S_IFMT), tmpfs_(fs), quota_(Ref<TmpQuota>(&fs.quota())) {
  attributes_.ino = ino();
  attributes_.dev_minor = fs.dev_minor();
  attributes_.mode = node.mode;
  attributes_.nlink = nlink;
  attributes_.uid = node.uid;
  attributes_.gid = node.gid;
  attributes_.rdev_major = node.rdev_major;
  attributes_.rdev_minor = node.rdev_minor;
  attributes_.atime = attributes_.mtime = attributes_.ctime = attributes_.btime =
      vfs::CurrentTime();
}

TmpInode::~TmpInode() { quota_->UnchargeInode(); }

Result<vfs::Attributes> TmpInode::GetAttributes() {
  vfs::Attributes attributes;
  {
    MutexLock lock(mutex_);
    attributes = attributes_;
  }
  attributes.size = Size();
  attributes.blocks = Blocks();
  return attributes;
}

bool TmpInode::HasPrivileges() {
  MutexLock lock(mutex_);
  return (attributes_.mode & (S_ISUID | S_ISGID)) != 0 || has_capabilities_;
}

Result<void> TmpInode::SetAttributes(const vfs::AttributeChange& change) {
  MutexLock lock(mutex_);
  attributes_.ctime = vfs::CurrentTime();
  if (change.mode) attributes_.mode = (attributes_.mode & S_IFMT) | (*change.mode & 07777);
  if (change.uid) attributes_.uid = *change.uid;
  if (change.gid) attributes_.gid = *change.gid;
  if (change.size) attributes_.mtime = attributes_.ctime;
  if (change.atime) attributes_.atime = *change.atime;
  if (change.mtime) attributes_.mtime = *change.mtime;
  return {};
}

Result<Ref<vfs::File>> TmpInode::Open(vfs::Caller& caller, const vfs::Path& path, uint32_t flags) {
  if (IsSymlink()) return Fail(ELOOP);
  return vfs::OpenSpecial(*this, caller, path, flags);
}

void TmpInode::ChangeLinks(int delta) {
  MutexLock lock(mutex_);
  attributes_.nlink = static_cast<uint32_t>(static_cast<int>(attributes_.nlink) + delta);
  attributes_.ctime = vfs::CurrentTime();
}

void TmpInode::TouchModified() {
  MutexLock lock(mutex_);
  attributes_.mtime = attributes_.ctime = vfs::CurrentTime();
}

void TmpInode::TouchChanged() {
  MutexLock lock(mutex_);
  attributes_.ctime = vfs::CurrentTime();
}

void TmpInode::TouchAccessed(const vfs::File& file) {
  MutexLock lock(mutex_);
  if (vfs::NeedsAtime(file, attributes_)) attributes_.atime = vfs::CurrentTime();
}

Result<std::string> TmpInode::GetXattr(std::string_view name) {
  TRY(CheckXattrName(name));
  MutexLock lock(mutex_);
  if (xattrs_ == nullptr) return Fail(ENODATA);
  const auto it = xattrs_->find(name);
  if (it == xattrs_->end()) return Fail(ENODATA);
  return it->second;
}

Result<void> TmpInode::SetXattr(std::string_view name, std::string_view value, int flags) {
  TRY(CheckXattrName(name));
  MutexLock lock(mutex_);
  if (xattrs_ == nullptr) xattrs_ = std::make_unique<Xattrs>();
  const auto it = xattrs_->find(name);
  if (it != xattrs_->end() && (flags & XATTR_CREATE) != 0) return Fail(EEXIST);
  if (it == xattrs_->end() && (flags & XATTR_REPLACE) != 0) return Fail(ENODATA);
  size_t total = name.size() + value.size();
  for (const auto& [other, text] : *xattrs_) {
    if (other != name) total += other.size() + text.size();
  }
  if (total > kMaxXattrBytes) return Fail(ENOSPC);
  xattrs_->insert_or_assign(std::string(name), std::string(value));
  // An empty value gives nothing, and Linux leaves it alone (cap_inode_need_killpriv).
  if (name == auth::kFileCapabilitiesXattr) has_capabilities_ = !value.empty();
  attributes_.ctime = vfs::CurrentTime();
  return {};
}

Result<void> TmpInode::RemoveXattr(std::string_view name) {
  TRY(CheckXattrName(name));
  MutexLock lock(mutex_);
  if (xattrs_ == nullptr) return Fail(ENODATA);
  const auto it = xattrs_->find(name);
  if (it == xattrs_->end()) return Fail(ENODATA);
  xattrs_->erase(it);
  if (name == auth::kFileCapabilitiesXattr) has_capabilities_ = false;
  attributes_.ctime = vfs::CurrentTime();
  return {};
}

Result<void> TmpInode::RemoveFileCapabilities() {
  MutexLock lock(mutex_);
  if (!has_capabilities_) return {};
  xattrs_->erase(std::string(auth::kFileCapabilitiesXattr));
  has_capabilities_ = false;
  attributes_.ctime = vfs::CurrentTime();
  return {};
}

Result<std::vector<std::string>> TmpInode::ListXattrs() {
  std::vector<std::string> names;
  MutexLock lock(mutex_);
  if (xattrs_ == nullptr) return names;
  for (const auto& [name, value] : *xattrs_) names.push_back(name);
  return names;
}

Result<std::string> TmpSymlink::ReadLink(vfs::Caller&) { return target_; }

}  // namespace skep::fs
