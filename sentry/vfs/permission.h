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
// The owner, or CAP_FOWNER (Linux: inode_owner_or_capable).
bool IsOwnerOrCapable(const Attributes& attributes, const auth::Credentials& creds);
// What of S_ISUID and S_ISGID a file loses when its contents or owner change (Linux:
// setattr_should_drop_suidgid without the CAP_FSETID test).
uint32_t PrivilegeBits(const Attributes& attributes, const auth::Credentials& creds);
// Before a write to a regular file or its truncation: takes S_ISUID and S_ISGID away unless
// CAP_FSETID (Linux: file_remove_privs).
Result<void> RemovePrivileges(Inode& inode, const auth::Credentials& creds);

// Owner, group and mode of something new in a directory (Linux: inode_init_owner). `mode` has the
// type.
Inode::NewNode NewNodeIn(const Attributes& directory, const auth::Credentials& creds,
                         uint32_t mode);

// Whether a sticky directory keeps `creds` from removing `victim` (Linux: check_sticky).
bool StickyForbids(const Attributes& directory, const Attributes& victim,
                   const auth::Credentials& creds);

// RLIMIT_FSIZE for growing a file to `size`: EFBIG and SIGXFSZ.
Result<void> CheckFileSize(Caller& caller, uint64_t size);
// A write of `size` bytes at `offset`: how much of it the limit allows; EFBIG and SIGXFSZ if none.
Result<size_t> ClampToFileSize(Caller& caller, uint64_t offset, size_t size);

inline constexpr uint64_t kMaxFileSize = INT64_MAX;  // Linux: MAX_LFS_FILESIZE

}  // namespace skep::vfs
