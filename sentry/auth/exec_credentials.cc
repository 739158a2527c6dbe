#include "sentry/auth/exec_credentials.h"

#include <linux/capability.h>
#include <linux/securebits.h>
#include <cstring>

namespace skep::auth {
namespace {

struct DiskFormat {
  uint32_t revision;
  size_t size;   // bytes
  size_t words;  // pairs of permitted and inheritable
};
constexpr DiskFormat kFormats[] = {{VFS_CAP_REVISION_1, XATTR_CAPS_SZ_1, VFS_CAP_U32_1},
                                   {VFS_CAP_REVISION_2, XATTR_CAPS_SZ_2, VFS_CAP_U32_2},
                                   {VFS_CAP_REVISION_3, XATTR_CAPS_SZ_3, VFS_CAP_U32_3}};

uint32_t WordAt(std::string_view value, size_t index) {
  uint32_t word = 0;
  memcpy(&word, value.data() + index * sizeof word, sizeof word);
  return word;  // little-endian, as the format has it
}

const DiskFormat* FormatOf(std::string_view value) {
  if (value.size() < sizeof(uint32_t)) return nullptr;
  const uint32_t revision = WordAt(value, 0) & VFS_CAP_REVISION_MASK;
  for (const DiskFormat& format : kFormats) {
    if (format.revision == revision && format.size == value.size()) return &format;
  }
  return nullptr;
}

constexpr size_t kRootId = 1 + 2 * size_t{VFS_CAP_U32_3};  // the word of format 3

// The root in whose user namespaces they hold, as the kernel numbers it.
uint32_t RootOf(std::string_view value, const DiskFormat& format) {
  return format.revision == VFS_CAP_REVISION_3 ? WordAt(value, kRootId) : 0;
}

// Linux: rootid_owns_currentns.
bool IsRootHere(uint32_t root, const Credentials& creds) {
  const UserNamespace* space = creds.user_namespace.get();
  for (; space != nullptr && space->parent() != nullptr; space = space->parent()) {
    if (space->users().FromKernel(root) == 0) return true;
  }
  return root == 0;
}

// The same capabilities with another root; 0: without one, in format 2.
std::string WithRoot(std::string_view value, uint32_t root) {
  std::string changed(value.substr(0, XATTR_CAPS_SZ_2));
  const uint32_t revision = root == 0 ? VFS_CAP_REVISION_2 : VFS_CAP_REVISION_3;
  const uint32_t magic = (WordAt(value, 0) & ~uint32_t{VFS_CAP_REVISION_MASK}) | revision;
  memcpy(changed.data(), &magic, sizeof magic);
  // SAFETY: the bytes of a word.
  if (root != 0) changed.append(reinterpret_cast<const char*>(&root), sizeof root);
  return changed;
}

// Linux: bprm_caps_from_vfs_caps.
Result<void> TakeFileCapabilities(const FileCapabilities& file, Credentials& creds) {
  creds.permitted = (creds.bounding & file.permitted) | (creds.inheritable & file.inheritable);
  if (file.effective && (file.permitted & ~creds.permitted) != 0) return Fail(EPERM);
  return {};
}

// Linux: handle_privileged_root. Whether the permitted capabilities take effect.
bool TakeRootCapabilities(const Credentials& old, bool has_file_capabilities, Credentials& creds) {
  if ((creds.securebits & SECBIT_NOROOT) != 0) return false;
  const uint32_t root = creds.KernelUser(0);
  const bool real = creds.uid == root;
  const bool effective = creds.euid == root;
  // A set-uid root program with capabilities of its own: those, for ordinary users.
  if (has_file_capabilities && effective && !real) return false;
  if (real || effective) creds.permitted = old.bounding | old.inheritable;
  return effective;
}

}  // namespace

bool IsFileCapabilities(std::string_view value) {
  const DiskFormat* format = FormatOf(value);
  return format != nullptr && format->revision != VFS_CAP_REVISION_1;
}

Result<std::optional<FileCapabilities>> ParseFileCapabilities(std::string_view value,
                                                              const Credentials& creds) {
  const DiskFormat* format = FormatOf(value);
  if (format == nullptr) return Fail(EINVAL);
  if (!IsRootHere(RootOf(value, *format), creds)) return std::optional<FileCapabilities>();
  FileCapabilities file;
  file.effective = (WordAt(value, 0) & VFS_CAP_FLAGS_EFFECTIVE) != 0;
  for (size_t i = 0; i < format->words; ++i) {
    file.permitted |= CapabilitySet{WordAt(value, 1 + 2 * i)} << 32 * i;
    file.inheritable |= CapabilitySet{WordAt(value, 2 + 2 * i)} << 32 * i;
  }
  file.permitted &= kAllCapabilities;
  file.inheritable &= kAllCapabilities;
  return std::optional<FileCapabilities>(file);
}

Result<std::string> FileCapabilitiesFor(std::string_view value, const Credentials& creds) {
  const DiskFormat* format = FormatOf(value);
  if (format == nullptr || format->revision == VFS_CAP_REVISION_1) return Fail(EINVAL);
  const uint32_t root = creds.KernelUser(RootOf(value, *format));
  if (root == kNoId) return Fail(EINVAL);
  return WithRoot(value, root);
}

Result<std::string> FileCapabilitiesShown(std::string_view value, const Credentials& creds) {
  const DiskFormat* format = FormatOf(value);
  if (format == nullptr || format->revision == VFS_CAP_REVISION_1) return Fail(EINVAL);
  const uint32_t root = RootOf(value, *format);
  if (creds.MapsUser(root) && creds.ShownUser(root) != 0) {
    return WithRoot(value, creds.ShownUser(root));
  }
  if (!IsRootHere(root, creds)) return Fail(EOVERFLOW);
  return WithRoot(value, 0);
}

Result<ExecCredentials> CredentialsForExec(const Credentials& old, const ExecFile& file,
                                           bool fs_shared) {
  ExecCredentials exec{.creds = old};
  Credentials& creds = exec.creds;
  if (!old.no_new_privs) {
    if (file.set_uid) creds.euid = *file.set_uid;
    if (file.set_gid) creds.egid = *file.set_gid;
    exec.clear_personality = file.set_uid || file.set_gid;
  }
  const bool has_capabilities = file.capabilities.has_value();
  creds.permitted = 0;
  if (has_capabilities) TRY(TakeFileCapabilities(*file.capabilities, creds));
  bool effective = has_capabilities && file.capabilities->effective;
  if (TakeRootCapabilities(old, has_capabilities, creds)) effective = true;

  const bool gained = (creds.permitted & ~old.permitted) != 0;
  if (gained) exec.clear_personality = true;
  const bool id_changed = creds.euid != old.euid || !old.InGroup(creds.egid);
  if ((id_changed || gained) && (fs_shared || old.no_new_privs)) {
    if (!old.HasInOwn(CAP_SETUID) || old.no_new_privs) {
      creds.euid = creds.uid;
      creds.egid = creds.gid;
    }
    creds.permitted &= old.permitted;
  }
  creds.suid = creds.fsuid = creds.euid;
  creds.sgid = creds.fsgid = creds.egid;
  if (has_capabilities || id_changed) creds.ambient = 0;
  creds.permitted |= creds.ambient;
  creds.effective = effective ? creds.permitted : creds.ambient;
  creds.keep_caps = false;
  const bool more_than_ambient = (creds.permitted & ~creds.ambient) != 0;
  exec.secure = id_changed || creds.euid != old.uid || creds.egid != old.gid ||
                (creds.uid != old.KernelUser(0) && (effective || more_than_ambient));
  return exec;
}

bool ChangesProtection(const Credentials& old, const Credentials& changed) {
  return old.euid != changed.euid || old.egid != changed.egid || old.fsuid != changed.fsuid ||
         old.fsgid != changed.fsgid || (changed.permitted & ~old.permitted) != 0;
}

}  // namespace skep::auth
