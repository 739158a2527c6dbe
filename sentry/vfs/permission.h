// Who may do what to an inode (Linux: generic_permission, setattr_prepare, check_sticky), as
// functions of attributes and credentials.
#pragma once

#include <cstdint>

#include "sentry/auth/credentials.h"
#include "sentry/vfs/path.h"
#include "sentry/vfs/types.h"

namespace skep::vfs {

// Mode bits, then CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH. EACCES.
Result<void> GenericPermission(const Attributes& attributes, const auth::Credentials& creds,
                               int mask);
// The part of it that capabilities decide.
bool CapabilitiesGrant(const Attributes& attributes, const auth::Credentials& creds, int mask);
// Whether an access ACL has a say in what `creds` may do: not for the owner, and not where the
// mask, which the group's mode bits then are, is empty (Linux: acl_permission_check).
bool MayHaveAcl(const Attributes& attributes, const auth::Credentials& creds);
// What an ACL (the value of system.posix_acl_access) says for others than the owner (Linux:
// posix_acl_permission); the mask and what others may do are those of the mode, as after chmod.
// EACCES, also for a value that is none.
Result<void> AclPermission(std::string_view acl, const Attributes& attributes,
                           const auth::Credentials& creds, int mask);
// Linux: capable_wrt_inode_uidgid.
bool IsCapableOver(const Attributes& attributes, const auth::Credentials& creds, int capability);
// The owner, or CAP_FOWNER where the owner has a name (Linux: inode_owner_or_capable).
bool IsOwnerOrCapable(const Attributes& attributes, const auth::Credentials& creds);
// What of S_ISUID and S_ISGID a file loses when its contents or owner change (Linux:
// setattr_should_drop_suidgid without the CAP_FSETID test).
uint32_t PrivilegeBits(const Attributes& attributes, const auth::Credentials& creds);
// Before a write to a regular file or its truncation: takes its capabilities away, and S_ISUID and
// S_ISGID unless CAP_FSETID (Linux: file_remove_privs).
Result<void> RemovePrivileges(Inode& inode, const auth::Credentials& creds);

// Whether `creds` may read or write (kMayRead, kMayWrite) the extended attribute `name` (Linux:
// xattr_permission, then cap_convert_nscap and cap_inode_setxattr or cap_inode_removexattr).
// `value`: what is to be stored; null: it is read or removed. EPERM, EACCES, ENODATA for a reader
// who may not know of it, EINVAL for capabilities in no known format, EOPNOTSUPP for POSIX ACLs.
Result<void> XattrPermission(Inode& inode, std::string_view name, const std::string_view* value,
                             const auth::Credentials& creds, int mask);

// Owner, group and mode of something new in a directory (Linux: inode_init_owner). `mode` has the
// type.
Inode::NewNode NewNodeIn(const Attributes& directory, const auth::Credentials& creds,
                         uint32_t mode);

// Whether a sticky directory keeps `creds` from removing `victim` (Linux: check_sticky).
bool StickyForbids(const Attributes& directory, const Attributes& victim,
                   const auth::Credentials& creds);

// RLIMIT_FSIZE and what the file system can hold (Linux: inode_newsize_ok), for a file that grows
// from `old_size` to `size`; one that does not grow may be as large as it is. EFBIG, also with
// SIGXFSZ.
Result<void> CheckNewSize(Caller& caller, const Inode& inode, uint64_t old_size, uint64_t size);
// A write of `size` bytes at `offset`: how much of it these limits allow (Linux:
// generic_write_checks); EFBIG, also with SIGXFSZ, if none.
Result<size_t> ClampToFileSize(Caller& caller, const Inode& inode, uint64_t offset, size_t size);

inline constexpr uint64_t kMaxFileSize = INT64_MAX;  // Linux: MAX_LFS_FILESIZE

}  // namespace skep::vfs
