#include "sentry/anon/pipe.h"

#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <algorithm>
#include <bit>
#include <csignal>
#include <span>

namespace skep::anon {
namespace {

using sched::SleepLockHold;

constexpr vfs::EventMask kReadable = EPOLLIN | EPOLLRDNORM;
constexpr vfs::EventMask kWritable = EPOLLOUT | EPOLLWRNORM;

}  // namespace

std::unique_ptr<Pipe::Page> Pipe::TakePage() {
  for (std::unique_ptr<Page>& page : spare_) {
    if (page) return std::move(page);
  }
  return std::make_unique_for_overwrite<Page>();
}

void Pipe::GivePage(std::unique_ptr<Page> page) {
  for (std::unique_ptr<Page>& spare : spare_) {
    if (!spare) {
      spare = std::move(page);
      return;
    }
  }
}

// Linux: pipe_read.
Result<size_t> Pipe::Read(mm::IoSequence& to) {
  if (to.empty()) return 0;
  Progress progress;
  bool was_full = false;
  {
    SleepLockHold hold(lock_);
    Consume(to, progress, was_full);
    if (progress.bytes == 0 && progress.error == 0 && writers() != 0) progress.error = EAGAIN;
  }
  if (was_full) waiters_.Wake(kWritable);
  if (progress.bytes == 0 && progress.error != 0) return Fail(progress.error);
  return progress.bytes;
}

void Pipe::Consume(mm::IoSequence& to, Progress& progress, bool& was_full) {
  while (head_ != tail_ && !to.empty()) {
    Slot& slot = At(tail_);
    const size_t n = std::min<size_t>(slot.length, to.size());
    mm::IoSequence part = to.TakeFirst(n);
    const mm::CopyResult copied =
        part.CopyOut(std::span<const std::byte>(*slot.page).subspan(slot.offset, n));
    if (copied.bytes < n) {  // what was copied stays in the pipe
      progress.error = copied.fault != 0 ? copied.fault : EFAULT;
      return;
    }
    to.DropFirst(n);
    progress.bytes += n;
    slot.offset += static_cast<uint32_t>(n);
    slot.length -= static_cast<uint32_t>(n);
    bytes_ -= n;
    const bool packet = slot.packet;
    if (packet) {
      bytes_ -= slot.length;
      slot.length = 0;
    }
    if (slot.length == 0) {
      was_full = was_full || Full();
      GivePage(std::move(slot.page));
      ++tail_;
      --used_slots_;
    }
    if (packet) return;
  }
}

// Linux: pipe_write. What does not fill whole pages joins the last page if all of it fits there.
Result<size_t> Pipe::Write(mm::IoSequence& from, bool packet) {
  if (from.empty()) return 0;
  Progress progress;
  bool was_empty = false;
  {
    SleepLockHold hold(lock_);
    if (readers() == 0) return Fail(EPIPE);
    was_empty = Empty();
    if (!Merge(from, progress)) {
      Append(from, packet, progress);
      if (progress.bytes == 0 && progress.error == 0) progress.error = EAGAIN;
    }
  }
  const bool wrote = progress.bytes != 0;
  if (wrote && (was_empty || polled_.load(std::memory_order_relaxed))) waiters_.Wake(kReadable);
  if (!wrote && progress.error != 0) return Fail(progress.error);
  return progress.bytes;
}

// True: nothing is left to do.
bool Pipe::Merge(mm::IoSequence& from, Progress& progress) {
  const auto chars = static_cast<uint32_t>(from.size() & (kPageSize - 1));
  if (chars == 0 || Empty()) return false;
  Slot& last = At(head_ - 1);
  const uint32_t end = last.offset + last.length;
  if (last.packet || end + chars > kPageSize) return false;
  const mm::CopyResult copied = from.CopyIn(std::span<std::byte>(*last.page).subspan(end, chars));
  if (copied.bytes < chars) {
    progress.error = copied.fault != 0 ? copied.fault : EFAULT;
    return true;
  }
  last.length += chars;
  bytes_ += chars;
  progress.bytes += chars;
  return from.empty();
}

void Pipe::Append(mm::IoSequence& from, bool packet, Progress& progress) {
  while (!from.empty() && !Full()) {
    std::unique_ptr<Page> page = TakePage();
    const auto n = static_cast<uint32_t>(std::min(from.size(), kPageSize));
    const mm::CopyResult copied = from.CopyIn(std::span<std::byte>(*page).first(n));
    if (copied.bytes < n) {
      GivePage(std::move(page));
      progress.error = copied.fault != 0 ? copied.fault : EFAULT;
      return;
    }
    At(head_++) = Slot{std::move(page), 0, n, packet};
    ++used_slots_;
    bytes_ += n;
    progress.bytes += n;
  }
}

// Linux: pipe_set_size.
Result<uint64_t> Pipe::SetCapacity(uint64_t size, bool privileged) {
  if (size > kHardMaxPipeSize) return Fail(EINVAL);
  const uint64_t rounded = std::bit_ceil(std::max<uint64_t>(size, kPageSize));
  const auto count = static_cast<uint32_t>(rounded / kPageSize);
  if (rounded > kMaxPipeSize && rounded > Capacity() && !privileged) return Fail(EPERM);
  bool was_full = false;
  {
    SleepLockHold hold(lock_);
    if (used_slots_.load() > count) return Fail(EBUSY);
    was_full = Full();
    std::vector<Slot> slots(count);
    uint32_t n = 0;
    while (tail_ != head_) slots[n++] = std::move(At(tail_++));
    slots_ = std::move(slots);
    tail_ = 0;
    head_ = n;
    slot_count_ = count;
  }
  if (was_full) waiters_.Wake(kWritable);
  return rounded;
}

void Pipe::AddReader() {
  MutexLock lock(ends_mutex_);
  ++reader_count_ever_;
  if (readers_++ == 0) waiters_.Wake(sched::kAllEvents);
}

void Pipe::AddWriter() {
  MutexLock lock(ends_mutex_);
  ++writer_count_ever_;
  if (writers_++ == 0) waiters_.Wake(sched::kAllEvents);
}

// Without lock_: nobody is inside Read or Write, for that they hold a file, which holds an end.
std::vector<std::unique_ptr<Pipe::Page>> Pipe::TakeAll() NO_THREAD_SAFETY_ANALYSIS {
  std::vector<std::unique_ptr<Page>> pages;
  while (tail_ != head_) pages.push_back(std::move(At(tail_++).page));
  used_slots_ = 0;
  bytes_ = 0;
  return pages;
}

// Linux: pipe_release. When the last end goes, so does what was in the pipe.
void Pipe::DropEnds(bool reader, bool writer) {
  std::vector<std::unique_ptr<Page>> garbage;
  bool one_sided = false;
  {
    MutexLock lock(ends_mutex_);
    if (reader) --readers_;
    if (writer) --writers_;
    one_sided = (readers_ == 0) != (writers_ == 0);
    if (readers_ == 0 && writers_ == 0) garbage = TakeAll();
  }
  if (one_sided) waiters_.WakeAll(kReadable | kWritable | EPOLLERR | EPOLLHUP);
}

PipeFile::PipeFile(Ref<Pipe> pipe, vfs::Path path, uint32_t flags)
    : File(std::move(path), flags),
      pipe_(std::move(pipe)),
      writers_seen_(pipe_->writer_count_ever() - 1) {
  if (readable()) pipe_->AddReader();
  if (writable()) pipe_->AddWriter();
}

PipeFile::~PipeFile() { pipe_->DropEnds(readable(), writable()); }

Result<size_t> PipeFile::Read(vfs::Caller&, mm::IoSequence& to, uint64_t) {
  return pipe_->Read(to);
}

Result<size_t> PipeFile::Write(vfs::Caller& caller, mm::IoSequence& from, uint64_t*) {
  Result<size_t> written = pipe_->Write(from, (flags() & O_DIRECT) != 0);
  if (!written && written.error().code() == EPIPE) caller.SignalSelf(SIGPIPE);
  return written;
}

Result<uint64_t> PipeFile::Ioctl(vfs::Caller& caller, uint64_t command, uint64_t argument) {
  if (command != FIONREAD) return Fail(ENOTTY);
  const auto count = static_cast<int32_t>(std::min<uint64_t>(pipe_->ByteCount(), INT32_MAX));
  TRY(caller.memory().CopyOut(mm::UserPtr<int32_t>(argument), count));
  return 0;
}

// Linux: pipe_poll.
vfs::EventMask PipeFile::Poll(vfs::EventMask) {
  pipe_->NotePolled();
  vfs::EventMask ready = 0;
  if (readable()) {
    if (!pipe_->Empty()) ready |= kReadable;
    if (pipe_->writers() == 0 && writers_seen_ != pipe_->writer_count_ever()) ready |= EPOLLHUP;
  }
  if (writable()) {
    if (!pipe_->Full()) ready |= kWritable;
    if (pipe_->readers() == 0) ready |= EPOLLERR;
  }
  return ready;
}

PipeEnds MakePipe(const vfs::Path& path, uint32_t flags) {
  auto pipe = MakeRef<Pipe>();
  if (path.inode() != nullptr) path.inode()->SetAttachment(pipe);  // for /proc/<pid>/fd
  const uint32_t status = flags & O_NONBLOCK;
  Ref<vfs::File> reader = MakeRef<PipeFile>(pipe, path, O_RDONLY | status);
  Ref<vfs::File> writer =
      MakeRef<PipeFile>(pipe, path, O_WRONLY | (flags & (O_NONBLOCK | O_DIRECT)));
  return {std::move(reader), std::move(writer)};
}

// Linux: fifo_open.
Result<Ref<vfs::File>> OpenFifo(Ref<Pipe> pipe, vfs::Path path, uint32_t flags) {
  const uint32_t access = flags & O_ACCMODE;
  if (access == O_ACCMODE) return Fail(EINVAL);
  // A pipe(2) opened again through /proc/<pid>/fd, which is in no mount, waits for nobody.
  const bool named = path.inode() == nullptr || path.mount;
  const bool nonblocking = (flags & O_NONBLOCK) != 0;
  if (named && access == O_WRONLY && nonblocking && pipe->readers() == 0) return Fail(ENXIO);
  auto file = MakeRef<PipeFile>(pipe, std::move(path), flags);
  const uint32_t readers_ever = pipe->reader_count_ever();
  const uint32_t writers_ever = pipe->writer_count_ever();
  if (access == O_RDONLY && nonblocking && pipe->writers() == 0) file->writers_seen_ = writers_ever;
  if (!named || access == O_RDWR || nonblocking) return Ref<vfs::File>(std::move(file));
  const auto peer_came = [&] {
    return access == O_RDONLY ? pipe->writers() != 0 || pipe->writer_count_ever() != writers_ever
                              : pipe->readers() != 0 || pipe->reader_count_ever() != readers_ever;
  };
  if (sched::WaitUntil(pipe->waiters(), sched::kAllEvents, std::nullopt,
                       sched::Sleep::kInterruptible, peer_came) != sched::WakeReason::kWoken) {
    return Fail(kRestartSys);
  }
  return Ref<vfs::File>(std::move(file));
}

Ref<Pipe> PipeOf(vfs::Inode& inode) {
  SleepLockHold hold(inode.directory_lock());  // of two first openers one makes it
  if (Ref<Pipe> found = inode.attachment<Pipe>()) return found;
  auto made = MakeRef<Pipe>();
  inode.SetAttachment(made);
  return made;
}

}  // namespace skep::anon
