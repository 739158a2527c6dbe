// Extended attributes (Linux: fs/xattr.c and the hooks of security/commoncap.c): the one place
// where it is judged who may read and change them.
#include <linux/capability.h>
#include <sys/xattr.h>

#include "sentry/auth/exec_credentials.h"
#include "sentry/vfs/name_ops.h"
#include "sentry/vfs/permission.h"

namespace skep::vfs {
namespace {

constexpr std::string_view kAclPrefix = "system.posix_acl_";
constexpr std::string_view kSecurityPrefix = "security.";
constexpr std::string_view kTrustedPrefix = "trusted.";
constexpr std::string_view kUserPrefix = "user.";

// Linux: cap_convert_nscap, cap_inode_setxattr, cap_inode_removexattr. Unlike Linux, an empty value
// of security.capability needs the capability too: it makes a program unusable.
Result<void> MayChangeSecurity(Inode& inode, std::string_view name, const std::string_view* value,
                               const auth::Credentials& creds) {
  const bool capabilities = name == auth::kFileCapabilitiesXattr;
  if (capabilities && value != nullptr && !value->empty() && !auth::IsFileCapabilities(*value)) {
    return Fail(EINVAL);
  }
  // No file system here is mounted from another user namespace than the first.
  if (!capabilities) return creds.HasInFirst(CAP_SYS_ADMIN) ? Result<void>() : Fail(EPERM);
  const Attributes attributes = TRY(inode.GetAttributes());
  return IsCapableOver(attributes, creds, CAP_SETFCAP) ? Result<void>() : Fail(EPERM);
}

// The namespaces whose rules Linux's vfs knows; the file system knows the rest.
Result<void> MayUseUser(Inode& inode, const auth::Credentials& creds, int mask) {
  const bool write = (mask & kMayWrite) != 0;
  if (inode.type() != S_IFREG && !inode.IsDir()) return Fail(write ? EPERM : ENODATA);
  if (write && inode.IsDir()) {
    const Attributes attributes = TRY(inode.GetAttributes());
    if ((attributes.mode & S_ISVTX) != 0 && !IsOwnerOrCapable(attributes, creds)) {
      return Fail(EPERM);
    }
  }
  return inode.CheckPermission(creds, mask);
}

Result<void> WantWrite(const Path& path) {
  if (path.mount && path.mount->read_only()) return Fail(EROFS);
  return {};
}

}  // namespace

Result<void> XattrPermission(Inode& inode, std::string_view name, const std::string_view* value,
                             const auth::Credentials& creds, int mask) {
  const bool write = (mask & kMayWrite) != 0;
  // As a file system without ACLs answers: nothing here would keep them and the mode in step.
  if (name.starts_with(kAclPrefix)) return Fail(EOPNOTSUPP);
  if (name.starts_with(kSecurityPrefix)) {
    return write ? MayChangeSecurity(inode, name, value, creds) : Result<void>();
  }
  if (name.starts_with("system.")) return {};
  if (name.starts_with(kTrustedPrefix)) {
    if (!creds.HasInFirst(CAP_SYS_ADMIN)) return Fail(write ? EPERM : ENODATA);
    return {};
  }
  if (name.starts_with(kUserPrefix)) return MayUseUser(inode, creds, mask);
  return inode.CheckPermission(creds, mask);
}

Result<std::string> NameOps::GetXattr(const Path& path, std::string_view name) {
  TRY(XattrPermission(*path.inode(), name, nullptr, creds(), kMayRead));
  std::string value = TRY(path.inode()->GetXattr(name));
  if (name != auth::kFileCapabilitiesXattr) return value;
  return auth::FileCapabilitiesShown(value, creds());
}

Result<void> NameOps::SetXattr(const Path& path, std::string_view name, std::string_view value,
                               int flags) {
  TRY(WantWrite(path));
  TRY(XattrPermission(*path.inode(), name, &value, creds(), kMayWrite));
  if (name == auth::kFileCapabilitiesXattr && !value.empty() && !creds().HasInFirst(CAP_SETFCAP)) {
    // They hold where the user is root, not in the first user namespace (Linux: cap_convert_nscap).
    const std::string stored = TRY(auth::FileCapabilitiesFor(value, creds()));
    return path.inode()->SetXattr(name, stored, flags);
  }
  return path.inode()->SetXattr(name, value, flags);
}

Result<void> NameOps::RemoveXattr(const Path& path, std::string_view name) {
  TRY(WantWrite(path));
  TRY(XattrPermission(*path.inode(), name, nullptr, creds(), kMayWrite));
  return path.inode()->RemoveXattr(name);
}

Result<std::vector<std::string>> NameOps::ListXattrs(const Path& path) {
  std::vector<std::string> names = TRY(path.inode()->ListXattrs());
  const bool trusted = creds().HasInFirst(CAP_SYS_ADMIN);
  std::erase_if(names, [&](const std::string& name) {
    return name.starts_with(kAclPrefix) || (!trusted && name.starts_with(kTrustedPrefix));
  });
  return names;
}

}  // namespace skep::vfs
