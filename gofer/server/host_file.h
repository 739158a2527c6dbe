// Host file calls of the gofer that base/ has no wrapper for: everything acts on a descriptor, or
// on one name directly in a directory descriptor, and follows nothing.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

#include "base/owned_fd.h"
#include "base/result.h"
#include "gofer/protocol/messages.h"

namespace skep::gofer {

// An inode as seen through one mount. While somebody holds the inode open it names only it.
struct FileIdentity {
  uint64_t dev = 0;
  uint64_t ino = 0;
  uint64_t mount = 0;
  friend bool operator==(const FileIdentity&, const FileIdentity&) = default;
};

struct FileInfo {
  FileIdentity identity;
  Attributes attributes;
  uint32_t type() const { return attributes.mode & 0170000; }
};

Result<FileInfo> StatFd(int fd);
// `name` is one valid component, so nothing but an entry of `dir` can be meant: no RESOLVE_ flag is
// needed. A symlink is itself.
Result<FileInfo> StatName(int dir, const std::string& name);

// openat2 of one component, beneath `dir`, following neither symlinks nor magic links.
Result<OwnedFd> OpenBeneath(int dir, const char* name, int flags, uint32_t mode = 0);
// An O_PATH descriptor of an entry of `dir`, whatever it is.
Result<OwnedFd> OpenPath(int dir, const std::string& name);

// A descriptor's name in /proc/self/fd.
struct FdName {
  explicit FdName(int fd);
  char text[12];
};

// The file that `fd` (an O_PATH descriptor) refers to, opened: through the private descriptor of
// /proc/self/fd, so it is exactly that inode, renamed or unlinked as it may be.
Result<OwnedFd> Reopen(int proc_fd, int fd, int flags);

Result<std::string> ReadLinkAt(int dir, const char* name);
Result<FsStatistics> StatfsFd(int fd);
// A file system that shows the host rather than files: proc, sysfs, cgroup and their like.
bool IsHostView(uint64_t fs_type);
// One whose calls may wait for more than a disk: a network, another process.
bool IsRemote(uint64_t fs_type);

}  // namespace skep::gofer
