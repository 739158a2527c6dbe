#include <sys/mount.h>
#include <algorithm>

#include "sentry/vfs/name_ops.h"

namespace skep::vfs {

// Linux: d_path, prepend_path.
std::string NameOf(const Path& path, const Path& root) {
  if (!path) return "";
  if (path.dentry->anonymous()) return path.dentry->name();
  std::vector<std::string> parts;
  Path at = path;
  bool reached = false;
  for (;;) {
    if (at == root) {
      reached = true;
      break;
    }
    if (at.mount && at.dentry == at.mount->root()) {
      Path point = at.mount->point();
      if (!point) break;
      at = std::move(point);
      continue;
    }
    Ref<Dentry> parent = at.dentry->parent();
    if (!parent) break;
    parts.push_back(at.dentry->name());
    at.dentry = std::move(parent);
  }
  std::string name = reached || !root ? "" : "(unreachable)";
  for (size_t i = parts.size(); i-- > 0;) {
    name += '/';
    name += parts[i];
  }
  if (parts.empty()) name += '/';
  if (path.dentry->unlinked()) name += " (deleted)";
  return name;
}

}  // namespace skep::vfs
