#include "sentry/fs/gofer/gofer_fs.h"

#include "base/host_call.h"
#include "sentry/arena/arena.h"
#include "sentry/fs/gofer/gofer_inode.h"
#include "sentry/vfs/dentry_cache.h"

namespace skep::fs {
namespace {

constexpr size_t kMaxChildren = 32768;  // names that directories remember beside the dentries

}  // namespace

GoferFs::GoferFs(Ref<GoferConnection> connection, const GoferFsOptions& wanted,
                 bool attached_read_only)
    : FileSystem(wanted.dev_minor),
      connection_(std::move(connection)),
      caching_(wanted.caching),
      attached_read_only_(attached_read_only),
      read_only_(wanted.read_only || attached_read_only),
      donated_(wanted.donated ? wanted.donated
                              : MakeRef<DonatedFiles>(DonatedFiles::BudgetOfHost())) {}

Result<Ref<GoferFs>> GoferFs::Make(Ref<GoferConnection> connection, const GoferFsOptions& options) {
  Result<gofer::AttachRecord> attached = Fail(EIO);
  {
    const arena::HostHeapScope host;
    attached = connection->client().Attach(options.attach);
  }
  if (!attached) return std::unexpected(attached.error());
  const bool read_only = (attached->flags & gofer::kAttachReadOnly) != 0;
  Ref<GoferFs> fs(new GoferFs(std::move(connection), options, read_only));
  fs->source = "none";
  fs->root_ = fs->Intern(attached->root);
  return fs;
}

GoferFs::~GoferFs() {
  DropCache();
  root_ = {};
  Call([](gofer::Client& client) { client.FlushReleases(); });
}

Ref<vfs::Inode> GoferFs::RootInode() { return root_; }

Result<vfs::StatFs> GoferFs::GetStatFs() {
  const gofer::FsStatistics from =
      TRY(Call([&](gofer::Client& client) { return client.Statfs(root_->node()); }));
  return vfs::StatFs{.type = from.type,
                     .block_size = from.block_size,
                     .blocks = from.blocks,
                     .blocks_free = from.blocks_free,
                     .blocks_available = from.blocks_available,
                     .files = from.files,
                     .files_free = from.files_free,
                     .name_max = from.name_max};
}

bool GoferFs::StillTrue(uint64_t heard_ns) const {
  if (heard_ns < connection_->trusted_since()) return false;
  return exclusive() || host::MonotonicNs() - heard_ns < kSharedTtlNs;
}

// kShared: a name that was heard of within the time to live is taken for true. Names that do not
// exist are always asked for again (the directory remembers them for as long).
bool GoferFs::Revalidate(vfs::Dentry& dentry) {
  if (exclusive() && connection_->trusted_since() == 0) return true;
  if (dentry.negative()) return false;
  return static_cast<GoferInode*>(dentry.raw_inode())->Fresh();
}

Ref<GoferInode> GoferFs::Intern(const gofer::NodeRecord& record) {
  Ref<GoferInode> known;
  Ref<GoferInode> made;
  for (;;) {
    {
      MutexLock lock(mutex_);
      GoferInode*& slot = inodes_[static_cast<uint64_t>(record.node)];
      known = Ref<GoferInode>::TryFrom(slot);
      if (!known && made) {
        slot = made.get();
        return made;
      }
    }
    if (known) break;
    made = MakeRef<GoferInode>(*this, record);
  }
  known->Absorb(record);
  return known;
}

void GoferFs::OnDestroy(GoferInode& inode, gofer::NodeId node, uint64_t references) {
  {
    MutexLock lock(mutex_);
    const auto it = inodes_.find(static_cast<uint64_t>(node));
    if (it != inodes_.end() && it->second == &inode) inodes_.erase(it);
    if (inode.listed_at) listed_.erase(*inode.listed_at);
    children_ -= inode.children_counted;
  }
  donated_->Forget(inode);
  if (references == 0) return;
  Call([&](gofer::Client& client) { client.Release(node, references); });
}

void GoferFs::NoteChildren(GoferInode& inode, size_t count) {
  std::vector<Ref<GoferInode>> oldest;
  {
    MutexLock lock(mutex_);
    if (!inode.listed_at) inode.listed_at = listed_.insert(listed_.end(), &inode);
    inode.children_counted += count;
    children_ += count;
    while (children_ > kMaxChildren && !listed_.empty() && listed_.front() != &inode) {
      GoferInode* victim = listed_.front();
      listed_.pop_front();
      victim->listed_at.reset();
      children_ -= std::exchange(victim->children_counted, 0);
      if (Ref<GoferInode> live = Ref<GoferInode>::TryFrom(victim)) {
        oldest.push_back(std::move(live));
      }
    }
  }
  for (const Ref<GoferInode>& directory : oldest) directory->ForgetChildren();
}

void GoferFs::DropChildren() {
  for (const Ref<GoferInode>& inode : LiveInodes()) inode->ForgetChildren();
  MutexLock lock(mutex_);
  for (GoferInode* inode : listed_) {
    inode->listed_at.reset();
    children_ -= std::exchange(inode->children_counted, 0);
  }
  listed_.clear();
}

size_t GoferFs::inode_count() const {
  MutexLock lock(mutex_);
  return inodes_.size();
}

std::vector<Ref<GoferInode>> GoferFs::LiveInodes() {
  std::vector<Ref<GoferInode>> live;
  {
    MutexLock lock(mutex_);
    for (const auto& [id, inode] : inodes_) {
      if (Ref<GoferInode> held = Ref<GoferInode>::TryFrom(inode)) live.push_back(std::move(held));
    }
  }
  return live;
}

Result<void> GoferFs::PrepareCheckpoint() {
  places_.clear();
  for (const Ref<GoferInode>& inode : LiveInodes()) {
    if (inode == root_) continue;
    const Result<gofer::NodePath> where =
        Call([&](gofer::Client& client) { return client.PathOf(inode->node()); });
    // A file that is open and has no name any more cannot be found again.
    if (!where) return std::unexpected(where.error());
    places_.push_back({inode->node(), std::string(where->path)});
  }
  return {};
}

Result<void> GoferFs::Reattach(uint32_t attach) {
  const gofer::AttachRecord attached =
      TRY(Call([&](gofer::Client& client) { return client.Attach(attach); }));
  const bool read_only = (attached.flags & gofer::kAttachReadOnly) != 0;
  if (read_only != attached_read_only_) return Fail(EROFS);
  {
    MutexLock lock(mutex_);
    inodes_.erase(static_cast<uint64_t>(root_->node()));
    inodes_[static_cast<uint64_t>(attached.root.node)] = root_.get();
  }
  root_->Renumber(attached.root.node);
  for (const Place& place : places_) {
    TRY(Call([&](gofer::Client& client) { return client.Reopen(place.node, attach, place.path); }));
  }
  places_.clear();
  for (const Ref<GoferInode>& inode : LiveInodes()) TRY(inode->ReopenFds());
  return {};
}

}  // namespace skep::fs
