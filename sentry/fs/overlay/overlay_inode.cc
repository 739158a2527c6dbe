#include "sentry/fs/overlay/overlay_inode.h"

#include <fcntl.h>

#include "base/check.h"
#include "sentry/auth/exec_credentials.h"
#include "sentry/vfs/listing_file.h"
#include "sentry/vfs/special_files.h"

namespace skep::fs {
namespace {

constexpr std::string_view kPrivateXattrs = "trusted.overlay.";

bool IsPrivate(std::string_view name) { return name.starts_with(kPrivateXattrs); }

// A directory with an upper half: a merged listing, taken when reading begins.
class OverlayDirectoryFile final : public vfs::ListingFile {
 public:
  OverlayDirectoryFile(OverlayInode& inode, const vfs::Path& path, uint32_t flags)
      : ListingFile(path, flags), inode_(&inode) {}

 protected:
  Result<void> List(vfs::Caller& caller, uint64_t cookie, const vfs::DirSink& sink) override {
    sched::SleepLockHold hold(inode_->directory_lock());
    if (IsStart(cookie) || !listed_) entries_ = TRY(inode_->Entries(caller));
    listed_ = true;
    EmitSnapshot(entries_, cookie, sink);
    return {};
  }

 private:
  const Ref<OverlayInode> inode_;
  // Guarded by the directory lock.
  std::vector<OverlayInode::Entry> entries_;
  bool listed_ = false;
};

}  // namespace

KernelCaller::KernelCaller() { creds_.permitted = creds_.effective = auth::kAllCapabilities; }

mm::UserMemory& KernelCaller::memory() { CheckFailed(__FILE__, __LINE__, "no guest memory"); }

bool IsWhiteout(vfs::Inode& upper) {
  if (upper.type() != S_IFCHR) return false;
  const Result<vfs::Attributes> attributes = upper.GetAttributes();
  return attributes && attributes->rdev_major == 0 && attributes->rdev_minor == 0;
}

OverlayInode::OverlayInode(OverlayFs& fs, uint64_t ino, Ref<vfs::Inode> upper,
                           Ref<vfs::Inode> lower, Ref<OverlayInode> parent, std::string_view name)
    : Inode(fs, ino, (upper ? upper : lower)->type()),
      overlay_(fs),
      lower_(std::move(lower)),
      parent_(std::move(parent)),
      name_(name),
      upper_(std::move(upper)),
      upper_ptr_(upper_.get()) {}

// Parents that only this inode held go too: in a loop, since a guest chooses how deep they nest.
OverlayInode::~OverlayInode() {
  overlay_.OnDestroy(*this);
  Ref<OverlayInode> parent = std::move(parent_);
  while (parent) {
    Ref<OverlayInode> next = overlay_.TakeParentOfLast(*parent);
    parent = std::move(next);
  }
}

void OverlayInode::Pin() {
  MutexLock lock(pin_mutex_);
  if (!pin_) pin_ = Ref<OverlayInode>(this);
}

void OverlayInode::Unpin() {
  Ref<OverlayInode> pinned;
  MutexLock lock(pin_mutex_);
  std::swap(pinned, pin_);
}

Result<vfs::Attributes> OverlayInode::GetAttributes() {
  vfs::Attributes attributes = TRY(real().GetAttributes());
  attributes.ino = ino();
  attributes.dev_major = 0;
  attributes.dev_minor = overlay_.dev_minor();
  if (IsDir()) {
    if (lower_) attributes.nlink = 1;  // as overlayfs: nobody counts the merged ones
  } else if (lower_) {
    if (upper() != nullptr) {
      const vfs::Attributes below = TRY(lower_->GetAttributes());
      attributes.nlink = below.nlink;
    }
    const int links = static_cast<int>(attributes.nlink) + link_delta_.load();
    attributes.nlink = static_cast<uint32_t>(std::max(links, 0));
  }
  return attributes;
}

void OverlayInode::ChangeLinks(int delta) {
  if (!lower_ || IsDir()) return;
  link_delta_.fetch_add(delta);
  const Result<vfs::Attributes> attributes = GetAttributes();
  if (attributes && attributes->nlink == 0) Unpin();
}

Result<void> OverlayInode::SetAttributes(const vfs::AttributeChange& change) {
  TRY(CopyUp(change.size ? *change.size : kCopyAll));
  return upper()->SetAttributes(change);
}

Result<std::string> OverlayInode::ReadLink(vfs::Caller& caller) { return real().ReadLink(caller); }

Result<Ref<vfs::File>> OverlayInode::Open(vfs::Caller& caller, const vfs::Path& path,
                                          uint32_t flags) {
  if (IsDir()) {
    if (upper() == nullptr) return lower_->Open(caller, path, flags);
    return Ref<vfs::File>(MakeRef<OverlayDirectoryFile>(*this, path, flags));
  }
  if (type() != S_IFREG) return vfs::OpenSpecial(*this, caller, path, flags);
  if ((flags & O_ACCMODE) != O_RDONLY) TRY(CopyUp());
  // The file is that of the tree it lies in, under the overlay's name.
  return real().Open(caller, path, flags);
}

Result<std::string> OverlayInode::GetXattr(std::string_view name) {
  if (IsPrivate(name)) return Fail(ENODATA);
  return real().GetXattr(name);
}

Result<void> OverlayInode::SetXattr(std::string_view name, std::string_view value, int flags) {
  if (IsPrivate(name)) return Fail(EPERM);
  TRY(CopyUp());
  return upper()->SetXattr(name, value, flags);
}

Result<void> OverlayInode::RemoveXattr(std::string_view name) {
  if (IsPrivate(name)) return Fail(EPERM);
  TRY(real().GetXattr(name));  // ENODATA before any copy
  TRY(CopyUp());
  return upper()->RemoveXattr(name);
}

Result<std::vector<std::string>> OverlayInode::ListXattrs() {
  std::vector<std::string> names = TRY(real().ListXattrs());
  std::erase_if(names, [](const std::string& name) { return IsPrivate(name); });
  return names;
}

Result<std::string> OverlayInode::AccessAcl() {
  return lower_ ? lower_->AccessAcl() : upper()->AccessAcl();
}

// Called before the change that copies the file up.
Result<void> OverlayInode::RemoveFileCapabilities() {
  if (upper() == nullptr) {
    const Result<std::string> below = lower_->GetXattr(auth::kFileCapabilitiesXattr);
    if (!below || below->empty()) return {};
    TRY(CopyUp());
  }
  return upper()->RemoveFileCapabilities();
}

}  // namespace skep::fs
