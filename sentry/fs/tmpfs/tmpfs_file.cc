// Regular files of TmpFs.
#include <fcntl.h>
#include <linux/falloc.h>

#include "base/range.h"
#include "sentry/fs/tmpfs/tmpfs_inode.h"
#include "sentry/vfs/name_ops.h"
#include "sentry/vfs/permission.h"

namespace skep::fs {
namespace {

// Pages that outlive their file system keep what they are charged to.
class QuotaHold {
 protected:
  explicit QuotaHold(Ref<TmpQuota> quota) : quota_(std::move(quota)) {}
  const Ref<TmpQuota> quota_;
};
class TmpPages final : private QuotaHold, public mm::FilePages {
 public:
  TmpPages(mm::MemoryFile& memory, Ref<TmpQuota> quota)
      : QuotaHold(std::move(quota)), FilePages(memory, quota_.get()) {}
};

class TmpFile final : public vfs::File {
 public:
  TmpFile(TmpRegular& inode, const vfs::Path& path, uint32_t flags)
      : File(path, flags), inode_(inode) {}

  Result<size_t> Read(vfs::Caller&, mm::IoSequence& to, uint64_t offset) override {
    Result<size_t> done = inode_.pages().Read(offset, to);
    inode_.TouchAccessed(*this);
    return done;
  }

  Result<size_t> Write(vfs::Caller& caller, mm::IoSequence& from, uint64_t* offset) override;
  Result<void> Truncate(vfs::Caller& caller, uint64_t size) override;
  Result<void> Allocate(vfs::Caller& caller, int mode, uint64_t offset, uint64_t size) override;
  Result<void> Sync(bool) override { return {}; }

  Result<uint64_t> FindData(uint64_t offset, bool hole) override {
    return hole ? inode_.pages().SeekHole(offset) : inode_.pages().SeekData(offset);
  }

  Result<Ref<mm::Mappable>> Mappable() override {
    inode_.pages().SetName({.dev_major = 0,
                            .dev_minor = inode()->fs().dev_minor(),
                            .inode = inode()->ino(),
                            .path = vfs::NameOf(path(), {})});
    return Ref<mm::Mappable>(&inode_.pages());
  }

 private:
  TmpRegular& inode_;
};

Result<size_t> TmpFile::Write(vfs::Caller& caller, mm::IoSequence& from, uint64_t* offset) {
  sched::SleepLockHold hold(inode_.io_lock());
  if ((flags() & O_APPEND) != 0) *offset = inode_.pages().size();
  const size_t allowed = TRY(vfs::ClampToFileSize(caller, *inode(), *offset, from.size()));
  if (allowed == 0) return 0;
  if (inode_.HasPrivileges()) TRY(vfs::RemovePrivileges(*inode(), caller.creds()));
  Result<size_t> done = 0;
  if (allowed == from.size()) {
    done = inode_.pages().Write(*offset, from);
  } else {
    mm::IoSequence head = from.TakeFirst(allowed);
    done = inode_.pages().Write(*offset, head);
    if (done) from.DropFirst(*done);
  }
  if (done && *done > 0) inode_.TouchModified();
  return done;
}

Result<void> TmpFile::Truncate(vfs::Caller& caller, uint64_t size) {
  TRY(vfs::CheckNewSize(caller, *inode(), inode_.pages().size(), size));
  vfs::AttributeChange change;
  change.size = size;
  if (inode_.HasPrivileges()) TRY(vfs::RemovePrivileges(*inode(), caller.creds()));
  return inode()->SetAttributes(change);
}

Result<void> TmpFile::Allocate(vfs::Caller& caller, int mode, uint64_t offset, uint64_t size) {
  if ((mode & ~(FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE)) != 0) return Fail(EOPNOTSUPP);
  const bool punch = (mode & FALLOC_FL_PUNCH_HOLE) != 0;
  if (punch && (mode & FALLOC_FL_KEEP_SIZE) == 0) return Fail(EOPNOTSUPP);
  if (size == 0) return Fail(EINVAL);
  const Result<Range> range = Range::Make(offset, size);
  if (!range || range->end > vfs::kMaxFileSize) return Fail(EFBIG);
  sched::SleepLockHold hold(inode_.io_lock());
  const bool keep = (mode & FALLOC_FL_KEEP_SIZE) != 0;
  if (!keep) TRY(vfs::CheckNewSize(caller, *inode(), inode_.pages().size(), range->end));
  if (inode_.HasPrivileges()) TRY(vfs::RemovePrivileges(*inode(), caller.creds()));
  TRY(punch ? inode_.pages().PunchHole(*range) : inode_.pages().Allocate(*range, keep));
  inode_.TouchModified();
  return {};
}

}  // namespace

TmpRegular::TmpRegular(TmpFs& fs, const NewNode& node, uint32_t nlink)
    : TmpInode(fs, node, nlink),
      pages_(MakeRef<TmpPages>(fs.memory(), Ref<TmpQuota>(&fs.quota()))) {}

Result<void> TmpRegular::SetAttributes(const vfs::AttributeChange& change) {
  if (change.size) {
    if (*change.size > vfs::kMaxFileSize) return Fail(EFBIG);
    sched::SleepLockHold hold(io_lock_);
    TRY(pages_->Truncate(*change.size));
  }
  return TmpInode::SetAttributes(change);
}

Result<Ref<vfs::File>> TmpRegular::Open(vfs::Caller&, const vfs::Path& path, uint32_t flags) {
  return Ref<vfs::File>(MakeRef<TmpFile>(*this, path, flags));
}

}  // namespace skep::fs
