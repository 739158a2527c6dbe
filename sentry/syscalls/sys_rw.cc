// Reading, writing, seeking, and the calls that change a file's length.
#include <fcntl.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <sys/uio.h>
#include <unistd.h>

#include "base/limits.h"
#include "sentry/kernel/kernel.h"
#include "sentry/syscalls/families.h"
#include "sentry/syscalls/util.h"
#include "sentry/vfs/blocking.h"
#include "sentry/vfs/mount.h"

namespace skep::syscalls {
namespace {

using mm::IoSequence;

Result<int64_t> ReadStream(Task& task, vfs::File& file, IoSequence& to, bool nonblocking) {
  const auto n = vfs::BlockOn(file, vfs::Direction::kRead, nonblocking || file.nonblocking(),
                              [&] { return file.Read(task, to, 0); });
  if (!n) return std::unexpected(n.error());
  return static_cast<int64_t>(*n);
}

// A blocking write of a stream goes on until all is written or something stops it.
Result<int64_t> WriteStream(Task& task, vfs::File& file, IoSequence& from, bool nonblocking) {
  const bool once = nonblocking || file.nonblocking();
  uint64_t done = 0;
  for (;;) {
    const auto n = vfs::BlockOn(file, vfs::Direction::kWrite, once, [&] {
      uint64_t before = done;
      return file.Write(task, from, &before);
    });
    if (!n) {
      if (done != 0) return static_cast<int64_t>(done);
      return std::unexpected(n.error());
    }
    done += *n;
    if (once || from.empty() || *n == 0 || !file.stream()) return static_cast<int64_t>(done);
  }
}

// At the file's position, under its lock (Linux: f_pos_lock).
Result<int64_t> ReadAtPosition(Task& task, vfs::File& file, IoSequence& to, bool nonblocking) {
  if (!file.seekable()) return ReadStream(task, file, to, nonblocking);
  sched::SleepLockHold hold(file.position_lock());
  if (file.position_is_hosts()) {
    const size_t n = TRY(file.Read(task, to, vfs::File::kHostsPosition));
    return static_cast<int64_t>(n);
  }
  const size_t n = TRY(file.Read(task, to, file.position));
  file.position += n;
  return static_cast<int64_t>(n);
}

Result<int64_t> WriteAtPosition(Task& task, vfs::File& file, IoSequence& from, bool nonblocking) {
  if (!file.seekable()) return WriteStream(task, file, from, nonblocking);
  sched::SleepLockHold hold(file.position_lock());
  uint64_t offset = file.position_is_hosts() ? vfs::File::kHostsPosition : file.position;
  const size_t n = TRY(file.Write(task, from, &offset));
  if (!file.position_is_hosts()) file.position = offset + n;
  return static_cast<int64_t>(n);
}

Result<Ref<vfs::File>> ReadableFile(Task& task, Fd fd) {
  Ref<vfs::File> file = TRY(task.files->Get(fd.value));
  if (!file->readable()) return Fail(EBADF);
  return file;
}

Result<Ref<vfs::File>> WritableFile(Task& task, Fd fd) {
  Ref<vfs::File> file = TRY(task.files->Get(fd.value));
  if (!file->writable()) return Fail(EBADF);
  return file;
}

Result<int64_t> ReadAt(Task& task, vfs::File& file, IoSequence& to, int64_t offset) {
  if (!file.seekable()) return Fail(ESPIPE);
  const size_t n = TRY(file.Read(task, to, static_cast<uint64_t>(offset)));
  return static_cast<int64_t>(n);
}

Result<int64_t> WriteAt(Task& task, vfs::File& file, IoSequence& from, int64_t offset) {
  if (!file.seekable()) return Fail(ESPIPE);
  auto at = static_cast<uint64_t>(offset);
  const size_t n = TRY(file.Write(task, from, &at));
  return static_cast<int64_t>(n);
}

constexpr int32_t kRwKnown = RWF_HIPRI | RWF_DSYNC | RWF_SYNC | RWF_NOWAIT | RWF_APPEND;

Result<int64_t> Read(Task& task, Fd fd, UserPtr<void> to, uint64_t size) {
  const Ref<vfs::File> file = TRY(ReadableFile(task, fd));
  if (static_cast<int64_t>(size) < 0) return Fail(EFAULT);  // Linux: access_ok
  IoSequence io = TRY(IoSequence::FromBuffer(*task.mm, to.addr(), size));
  return ReadAtPosition(task, *file, io, false);
}

Result<int64_t> Write(Task& task, Fd fd, UserPtr<void> from, uint64_t size) {
  const Ref<vfs::File> file = TRY(WritableFile(task, fd));
  if (static_cast<int64_t>(size) < 0) return Fail(EFAULT);
  IoSequence io = TRY(IoSequence::FromBuffer(*task.mm, from.addr(), size));
  return WriteAtPosition(task, *file, io, false);
}

Result<int64_t> Pread64(Task& task, Fd fd, UserPtr<void> to, uint64_t size, int64_t offset) {
  if (offset < 0) return Fail(EINVAL);
  const Ref<vfs::File> file = TRY(task.files->Get(fd.value));
  if (!file->seekable()) return Fail(ESPIPE);
  if (!file->readable()) return Fail(EBADF);
  IoSequence io = TRY(IoSequence::FromBuffer(*task.mm, to.addr(), size));
  return ReadAt(task, *file, io, offset);
}

Result<int64_t> Pwrite64(Task& task, Fd fd, UserPtr<void> from, uint64_t size, int64_t offset) {
  if (offset < 0) return Fail(EINVAL);
  const Ref<vfs::File> file = TRY(task.files->Get(fd.value));
  if (!file->seekable()) return Fail(ESPIPE);
  if (!file->writable()) return Fail(EBADF);
  IoSequence io = TRY(IoSequence::FromBuffer(*task.mm, from.addr(), size));
  return WriteAt(task, *file, io, offset);
}

Result<int64_t> Readv(Task& task, Fd fd, UserPtr<const iovec> list, uint64_t count) {
  const Ref<vfs::File> file = TRY(ReadableFile(task, fd));
  IoSequence io = TRY(IoSequence::FromIovec(*task.mm, list, count));
  return ReadAtPosition(task, *file, io, false);
}

Result<int64_t> Writev(Task& task, Fd fd, UserPtr<const iovec> list, uint64_t count) {
  const Ref<vfs::File> file = TRY(WritableFile(task, fd));
  IoSequence io = TRY(IoSequence::FromIovec(*task.mm, list, count));
  return WriteAtPosition(task, *file, io, false);
}

Result<int64_t> Preadv(Task& task, Fd fd, UserPtr<const iovec> list, uint64_t count,
                       int64_t offset) {
  if (offset < 0) return Fail(EINVAL);
  const Ref<vfs::File> file = TRY(task.files->Get(fd.value));
  if (!file->seekable()) return Fail(ESPIPE);
  if (!file->readable()) return Fail(EBADF);
  IoSequence io = TRY(IoSequence::FromIovec(*task.mm, list, count));
  return ReadAt(task, *file, io, offset);
}

Result<int64_t> Pwritev(Task& task, Fd fd, UserPtr<const iovec> list, uint64_t count,
                        int64_t offset) {
  if (offset < 0) return Fail(EINVAL);
  const Ref<vfs::File> file = TRY(task.files->Get(fd.value));
  if (!file->seekable()) return Fail(ESPIPE);
  if (!file->writable()) return Fail(EBADF);
  IoSequence io = TRY(IoSequence::FromIovec(*task.mm, list, count));
  return WriteAt(task, *file, io, offset);
}

Result<int64_t> Preadv2(Task& task, Fd fd, UserPtr<const iovec> list, uint64_t count,
                        int64_t offset, uint64_t, int32_t flags) {
  if (offset < -1) return Fail(EINVAL);
  const Ref<vfs::File> file = TRY(ReadableFile(task, fd));
  if ((flags & ~kRwKnown) != 0) return Fail(EOPNOTSUPP);
  IoSequence io = TRY(IoSequence::FromIovec(*task.mm, list, count));
  if (offset == -1) return ReadAtPosition(task, *file, io, (flags & RWF_NOWAIT) != 0);
  return ReadAt(task, *file, io, offset);
}

Result<int64_t> Pwritev2(Task& task, Fd fd, UserPtr<const iovec> list, uint64_t count,
                         int64_t offset, uint64_t, int32_t flags) {
  if (offset < -1) return Fail(EINVAL);
  const Ref<vfs::File> file = TRY(WritableFile(task, fd));
  if ((flags & ~kRwKnown) != 0) return Fail(EOPNOTSUPP);
  IoSequence io = TRY(IoSequence::FromIovec(*task.mm, list, count));
  if ((flags & RWF_APPEND) != 0 && file->inode() != nullptr) {
    const vfs::Attributes attributes = TRY(file->inode()->GetAttributes());
    return WriteAt(task, *file, io, static_cast<int64_t>(attributes.size));
  }
  if (offset == -1) return WriteAtPosition(task, *file, io, (flags & RWF_NOWAIT) != 0);
  return WriteAt(task, *file, io, offset);
}

Result<int64_t> Lseek(Task& task, Fd fd, int64_t offset, int32_t whence) {
  const Ref<vfs::File> file = TRY(task.files->Get(fd.value));
  if (whence < 0 || whence > SEEK_HOLE) return Fail(EINVAL);
  if (!file->seekable()) return Fail(ESPIPE);
  sched::SleepLockHold hold(file->position_lock());
  const uint64_t at = TRY(file->Seek(offset, whence));
  return static_cast<int64_t>(at);
}

// Where one side of an in-kernel copy reads or writes: an explicit offset, or the file's position.
struct Cursor {
  uint64_t offset = 0;
  bool at_position = false;
};

// Copies through a bounded buffer. Progress wins over errors.
Result<int64_t> CopyBetween(Task& task, vfs::File& in, Cursor& from, vfs::File& out, Cursor& to,
                            uint64_t size) {
  std::vector<std::byte> buffer(std::min<uint64_t>(size, 64 << 10));
  int64_t done = 0;
  while (size != 0) {
    const auto chunk = std::span(buffer).first(std::min<uint64_t>(size, buffer.size()));
    IoSequence read_to = IoSequence::FromKernel(chunk);
    auto got = from.at_position ? ReadAtPosition(task, in, read_to, false)
                                : ReadAt(task, in, read_to, static_cast<int64_t>(from.offset));
    if (!got) return done != 0 ? Result<int64_t>(done) : got;
    if (*got == 0) return done;
    const auto n = static_cast<size_t>(*got);
    IoSequence write_from = IoSequence::FromKernel(std::span<const std::byte>(chunk.first(n)));
    auto put = to.at_position ? WriteAtPosition(task, out, write_from, false)
                              : WriteAt(task, out, write_from, static_cast<int64_t>(to.offset));
    const uint64_t wrote = put ? static_cast<uint64_t>(*put) : 0;
    // Bytes that were read and not written are given back, if the file can seek.
    if (wrote < n && from.at_position && in.seekable()) {
      const sched::SleepLockHold hold(in.position_lock());
      (void)in.Seek(-static_cast<int64_t>(n - wrote), SEEK_CUR);
    }
    from.offset += wrote;
    to.offset += wrote;
    done += static_cast<int64_t>(wrote);
    size -= wrote;
    if (!put) return done != 0 ? Result<int64_t>(done) : put;
    if (wrote < n) return done;
    if (size != 0 && !sched::YieldIfLong()) return done;
  }
  return done;
}

Result<int64_t> Sendfile(Task& task, Fd out_fd, Fd in_fd, UserPtr<int64_t> offset, uint64_t count) {
  Cursor from{.at_position = offset.is_null()};
  if (!offset.is_null()) {
    const int64_t at = TRY(task.mm->CopyIn(offset));
    if (at < 0) return Fail(EINVAL);
    from.offset = static_cast<uint64_t>(at);
  }
  const Ref<vfs::File> in = TRY(ReadableFile(task, in_fd));
  if (!offset.is_null() && !in->seekable()) return Fail(ESPIPE);
  const Ref<vfs::File> out = TRY(WritableFile(task, out_fd));
  if (in->inode() == nullptr || in->inode()->IsDir()) return Fail(EINVAL);
  if ((out->flags() & O_APPEND) != 0) return Fail(EINVAL);
  Cursor to{.at_position = true};
  auto done = CopyBetween(task, *in, from, *out, to, std::min<uint64_t>(count, kMaxRwCount));
  if (done && !offset.is_null()) TRY(task.mm->CopyOut(offset, static_cast<int64_t>(from.offset)));
  return done;
}

// Linux: generic_copy_file_checks, rw_verify_area. How much there is to copy; a negative offset is
// seen only after what it would wrap around.
Result<uint64_t> CheckCopy(vfs::File& in, uint64_t in_at, vfs::File& out, uint64_t out_at,
                           uint64_t size) {
  if (in_at + size < in_at || out_at + size < out_at) return Fail(EOVERFLOW);
  const vfs::Attributes source = TRY(in.inode()->GetAttributes());
  if (in_at <= INT64_MAX) {
    size = in_at >= source.size ? 0 : std::min(size, source.size - in_at);
  }
  if (out_at <= INT64_MAX && out_at >= out.inode()->fs().max_file_size()) return Fail(EFBIG);
  const bool overlap = in.inode() == out.inode() && in_at < out_at + size && out_at < in_at + size;
  if (overlap || in_at > INT64_MAX || out_at > INT64_MAX) return Fail(EINVAL);
  if (size > INT64_MAX || out_at + size > INT64_MAX) return Fail(EINVAL);
  return size;
}

Result<int64_t> CopyFileRange(Task& task, Fd in_fd, UserPtr<int64_t> in_offset, Fd out_fd,
                              UserPtr<int64_t> out_offset, uint64_t size, uint32_t flags) {
  const Ref<vfs::File> in = TRY(task.files->Get(in_fd.value));
  const Ref<vfs::File> out = TRY(task.files->Get(out_fd.value));
  Cursor from{.at_position = in_offset.is_null()}, to{.at_position = out_offset.is_null()};
  if (!in_offset.is_null()) from.offset = static_cast<uint64_t>(TRY(task.mm->CopyIn(in_offset)));
  if (!out_offset.is_null()) to.offset = static_cast<uint64_t>(TRY(task.mm->CopyIn(out_offset)));
  if (flags != 0) return Fail(EINVAL);
  if (in->inode() == nullptr || out->inode() == nullptr) return Fail(EINVAL);
  if (in->inode()->IsDir() || out->inode()->IsDir()) return Fail(EISDIR);
  if (in->inode()->type() != S_IFREG || out->inode()->type() != S_IFREG) return Fail(EINVAL);
  if (!in->readable() || !out->writable() || (out->flags() & O_APPEND) != 0) return Fail(EBADF);
  const uint64_t in_at = from.at_position ? in->PeekPosition() : from.offset;
  const uint64_t out_at = to.at_position ? out->PeekPosition() : to.offset;
  size = TRY(CheckCopy(*in, in_at, *out, out_at, size));
  auto done = CopyBetween(task, *in, from, *out, to, std::min<uint64_t>(size, kMaxRwCount));
  if (!done) return done;
  if (!in_offset.is_null()) TRY(task.mm->CopyOut(in_offset, static_cast<int64_t>(from.offset)));
  if (!out_offset.is_null()) TRY(task.mm->CopyOut(out_offset, static_cast<int64_t>(to.offset)));
  return done;
}

Result<void> Fsync(Task& task, Fd fd) {
  const Ref<vfs::File> file = TRY(task.files->Get(fd.value));
  return file->Sync(false);
}

Result<void> Fdatasync(Task& task, Fd fd) {
  const Ref<vfs::File> file = TRY(task.files->Get(fd.value));
  return file->Sync(true);
}

Result<void> Sync(Task& task) {
  for (const Ref<vfs::Mount>& mount : task.fs->mounts()->List()) (void)mount->fs()->SyncAll();
  return {};
}

Result<void> Syncfs(Task& task, Fd fd) {
  const Ref<vfs::File> file = TRY(task.files->Get(fd.value));
  return file->path().mount ? file->path().mount->fs()->SyncAll() : Result<void>();
}

Result<void> SyncFileRange(Task& task, Fd fd, int64_t offset, int64_t size, uint32_t flags) {
  const Ref<vfs::File> file = TRY(task.files->Get(fd.value));
  if ((flags & ~7u) != 0 || offset < 0 || size < 0) return Fail(EINVAL);
  if (!file->seekable()) return Fail(ESPIPE);
  return file->Sync(true);
}

Result<void> Fadvise64(Task& task, Fd fd, int64_t, int64_t size, int32_t advice) {
  const Ref<vfs::File> file = TRY(task.files->Get(fd.value));
  if (!file->seekable()) return Fail(ESPIPE);
  if (size < 0 || advice < 0 || advice > POSIX_FADV_NOREUSE) return Fail(EINVAL);
  return {};  // advice
}

Result<void> Readahead(Task& task, Fd fd, int64_t, uint64_t) {
  const Ref<vfs::File> file = TRY(ReadableFile(task, fd));
  if (file->inode() == nullptr || file->inode()->type() != S_IFREG) return Fail(EINVAL);
  return {};  // advice
}

Result<void> Truncate(Task& task, Path address, int64_t size) {
  if (size < 0) return Fail(EINVAL);
  const vfs::Path path = TRY(ResolveAt(task, Fd{AT_FDCWD}, address, 0, vfs::FollowFinal::kYes));
  return NameOpsFor(task).Truncate(path, static_cast<uint64_t>(size));
}

Result<void> Ftruncate(Task& task, Fd fd, int64_t size) {
  if (size < 0) return Fail(EINVAL);
  const Ref<vfs::File> file = TRY(task.files->Get(fd.value));
  if (file->inode() == nullptr || file->inode()->type() != S_IFREG || !file->writable())
    return Fail(EINVAL);
  return file->Truncate(task, static_cast<uint64_t>(size));
}

// Linux: vfs_fallocate.
Result<void> Fallocate(Task& task, Fd fd, int32_t mode, int64_t offset, int64_t size) {
  const Ref<vfs::File> file = TRY(task.files->Get(fd.value));
  if (offset < 0 || size <= 0) return Fail(EINVAL);
  constexpr int32_t kKnown = FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE | FALLOC_FL_COLLAPSE_RANGE |
                             FALLOC_FL_ZERO_RANGE | FALLOC_FL_INSERT_RANGE |
                             FALLOC_FL_UNSHARE_RANGE;
  if ((mode & ~kKnown) != 0) return Fail(EOPNOTSUPP);
  if ((mode & (FALLOC_FL_PUNCH_HOLE | FALLOC_FL_ZERO_RANGE)) ==
      (FALLOC_FL_PUNCH_HOLE | FALLOC_FL_ZERO_RANGE)) {
    return Fail(EOPNOTSUPP);
  }
  if ((mode & FALLOC_FL_PUNCH_HOLE) != 0 && (mode & FALLOC_FL_KEEP_SIZE) == 0)
    return Fail(EOPNOTSUPP);
  if (!file->writable()) return Fail(EBADF);
  vfs::Inode* inode = file->inode();
  if (inode != nullptr && inode->type() == S_IFIFO) return Fail(ESPIPE);
  if (inode != nullptr && inode->IsDir()) return Fail(EISDIR);
  if (inode == nullptr || inode->type() != S_IFREG) return Fail(ENODEV);
  int64_t end = 0;
  if (__builtin_add_overflow(offset, size, &end)) return Fail(EFBIG);
  if (static_cast<uint64_t>(end) > inode->fs().max_file_size()) return Fail(EFBIG);
  return file->Allocate(task, mode, static_cast<uint64_t>(offset), static_cast<uint64_t>(size));
}

constexpr Row kRows[] = {
    Full<Read>(SYSCALL(read)),
    Full<Write>(SYSCALL(write)),
    Full<Lseek>(SYSCALL(lseek)),
    Full<Pread64>(SYSCALL(pread64)),
    Full<Pwrite64>(SYSCALL(pwrite64)),
    Full<Readv>(SYSCALL(readv)),
    Full<Writev>(SYSCALL(writev)),
    Full<Sendfile>(SYSCALL(sendfile)),
    Full<Fsync>(SYSCALL(fsync)),
    Full<Fdatasync>(SYSCALL(fdatasync)),
    Full<Truncate>(SYSCALL(truncate)),
    Full<Ftruncate>(SYSCALL(ftruncate)),
    Full<Sync>(SYSCALL(sync)),
    Full<Readahead>(SYSCALL(readahead)),
    Full<Fadvise64>(SYSCALL(fadvise64)),
    Refused(SYSCALL(splice), EINVAL, "programs fall back to read and write"),
    Refused(SYSCALL(tee), EINVAL, "programs fall back to read and write"),
    Full<SyncFileRange>(SYSCALL(sync_file_range)),
    Refused(SYSCALL(vmsplice), EINVAL, "programs fall back to write"),
    Full<Fallocate>(SYSCALL(fallocate)),
    Full<Preadv>(SYSCALL(preadv)),
    Full<Pwritev>(SYSCALL(pwritev)),
    Full<Syncfs>(SYSCALL(syncfs)),
    Full<CopyFileRange>(SYSCALL(copy_file_range)),
    Full<Preadv2>(SYSCALL(preadv2)),
    Full<Pwritev2>(SYSCALL(pwritev2)),
    Refused(SYSCALL(cachestat), ENOSYS, ""),
};

}  // namespace

constinit const std::span<const Row> kRwRows = kRows;

}  // namespace skep::syscalls
