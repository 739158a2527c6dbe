#include "sentry/anon/host_file.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <termios.h>
#include <algorithm>
#include <array>
#include <csignal>
#include <span>
#include <string>
#include <tuple>
#include <vector>

#include "base/host_call.h"
#include "sentry/arena/arena.h"
#include "sentry/sched/fiber.h"
#include "sentry/vfs/permission.h"

namespace skep::anon {
namespace {

constexpr size_t kHelperChunk = 16 << 10;
constexpr uint64_t kCurrentPosition = ~uint64_t{0};
constexpr vfs::EventMask kFailed = EPOLLERR | EPOLLHUP;

Result<size_t> ReadNow(int fd, std::span<const iovec> to) {
  Result<int64_t> n =
      host::Call(SYS_preadv2, fd, to.data(), to.size(), kCurrentPosition, 0, RWF_NOWAIT);
  if (!n && n.error().code() == EOPNOTSUPP) return host::ReadV(fd, to);  // poll said it is ready
  if (!n) return std::unexpected(n.error());
  return static_cast<size_t>(*n);
}

Result<size_t> WriteNow(int fd, std::span<const iovec> from) {
  const int64_t n =
      TRY(host::Call(SYS_pwritev2, fd, from.data(), from.size(), kCurrentPosition, 0, RWF_NOWAIT));
  return static_cast<size_t>(n);
}

Result<uint32_t> HostFlags(int fd) {
  return static_cast<uint32_t>(TRY(host::Call(SYS_fcntl, fd, F_GETFL)));
}

HostInode::Kind KindOf(uint32_t mode) {
  if (S_ISREG(mode) || S_ISBLK(mode)) return HostInode::Kind::kRegular;
  return S_ISSOCK(mode) ? HostInode::Kind::kSocket : HostInode::Kind::kOther;
}

vfs::Timestamp TimestampOf(const timespec& time) {
  return {.sec = time.tv_sec, .nsec = static_cast<uint32_t>(time.tv_nsec)};
}

// Calls io(blocks, done so far) until `size` bytes are moved, or less than was offered is.
template <class Io>
Result<size_t> InSteps(mm::IoSequence& guest, size_t size, bool write, Io io) {
  size_t done = 0;
  while (done < size) {
    size_t offered = 0;
    const mm::CopyResult moved =
        guest.WithBlocks(size - done, write, [&](std::span<const iovec> blocks) -> Result<size_t> {
          for (const iovec& block : blocks) offered += block.iov_len;
          return io(blocks, done);
        });
    done += moved.bytes;
    if (moved.fault != 0) return mm::CopyResult{done, moved.fault}.OrFault();
    if (moved.bytes == 0 || moved.bytes < offered) break;
    if (done < size && !sched::YieldIfLong()) return mm::CopyResult{done, kKilled}.OrFault();
  }
  return done;
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

HostInode::HostInode(vfs::AnonFs& fs, sched::Scheduler& scheduler, arena::HostFd fd, uint32_t mode,
                     uint64_t ino)
    : Inode(fs, ino != 0 ? ino : fs.NewIno(), mode & S_IFMT), fd_(fd), kind_(KindOf(mode)) {
  watch_.emplace(scheduler, fd, waiters_);
}

HostInode::~HostInode() {
  watch_.reset();
  arena::HostHeapScope host;
  OwnedFd fd = arena::HostTable::Get().Remove(fd_);
}

Result<Ref<HostInode>> HostInode::Make(vfs::AnonFs& fs, sched::Scheduler& scheduler,
                                       arena::HostFd fd, uint64_t ino) {
  const struct stat status = TRY(host::Stat(arena::HostTable::Get().Get(fd)));
  return Ref<HostInode>(new HostInode(fs, scheduler, fd, status.st_mode, ino));
}

Result<vfs::Attributes> HostInode::GetAttributes() {
  const struct stat status = TRY(host::Stat(fd()));
  vfs::Attributes a;
  a.ino = ino();
  a.dev_minor = fs().dev_minor();
  a.mode = status.st_mode;
  a.nlink = static_cast<uint32_t>(status.st_nlink);
  a.uid = status.st_uid;
  a.gid = status.st_gid;
  if (owner_) std::tie(a.uid, a.gid) = *owner_;
  a.rdev_major = gnu_dev_major(status.st_rdev);
  a.rdev_minor = gnu_dev_minor(status.st_rdev);
  a.size = static_cast<uint64_t>(status.st_size);
  a.blocks = static_cast<uint64_t>(status.st_blocks);
  a.blksize = static_cast<uint32_t>(status.st_blksize);
  a.atime = TimestampOf(status.st_atim);
  a.mtime = TimestampOf(status.st_mtim);
  a.ctime = TimestampOf(status.st_ctim);
  return a;
}

// The host's owner, mode and times are not the guest's to change.
Result<void> HostInode::SetAttributes(const vfs::AttributeChange& change) {
  if (change.mode || change.uid || change.gid) return Fail(EPERM);
  if (!change.size) return {};
  if (kind_ != Kind::kRegular) return Fail(EINVAL);
  return host::Truncate(fd(), *change.size);
}

Result<Ref<vfs::File>> HostInode::Open(vfs::Caller&, const vfs::Path& path, uint32_t flags) {
  if (kind_ == Kind::kSocket) return Fail(ENXIO);
  const uint32_t held = TRY(HostFlags(fd())) & O_ACCMODE;
  if (held != O_RDWR && (flags & O_ACCMODE) != held) return Fail(EACCES);
  return Ref<vfs::File>(
      MakeRef<HostFile>(Ref<HostInode>(this), path, flags, HostFile::Position::kOwn));
}

void HostInode::SetInput(Input input) {
  input_held_.store(input == Input::kHeld);
  // A reader asks again: also for what is still held.
  waiters_.WakeAll(EPOLLIN);
}

// Linux: job_control of n_tty_read, for a terminal that is not ours.
Result<void> HostInode::MayRead() {
  if (!input_held_.load()) return {};
  if (wanted_) wanted_();
  return Fail(EAGAIN);
}

bool HostFile::IsTerminal() const {
  std::array<std::byte, 64> modes{};
  return inode_->type() == S_IFCHR && host::Ioctl(fd(), TCGETS, modes.data()).has_value();
}

HostFile::HostFile(Ref<HostInode> inode, vfs::Path path, uint32_t flags, Position whose)
    : File(std::move(path), flags),
      inode_(std::move(inode)),
      kind_(inode_->kind()),
      position_(whose) {}

Result<Ref<HostFile>> HostFile::Make(vfs::AnonFs& fs, sched::Scheduler& scheduler, arena::HostFd fd,
                                     const HostFileOptions& options) {
  Ref<HostInode> inode = TRY(HostInode::Make(fs, scheduler, fd, options.ino));
  const int number = inode->fd();
  const uint32_t flags = TRY(HostFlags(number)) & (O_ACCMODE | O_APPEND | O_NONBLOCK);
  const char* kind = inode->type() == S_IFIFO    ? "pipe"
                     : inode->type() == S_IFSOCK ? "socket"
                                                 : "host";
  std::string name = options.name;
  if (name.empty()) name = std::string(kind) + ":[" + std::to_string(inode->ino()) + "]";
  vfs::Path path({}, vfs::Dentry::MakeAnonymous(inode, std::move(name)));
  return MakeRef<HostFile>(std::move(inode), std::move(path), flags, Position::kHosts);
}

Result<size_t> HostFile::Read(vfs::Caller&, mm::IoSequence& to, uint64_t offset) {
  if (to.empty()) return 0;
  const int number = fd();
  if (kind_ == Kind::kRegular) {
    const bool at_hosts = offset == kHostsPosition;
    const Result<size_t> n =
        InSteps(to, to.size(), true, [&](std::span<const iovec> blocks, size_t done) {
          return at_hosts ? host::ReadV(number, blocks)
                          : host::PReadV(number, blocks, offset + done);
        });
    return n;
  }
  TRY(inode_->MayRead());
  if ((PollHost(number, EPOLLIN) & (EPOLLIN | kFailed)) == 0) {
    inode_->watch().Arm(EPOLLIN | kFailed);
    return Fail(EAGAIN);
  }
  Result<size_t> n = to.WithBlocks(kMaxRwCount, true, [&](std::span<const iovec> blocks) {
                         return ReadNow(number, blocks);
                       }).OrFault();
  if (!n && n.error().code() == EAGAIN) inode_->watch().Arm(EPOLLIN | kFailed);
  return n;
}

Result<size_t> HostFile::WriteRegular(vfs::Caller& caller, mm::IoSequence& from, uint64_t* offset) {
  const int number = fd();
  // The guest's O_APPEND, whatever the host's description says: its flags are others' too. An
  // offset of -1 is the host's position, which moves along.
  static_assert(kHostsPosition == kCurrentPosition);
  const bool append = (flags() & O_APPEND) != 0;
  const auto io = [&](std::span<const iovec> blocks, size_t done) -> Result<size_t> {
    const uint64_t at = *offset == kHostsPosition ? *offset : *offset + done;
    const int64_t n = TRY(host::Call(SYS_pwritev2, number, blocks.data(), blocks.size(), at, 0,
                                     append ? RWF_APPEND : 0));
    return static_cast<size_t>(n);
  };
  uint64_t start = *offset == kHostsPosition ? PeekPosition() : *offset;
  if (append && caller.FileSizeLimit() != RLIM_INFINITY) start = TRY(inode_->GetAttributes()).size;
  const size_t allowed = TRY(vfs::ClampToFileSize(caller, *inode(), start, from.size()));
  const size_t n = TRY(InSteps(from, allowed, false, io));
  if (append && *offset != kHostsPosition) {
    const Result<struct stat> status = host::Stat(number);
    if (status) *offset = static_cast<uint64_t>(status->st_size) - n;
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
  if (kind_ == Kind::kRegular) return WriteRegular(caller, from, offset);
  const int number = fd();
  if ((PollHost(number, EPOLLOUT) & (EPOLLOUT | kFailed)) == 0) {
    inode_->watch().Arm(EPOLLOUT | kFailed);
    return Fail(EAGAIN);
  }
  Result<size_t> n = from.WithBlocks(kMaxRwCount, false,
                                     [&](std::span<const iovec> blocks) {
                                       return kind_ == Kind::kSocket ? SendNow(number, blocks)
                                                                     : WriteNow(number, blocks);
                                     })
                         .OrFault();
  if (!n && n.error().code() == EOPNOTSUPP) n = WriteByHelper(from);
  if (!n && n.error().code() == EAGAIN) inode_->watch().Arm(EPOLLOUT | kFailed);
  if (!n && n.error().code() == EPIPE) caller.SignalSelf(SIGPIPE);
  return n;
}

uint64_t HostFile::PeekPosition() const {
  if (!position_is_hosts()) return File::PeekPosition();
  const Result<int64_t> at = host::Call(SYS_lseek, fd(), 0, SEEK_CUR);
  return at ? static_cast<uint64_t>(*at) : 0;
}

Result<uint64_t> HostFile::Seek(int64_t offset, int whence) {
  if (kind_ != Kind::kRegular) return Fail(ESPIPE);
  // The position is the host's, and so is the judgement (SEEK_DATA, SEEK_HOLE, the size).
  if (position_ == Position::kOwn) return SeekOwn(offset, whence);
  const int64_t at = TRY(host::Call(SYS_lseek, fd(), offset, whence));
  return static_cast<uint64_t>(at);
}

// A description of its own, which the host knows nothing of.
Result<uint64_t> HostFile::SeekOwn(int64_t offset, int whence) {
  int64_t base = 0;
  if (whence == SEEK_CUR) base = static_cast<int64_t>(position);
  if (whence == SEEK_DATA || whence == SEEK_HOLE) return Fail(EINVAL);
  if (whence == SEEK_END) base = TRY(host::Stat(fd())).st_size;
  int64_t target = 0;
  if (__builtin_add_overflow(base, offset, &target) || target < 0) return Fail(EINVAL);
  position = static_cast<uint64_t>(target);
  return position;
}

Result<uint64_t> HostFile::Ioctl(vfs::Caller& caller, uint64_t command, uint64_t argument) {
  if (command != TCGETS && command != TIOCGWINSZ && command != FIONREAD) return Fail(ENOTTY);
  // Larger than the kernel's struct termios, which is what TCGETS fills.
  std::array<std::byte, 64> answer{};
  [[maybe_unused]] const int64_t rc = TRY(host::Ioctl(fd(), command, answer.data()));
  constexpr size_t kKernelTermiosSize = 36;
  const size_t size = command == TCGETS       ? kKernelTermiosSize
                      : command == TIOCGWINSZ ? sizeof(winsize)
                                              : sizeof(int);
  const mm::CopyResult copied =
      caller.memory().CopyOut(mm::UserAddr{argument}, std::span(answer).first(size));
  if (copied.fault != 0) return Fail(copied.fault);
  return 0;
}

Result<void> HostFile::Truncate(vfs::Caller& caller, uint64_t size) {
  if (kind_ != Kind::kRegular) return Fail(EINVAL);
  const vfs::Attributes attributes = TRY(inode_->GetAttributes());
  TRY(vfs::CheckNewSize(caller, *inode(), attributes.size, size));
  return host::Truncate(fd(), size);
}

Result<void> HostFile::Sync(bool data_only) {
  if (kind_ != Kind::kRegular) return Fail(EINVAL);
  Result<int64_t> done = 0;
  const int number = fd();
  sched::Offload([&] { done = host::Call(data_only ? SYS_fdatasync : SYS_fsync, number); });
  if (!done) return std::unexpected(done.error());
  return {};
}

vfs::EventMask HostFile::Poll(vfs::EventMask wanted) {
  if (kind_ == Kind::kRegular) return EPOLLIN | EPOLLOUT | EPOLLRDNORM | EPOLLWRNORM;
  const vfs::EventMask ready = PollHost(fd(), wanted);
  const vfs::EventMask missing = wanted & ~ready & (EPOLLIN | EPOLLOUT | EPOLLPRI | EPOLLRDHUP);
  if ((ready & wanted) == 0 && missing != 0) inode_->watch().Arm(missing | kFailed);
  return ready;
}

}  // namespace skep::anon
