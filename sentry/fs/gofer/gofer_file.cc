// Open files of a GoferFs: contents move between the donated descriptor and guest pages.
#include <fcntl.h>
#include <linux/falloc.h>
#include <sys/syscall.h>
#include <algorithm>
#include <array>
#include <atomic>
#include <functional>

#include "base/host_call.h"
#include "sentry/arena/arena.h"
#include "sentry/fs/gofer/gofer_inode.h"
#include "sentry/mm/memory_manager.h"
#include "sentry/sched/fiber.h"
#include "sentry/sched/host_poller.h"
#include "sentry/sched/ticks.h"
#include "sentry/vfs/listing_file.h"
#include "sentry/vfs/name_ops.h"
#include "sentry/vfs/permission.h"

namespace skep::fs {
namespace {

// Up to this size a bounce buffer on the fiber's stack (0.1 us) is faster than pinning guest pages
// for preadv (0.6 us).
constexpr size_t kBounceMax = 2048;
constexpr uint64_t kSlowTicks = 5'000'000;  // a write into memory takes less: some 2 ms
constexpr int kSlowWrites = 64;
constexpr size_t kTransferMax = 1 << 20;  // of one host call: others may run in between

// As much as is possible without waiting. EAGAIN: nothing is. EOPNOTSUPP: not with this file.
Result<size_t> ReadNow(int fd, std::span<const iovec> to, uint64_t offset) {
  const int64_t n = TRY(host::Call(SYS_preadv2, fd, to.data(), to.size(), offset, 0, RWF_NOWAIT));
  return static_cast<size_t>(n);
}
Result<size_t> WriteNow(int fd, std::span<const iovec> from, uint64_t offset) {
  const int64_t n =
      TRY(host::Call(SYS_pwritev2, fd, from.data(), from.size(), offset, 0, RWF_NOWAIT));
  return static_cast<size_t>(n);
}

class GoferMappable final : public mm::Mappable {
 public:
  GoferMappable(Ref<GoferInode> inode, arena::HostFd fd, mm::MappableName name)
      : inode_(std::move(inode)), fd_(fd), name_(std::move(name)) {}
  ~GoferMappable() override { inode_->ReleaseFd(); }

  Result<mm::Piece> Translate(Range range, bool) override {
    uint64_t size = 0;
    if (const std::optional<uint64_t> known = inode_->KnownSize()) {
      size = *known;
    } else {
      const vfs::Attributes attributes = TRY(inode_->GetAttributes());
      size = attributes.size;
    }
    const uint64_t end = std::min(range.end, PageCeil(size));
    if (range.start >= end) return Fail(ENXIO);
    return mm::Piece{
        .file = arena::HostTable::FileIdOf(fd_), .offset = range.start, .size = end - range.start};
  }
  void AddMapping(mm::MemoryManager& mm, Range addresses, uint64_t offset) override {
    inode_->AddMapping(mm, addresses, offset);
  }
  void RemoveMapping(mm::MemoryManager& mm, Range addresses, uint64_t offset) override {
    inode_->RemoveMapping(mm, addresses, offset);
  }
  mm::MappableName NameForMaps() override { return name_; }
  const void* Identity() const override { return inode_.get(); }

 private:
  const Ref<GoferInode> inode_;
  const arena::HostFd fd_;  // acquired
  const mm::MappableName name_;
};

// Files of this file system that were opened through an overlay: once the overlay has copied the
// inode up, `Current` opens the copy and keeps it.
class Replaceable {
 public:
  // The file to use instead; null: still this one.
  Result<Ref<vfs::File>> Current(vfs::Caller& caller, const vfs::File& self,
                                 const vfs::Inode& inode) {
    if (!inode.superseded() || self.inode() == &inode) return Ref<vfs::File>();
    {
      MutexLock lock(mutex_);
      if (replacement_) return replacement_;
    }
    Ref<vfs::File> opened = TRY(self.inode()->Open(caller, self.path(), self.flags()));
    MutexLock lock(mutex_);
    if (!replacement_) replacement_ = opened;
    return replacement_;
  }

