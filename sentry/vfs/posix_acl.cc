// POSIX access ACLs of a host's files: read, never written (Linux: fs/posix_acl.c).
#include <linux/posix_acl.h>
#include <linux/posix_acl_xattr.h>
#include <cstring>

#include "sentry/vfs/permission.h"

namespace skep::vfs {
namespace {

struct Entry {
  uint16_t tag, permissions;
  uint32_t id;
};
static_assert(sizeof(Entry) == sizeof(posix_acl_xattr_entry));

// Calls take(Entry) for each entry until it answers true. False: the value is no ACL.
template <class Take>
bool ForEachEntry(std::string_view acl, Take take) {
  uint32_t version = 0;
  if (acl.size() < sizeof version || (acl.size() - sizeof version) % sizeof(Entry) != 0) {
    return false;
  }
  memcpy(&version, acl.data(), sizeof version);
  if (version != POSIX_ACL_XATTR_VERSION) return false;
  for (size_t at = sizeof version; at < acl.size(); at += sizeof(Entry)) {
    Entry entry;
    memcpy(&entry, acl.data() + at, sizeof entry);
    if (take(entry)) return true;
  }
  return true;
}

}  // namespace

bool MayHaveAcl(const Attributes& attributes, const auth::Credentials& creds) {
  return attributes.uid != creds.fsuid && (attributes.mode & S_IRWXG) != 0 &&
         !attributes.IsSymlink();
}

Result<void> AclPermission(std::string_view acl, const Attributes& attributes,
                           const auth::Credentials& creds, int mask) {
  const auto wanted = static_cast<uint32_t>(mask & (kMayRead | kMayWrite | kMayExec));
  const uint32_t acl_mask = attributes.mode >> 3 & 7;
  const uint32_t other = attributes.mode & 7;
  bool named = false, in_group = false, granted = false;
  const bool valid = ForEachEntry(acl, [&](const Entry& entry) {
    const bool grants = (wanted & ~uint32_t{entry.permissions}) == 0;
    switch (entry.tag) {
      case ACL_USER:
        if (entry.id != creds.fsuid) return false;
        named = true;
        granted = grants;
        return true;
      case ACL_GROUP_OBJ:
      case ACL_GROUP:
        if (!creds.InGroup(entry.tag == ACL_GROUP ? entry.id : attributes.gid)) return false;
        in_group = true;
        granted = grants;
        return grants;
      default:
        return false;
    }
  });
  if (!valid) return Fail(EACCES);
  if (!named && !in_group) granted = (wanted & ~other) == 0;
  if ((named || in_group) && (wanted & ~acl_mask) != 0) granted = false;
  if (!granted) return Fail(EACCES);
  return {};
}

}  // namespace skep::vfs
