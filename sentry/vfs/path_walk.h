// PathWalk: one walk along one path, component by component (Linux: struct nameidata). NameOps's
// operations are made of it; nobody else needs it.
//
// A walk over cached names allocates nothing. A symlink on the way replaces the text by its target
// and what followed it.
#pragma once

#include <string>
#include <string_view>

#include "sentry/vfs/name_ops.h"

namespace skep::vfs {

enum class LastType : uint8_t { kNormal, kRoot, kDot, kDotDot };

class PathWalk {
 public:
  PathWalk(NameOps& walker, uint64_t resolve,
           Inode::LastName last_name = Inode::LastName::kLookedUp)
      : walker_(walker), resolve_(resolve), last_name_(last_name) {}

  // ENOENT for ""; ENAMETOOLONG.
  Result<void> Start(std::string_view path);
  // On to the directory of the last component (Linux: link_path_walk).
  Result<void> ToParent();
  // Whole: follows what is last. The path exists; a trailing slash means a directory.
  Result<Path> ToEnd(FollowFinal follow);

  // After ToParent:
  const Path& directory() const { return current_; }
  LastType last_type() const { return last_type_; }
  std::string_view last() const { return last_; }
  bool trailing_slash() const { return trailing_slash_; }

  // "." and ".." and "/" as last component: where they lead.
  Result<Path> FinishDots();
  // The last component in directory(); it may be negative.
  Result<Path> LookupLast();
  // `link` was found as last component: go on with its target (another ToParent), or, for a magic
  // link, the path it leads to.
  Result<std::optional<Path>> FollowLast(const Path& link);

 private:
  Result<Ref<Dentry>> Lookup(std::string_view name);
  Result<Ref<Dentry>> LookupSlow(std::string_view name);
  Result<Path> Child(std::string_view name);
  Result<void> Step(std::string_view name);
  Result<void> Up();
  Result<void> JumpToRoot();
  Result<std::optional<Path>> Follow(const Path& link, std::string_view rest);
  Result<Path> CrossMounts(Path path);
  const Path& Root();

  NameOps& walker_;
  const uint64_t resolve_;
  const Inode::LastName last_name_;
  Path current_;
  Path root_;              // fetched at first use
  std::string_view rest_;  // what is still to be walked
  std::string text_;       // behind rest_ once a link was followed
  std::string_view last_;
  LastType last_type_ = LastType::kRoot;
  bool trailing_slash_ = false;
  int links_ = 0;
};

// `name` in `directory`, whose directory lock is held: from the cache or the file system. The
// dentry may be negative.
Result<Ref<Dentry>> LookupLocked(const Ref<Dentry>& directory, std::string_view name);

}  // namespace skep::vfs
