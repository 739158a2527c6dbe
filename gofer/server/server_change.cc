// What changes names: making, linking, removing and renaming.
#include <fcntl.h>
#include <linux/fs.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#include "base/host_call.h"
#include "base/limits.h"
#include "gofer/server/server.h"

namespace skep::gofer {
namespace {

constexpr uint32_t kCreateFlags =
    O_ACCMODE | O_TRUNC | O_APPEND | O_NONBLOCK | O_SYNC | O_DSYNC | O_NOATIME;
constexpr uint32_t kSpecialBits = 07000;
constexpr NodeTable::OldName kGone = NodeTable::OldName::kGone;

Result<void> RemoveName(int dir, const std::string& name, int flags) {
  TRY(host::Call(SYS_unlinkat, dir, name.c_str(), flags));
  return {};
}

}  // namespace

// Owner and mode of an inode just made: as asked, whatever the host's parent directory did to them.
// `fd`: any descriptor of it.
Result<void> Server::FinishNew(int fd, const MakeRequest& request, bool is_symlink) {
  const FileInfo info = TRY(Outside([&] { return StatFd(fd); }));
  const bool other_uid = request.uid != kKeepId && request.uid != info.attributes.uid;
  const bool other_gid = request.gid != kKeepId && request.gid != info.attributes.gid;
  if (other_uid || other_gid) {
    TRY(Outside(
        [&] { return host::Call(SYS_fchownat, fd, "", request.uid, request.gid, AT_EMPTY_PATH); }));
  }
  const bool bits_lost =
      other_uid || other_gid || ((info.attributes.mode ^ request.mode) & kSpecialBits) != 0;
  const bool special = ((info.attributes.mode | request.mode) & kSpecialBits) != 0;
  if (is_symlink || !bits_lost || !special) return {};
  const uint32_t mode = (info.attributes.mode & 0777) | (request.mode & kSpecialBits);
  TRY(Outside(
      [&] { return host::Call(SYS_fchmodat, config_.proc_self_fd.get(), FdName(fd).text, mode); }));
  return {};
}

Result<void> Server::PutNew(Node& dir, const std::string& name, ReplyWriter& out) {
  KeptNode node;
  const FileInfo info = TRY(Lookup(dir, name, &node));
  nodes_.Reference(*node);
  out.Put(RecordOf(*node, info));
  return {};
}

// Gives what was made under `name` its owner and answers it, or removes it again.
Result<void> Server::FinishMade(Node& dir, int dir_fd, const std::string& name,
                                const MakeRequest& request, ReplyWriter& out) {
  const OwnedFd fd = TRY(Outside([&] { return OpenPath(dir_fd, name); }));
  const FileInfo info = TRY(Outside([&] { return StatFd(fd.get()); }));
  const bool is_symlink = S_ISLNK(info.attributes.mode);
  if (Result<void> done = FinishNew(fd.get(), request, is_symlink); !done) {
    const int flags = S_ISDIR(info.attributes.mode) ? AT_REMOVEDIR : 0;
    (void)Outside([&] { return RemoveName(dir_fd, name, flags); });
    return done;
  }
  return PutNew(dir, name, out);
}

Result<void> Server::Create(Reader& in, ReplyWriter& out) {
  const MakeRequest request = TRY(in.Get<MakeRequest>());
  const std::string name = TRY(TakeName(in));
  TRY(in.End());
  const KeptNode dir = TRY(nodes_.Find(request.dir));
  if (!dir->IsDirectory()) return Fail(ENOTDIR);
  const bool bad_flags =
      (request.flags & ~kCreateFlags) != 0 || (request.flags & O_ACCMODE) == O_ACCMODE;
  if (bad_flags || (request.mode & ~07777U) != 0) return Fail(EINVAL);
  const HeldFd dir_fd = TRY(HoldChangeable(*dir));
  const int flags = static_cast<int>(request.flags) | O_CREAT | O_EXCL | O_NOCTTY;
  OwnedFd file =
      TRY(Outside([&] { return OpenBeneath(dir_fd.get(), name.c_str(), flags, request.mode); }));
  Result<void> done = FinishNew(file.get(), request, false);
  if (done) done = PutNew(*dir, name, out);
  if (!done) {
    (void)Outside([&] { return RemoveName(dir_fd.get(), name, 0); });
    return done;
  }
  out.donated = std::move(file);
  return {};
}

Result<void> Server::Mkdir(Reader& in, ReplyWriter& out) {
  const MakeRequest request = TRY(in.Get<MakeRequest>());
  const std::string name = TRY(TakeName(in));
  TRY(in.End());
  const KeptNode dir = TRY(nodes_.Find(request.dir));
  if (!dir->IsDirectory()) return Fail(ENOTDIR);
  if ((request.mode & ~07777U) != 0 || request.flags != 0) return Fail(EINVAL);
  const HeldFd dir_fd = TRY(HoldChangeable(*dir));
  TRY(Outside([&] { return host::Call(SYS_mkdirat, dir_fd.get(), name.c_str(), request.mode); }));
  return FinishMade(*dir, dir_fd.get(), name, request, out);
}

Result<void> Server::Mknod(Reader& in, ReplyWriter& out) {
  const MakeRequest request = TRY(in.Get<MakeRequest>());
  const std::string name = TRY(TakeName(in));
  TRY(in.End());
  const KeptNode dir = TRY(nodes_.Find(request.dir));
  if (!dir->IsDirectory()) return Fail(ENOTDIR);
  const uint32_t type = request.mode & S_IFMT;
  if ((request.mode & ~(07777U | S_IFMT)) != 0 || request.flags != 0) return Fail(EINVAL);
  const bool allowed = type == S_IFREG || (type == S_IFIFO && config_.allow_fifos) ||
                       (type == S_IFSOCK && config_.allow_sockets);
  if (!allowed) return Fail(EPERM);  // device nodes above all
  const HeldFd dir_fd = TRY(HoldChangeable(*dir));
  TRY(Outside(
      [&] { return host::Call(SYS_mknodat, dir_fd.get(), name.c_str(), request.mode, 0); }));
  return FinishMade(*dir, dir_fd.get(), name, request, out);
}

Result<void> Server::Symlink(Reader& in, ReplyWriter& out) {
  const MakeRequest request = TRY(in.Get<MakeRequest>());
  const std::string name = TRY(TakeName(in));
  const std::string_view target = TRY(in.GetString());
  TRY(in.End());
  const KeptNode dir = TRY(nodes_.Find(request.dir));
  if (!dir->IsDirectory()) return Fail(ENOTDIR);
  if (target.empty()) return Fail(ENOENT);
  if (target.size() >= kPathMax) return Fail(ENAMETOOLONG);
  if (target.find('\0') != target.npos || request.flags != 0) return Fail(EINVAL);
  const HeldFd dir_fd = TRY(HoldChangeable(*dir));
  const std::string text(target);
  TRY(Outside([&] { return host::Call(SYS_symlinkat, text.c_str(), dir_fd.get(), name.c_str()); }));
  return FinishMade(*dir, dir_fd.get(), name, request, out);
}

Result<void> Server::Link(Reader& in, ReplyWriter& out) {
  const LinkRequest request = TRY(in.Get<LinkRequest>());
  const std::string name = TRY(TakeName(in));
  TRY(in.End());
  const KeptNode node = TRY(nodes_.Find(request.node));
  const KeptNode dir = TRY(nodes_.Find(request.dir));
  if (!dir->IsDirectory()) return Fail(ENOTDIR);
  if (node->attach != dir->attach) return Fail(EXDEV);
  if (node->IsDirectory()) return Fail(EPERM);
  if (node->hidden) return Fail(EACCES);
  const HeldFd dir_fd = TRY(HoldChangeable(*dir));
  const HeldFd fd = TRY(nodes_.Hold(*node));
  // Following the magic link leads to the inode itself, be it a symlink.
  TRY(Outside([&] {
    return host::Call(SYS_linkat, config_.proc_self_fd.get(), FdName(fd.get()).text, dir_fd.get(),
                      name.c_str(), AT_SYMLINK_FOLLOW);
  }));
  return PutNew(*dir, name, out);
}

// The node that is about to lose this name, if a client knows it: kept reachable.
KeptNode Server::BeforeRemoval(Node& dir, int dir_fd, const std::string& name) {
  const Result<FileInfo> info = Outside([&] { return StatName(dir_fd, name); });
  if (!info) return KeptNode(nodes_, nullptr);
  Node* known = nodes_.FindIdentity(dir.attach, info->identity);
  if (known == nullptr || known->type != info->type()) return KeptNode(nodes_, nullptr);
  KeptNode node(nodes_, known);
  const bool linked = !node->IsDirectory() && info->attributes.nlink > 1;
  nodes_.SetName(*node, dir, name, linked ? NodeTable::OldName::kStays : kGone);
  nodes_.Pin(*node);
  return node;
}

Result<void> Server::Unlink(Reader& in, ReplyWriter&) {
  const UnlinkRequest request = TRY(in.Get<UnlinkRequest>());
  const std::string name = TRY(TakeName(in));
  TRY(in.End());
  const KeptNode dir = TRY(nodes_.Find(request.dir));
  if (!dir->IsDirectory()) return Fail(ENOTDIR);
  if ((request.flags & ~kUnlinkDirectory) != 0) return Fail(EINVAL);
  const HeldFd dir_fd = TRY(HoldChangeable(*dir));
  const NodeTable::Change change(nodes_, dir->attach);
  const KeptNode victim = BeforeRemoval(*dir, dir_fd.get(), name);
  if (victim && victim->permanent) return Fail(EBUSY);
  const int flags = (request.flags & kUnlinkDirectory) != 0 ? AT_REMOVEDIR : 0;
  const Result<void> removed = Outside([&] { return RemoveName(dir_fd.get(), name, flags); });
  if (victim && removed) nodes_.LoseName(*victim);
  if (victim && !removed) nodes_.Unpin(*victim);
  return removed;
}

Result<void> Server::Rename(Reader& in, ReplyWriter&) {
  const RenameRequest request = TRY(in.Get<RenameRequest>());
  const std::string old_name = TRY(TakeName(in));
  const std::string new_name = TRY(TakeName(in));
  TRY(in.End());
  const KeptNode old_dir = TRY(nodes_.Find(request.old_dir));
  const KeptNode new_dir = TRY(nodes_.Find(request.new_dir));
  if (!old_dir->IsDirectory() || !new_dir->IsDirectory()) return Fail(ENOTDIR);
  constexpr uint32_t kFlags = RENAME_NOREPLACE | RENAME_EXCHANGE;
  if ((request.flags & ~kFlags) != 0 || request.flags == kFlags) return Fail(EINVAL);
  if (old_dir->attach != new_dir->attach) return Fail(EXDEV);
  const HeldFd old_fd = TRY(HoldChangeable(*old_dir));
  const HeldFd new_fd = TRY(HoldChangeable(*new_dir));
  const NodeTable::Change change(nodes_, old_dir->attach);
  const KeptNode moved = BeforeRemoval(*old_dir, old_fd.get(), old_name);
  const KeptNode replaced = BeforeRemoval(*new_dir, new_fd.get(), new_name);
  Result<int64_t> renamed = Fail(EBUSY);  // hidden directories stay where they are
  if (!(moved && moved->permanent) && !(replaced && replaced->permanent)) {
    renamed = Outside([&] {
      return host::Call(SYS_renameat2, old_fd.get(), old_name.c_str(), new_fd.get(),
                        new_name.c_str(), request.flags);
    });
  }
  // Two names of one inode: Linux does nothing, and both stay.
  const bool same = moved && moved.get() == replaced.get();
  const bool exchanged = (request.flags & RENAME_EXCHANGE) != 0;
  if (renamed && !same) {
    if (replaced && !exchanged) nodes_.LoseName(*replaced);
    if (moved) nodes_.SetName(*moved, *new_dir, new_name, kGone);
    if (replaced && exchanged) nodes_.SetName(*replaced, *old_dir, old_name, kGone);
    return {};
  }
  if (moved) nodes_.Unpin(*moved);
  if (replaced) nodes_.Unpin(*replaced);
  if (!renamed) return std::unexpected(renamed.error());
  return {};
}

}  // namespace skep::gofer
