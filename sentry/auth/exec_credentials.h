// What execve(2) makes of a task's credentials (Linux: bprm_fill_uid, cap_bprm_creds_from_file), as
// a function of values.
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "base/result.h"
#include "sentry/auth/credentials.h"

namespace skep::auth {

// The extended attribute that carries a program's capabilities.
inline constexpr std::string_view kFileCapabilitiesXattr = "security.capability";

struct FileCapabilities {
  CapabilitySet permitted = 0, inheritable = 0;
  bool effective = false;
};
// EINVAL: not in one of the kernel's three formats (Linux: get_vfs_caps_from_disk). nullopt: they
// hold in user namespaces with another root only than those that `creds` is in.
Result<std::optional<FileCapabilities>> ParseFileCapabilities(std::string_view value,
                                                              const Credentials& creds);
// The value as it is stored for who is capable in a user namespace that is not the first: with
// that namespace's root in it (Linux: cap_convert_nscap). EINVAL: the root named has no number.
Result<std::string> FileCapabilitiesFor(std::string_view value, const Credentials& creds);
// What a stored value is for a reader (Linux: cap_inode_getsecurity). EOVERFLOW: it holds where
// another is root.
Result<std::string> FileCapabilitiesShown(std::string_view value, const Credentials& creds);
// Whether the value may be stored: formats 2 and 3 (Linux: validheader).
bool IsFileCapabilities(std::string_view value);

// What the program's file asks for. The mount permits it (no MS_NOSUID).
struct ExecFile {
  std::optional<uint32_t> set_uid, set_gid;  // its set-id bits
  std::optional<FileCapabilities> capabilities;
};

struct ExecCredentials {
  Credentials creds;
  bool secure = false;             // AT_SECURE: the program has privileges that its caller lacks
  bool clear_personality = false;  // PER_CLEAR_ON_SETID: flags that make attacks easier go
};
// `fs_shared`: another process shares the caller's root and working directory, so that the program
// gains nothing (Linux: LSM_UNSAFE_SHARE). EPERM: the file's capabilities take effect at once and
// not all of them can be had.
Result<ExecCredentials> CredentialsForExec(const Credentials& old, const ExecFile& file,
                                           bool fs_shared);

// Whether a change of credentials protects the process from those who were its equals: it is no
// longer dumpable and loses its parent death signal (Linux: commit_creds).
bool ChangesProtection(const Credentials& old, const Credentials& changed);

}  // namespace skep::auth
