#include "sentry/vfs/name_ops.h"

#include "sentry/vfs/path_walk.h"

namespace skep::vfs {

NameOps::NameOps(Caller& caller, const FsContext& context)
    : caller_(caller), context_(context), creds_(&caller.creds()) {}

NameOps::NameOps(Caller& caller, const FsContext& context, Path start)
    : caller_(caller), context_(context), creds_(&caller.creds()), start_(std::move(start)) {}

Result<Path> NameOps::Resolve(std::string_view path, const WalkOptions& options) {
  if (path.empty() && options.empty_path) {
    Path start = start_ ? start_ : context_.cwd();
    if (options.directory && !start.inode()->IsDir()) return Fail(ENOTDIR);
    return start;
  }
  PathWalk walk(*this, options.resolve);
  TRY(walk.Start(path));
  Path found = TRY(walk.ToEnd(options.follow));
  if (options.directory && !found.inode()->IsDir()) return Fail(ENOTDIR);
  return found;
}

Result<Parent> NameOps::ResolveParent(std::string_view path, uint64_t resolve) {
  PathWalk walk(*this, resolve);
  TRY(walk.Start(path));
  TRY(walk.ToParent());
  const std::string_view name = walk.last().empty() ? std::string_view(".") : walk.last();
  return Parent{.directory = walk.directory(),
                .name = std::string(name),
                .trailing_slash = walk.trailing_slash()};
}

}  // namespace skep::vfs
