#include "sentry/anon/memfd.h"

#include <linux/falloc.h>
#include <linux/memfd.h>
#include <algorithm>
#include <atomic>
#include <csignal>
#include <string>

#include "base/host_call.h"
#include "base/missing_defs.h"
#include "sentry/vfs/permission.h"

namespace skep::anon {
namespace {

constexpr uint32_t kSealExec = 0x0020;  // F_SEAL_EXEC
constexpr uint32_t kAllSeals =
    F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE | F_SEAL_FUTURE_WRITE | kSealExec;
constexpr uint32_t kNoWriting = F_SEAL_WRITE | F_SEAL_FUTURE_WRITE;
constexpr uint64_t kMaxSize = uint64_t{1} << 46;  // of one file; its pages come from the sandbox's

vfs::Timestamp Now() {
  const uint64_t ns = host::RealtimeNs();
  constexpr uint64_t kSecond = 1'000'000'000;
  return {.sec = static_cast<int64_t>(ns / kSecond), .nsec = static_cast<uint32_t>(ns % kSecond)};
}

class MemfdInode final : public vfs::Inode {
 public:
  MemfdInode(vfs::FileSystem& fs, uint64_t ino, mm::MemoryFile& memory, uint32_t mode,
             uint32_t first_seals)
      : Inode(fs, ino, S_IFREG), pages(MakeRef<mm::FilePages>(memory)), seals(first_seals) {
    attributes_.ino = ino;
    attributes_.dev_minor = fs.dev_minor();
    attributes_.mode = S_IFREG | mode;
    attributes_.nlink = 0;
    attributes_.atime = attributes_.mtime = attributes_.ctime = attributes_.btime = Now();
  }

  Result<vfs::Attributes> GetAttributes() override {
    MutexLock lock(mutex_);
    vfs::Attributes attributes = attributes_;
    attributes.size = pages->size();
    attributes.blocks = pages->BytesUsed() / 512;
    return attributes;
  }
  Result<void> SetAttributes(const vfs::AttributeChange& change) override;
  Result<Ref<vfs::File>> Open(vfs::Caller& caller, const vfs::Path& path, uint32_t flags) override;

  Result<void> Resize(uint64_t size);
  void Touch() {
    MutexLock lock(mutex_);
    attributes_.mtime = attributes_.ctime = Now();
  }

  const Ref<mm::FilePages> pages;
  // tidy: allow(guards) the order of writes, seals and sizes (i_rwsem)
  sched::SleepLock io_lock{LockRank::kInodeIo};
  std::atomic<uint32_t> seals;  // changes under io_lock

 private:
  Mutex mutex_{LockRank::kInode};
  vfs::Attributes attributes_ GUARDED_BY(mutex_);
};

class MemFile final : public vfs::File {
 public:
  MemFile(vfs::Path path, Ref<MemfdInode> inode, uint32_t flags)
      : File(std::move(path), flags), memory_(std::move(inode)) {}
  MemfdInode& memory() { return *memory_; }

  Result<size_t> Read(vfs::Caller&, mm::IoSequence& to, uint64_t offset) override {
    return memory_->pages->Read(offset, to);
  }
  Result<size_t> Write(vfs::Caller& caller, mm::IoSequence& from, uint64_t* offset) override;
  Result<uint64_t> FindData(uint64_t offset, bool hole) override {
    return hole ? memory_->pages->SeekHole(offset) : memory_->pages->SeekData(offset);
  }
  Result<Ref<mm::Mappable>> Mappable() override { return Ref<mm::Mappable>(memory_->pages); }
  Result<void> Truncate(vfs::Caller& caller, uint64_t size) override {
    sched::SleepLockHold hold(memory_->io_lock);
    TRY(vfs::CheckNewSize(caller, *inode(), memory_->pages->size(), size));
    return memory_->Resize(size);
  }
  Result<void> Allocate(vfs::Caller& caller, int mode, uint64_t offset, uint64_t size) override;
  Result<void> Sync(bool) override { return {}; }