 private:
  Mutex mutex_{LockRank::kFile};
  Ref<vfs::File> replacement_ GUARDED_BY(mutex_);
};

class GoferFile final : public vfs::File {
 public:
  GoferFile(GoferInode& inode, const vfs::Path& path, uint32_t flags, arena::HostFd fd)
      : File(path, flags), inode_(&inode), fd_(fd) {}
  ~GoferFile() override { inode_->ReleaseFd(); }

  Result<size_t> Read(vfs::Caller& caller, mm::IoSequence& to, uint64_t offset) override;
  Result<size_t> Write(vfs::Caller& caller, mm::IoSequence& from, uint64_t* offset) override;
  Result<Ref<mm::Mappable>> Mappable() override;
  Result<void> Truncate(vfs::Caller& caller, uint64_t size) override;
  Result<void> Allocate(vfs::Caller& caller, int mode, uint64_t offset, uint64_t size) override;
  Result<void> Sync(bool data_only) override;
  Result<uint64_t> FindData(uint64_t offset, bool hole) override;

 private:
  int host_fd() const { return arena::HostTable::Get().Get(fd_); }
  Result<size_t> ReadHost(std::span<const iovec> to, uint64_t offset);
  Result<size_t> WriteHost(std::span<const iovec> from, uint64_t offset);
  template <class T>
  Result<T> ByHelper(std::move_only_function<Result<T>()> work);
  Result<size_t> ReadSmall(mm::IoSequence& to, uint64_t offset, size_t size);
  Result<size_t> WriteAt(mm::IoSequence& from, uint64_t offset, size_t size);

