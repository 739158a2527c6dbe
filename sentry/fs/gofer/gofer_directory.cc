// Directories of a GoferFs: lookups, listings, changes of names.
#include <fcntl.h>
#include <linux/fs.h>

#include "base/host_call.h"
#include "sentry/arena/arena.h"
#include "sentry/fs/gofer/gofer_inode.h"

namespace skep::fs {

// What is known of `name` without asking; nullopt: ask.
std::optional<Result<Ref<vfs::Inode>>> GoferInode::LookupCached(std::string_view name) {
  MutexLock lock(mutex_);
  if (directory_ == nullptr) return std::nullopt;
  const auto it = directory_->children.find(name);
  if (it == directory_->children.end()) {
    if (!directory_->complete || !StillTrue(directory_->complete_ns)) return std::nullopt;
    return Result<Ref<vfs::Inode>>(Fail(ENOENT));
  }
  const Child& child = it->second;
  if (!StillTrue(child.heard_ns)) return std::nullopt;
  if (!child.inode) return Result<Ref<vfs::Inode>>(Fail(ENOENT));
  return Result<Ref<vfs::Inode>>(child.inode);
}

void GoferInode::SetChild(std::string_view name, Ref<GoferInode> inode, bool changed) {
  const uint64_t now = host::MonotonicNs();
  bool added = false;
  {
    MutexLock lock(mutex_);
    if (directory_ == nullptr) directory_ = std::make_unique<Directory>();
    auto it = directory_->children.find(name);
    added = it == directory_->children.end();
    if (added) it = directory_->children.emplace(std::string(name), Child()).first;
    std::swap(it->second.inode, inode);  // the old one is let go of outside the lock
    it->second.heard_ns = now;
    if (changed) {
      directory_->listing = {};
      stale_ = true;
    }
  }
  if (added) gofer_fs_.NoteChildren(*this, 1);
}

size_t GoferInode::ForgetChildren() {
  std::unique_ptr<Directory> old;
  {
    MutexLock lock(mutex_);
    old.swap(directory_);
  }
  if (old == nullptr) return 0;
  const size_t count = old->children.size();
  // A child may be the last to know of its own children: in a loop, however deep they nest.
  std::vector<Ref<GoferInode>> doomed;
  const auto take = [&doomed](Directory& directory) {
    for (auto& [name, child] : directory.children) {
      if (child.inode) doomed.push_back(std::move(child.inode));
    }
  };
  take(*old);
  while (!doomed.empty()) {
    const Ref<GoferInode> inode = std::move(doomed.back());
    doomed.pop_back();
    if (!inode->IsDir() || inode->RefCount() != 1) continue;
    std::unique_ptr<Directory> below;
    {
      MutexLock lock(inode->mutex_);
      below.swap(inode->directory_);
    }
    if (below != nullptr) take(*below);
  }
  return count;
}

// Takes note of what a walk from here found.
void GoferInode::Remember(std::span<const std::string_view> names, gofer::Walked walked) {
  const arena::ArenaScope arena;
  Ref<GoferInode> at(this);
  for (size_t i = 0; i < walked.nodes.size() && i < names.size(); i++) {
    Ref<GoferInode> next = gofer_fs_.Intern(walked.nodes[i]);
    at->SetChild(names[i], next, false);
    at = std::move(next);
  }
  if (walked.stop == gofer::WalkStop::kSymlink) at->SetTarget(walked.target);
  const size_t reached = walked.nodes.size();
  if (walked.stop == gofer::WalkStop::kError && walked.error == ENOENT && reached < names.size()) {
    at->SetChild(names[reached], {}, false);
  }
  if (walked.file && at->type() == S_IFREG) at->KeepReadFd(std::move(walked.file));
}

void GoferInode::PrefetchWalk(std::span<const std::string_view> names, LastName last) {
  using WalkOpens = gofer::Client::WalkOpens;
  const WalkOpens opens = last == LastName::kOpened ? WalkOpens::kLast : WalkOpens::kNo;
  const bool worthwhile = names.size() > 1 || opens == WalkOpens::kLast;
  if (!IsDir() || !worthwhile || LookupCached(names[0])) return;
  const arena::HostScope host;
  Result<gofer::Walked> walked = gofer_fs_.client().Walk(node_, names, opens);
  if (walked) Remember(names, std::move(*walked));
}

Result<Ref<vfs::Inode>> GoferInode::Lookup(std::string_view name) {
  if (!IsDir()) return Fail(ENOTDIR);
  if (std::optional<Result<Ref<vfs::Inode>>> cached = LookupCached(name)) return *cached;
  const std::span<const std::string_view> names(&name, 1);
  {
    const arena::HostScope host;
    gofer::Walked walked = TRY(gofer_fs_.client().Walk(node_, names));
    const bool found = !walked.nodes.empty();
    const int error = walked.error;
    Remember(names, std::move(walked));
    if (!found) return Fail(error);
  }
  if (std::optional<Result<Ref<vfs::Inode>>> cached = LookupCached(name)) return *cached;
  return Fail(EIO);
}

Result<Ref<GoferListing>> GoferInode::FetchListing() {
  auto listing = MakeRef<GoferListing>();
  uint64_t cookie = 0;
  bool all_nodes = true;
  for (bool end = false; !end;) {
    gofer::DirPage page;
    {
      const arena::HostScope host;
      page = TRY(gofer_fs_.client().Readdir(node_, cookie, true));
    }
    end = page.at_end || page.entries.empty();
    for (const gofer::DirEntry& entry : page.entries) {
      listing->entries.push_back({std::string(entry.name), entry.ino, entry.type});
      cookie = entry.next_cookie;
      if (entry.node.node == gofer::NodeId::kNone) {
        all_nodes = false;
        continue;
      }
      SetChild(entry.name, gofer_fs_.Intern(entry.node), false);
    }
  }
  MutexLock lock(mutex_);
  if (directory_ == nullptr) directory_ = std::make_unique<Directory>();
  // Children may have been forgotten meanwhile, to stay within bounds.
  directory_->complete = all_nodes && directory_->children.size() >= listing->entries.size();
  directory_->complete_ns = host::MonotonicNs();
  directory_->listing = listing;
  return listing;
}

Result<Ref<GoferListing>> GoferInode::List() {
  {
    MutexLock lock(mutex_);
    if (directory_ != nullptr && directory_->listing && StillTrue(directory_->complete_ns)) {
      return directory_->listing;
    }
  }
  return FetchListing();
}

// -- changes --

Result<Ref<vfs::Inode>> GoferInode::Create(std::string_view name, const NewNode& node) {
  TRY(CheckWritable());
  const gofer::NewNode what{.mode = node.mode & 07777, .uid = node.uid, .gid = node.gid};
  gofer::NodeRecord record;
  arena::HostFd fd;
  // At the limit nothing is created. The caller is the owner of what it makes.
  if (S_ISREG(node.mode)) TRY(gofer_fs_.donated().Reserve(node.uid == 0));
  {
    const arena::HostScope host;
    gofer::Client& client = gofer_fs_.client();
    switch (node.mode & S_IFMT) {
      case S_IFREG: {
        Result<gofer::Created> created = client.Create(node_, name, what, O_RDWR);
        if (!created) {
          gofer_fs_.donated().Return(1);
          return std::unexpected(created.error());
        }
        record = created->node;
        fd = arena::HostTable::Get().Add(std::move(created->file));
        break;
      }
      case S_IFDIR:
        record = TRY(client.Mkdir(node_, name, what));
        break;
      default:
        record = TRY(client.Mknod(node_, name, {node.mode, node.uid, node.gid}));
        break;
    }
  }
  Ref<GoferInode> inode = gofer_fs_.Intern(record);
  if (fd) {
    bool kept = false;
    {
      MutexLock lock(inode->mutex_);
      kept = !inode->write_fd_;
      if (kept) inode->write_fd_ = fd;
    }
    if (!kept) inode->CloseDonated(fd);
    gofer_fs_.donated().NoteIdle(*inode);
  }
  SetChild(name, inode, true);
  return Ref<vfs::Inode>(std::move(inode));
}

Result<Ref<vfs::Inode>> GoferInode::Symlink(std::string_view name, std::string_view target,
                                            const NewNode& node) {
  TRY(CheckWritable());
  gofer::NodeRecord record;
  {
    const arena::HostScope host;
    const gofer::NewNode what{.mode = 0777, .uid = node.uid, .gid = node.gid};
    record = TRY(gofer_fs_.client().Symlink(node_, name, target, what));
  }
  Ref<GoferInode> inode = gofer_fs_.Intern(record);
  inode->SetTarget(target);
  SetChild(name, inode, true);
  return Ref<vfs::Inode>(std::move(inode));
}

Result<void> GoferInode::Link(std::string_view name, vfs::Inode& existing) {
  TRY(CheckWritable());
  gofer::NodeRecord record;
  {
    const arena::HostScope host;
    record = TRY(gofer_fs_.client().Link(static_cast<GoferInode&>(existing).node_, node_, name));
  }
  SetChild(name, gofer_fs_.Intern(record), true);
  return {};
}

Result<void> GoferInode::Unlink(std::string_view name, vfs::Inode& victim) {
  TRY(CheckWritable());
  {
    const arena::HostScope host;
    TRY(gofer_fs_.client().Unlink(node_, name));
  }
  static_cast<GoferInode&>(victim).MarkStale();
  SetChild(name, {}, true);
  return {};
}

Result<void> GoferInode::Rmdir(std::string_view name, vfs::Inode& victim) {
  TRY(CheckWritable());
  {
    const arena::HostScope host;
    TRY(gofer_fs_.client().Rmdir(node_, name));
  }
  static_cast<GoferInode&>(victim).MarkStale();
  SetChild(name, {}, true);
  return {};
}

Result<void> GoferInode::Rename(std::string_view name, vfs::Inode& moved, vfs::Inode& new_directory,
                                std::string_view new_name, vfs::Inode* target, uint32_t flags) {
  TRY(CheckWritable());
  if ((flags & RENAME_WHITEOUT) != 0) return Fail(EINVAL);
  auto& to = static_cast<GoferInode&>(new_directory);
  {
    const arena::HostScope host;
    TRY(gofer_fs_.client().Rename(node_, name, to.node_, new_name, flags));
  }
  auto& inode = static_cast<GoferInode&>(moved);
  auto* other = static_cast<GoferInode*>(target);
  inode.MarkStale();
  if (other != nullptr) other->MarkStale();
  SetChild(name, (flags & RENAME_EXCHANGE) != 0 ? Ref<GoferInode>(other) : Ref<GoferInode>(), true);
  to.SetChild(new_name, Ref<GoferInode>(&inode), true);
  return {};
}

}  // namespace skep::fs
