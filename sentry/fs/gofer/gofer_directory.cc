// Directories of a GoferFs: lookups, listings, changes of names.
#include <fcntl.h>
#include <linux/fs.h>
#include <algorithm>

#include "base/host_call.h"
#include "sentry/arena/arena.h"
#include "sentry/fs/gofer/gofer_inode.h"

namespace skep::fs {

namespace {

constexpr size_t kScanMax = 512;       // entries of a listing that a lookup looks through (1 us)
constexpr size_t kExpectedWithin = 8;  // who goes through a listing may skip some
constexpr int kInOrderMin = 3;
constexpr uint32_t kPrefetchBytes = 32 << 10;  // some 180 entries

bool Contains(const GoferListing& listing, std::string_view name) {
  return std::any_of(listing.entries.begin(), listing.entries.end(),
                     [&](const GoferListing::Entry& entry) { return entry.name == name; });
}

}  // namespace

// What is known of `name` without asking; nullopt: ask.
std::optional<Result<Ref<vfs::Inode>>> GoferInode::LookupCached(std::string_view name) {
  MutexLock lock(mutex_);
  if (directory_ == nullptr) return std::nullopt;
  const auto it = directory_->children.find(name);
  if (it == directory_->children.end()) {
    const Ref<GoferListing>& listing = directory_->listing;
    if (!listing || listing->entries.size() > kScanMax) return std::nullopt;
    if (!gofer_fs_.StillTrue(directory_->listed_ns) || Contains(*listing, name)) {
      return std::nullopt;
    }
    return Result<Ref<vfs::Inode>>(Fail(ENOENT));
  }
  const Child& child = it->second;
  if (!gofer_fs_.StillTrue(child.heard_ns)) return std::nullopt;
  if (!child.inode) return Result<Ref<vfs::Inode>>(Fail(ENOENT));
  return Result<Ref<vfs::Inode>>(child.inode);
}

// Where in the listing `name` is, if this and the last few were asked for in its order.
std::optional<size_t> GoferInode::IndexIfInOrder(std::string_view name,
                                                 Ref<GoferListing>& listing) {
  MutexLock lock(mutex_);
  if (directory_ == nullptr || !directory_->listing) return std::nullopt;
  listing = directory_->listing;
  const auto& entries = listing->entries;
  const size_t first = directory_->next_listed;
  const size_t end = std::min(first + kExpectedWithin, entries.size());
  for (size_t i = first; i < end; i++) {
    if (entries[i].name != name) continue;
    directory_->next_listed = i + 1;
    if (++directory_->in_order < kInOrderMin) return std::nullopt;
    return i;
  }
  directory_->in_order = 0;
  return std::nullopt;
}

// Who has listed a directory and looks at one entry after the other is about to look at the rest:
// their attributes come in one message. False: nothing came.
bool GoferInode::PrefetchListed(std::string_view name) {
  Ref<GoferListing> listing;
  const std::optional<size_t> index = IndexIfInOrder(name, listing);
  if (!index) return false;
  const uint64_t cookie = *index == 0 ? 0 : listing->entries[*index - 1].next_cookie;
  const Result<gofer::DirPage> page = gofer_fs_.Call(
      [&](gofer::Client& client) { return client.Readdir(node_, cookie, true, kPrefetchBytes); });
  if (!page) return false;
  for (const gofer::DirEntry& entry : page->entries) {
    if (entry.node.node == gofer::NodeId::kNone) continue;
    SetChild(entry.name, gofer_fs_.Intern(entry.node), false);
  }
  MutexLock lock(mutex_);
  if (directory_ != nullptr) directory_->next_listed = *index + page->entries.size();
  return true;
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

// Takes note of what a walk from here found; what the first name stands for, or null.
Ref<GoferInode> GoferInode::Remember(std::span<const std::string_view> names,
                                     gofer::Walked& walked) {
  Ref<GoferInode> at(this), first;
  for (size_t i = 0; i < walked.nodes.size() && i < names.size(); i++) {
    Ref<GoferInode> next = gofer_fs_.Intern(walked.nodes[i]);
    at->SetChild(names[i], next, false);
    if (i == 0) first = next;
    at = std::move(next);
  }
  if (walked.stop == gofer::WalkStop::kSymlink) at->SetTarget(walked.target);
  const size_t reached = walked.nodes.size();
  if (walked.stop == gofer::WalkStop::kError && walked.error == ENOENT && reached < names.size()) {
    at->SetChild(names[reached], {}, false);
  }
  if (walked.file && at->type() == S_IFREG) at->KeepReadFd(std::move(walked.file));
  return first;
}

void GoferInode::PrefetchWalk(std::span<const std::string_view> names, LastName last) {
  using WalkOpens = gofer::Client::WalkOpens;
  const WalkOpens opens = last == LastName::kOpened ? WalkOpens::kLast : WalkOpens::kNo;
  const bool worthwhile = names.size() > 1 || opens == WalkOpens::kLast;
  if (!IsDir() || !worthwhile || LookupCached(names[0])) return;
  Result<gofer::Walked> walked =
      gofer_fs_.Call([&](gofer::Client& client) { return client.Walk(node_, names, opens); });
  if (walked) (void)Remember(names, *walked);
}

Result<Ref<vfs::Inode>> GoferInode::Lookup(std::string_view name) {
  if (!IsDir()) return Fail(ENOTDIR);
  if (std::optional<Result<Ref<vfs::Inode>>> cached = LookupCached(name)) return *cached;
  if (PrefetchListed(name)) {
    if (std::optional<Result<Ref<vfs::Inode>>> cached = LookupCached(name)) return *cached;
  }
  const std::span<const std::string_view> names(&name, 1);
  gofer::Walked walked =
      TRY(gofer_fs_.Call([&](gofer::Client& client) { return client.Walk(node_, names); }));
  // Not from the cache, which knows nothing for sure while a change that nobody waited for goes on.
  Ref<GoferInode> found = Remember(names, walked);
  if (!found) return Fail(walked.error != 0 ? walked.error : EIO);
  return Ref<vfs::Inode>(std::move(found));
}

Result<Ref<GoferListing>> GoferInode::FetchListing() {
  auto listing = MakeRef<GoferListing>();
  uint64_t cookie = 0;
  for (bool end = false; !end;) {
    const gofer::DirPage page = TRY(gofer_fs_.Call(
        [&](gofer::Client& client) { return client.Readdir(node_, cookie, false); }));
    end = page.at_end || page.entries.empty();
    for (const gofer::DirEntry& entry : page.entries) {
      listing->entries.push_back(
          {std::string(entry.name), entry.ino, entry.type, entry.next_cookie});
      cookie = entry.next_cookie;
    }
  }
  MutexLock lock(mutex_);
  if (directory_ == nullptr) directory_ = std::make_unique<Directory>();
  directory_->listed_ns = host::MonotonicNs();
  directory_->listing = listing;
  directory_->next_listed = 0;
  directory_->in_order = 0;
  return listing;
}

Result<Ref<GoferListing>> GoferInode::List() {
  {
    MutexLock lock(mutex_);
    if (directory_ != nullptr && directory_->listing &&
        gofer_fs_.StillTrue(directory_->listed_ns)) {
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
  if (S_ISREG(node.mode)) {
    Result<gofer::Created> created = gofer_fs_.Call(
        [&](gofer::Client& client) { return client.Create(node_, name, what, O_RDWR); });
    if (!created) {
      gofer_fs_.donated().Return(1);
      return std::unexpected(created.error());
    }
    record = created->node;
    fd = arena::HostTable::Get().Add(std::move(created->file));
  } else {
    record = TRY(gofer_fs_.Call([&](gofer::Client& client) {
      if (S_ISDIR(node.mode)) return client.Mkdir(node_, name, what);
      return client.Mknod(node_, name, {node.mode, node.uid, node.gid});
    }));
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
  const gofer::NewNode what{.mode = 0777, .uid = node.uid, .gid = node.gid};
  const gofer::NodeRecord record = TRY(gofer_fs_.Call(
      [&](gofer::Client& client) { return client.Symlink(node_, name, target, what); }));
  Ref<GoferInode> inode = gofer_fs_.Intern(record);
  inode->SetTarget(target);
  SetChild(name, inode, true);
  return Ref<vfs::Inode>(std::move(inode));
}

Result<void> GoferInode::Link(std::string_view name, vfs::Inode& existing) {
  TRY(CheckWritable());
  const gofer::NodeId node = static_cast<GoferInode&>(existing).node_;
  const gofer::NodeRecord record =
      TRY(gofer_fs_.Call([&](gofer::Client& client) { return client.Link(node, node_, name); }));
  SetChild(name, gofer_fs_.Intern(record), true);
  return {};
}

Result<void> GoferInode::Unlink(std::string_view name, vfs::Inode& victim) {
  TRY(CheckWritable());
  TRY(gofer_fs_.Call([&](gofer::Client& client) { return client.Unlink(node_, name); }));
  static_cast<GoferInode&>(victim).MarkStale();
  SetChild(name, {}, true);
  return {};
}

Result<void> GoferInode::Rmdir(std::string_view name, vfs::Inode& victim) {
  TRY(CheckWritable());
  TRY(gofer_fs_.Call([&](gofer::Client& client) { return client.Rmdir(node_, name); }));
  static_cast<GoferInode&>(victim).MarkStale();
  SetChild(name, {}, true);
  return {};
}

Result<void> GoferInode::Rename(std::string_view name, vfs::Inode& moved, vfs::Inode& new_directory,
                                std::string_view new_name, vfs::Inode* target, uint32_t flags) {
  TRY(CheckWritable());
  if ((flags & RENAME_WHITEOUT) != 0) return Fail(EINVAL);
  auto& to = static_cast<GoferInode&>(new_directory);
  TRY(gofer_fs_.Call([&](gofer::Client& client) {
    return client.Rename(node_, name, to.node_, new_name, flags);
  }));
  auto& inode = static_cast<GoferInode&>(moved);
  auto* other = static_cast<GoferInode*>(target);
  inode.MarkStale();
  if (other != nullptr) other->MarkStale();
  SetChild(name, (flags & RENAME_EXCHANGE) != 0 ? Ref<GoferInode>(other) : Ref<GoferInode>(), true);
  to.SetChild(new_name, Ref<GoferInode>(&inode), true);
  return {};
}

}  // namespace skep::fs