  const Ref<GoferInode> inode_;
  const arena::HostFd fd_;  // acquired
  Replaceable copied_up_;
  // Hints: the host's file system knows no RWF_NOWAIT; so many writes are to be a helper's.
  std::atomic<bool> reads_wait_{false}, writes_wait_{false};
  std::atomic<int> slow_writes_{0};
};

// On a thread that may wait. Nobody else does for this file system's sake but half of the helpers.
template <class T>
Result<T> GoferFile::ByHelper(std::move_only_function<Result<T>()> work) {
  if (sched::Fiber::CurrentOrNull() == nullptr) return work();
  Result<T> result = Fail(EIO);
  sched::OffloadFor(&inode_->gofer_fs(), [&] { result = work(); });
  return result;
}

// Bytes that the host has in memory are read at once; a helper thread waits for others.
Result<size_t> GoferFile::ReadHost(std::span<const iovec> to, uint64_t offset) {
  const int fd = host_fd();
  Result<size_t> now = Fail(EOPNOTSUPP);
  if (!reads_wait_.load(std::memory_order_relaxed)) now = ReadNow(fd, to, offset);
  if (now) return now;
  if (now.error() == Errno(EOPNOTSUPP)) {
    reads_wait_.store(true, std::memory_order_relaxed);
    if (!inode_->remote()) return host::PReadV(fd, to, offset);
  } else if (now.error() != Errno(EAGAIN)) {
    return now;
  }
  return ByHelper<size_t>([&] { return host::PReadV(fd, to, offset); });
}

// Few file systems know RWF_NOWAIT for writes, most of which end in memory: of the others, a write
// that took long makes the next ones a helper's.
Result<size_t> GoferFile::WriteHost(std::span<const iovec> from, uint64_t offset) {
  const int fd = host_fd();
  Result<size_t> now = Fail(EOPNOTSUPP);
  if (!writes_wait_.load(std::memory_order_relaxed)) now = WriteNow(fd, from, offset);
  if (now || (now.error() != Errno(EOPNOTSUPP) && now.error() != Errno(EAGAIN))) return now;
  if (now.error() == Errno(EOPNOTSUPP)) {
    writes_wait_.store(true, std::memory_order_relaxed);
    const int slow = slow_writes_.load(std::memory_order_relaxed);
    if (!inode_->remote() && slow == 0) {
      const uint64_t start = sched::TicksNow();
      now = host::PWriteV(fd, from, offset);
      if (sched::TicksNow() - start > kSlowTicks) slow_writes_.store(kSlowWrites);
      return now;
    }
    if (slow != 0) slow_writes_.store(slow - 1, std::memory_order_relaxed);
  }
  return ByHelper<size_t>([&] { return host::PWriteV(fd, from, offset); });
}

Result<size_t> GoferFile::ReadSmall(mm::IoSequence& to, uint64_t offset, size_t size) {
  std::array<std::byte, kBounceMax> bounce;
  size_t got = 0;
  do {
    const iovec part = {bounce.data() + got, size - got};
    const Result<size_t> n = ReadHost(std::span(&part, 1), offset + got);
    if (!n && got == 0) return n;
    if (!n || *n == 0) break;
    got += *n;
  } while (got < size && (offset + got) % kPageSize == 0);  // as in Read
  const mm::CopyResult copied = to.CopyOut(std::span<const std::byte>(bounce).first(got));
  if (copied.fault != 0 && copied.bytes == 0) return Fail(copied.fault);
  return copied.bytes;
}

Result<size_t> GoferFile::Read(vfs::Caller& caller, mm::IoSequence& to, uint64_t offset) {
  if (inode_->superseded()) [[unlikely]] {
    const Ref<vfs::File> now = TRY(copied_up_.Current(caller, *this, *inode_));
    if (now) return now->Read(caller, to, offset);
  }
  size_t size = to.size();
  if (const std::optional<uint64_t> known = inode_->KnownSize()) {
    if (offset >= *known) return 0;
    size = static_cast<size_t>(std::min<uint64_t>(size, *known - offset));
  }
  if (size <= kBounceMax) return ReadSmall(to, offset, size);
  size_t done = 0;
  while (done < size) {
    const size_t wanted = std::min(size - done, kTransferMax);
    size_t offered = 0;
    const mm::CopyResult moved =
        to.WithBlocks(wanted, true, [&](std::span<const iovec> blocks) -> Result<size_t> {
          for (const iovec& block : blocks) offered += block.iov_len;
          return ReadHost(blocks, offset + done);
        });
    done += moved.bytes;
    if (moved.fault != 0) return done != 0 ? Result<size_t>(done) : Fail(moved.fault);
    // A page that is not in memory ends what comes at once; anything else is the end of the file.
    const bool at_page = (offset + done) % kPageSize == 0;
    if (moved.bytes == 0 || (moved.bytes < offered && !at_page)) break;
    if (done < size && !sched::YieldIfLong()) return mm::CopyResult{done, kKilled}.OrFault();
  }
  return done;
}

Result<size_t> GoferFile::WriteAt(mm::IoSequence& from, uint64_t offset, size_t size) {
  size_t done = 0;
  while (done < size) {
    const mm::CopyResult moved = from.WithBlocks(
        std::min(size - done, kTransferMax), false,
        [&](std::span<const iovec> blocks) { return WriteHost(blocks, offset + done); });
    done += moved.bytes;
    if (moved.fault != 0) return done != 0 ? Result<size_t>(done) : Fail(moved.fault);
    if (moved.bytes == 0) break;
    if (done < size && !sched::YieldIfLong()) return mm::CopyResult{done, kKilled}.OrFault();
  }
  return done;
}

Result<size_t> GoferFile::Write(vfs::Caller& caller, mm::IoSequence& from, uint64_t* offset) {
  if ((flags() & O_APPEND) != 0) {
    const vfs::Attributes attributes = TRY(inode_->GetAttributes());
    *offset = attributes.size;
  }
  const size_t size = TRY(vfs::ClampToFileSize(caller, *inode(), *offset, from.size()));
  if (size == 0) return 0;
  TRY(vfs::RemovePrivileges(*inode_, caller.creds()));
  const Result<size_t> done = WriteAt(from, *offset, size);
  if (done && *done > 0) inode_->NoteWrite(*offset + *done);
  if (done && (flags() & (O_SYNC | O_DSYNC)) != 0) TRY(Sync((flags() & O_SYNC) != O_SYNC));
  return done;
}

Result<Ref<mm::Mappable>> GoferFile::Mappable() {
  mm::MappableName name{.dev_major = 0,
                        .dev_minor = inode()->fs().dev_minor(),
                        .inode = inode()->ino(),
                        .path = vfs::NameOf(path(), {})};
  const arena::HostFd fd = TRY(inode_->AcquireFd(writable(), nullptr));
  return Ref<mm::Mappable>(MakeRef<GoferMappable>(inode_, fd, std::move(name)));
}

Result<void> GoferFile::Truncate(vfs::Caller& caller, uint64_t size) {
  const vfs::Attributes attributes = TRY(inode_->GetAttributes());
  TRY(vfs::CheckNewSize(caller, *inode(), attributes.size, size));
  TRY(vfs::RemovePrivileges(*inode_, caller.creds()));
  vfs::AttributeChange change;
  change.size = size;
  return inode_->SetAttributes(change);
}

Result<void> GoferFile::Allocate(vfs::Caller& caller, int mode, uint64_t offset, uint64_t size) {
  const Result<Range> range = Range::Make(offset, size);
  if (!range || range->end > vfs::kMaxFileSize) return Fail(EFBIG);
  if ((mode & FALLOC_FL_KEEP_SIZE) == 0) {
    const vfs::Attributes attributes = TRY(inode_->GetAttributes());
    TRY(vfs::CheckNewSize(caller, *inode(), attributes.size, range->end));
  }
  TRY(vfs::RemovePrivileges(*inode_, caller.creds()));
  const int fd = host_fd();
  const auto allocate = [&] { return host::Fallocate(fd, mode, offset, size); };
  TRY(inode_->remote() ? ByHelper<void>(allocate) : allocate());
  inode_->MarkStale();
  return {};
}

Result<void> GoferFile::Sync(bool data_only) {
  const int fd = host_fd();
  TRY(ByHelper<int64_t>([&] { return host::Call(data_only ? SYS_fdatasync : SYS_fsync, fd); }));
  return {};
}

Result<uint64_t> GoferFile::FindData(uint64_t offset, bool hole) {
  const int64_t found = TRY(host::Call(SYS_lseek, host_fd(), offset, hole ? SEEK_HOLE : SEEK_DATA));
  return static_cast<uint64_t>(found);
}

// A listing is taken when reading begins and kept: what is removed meanwhile moves nothing.
class GoferDirectoryFile final : public vfs::ListingFile {
 public:
  GoferDirectoryFile(GoferInode& inode, const vfs::Path& path, uint32_t flags)
      : ListingFile(path, flags), inode_(&inode) {}