 private:
  const Ref<MemfdInode> memory_;
};

Result<void> MemfdInode::SetAttributes(const vfs::AttributeChange& change) {
  if (change.size) {
    sched::SleepLockHold hold(io_lock);
    TRY(Resize(*change.size));
  }
  MutexLock lock(mutex_);
  constexpr uint32_t kExecBits = 0111;
  if (change.mode) {
    const bool changes_exec = ((*change.mode ^ attributes_.mode) & kExecBits) != 0;
    if (changes_exec && (seals.load() & kSealExec) != 0) return Fail(EPERM);
    attributes_.mode = S_IFREG | (*change.mode & 07777);
  }
  if (change.uid) attributes_.uid = *change.uid;
  if (change.gid) attributes_.gid = *change.gid;
  if (change.atime) attributes_.atime = *change.atime;
  if (change.mtime) attributes_.mtime = *change.mtime;
  attributes_.ctime = Now();
  return {};
}

Result<Ref<vfs::File>> MemfdInode::Open(vfs::Caller&, const vfs::Path& path, uint32_t flags) {
  return Ref<vfs::File>(MakeRef<MemFile>(path, Ref<MemfdInode>(this), flags));
}

// Linux: shmem_setattr.
Result<void> MemfdInode::Resize(uint64_t size) {
  if (size > kMaxSize) return Fail(EFBIG);
  const uint32_t sealed = seals.load();
  if (size < pages->size() && (sealed & F_SEAL_SHRINK) != 0) return Fail(EPERM);
  if (size > pages->size() && (sealed & F_SEAL_GROW) != 0) return Fail(EPERM);
  TRY(pages->Truncate(size));
  Touch();
  return {};
}

Result<size_t> MemFile::Write(vfs::Caller& caller, mm::IoSequence& from, uint64_t* offset) {
  if (from.empty()) return 0;
  sched::SleepLockHold hold(memory_->io_lock);
  mm::FilePages& pages = *memory_->pages;
  if ((flags() & O_APPEND) != 0) *offset = pages.size();
  const uint64_t limit = std::min(caller.FileSizeLimit(), kMaxSize);
  if (*offset >= limit) {
    if (limit < kMaxSize) caller.SignalSelf(SIGXFSZ);
    return Fail(EFBIG);
  }
  uint64_t end = *offset + std::min<uint64_t>(from.size(), limit - *offset);
  const uint32_t sealed = memory_->seals.load();
  if ((sealed & kNoWriting) != 0) return Fail(EPERM);
  // Linux refuses page by page what would grow a sealed file.
  if ((sealed & F_SEAL_GROW) != 0 && end > pages.size()) end = PageFloor(pages.size());
  if (end <= *offset) return Fail(EPERM);
  const size_t size = end - *offset;
  mm::IoSequence part = from.TakeFirst(size);
  const size_t written = TRY(pages.Write(*offset, part));
  from.DropFirst(written);
  memory_->Touch();
  return written;
}

// Linux: shmem_fallocate.
Result<void> MemFile::Allocate(vfs::Caller& caller, int mode, uint64_t offset, uint64_t size) {
  if ((mode & ~(FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE)) != 0) return Fail(EOPNOTSUPP);
  const Range range = TRY(Range::Make(offset, size));
  if (range.end > kMaxSize) return Fail(EFBIG);
  sched::SleepLockHold hold(memory_->io_lock);
  const uint32_t sealed = memory_->seals.load();
  if ((mode & FALLOC_FL_PUNCH_HOLE) != 0) {
    if ((sealed & kNoWriting) != 0) return Fail(EPERM);
    return memory_->pages->PunchHole(range);
  }
  const bool keep_size = (mode & FALLOC_FL_KEEP_SIZE) != 0;
  const bool grows = !keep_size && range.end > memory_->pages->size();
  if (grows && (sealed & F_SEAL_GROW) != 0) return Fail(EPERM);
  if (grows && range.end > caller.FileSizeLimit()) {
    caller.SignalSelf(SIGXFSZ);
    return Fail(EFBIG);
  }
  TRY(memory_->pages->Allocate(range, keep_size));
  memory_->Touch();
  return {};
}

}  // namespace

Result<Ref<vfs::File>> MakeMemfd(mm::MemoryFile& memory, vfs::AnonFs& fs, std::string_view name,
                                 uint32_t flags) {
  const bool no_exec = (flags & MFD_NOEXEC_SEAL) != 0;
  const bool sealing = no_exec || (flags & MFD_ALLOW_SEALING) != 0;
  const uint32_t seals = (sealing ? 0 : F_SEAL_SEAL) | (no_exec ? kSealExec : 0);
  auto inode = MakeRef<MemfdInode>(fs, fs.NewIno(), memory, no_exec ? 0666 : 0777, seals);
  std::string full = "/memfd:";
  full += name;
  full += " (deleted)";
  inode->pages->SetName(
      {.dev_major = 0, .dev_minor = fs.dev_minor(), .inode = inode->ino(), .path = full});
  vfs::Path path({}, vfs::Dentry::MakeAnonymous(inode, full));
  return Ref<vfs::File>(MakeRef<MemFile>(std::move(path), std::move(inode), O_RDWR));
}

// Linux: memfd_add_seals.
Result<void> AddSeals(vfs::File& file, uint32_t seals) {
  auto* memory_file = dynamic_cast<MemFile*>(&file);
  if (memory_file == nullptr) return Fail(EINVAL);
  if (!file.writable()) return Fail(EPERM);
  if ((seals & ~kAllSeals) != 0) return Fail(EINVAL);
  MemfdInode& inode = memory_file->memory();
  sched::SleepLockHold hold(inode.io_lock);
  const uint32_t have = inode.seals.load();
  if ((have & F_SEAL_SEAL) != 0) return Fail(EPERM);
  if ((seals & ~have & F_SEAL_WRITE) != 0 && inode.pages->HasWritableMapping()) return Fail(EBUSY);
  inode.seals.store(have | seals);
  return {};
}

Result<uint32_t> GetSeals(vfs::File& file) {
  auto* memory_file = dynamic_cast<MemFile*>(&file);
  if (memory_file == nullptr) return Fail(EINVAL);
  return memory_file->memory().seals.load();
}

}  // namespace skep::anon
