#include "sentry/vfs/path_walk.h"

#include <linux/openat2.h>
#include <sys/mount.h>
#include <vector>

#include "base/limits.h"
#include "sentry/vfs/dentry_cache.h"

namespace skep::vfs {
namespace {

constexpr uint64_t kScoped = RESOLVE_BENEATH | RESOLVE_IN_ROOT;

size_t SlashCount(std::string_view text) {
  size_t n = 0;
  while (n < text.size() && text[n] == '/') n++;
  return n;
}

}  // namespace

const Path& PathWalk::Root() {
  if (!root_) root_ = walker_.context_.root();
  return root_;
}

Result<Path> PathWalk::CrossMounts(Path path) {
  if (!path.dentry->IsMountpoint()) return path;
  Path crossed = walker_.context_.mounts()->Cross(path);
  if ((resolve_ & RESOLVE_NO_XDEV) != 0 && crossed.mount != path.mount) return Fail(EXDEV);
  return crossed;
}

Result<void> PathWalk::JumpToRoot() {
  if ((resolve_ & RESOLVE_BENEATH) != 0) return Fail(EXDEV);
  if ((resolve_ & RESOLVE_NO_XDEV) != 0 && current_ && current_.mount != Root().mount) {
    return Fail(EXDEV);
  }
  current_ = Root();
  return {};
}

Result<void> PathWalk::Start(std::string_view path) {
  if (path.empty()) return Fail(ENOENT);
  if (path.size() >= kPathMax) return Fail(ENAMETOOLONG);
  rest_ = path;
  const bool absolute = path[0] == '/';
  if (!absolute || (resolve_ & kScoped) != 0) {
    current_ = walker_.start_ ? walker_.start_ : walker_.context_.cwd();
    if (!current_.inode()->IsDir()) return Fail(ENOTDIR);
    if ((resolve_ & kScoped) != 0) root_ = current_;
  }
  if (!absolute) return {};
  if ((resolve_ & RESOLVE_BENEATH) != 0) return Fail(EXDEV);
  current_ = Root();
  return {};
}

Result<void> PathWalk::ToParent() {
  const size_t leading = SlashCount(rest_);
  rest_.remove_prefix(leading);
  trailing_slash_ = false;
  if (rest_.empty()) {
    last_type_ = leading != 0 ? LastType::kRoot : LastType::kDot;
    last_ = {};
    return {};
  }
  for (;;) {
    TRY(current_.inode()->CheckPermission(walker_.creds(), kMayExec));
    const size_t slash = rest_.find('/');
    const std::string_view name = rest_.substr(0, slash);
    const size_t slashes = slash == rest_.npos ? 0 : SlashCount(rest_.substr(slash));
    const std::string_view after = rest_.substr(name.size() + slashes);
    const LastType type = name == "."    ? LastType::kDot
                          : name == ".." ? LastType::kDotDot
                                         : LastType::kNormal;
    if (after.empty()) {
      last_ = name;
      last_type_ = type;
      trailing_slash_ = slashes != 0;
      rest_ = {};
      return {};
    }
    rest_ = after;
    if (type == LastType::kDotDot) TRY(Up());
    if (type == LastType::kNormal) TRY(Step(name));
  }
}

// An intermediate component: a directory, or a link to one.
Result<void> PathWalk::Step(std::string_view name) {
  Ref<Dentry> dentry = TRY(Lookup(name));
  if (dentry->negative()) return Fail(ENOENT);
  if (dentry->raw_inode()->IsDir() && !dentry->IsMountpoint()) [[likely]] {
    current_.dentry = std::move(dentry);
    return {};
  }
  Path child = TRY(CrossMounts(Path(current_.mount, std::move(dentry))));
  if (child.inode()->IsDir()) {
    current_ = std::move(child);
    return {};
  }
  if (!child.inode()->IsSymlink()) return Fail(ENOTDIR);
  std::optional<Path> magic = TRY(Follow(child, rest_));
  if (!magic) {
    rest_.remove_prefix(SlashCount(rest_));
    return {};
  }
  if (!magic->inode()->IsDir()) return Fail(ENOTDIR);
  current_ = std::move(*magic);
  return {};
}

Result<void> PathWalk::Up() {
  for (;;) {
    if (current_ == Root()) {
      if ((resolve_ & RESOLVE_BENEATH) != 0) return Fail(EXDEV);
      break;
    }
    if (current_.mount && current_.dentry == current_.mount->root()) {
      Path point = current_.mount->point();
      if (!point) break;
      if ((resolve_ & RESOLVE_NO_XDEV) != 0) return Fail(EXDEV);
      current_ = std::move(point);
      continue;
    }
    if (Ref<Dentry> parent = current_.dentry->parent()) current_.dentry = std::move(parent);
    break;
  }
  current_ = TRY(CrossMounts(current_));
  return {};
}

Result<Ref<Dentry>> LookupLocked(const Ref<Dentry>& directory, std::string_view name) {
  if (name.size() > kNameMax) return Fail(ENAMETOOLONG);
  FileSystem& fs = *directory->fs();
  if (Ref<Dentry> cached = fs.cache().Find(*directory, name)) {
    if (fs.Revalidate(*cached)) return cached;
    fs.cache().Forget(*cached);
  }
  if (directory->unlinked()) return Fail(ENOENT);
  Result<Ref<Inode>> found = directory->raw_inode()->Lookup(name);
  if (!found && found.error() != Errno(ENOENT)) return std::unexpected(found.error());
  return fs.cache().Add(directory, name, found ? std::move(*found) : Ref<Inode>());
}

Result<Ref<Dentry>> PathWalk::LookupSlow(std::string_view name) {
  if ((resolve_ & RESOLVE_CACHED) != 0) return Fail(EAGAIN);
  Inode& directory = *current_.inode();
  if (rest_.empty() && last_name_ == Inode::LastName::kLookedUp) {
    sched::SleepLockHold hold(directory.directory_lock());
    return LookupLocked(current_.dentry, name);
  }
  // The names from here to the next ".." or the end, for file systems where each costs a message.
  std::vector<std::string_view> names{name};
  Inode::LastName last = last_name_;
  for (std::string_view rest = rest_; !rest.empty();) {
    const std::string_view next = rest.substr(0, rest.find('/'));
    rest.remove_prefix(next.size());
    rest.remove_prefix(SlashCount(rest));
    if (next == "..") {
      last = Inode::LastName::kLookedUp;
      break;
    }
    if (!next.empty() && next != ".") names.push_back(next);
  }
  sched::SleepLockHold hold(directory.directory_lock());
  directory.PrefetchWalk(names, last);
  return LookupLocked(current_.dentry, name);
}

Result<Ref<Dentry>> PathWalk::Lookup(std::string_view name) {
  if (name.size() > kNameMax) return Fail(ENAMETOOLONG);
  FileSystem& fs = *current_.dentry->fs();
  Ref<Dentry> cached = fs.cache().Find(*current_.dentry, name);
  if (cached && fs.Revalidate(*cached)) return cached;
  if (cached) fs.cache().Forget(*cached);
  return LookupSlow(name);
}

Result<Path> PathWalk::Child(std::string_view name) {
  Ref<Dentry> dentry = TRY(Lookup(name));
  return CrossMounts(Path(current_.mount, std::move(dentry)));
}

Result<std::optional<Path>> PathWalk::Follow(const Path& link, std::string_view rest) {
  if (++links_ > kMaxSymlinks) return Fail(ELOOP);
  if ((resolve_ & RESOLVE_NO_SYMLINKS) != 0) return Fail(ELOOP);
  if (link.mount && (link.mount->flags() & MS_NOSYMFOLLOW) != 0) return Fail(ELOOP);
  std::optional<Path> magic = TRY(link.inode()->FollowMagic(walker_.caller_));
  if (magic) {
    if ((resolve_ & RESOLVE_NO_MAGICLINKS) != 0) return Fail(ELOOP);
    if ((resolve_ & kScoped) != 0) return Fail(EXDEV);
    if ((resolve_ & RESOLVE_NO_XDEV) != 0 && magic->mount != link.mount) return Fail(EXDEV);
    return magic;
  }
  std::string target = TRY(link.inode()->ReadLink(walker_.caller_));
  if (!target.empty() && target[0] == '/') TRY(JumpToRoot());
  if (!rest.empty()) {
    if (rest[0] != '/') target.push_back('/');
    target.append(rest);
  }
  text_ = std::move(target);
  rest_ = text_;
  return std::optional<Path>();
}

Result<Path> PathWalk::FinishDots() {
  if (last_type_ == LastType::kDotDot) TRY(Up());
  return current_;
}

Result<Path> PathWalk::LookupLast() { return Child(last_); }

Result<std::optional<Path>> PathWalk::FollowLast(const Path& link) {
  return Follow(link, trailing_slash_ ? "/" : "");
}

Result<Path> PathWalk::ToEnd(FollowFinal follow) {
  for (;;) {
    TRY(ToParent());
    if (last_type_ != LastType::kNormal) return FinishDots();
    Path found = TRY(LookupLast());
    if (found.dentry->negative()) return Fail(ENOENT);
    if (found.inode()->IsSymlink() && (follow == FollowFinal::kYes || trailing_slash_)) {
      const bool directory = trailing_slash_;
      std::optional<Path> magic = TRY(FollowLast(found));
      if (!magic) continue;
      if (directory && !magic->inode()->IsDir()) return Fail(ENOTDIR);
      return std::move(*magic);
    }
    if (trailing_slash_ && !found.inode()->IsDir()) return Fail(ENOTDIR);
    return found;
  }
}

}  // namespace skep::vfs