  Result<uint64_t> ReadDir(vfs::Caller& caller, uint64_t cookie,
                           const vfs::DirSink& sink) override {
    // A listing that was begun is read to its end.
    const Ref<vfs::File> now = TRY(copied_up_.Current(caller, *this, *inode_));
    if (now && (cookie == 0 || moved_on_.load())) {
      moved_on_.store(true);
      return now->ReadDir(caller, cookie, sink);
    }
    return ListingFile::ReadDir(caller, cookie, sink);
  }

 protected:
  Result<void> List(vfs::Caller&, uint64_t cookie, const vfs::DirSink& sink) override {
    sched::SleepLockHold hold(inode_->directory_lock());
    if (IsStart(cookie) || !listing_) listing_ = TRY(inode_->List());
    EmitSnapshot(listing_->entries, cookie, sink);
    return {};
  }

 private:
  const Ref<GoferInode> inode_;
  Ref<GoferListing> listing_;  // guarded by the directory lock
  Replaceable copied_up_;
  std::atomic<bool> moved_on_{false};
};

}  // namespace

Ref<vfs::File> MakeGoferFile(GoferInode& inode, const vfs::Path& path, uint32_t flags,
                             arena::HostFd fd) {
  return MakeRef<GoferFile>(inode, path, flags, fd);
}

Ref<vfs::File> MakeGoferDirectoryFile(GoferInode& inode, const vfs::Path& path, uint32_t flags) {
  return MakeRef<GoferDirectoryFile>(inode, path, flags);
}

}  // namespace skep::fs
