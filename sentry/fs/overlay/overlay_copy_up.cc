// Copy-up (Linux: fs/overlayfs/copy_up.c).
#include <fcntl.h>
#include <algorithm>
#include <vector>

#include "base/check.h"
#include "sentry/fs/overlay/overlay_inode.h"

namespace skep::fs {
namespace {

constexpr size_t kCopyBuffer = 64 << 10;

vfs::Path PathTo(Ref<vfs::Inode> inode) {
  return vfs::Path({}, vfs::Dentry::MakeAnonymous(std::move(inode), ""));
}

Result<void> CopyData(const Ref<vfs::Inode>& from, const Ref<vfs::Inode>& to, uint64_t size) {
  KernelCaller kernel;
  const vfs::Path from_path = PathTo(from);
  const vfs::Path to_path = PathTo(to);
  const Ref<vfs::File> source = TRY(from->Open(kernel, from_path, O_RDONLY));
  const Ref<vfs::File> target = TRY(to->Open(kernel, to_path, O_RDWR));
  std::vector<std::byte> buffer(std::min<uint64_t>(size, kCopyBuffer));
  for (uint64_t at = 0; at < size;) {
    const size_t wanted = std::min<uint64_t>(buffer.size(), size - at);
    mm::IoSequence in = mm::IoSequence::FromKernel(std::span(buffer).first(wanted));
    const size_t got = TRY(source->Read(kernel, in, at));
    if (got == 0) break;
    for (size_t done = 0; done < got;) {
      const std::span<const std::byte> rest = std::span(buffer).subspan(done, got - done);
      mm::IoSequence out = mm::IoSequence::FromKernel(rest);
      uint64_t offset = at + done;
      const size_t written = TRY(target->Write(kernel, out, &offset));
      if (written == 0) return Fail(EIO);
      done += written;
    }
    at += got;
  }
  return {};
}

Result<void> CopyTimes(vfs::Inode& to, const vfs::Attributes& from) {
  vfs::AttributeChange change;
  change.atime = from.atime;
  change.mtime = from.mtime;
  return to.SetAttributes(change);
}

}  // namespace

// Attributes that the upper tree has no use for stay below.
void OverlayInode::CopyXattrs(vfs::Inode& to) {
  Result<std::vector<std::string>> names = lower_->ListXattrs();
  if (!names) return;
  for (const std::string& name : *names) {
    if (name.starts_with("trusted.overlay.")) continue;
    Result<std::string> value = lower_->GetXattr(name);
    if (value) (void)to.SetXattr(name, *value, 0);
  }
}

Result<Ref<vfs::Inode>> OverlayInode::MakeUpper(vfs::Inode& directory, const vfs::Attributes& from,
                                                uint64_t size) {
  const NewNode node{.mode = from.mode,
                     .uid = from.uid,
                     .gid = from.gid,
                     .rdev_major = from.rdev_major,
                     .rdev_minor = from.rdev_minor};
  if (IsSymlink()) {
    KernelCaller kernel;
    const std::string target = TRY(lower_->ReadLink(kernel));
    sched::SleepLockHold hold(directory.directory_lock());
    return directory.Symlink(name_, target, node);
  }
  if (type() != S_IFREG) {
    sched::SleepLockHold hold(directory.directory_lock());
    return directory.Create(name_, node);
  }
  // It gets its name when it is whole.
  Ref<vfs::Inode> made = TRY(directory.TemporaryFile(node));
  TRY(CopyData(lower_, made, std::min(size, from.size)));
  sched::SleepLockHold hold(directory.directory_lock());
  TRY(directory.Link(name_, *made));
  return made;
}

// The upper directory above exists.
Result<void> OverlayInode::CopyUpOne(uint64_t size) {
  sched::SleepLockHold hold(copy_lock_);
  if (upper() != nullptr) return {};
  CHECK(lower_ && parent_);
  vfs::Inode& directory = *parent_->upper();
  const vfs::Attributes around = TRY(directory.GetAttributes());
  const vfs::Attributes from = TRY(lower_->GetAttributes());
  Ref<vfs::Inode> made = TRY(MakeUpper(directory, from, size));
  CopyXattrs(*made);
  TRY(CopyTimes(*made, from));
  TRY(CopyTimes(directory, around));  // as if nothing had happened there
  upper_ = made;
  overlay_.NoteCopiedUp(*this, *made);
  Pin();
  upper_ptr_.store(made.get(), std::memory_order_release);
  lower_->SetSuperseded();
  return {};
}

Result<void> OverlayInode::CopyUp(uint64_t size) {
  if (upper() != nullptr) return {};
  std::vector<OverlayInode*> missing;  // this one first, the topmost last
  for (OverlayInode* at = this; at->upper() == nullptr; at = at->parent_.get()) {
    missing.push_back(at);
  }
  while (!missing.empty()) {
    OverlayInode* next = missing.back();
    missing.pop_back();
    TRY(next->CopyUpOne(next == this ? size : kCopyAll));
  }
  return {};
}

}  // namespace skep::fs
