#include "sentry/anon/host_file.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <termios.h>
#include <algorithm>
#include <array>
#include <csignal>
#include <span>
#include <vector>

#include "base/host_call.h"
#include "sentry/arena/arena.h"

namespace skep::anon {
namespace {

constexpr size_t kHelperChunk = 16 << 10;
constexpr uint64_t kCurrentPosition = ~uint64_t{0};
constexpr vfs::EventMask kFailed = EPOLLERR | EPOLLHUP;

uint64_t Word(const void* p) { return reinterpret_cast<uintptr_t>(p); }  // SAFETY: for a host call

Result<size_t> ReadNow(int fd, std::span<const iovec> to) {
  Result<int64_t> n = host::Call(SYS_preadv2, static_cast<uint64_t>(fd), Word(to.data()), to.size(),
                                 kCurrentPosition, 0, RWF_NOWAIT);
  if (!n && n.error().code() == EOPNOTSUPP) return host::ReadV(fd, to);  // poll said it is ready
  if (!n) return std::unexpected(n.error());
  return static_cast<size_t>(*n);
}

Result<size_t> WriteNow(int fd, std::span<const iovec> from) {
  const int64_t n = TRY(host::Call(SYS_pwritev2, static_cast<uint64_t>(fd), Word(from.data()),
                                   from.size(), kCurrentPosition, 0, RWF_NOWAIT));
  return static_cast<size_t>(n);
}

Result<size_t> SendNow(int fd, std::span<const iovec> from) {
  return host::SendMsg(fd, from, {}, MSG_DONTWAIT | MSG_NOSIGNAL);
}

}  // namespace

vfs::EventMask PollHost(int fd, vfs::EventMask wanted) {
  pollfd entry{fd, static_cast<int16_t>(wanted & 0x3fff), 0};
  const Result<int> n = host::Poll(std::span(&entry, 1), 0);
  if (!n || (entry.revents & POLLNVAL) != 0) return EPOLLERR;
  return static_cast<vfs::EventMask>(static_cast<uint16_t>(entry.revents));
}

HostFile::HostFile(sched::Scheduler& scheduler, arena::HostFd fd, vfs::Path path, uint32_t flags,
                   Kind kind)
    : File(std::move(path), flags), fd_(fd), kind_(kind) {
  watch_.emplace(scheduler, fd, waiters_);
}

HostFile::~HostFile() {
  watch_.reset();
  arena::HostScope host;
  OwnedFd fd = arena::HostTable::Get().Remove(fd_);
}

Result<Ref<HostFile>> HostFile::Make(sched::Scheduler& scheduler, arena::HostFd fd,
                                     vfs::Path path) {
  const int number = arena::HostTable::Get().Get(fd);
  const struct stat status = TRY(host::Stat(number));
  const auto host_flags =
      static_cast<uint32_t>(TRY(host::Call(SYS_fcntl, static_cast<uint64_t>(number), F_GETFL)));
  const uint32_t flags = host_flags & (O_ACCMODE | O_APPEND | O_NONBLOCK);
  Kind kind = Kind::kOther;
  if (S_ISREG(status.st_mode) || S_ISBLK(status.st_mode)) kind = Kind::kRegular;
  if (S_ISSOCK(status.st_mode)) kind = Kind::kSocket;
  Ref<HostFile> file(new HostFile(scheduler, fd, std::move(path), flags, kind));
  if (kind == Kind::kRegular) {
    const Result<int64_t> at = host::Call(SYS_lseek, static_cast<uint64_t>(number), 0, SEEK_CUR);
    if (at) file->position = static_cast<uint64_t>(*at);
  }
  return file;
}

Result<size_t> HostFile::Read(vfs::Caller&, mm::IoSequence& to, uint64_t offset) {
  if (to.empty()) return 0;
  const int number = fd();
  if (kind_ == Kind::kRegular) {
    Result<size_t> n = to.WithBlocks(kMaxRwCount, true, [&](std::span<const iovec> blocks) {
                           return host::PReadV(number, blocks, offset);
                         }).OrFault();
    if (n && *n != 0) {
      (void)host::Call(SYS_lseek, static_cast<uint64_t>(number), offset + *n, SEEK_SET);
    }
    return n;
  }
  if ((PollHost(number, EPOLLIN) & (EPOLLIN | kFailed)) == 0) {
    watch_->Arm(EPOLLIN | kFailed);
    return Fail(EAGAIN);
  }
  Result<size_t> n = to.WithBlocks(kMaxRwCount, true, [&](std::span<const iovec> blocks) {
                         return ReadNow(number, blocks);
                       }).OrFault();
  if (!n && n.error().code() == EAGAIN) watch_->Arm(EPOLLIN | kFailed);
  return n;
}

Result<size_t> HostFile::WriteRegular(mm::IoSequence& from, uint64_t* offset) {
  const int number = fd();
  const bool append = (flags() & O_APPEND) != 0;
  const auto io = [&](std::span<const iovec> blocks) {
    return append ? host::WriteV(number, blocks) : host::PWriteV(number, blocks, *offset);
  };
  const size_t n = TRY(from.WithBlocks(kMaxRwCount, false, io).OrFault());
  if (append) {
    const Result<int64_t> end = host::Call(SYS_lseek, static_cast<uint64_t>(number), 0, SEEK_CUR);
    if (end) *offset = static_cast<uint64_t>(*end) - n;
  } else {
    (void)host::Call(SYS_lseek, static_cast<uint64_t>(number), *offset + n, SEEK_SET);
  }
  return n;
}

// The host may block: on a thread that can.
Result<size_t> HostFile::WriteByHelper(mm::IoSequence& from) {
  const size_t size = std::min(from.size(), kHelperChunk);
  mm::IoSequence part = from.TakeFirst(size);
  std::vector<std::byte> buffer(size);
  const mm::CopyResult copied = part.CopyIn(buffer);
  if (copied.bytes == 0) return copied.OrFault();
  Result<size_t> written = 0;
  const int number = fd();
  sched::Offload([&] { written = host::Write(number, std::span(buffer).first(copied.bytes)); });
  if (written) from.DropFirst(*written);
  return written;
}

Result<size_t> HostFile::Write(vfs::Caller& caller, mm::IoSequence& from, uint64_t* offset) {
  if (from.empty()) return 0;
  if (kind_ == Kind::kRegular) return WriteRegular(from, offset);
  const int number = fd();
  if ((PollHost(number, EPOLLOUT) & (EPOLLOUT | kFailed)) == 0) {
    watch_->Arm(EPOLLOUT | kFailed);
    return Fail(EAGAIN);
  }
  Result<size_t> n = from.WithBlocks(kMaxRwCount, false,
                                     [&](std::span<const iovec> blocks) {
                                       return kind_ == Kind::kSocket ? SendNow(number, blocks)
                                                                     : WriteNow(number, blocks);
                                     })
                         .OrFault();
  if (!n && n.error().code() == EOPNOTSUPP) n = WriteByHelper(from);
  if (!n && n.error().code() == EAGAIN) watch_->Arm(EPOLLOUT | kFailed);
  if (!n && n.error().code() == EPIPE) caller.SignalSelf(SIGPIPE);
  return n;
}

Result<uint64_t> HostFile::Seek(int64_t offset, int whence) {
  if (kind_ != Kind::kRegular) return Fail(ESPIPE);
  // SEEK_CUR is ours; the others are the host's to judge (SEEK_DATA, SEEK_HOLE, the size).
  if (whence == SEEK_CUR) {
    int64_t target = 0;
    if (__builtin_add_overflow(static_cast<int64_t>(position), offset, &target)) {
      return Fail(EOVERFLOW);
    }
    offset = target;
    whence = SEEK_SET;
  }
  const int64_t at = TRY(host::Call(SYS_lseek, static_cast<uint64_t>(fd()),
                                    static_cast<uint64_t>(offset), static_cast<uint64_t>(whence)));
  position = static_cast<uint64_t>(at);
  return position;
}

Result<uint64_t> HostFile::Ioctl(vfs::Caller& caller, uint64_t command, uint64_t argument) {
  if (command != TCGETS && command != TIOCGWINSZ && command != FIONREAD) return Fail(ENOTTY);
  // Larger than the kernel's struct termios, which is what TCGETS fills.
  std::array<std::byte, 64> answer{};
  [[maybe_unused]] const int64_t rc = TRY(host::Ioctl(fd(), command, Word(answer.data())));
  constexpr size_t kKernelTermiosSize = 36;
  const size_t size = command == TCGETS       ? kKernelTermiosSize
                      : command == TIOCGWINSZ ? sizeof(winsize)
                                              : sizeof(int);
  const mm::CopyResult copied =
      caller.memory().CopyOut(mm::UserAddr{argument}, std::span(answer).first(size));
  if (copied.fault != 0) return Fail(copied.fault);
  return 0;
}

Result<void> HostFile::Truncate(vfs::Caller&, uint64_t size) {
  if (kind_ != Kind::kRegular) return Fail(EINVAL);
  return host::Truncate(fd(), size);
}

Result<void> HostFile::Sync(bool data_only) {
  if (kind_ != Kind::kRegular) return Fail(EINVAL);
  Result<int64_t> done = 0;
  const auto number = static_cast<uint64_t>(fd());
  sched::Offload([&] { done = host::Call(data_only ? SYS_fdatasync : SYS_fsync, number); });
  if (!done) return std::unexpected(done.error());
  return {};
}

vfs::EventMask HostFile::Poll(vfs::EventMask wanted) {
  if (kind_ == Kind::kRegular) return EPOLLIN | EPOLLOUT | EPOLLRDNORM | EPOLLWRNORM;
  const vfs::EventMask ready = PollHost(fd(), wanted);
  const vfs::EventMask missing = wanted & ~ready & (EPOLLIN | EPOLLOUT | EPOLLPRI | EPOLLRDHUP);
  if ((ready & wanted) == 0 && missing != 0) watch_->Arm(missing | kFailed);
  return ready;
}

}  // namespace skep::anon
