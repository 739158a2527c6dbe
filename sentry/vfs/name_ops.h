// Path walks and the operations on names: what the *at system calls are made of
// (Linux: fs/namei.c).
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "sentry/vfs/fs_context.h"
#include "sentry/vfs/open_flags.h"
#include "sentry/vfs/path.h"

namespace skep::vfs {

enum class FollowFinal : bool { kNo, kYes };

// Where relative paths start, and how a walk may go.
struct WalkOptions {
  FollowFinal follow = FollowFinal::kYes;
  bool directory = false;   // the result must be a directory (O_DIRECTORY)
  bool empty_path = false;  // AT_EMPTY_PATH: "" is the start itself
  uint64_t resolve = 0;     // RESOLVE_* of openat2
};

// The parent directory of the last component, and that component ("." or ".." if it ends so).
struct Parent {
  Path directory;
  std::string name;
  bool trailing_slash = false;
};

// One task's view for one call: root, cwd, credentials. Cheap to make.
class NameOps {
 public:
  NameOps(Caller& caller, const FsContext& context);
  // `start` is used for relative paths (a directory descriptor's path); default: the cwd.
  NameOps(Caller& caller, const FsContext& context, Path start);

  Result<Path> Resolve(std::string_view path, const WalkOptions& options);
  Result<Parent> ResolveParent(std::string_view path, uint64_t resolve = 0);

  // Linux: path_openat with its order of checks: O_CREAT, O_EXCL, O_TRUNC, O_TMPFILE, O_PATH.
  Result<Ref<File>> Open(std::string_view path, const OpenFlags& open);
  // As open(2) judges what is asked for; the umask has been applied.
  Result<Ref<File>> Open(std::string_view path, const OpenHow& how);

  Result<void> Mknod(std::string_view path, uint32_t mode, uint32_t rdev_major,
                     uint32_t rdev_minor);
  // As Mknod, but gives back the new path (unix sockets bind to it).
  Result<Path> MakeNode(std::string_view path, uint32_t mode);
  Result<void> Mkdir(std::string_view path, uint32_t mode);
  Result<void> Rmdir(std::string_view path);
  Result<void> Unlink(std::string_view path);
  Result<void> Symlink(std::string_view target, std::string_view path);
  // `existing` was resolved by the caller (AT_SYMLINK_FOLLOW, AT_EMPTY_PATH are its business).
  Result<void> Link(const Path& existing, std::string_view new_path);
  Result<void> Rename(std::string_view path, NameOps& to, std::string_view new_path,
                      uint32_t flags);

  // Operations on a path already resolved; each checks permissions, read-only mounts, sticky bits.
  Result<void> Access(const Path& path, int mask, const auth::Credentials& creds);
  Result<void> Chmod(const Path& path, uint32_t mode);
  Result<void> Chown(const Path& path, std::optional<uint32_t> uid, std::optional<uint32_t> gid);
  // nullopt: UTIME_OMIT; `now`: times == NULL semantics of utimensat(2) for permission.
  Result<void> SetTimes(const Path& path, std::optional<Timestamp> atime,
                        std::optional<Timestamp> mtime, bool both_now);
  Result<void> Truncate(const Path& path, uint64_t size);
  Result<std::string> ReadLink(const Path& path);

  // Extended attributes. Names and sizes were checked by the caller (ERANGE, E2BIG).
  Result<std::string> GetXattr(const Path& path, std::string_view name);
  Result<void> SetXattr(const Path& path, std::string_view name, std::string_view value, int flags);
  Result<void> RemoveXattr(const Path& path, std::string_view name);
  Result<std::vector<std::string>> ListXattrs(const Path& path);

  // From now on permissions are those of `creds` (access(2): the real ids). They outlive the
  // walker.
  void ActAs(const auth::Credentials& creds) { creds_ = &creds; }
  const auth::Credentials& creds() const { return *creds_; }
  Caller& caller() { return caller_; }
  const FsContext& context() const { return context_; }

 private:
  friend class PathWalk;
  class NewName;
  Result<Ref<File>> OpenFound(const Path& path, const OpenFlags& open, bool created);
  Result<Ref<File>> OpenTemporary(std::string_view path, const OpenFlags& open);
  Result<Ref<File>> FinishOpen(const Path& path, const OpenFlags& open);
  Result<void> MayOpen(const Path& path, const OpenFlags& open);
  Result<Path> MakeAt(std::string_view path, uint32_t mode, uint32_t rdev_major,
                      uint32_t rdev_minor);

  Caller& caller_;
  const FsContext& context_;
  const auth::Credentials* creds_;
  Path start_;  // none: the cwd
};

// The absolute name of `path` as seen from `root` (none: from the top of its namespace) (getcwd,
// /proc/self/exe, maps); "(unreachable)" prefix and " (deleted)" suffix as Linux writes them.
std::string NameOf(const Path& path, const Path& root);

}  // namespace skep::vfs
