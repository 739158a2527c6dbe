// What is done to one inode: opening, attributes, extended attributes.
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/xattr.h>
#include <array>

#include "base/host_call.h"
#include "base/limits.h"
#include "gofer/server/server.h"

namespace skep::gofer {
namespace {

constexpr uint32_t kOpenFlags =
    O_ACCMODE | O_TRUNC | O_APPEND | O_NONBLOCK | O_SYNC | O_DSYNC | O_NOATIME;

// What a guest may change on the host, and see in lists. The rest gives rights (security.*, ACLs)
// or is somebody else's (trusted.*): whatever the sentry says, no file of the host gets it.
bool MayChangeXattr(std::string_view name) { return name.starts_with("user.") && name.size() > 5; }
bool MayListXattr(std::string_view name) {
  return MayChangeXattr(name) || name == "security.capability";
}
// The sentry obeys the ACLs that files have; it does not show them.
bool MayReadXattr(std::string_view name) {
  return MayListXattr(name) || name == "system.posix_acl_access";
}

}  // namespace

// The node, opened through /proc/self/fd: the inode that was judged and no other.
Result<OwnedFd> Server::OpenNode(Node& node, int flags) {
  const bool allowed = S_ISREG(node.type) || (S_ISFIFO(node.type) && config_.allow_fifos);
  if (node.hidden || !allowed) {
    if (S_ISDIR(node.type)) return Fail(EISDIR);
    return Fail(S_ISLNK(node.type) ? ELOOP : S_ISSOCK(node.type) ? ENXIO : EACCES);
  }
  if (S_ISFIFO(node.type)) flags |= O_NONBLOCK;  // the gofer never waits for a peer
  const HeldFd path = TRY(nodes_.Hold(node));
  return Outside(
      [&] { return skep::gofer::Reopen(config_.proc_self_fd.get(), path.get(), flags); });
}

Result<void> Server::Open(Reader& in, ReplyWriter& out) {
  const OpenRequest request = TRY(in.Get<OpenRequest>());
  TRY(in.End());
  const KeptNode node = TRY(nodes_.Find(request.node));
  if ((request.flags & ~kOpenFlags) != 0 || (request.flags & O_ACCMODE) == O_ACCMODE) {
    return Fail(EINVAL);
  }
  const bool writes = (request.flags & O_ACCMODE) != O_RDONLY || (request.flags & O_TRUNC) != 0;
  if (writes && !S_ISFIFO(node->type)) TRY(CheckWritable(*node));
  OwnedFd file = TRY(OpenNode(*node, static_cast<int>(request.flags)));
  const FileInfo info = TRY(Outside([&] { return StatFd(file.get()); }));
  out.Put(info.attributes);
  out.donated = std::move(file);
  return {};
}

Result<void> Server::GetAttr(Reader& in, ReplyWriter& out) {
  const KeptNode node = TRY(TakeNode(in));
  TRY(in.End());
  const FileInfo info = TRY(nodes_.Stat(*node));
  out.Put(info.attributes);
  return {};
}

Result<void> Server::Truncate(Node& node, uint64_t size) {
  if (S_ISDIR(node.type)) return Fail(EISDIR);
  if (!S_ISREG(node.type) || size > INT64_MAX) return Fail(EINVAL);
  const OwnedFd file = TRY(OpenNode(node, O_WRONLY));
  return Outside([&] { return host::Truncate(file.get(), size); });
}

// In Linux's order where it shows: a change of owner clears the set-id bits, so mode comes after
// it, and times come last.
Result<void> Server::SetAttr(Reader& in, ReplyWriter& out) {
  const SetAttrRequest request = TRY(in.Get<SetAttrRequest>());
  TRY(in.End());
  const KeptNode node = TRY(nodes_.Find(request.node));
  if ((request.mask & ~kSetAll) != 0) return Fail(EINVAL);
  TRY(CheckWritable(*node));
  const HeldFd fd = TRY(nodes_.Hold(*node));
  if ((request.mask & kSetSize) != 0) TRY(Truncate(*node, request.size));
  if ((request.mask & (kSetUid | kSetGid)) != 0) {
    const uint32_t uid = (request.mask & kSetUid) != 0 ? request.uid : kKeepId;
    const uint32_t gid = (request.mask & kSetGid) != 0 ? request.gid : kKeepId;
    TRY(Outside([&] { return host::Call(SYS_fchownat, fd.get(), "", uid, gid, AT_EMPTY_PATH); }));
  }
  if ((request.mask & kSetMode) != 0) {
    if (S_ISLNK(node->type)) return Fail(EOPNOTSUPP);
    TRY(Outside([&] {
      return host::Call(SYS_fchmodat, config_.proc_self_fd.get(), FdName(fd.get()).text,
                        request.mode & 07777);
    }));
  }
  constexpr uint32_t kTimes = kSetAtime | kSetMtime | kSetAtimeNow | kSetMtimeNow;
  if ((request.mask & kTimes) != 0) {
    timespec times[2] = {{0, UTIME_OMIT}, {0, UTIME_OMIT}};
    constexpr uint32_t kNsecEnd = 1'000'000'000;
    if (request.atime_nsec >= kNsecEnd || request.mtime_nsec >= kNsecEnd) return Fail(EINVAL);
    if ((request.mask & kSetAtime) != 0) times[0] = {request.atime_sec, request.atime_nsec};
    if ((request.mask & kSetMtime) != 0) times[1] = {request.mtime_sec, request.mtime_nsec};
    if ((request.mask & kSetAtimeNow) != 0) times[0].tv_nsec = UTIME_NOW;
    if ((request.mask & kSetMtimeNow) != 0) times[1].tv_nsec = UTIME_NOW;
    TRY(Outside([&] { return host::Call(SYS_utimensat, fd.get(), "", times, AT_EMPTY_PATH); }));
  }
  const FileInfo info = TRY(Outside([&] { return StatFd(fd.get()); }));
  out.Put(info.attributes);
  return {};
}

Result<void> Server::Readlink(Reader& in, ReplyWriter& out) {
  const KeptNode node = TRY(TakeNode(in));
  TRY(in.End());
  if (!S_ISLNK(node->type)) return Fail(EINVAL);
  const HeldFd fd = TRY(nodes_.Hold(*node));
  const std::string target = TRY(Outside([&] { return ReadLinkAt(fd.get(), ""); }));
  out.PutString(target);
  return {};
}

Result<void> Server::Statfs(Reader& in, ReplyWriter& out) {
  const KeptNode node = TRY(TakeNode(in));
  TRY(in.End());
  const HeldFd fd = TRY(nodes_.Hold(*node));
  const FsStatistics statistics = TRY(Outside([&] { return StatfsFd(fd.get()); }));
  out.Put(statistics);
  return {};
}

Result<void> Server::Fsync(Reader& in, ReplyWriter&) {
  const FsyncRequest request = TRY(in.Get<FsyncRequest>());
  TRY(in.End());
  const KeptNode node = TRY(nodes_.Find(request.node));
  if (node->hidden || (!S_ISREG(node->type) && !S_ISDIR(node->type))) return Fail(EINVAL);
  const HeldFd path = TRY(nodes_.Hold(*node));
  const int flags = S_ISDIR(node->type) ? O_RDONLY | O_DIRECTORY : O_RDONLY;
  const Result<int64_t> done = Outside([&]() -> Result<int64_t> {
    const OwnedFd file = TRY(skep::gofer::Reopen(config_.proc_self_fd.get(), path.get(), flags));
    return host::Call(request.data_only != 0 ? SYS_fdatasync : SYS_fsync, file.get());
  });
  if (!done) return std::unexpected(done.error());
  return {};
}

namespace {

// The request's fixed part and the attribute's name, judged.
Result<std::string> TakeXattr(Reader& in, XattrRequest& request) {
  request = TRY(in.Get<XattrRequest>());
  const std::string_view name = TRY(in.GetString());
  if (name.size() > XATTR_NAME_MAX) return Fail(ERANGE);
  if (name.find('\0') != name.npos) return Fail(EINVAL);
  if (request.size > kXattrSizeMax) return Fail(E2BIG);
  return std::string(name);
}

// xattr calls take no O_PATH descriptor, so they get the descriptor's name in /proc/self/fd,
// relative to a working directory that is set just for this.
Result<void> EnterProc(const OwnedFd& proc) {
  TRY(host::Call(SYS_fchdir, proc.get()));
  return {};
}

}  // namespace

Result<void> Server::GetXattr(Reader& in, ReplyWriter& out) {
  XattrRequest request;
  const std::string name = TRY(TakeXattr(in, request));
  TRY(in.End());
  const KeptNode node = TRY(nodes_.Find(request.node));
  if (!MayReadXattr(name)) return Fail(EOPNOTSUPP);
  if (node->hidden) return Fail(ENODATA);
  const HeldFd fd = TRY(nodes_.Hold(*node));
  TRY(EnterProc(config_.proc_self_fd));
  const size_t size_at = out.size();
  out.Put(uint32_t{0});
  const int64_t size = TRY(Outside([&] {
    return host::Call(SYS_getxattr, FdName(fd.get()).text, name.c_str(), out.Room().data(),
                      request.size);
  }));
  out.Patch(size_at, static_cast<uint32_t>(size));
  if (request.size != 0) out.Commit(static_cast<size_t>(size));
  return {};
}

Result<void> Server::SetXattr(Reader& in, ReplyWriter&) {
  XattrRequest request;
  const std::string name = TRY(TakeXattr(in, request));
  const std::span<const std::byte> value = TRY(in.GetBytes(request.size));
  TRY(in.End());
  const KeptNode node = TRY(nodes_.Find(request.node));
  if (!MayChangeXattr(name)) return Fail(EOPNOTSUPP);
  TRY(CheckWritable(*node));
  const HeldFd fd = TRY(nodes_.Hold(*node));
  TRY(EnterProc(config_.proc_self_fd));
  TRY(Outside([&] {
    return host::Call(SYS_setxattr, FdName(fd.get()).text, name.c_str(), value.data(), value.size(),
                      request.flags);
  }));
  return {};
}

Result<void> Server::ListXattr(Reader& in, ReplyWriter& out) {
  XattrRequest request;
  TRY(TakeXattr(in, request));
  TRY(in.End());
  const KeptNode node = TRY(nodes_.Find(request.node));
  const size_t size_at = out.size();
  out.Put(uint32_t{0});
  if (node->hidden) return {};
  const HeldFd fd = TRY(nodes_.Hold(*node));
  TRY(EnterProc(config_.proc_self_fd));
  const auto all = std::make_unique_for_overwrite<char[]>(kXattrSizeMax);
  const int64_t all_size = TRY(Outside(
      [&] { return host::Call(SYS_listxattr, FdName(fd.get()).text, all.get(), kXattrSizeMax); }));
  std::string_view rest(all.get(), static_cast<size_t>(all_size));
  uint32_t size = 0;
  while (!rest.empty()) {
    const std::string_view name = rest.substr(0, rest.find('\0'));
    const size_t with_nul = std::min(name.size() + 1, rest.size());
    if (MayListXattr(name)) {
      size += static_cast<uint32_t>(with_nul);
      if (request.size != 0) out.PutBytes(std::as_bytes(std::span(rest.data(), with_nul)));
    }
    rest.remove_prefix(with_nul);
  }
  if (request.size != 0 && size > request.size) return Fail(ERANGE);
  out.Patch(size_at, size);
  return {};
}

Result<void> Server::RemoveXattr(Reader& in, ReplyWriter&) {
  XattrRequest request;
  const std::string name = TRY(TakeXattr(in, request));
  TRY(in.End());
  const KeptNode node = TRY(nodes_.Find(request.node));
  if (!MayChangeXattr(name)) return Fail(EOPNOTSUPP);
  TRY(CheckWritable(*node));
  const HeldFd fd = TRY(nodes_.Hold(*node));
  TRY(EnterProc(config_.proc_self_fd));
  TRY(Outside([&] { return host::Call(SYS_removexattr, FdName(fd.get()).text, name.c_str()); }));
  return {};
}

}  // namespace skep::gofer
