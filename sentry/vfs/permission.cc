#include "sentry/vfs/permission.h"

#include <linux/capability.h>
#include <algorithm>
#include <csignal>

namespace skep::vfs {

Result<void> GenericPermission(const Attributes& attributes, const auth::Credentials& creds,
                               int mask) {
  mask &= kMayRead | kMayWrite | kMayExec;
  const auto wanted = static_cast<uint32_t>(mask);
  uint32_t bits = attributes.mode;
  if (attributes.uid == creds.fsuid) {
    bits >>= 6;
  } else if (creds.InGroup(attributes.gid)) {
    bits >>= 3;
  }
  if ((wanted & ~bits) == 0 || CapabilitiesGrant(attributes, creds, mask)) return {};
  return Fail(EACCES);
}

bool CapabilitiesGrant(const Attributes& attributes, const auth::Credentials& creds, int mask) {
  mask &= kMayRead | kMayWrite | kMayExec;
  if (attributes.IsDir()) {
    if ((mask & kMayWrite) == 0 && IsCapableOver(attributes, creds, CAP_DAC_READ_SEARCH))
      return true;
    return IsCapableOver(attributes, creds, CAP_DAC_OVERRIDE);
  }
  if (mask == kMayRead && IsCapableOver(attributes, creds, CAP_DAC_READ_SEARCH)) return true;
  const bool executable = (attributes.mode & 0111) != 0;
  return ((mask & kMayExec) == 0 || executable) &&
         IsCapableOver(attributes, creds, CAP_DAC_OVERRIDE);
}

bool IsCapableOver(const Attributes& attributes, const auth::Credentials& creds, int capability) {
  return creds.HasOver(attributes.uid, attributes.gid, capability);
}

bool IsOwnerOrCapable(const Attributes& attributes, const auth::Credentials& creds) {
  if (attributes.uid == creds.fsuid) return true;
  return creds.HasInOwn(CAP_FOWNER) && creds.MapsUser(attributes.uid);
}

uint32_t PrivilegeBits(const Attributes& attributes, const auth::Credentials& creds) {
  uint32_t bits = attributes.mode & S_ISUID;
  if ((attributes.mode & S_ISGID) != 0) {
    const bool may_keep =
        creds.InGroup(attributes.gid) || IsCapableOver(attributes, creds, CAP_FSETID);
    if ((attributes.mode & S_IXGRP) != 0 || !may_keep) bits |= S_ISGID;
  }
  return bits;
}

Result<void> RemovePrivileges(Inode& inode, const auth::Credentials& creds) {
  if (inode.type() != S_IFREG) return {};
  TRY(inode.RemoveFileCapabilities());
  if (creds.HasInFirst(CAP_FSETID)) return {};
  const Attributes attributes = TRY(inode.GetAttributes());
  const uint32_t lost = PrivilegeBits(attributes, creds);
  if (lost == 0) return {};
  AttributeChange change;
  change.mode = attributes.mode & 07777 & ~lost;
  return inode.SetAttributes(change);
}

Inode::NewNode NewNodeIn(const Attributes& directory, const auth::Credentials& creds,
                         uint32_t mode) {
  Inode::NewNode node{.mode = mode, .uid = creds.fsuid, .gid = creds.fsgid};
  if ((directory.mode & S_ISGID) == 0) return node;
  node.gid = directory.gid;
  constexpr uint32_t kSetgidExec = S_ISGID | S_IXGRP;
  if ((mode & S_IFMT) == S_IFDIR) {
    node.mode |= S_ISGID;
  } else if ((mode & kSetgidExec) == kSetgidExec && !creds.InGroup(node.gid) &&
             !IsCapableOver(directory, creds, CAP_FSETID)) {
    node.mode &= ~uint32_t{S_ISGID};
  }
  return node;
}

bool StickyForbids(const Attributes& directory, const Attributes& victim,
                   const auth::Credentials& creds) {
  if ((directory.mode & S_ISVTX) == 0) return false;
  return victim.uid != creds.fsuid && directory.uid != creds.fsuid &&
         !IsCapableOver(victim, creds, CAP_FOWNER);
}

Result<void> CheckNewSize(Caller& caller, const Inode& inode, uint64_t old_size, uint64_t size) {
  if (size <= old_size) return {};
  if (size > caller.FileSizeLimit()) {
    caller.SignalSelf(SIGXFSZ);
    return Fail(EFBIG);
  }
  if (size > inode.fs().max_file_size()) return Fail(EFBIG);
  return {};
}

Result<size_t> ClampToFileSize(Caller& caller, const Inode& inode, uint64_t offset, size_t size) {
  if (size == 0) return size;
  const uint64_t limit = caller.FileSizeLimit();
  if (offset >= limit) {
    caller.SignalSelf(SIGXFSZ);
    return Fail(EFBIG);
  }
  const uint64_t max = inode.fs().max_file_size();
  if (offset >= max) return Fail(EFBIG);
  return std::min({uint64_t{size}, limit - offset, max - offset});
}

}  // namespace skep::vfs
