#include "base/host_call.h"

#include <fcntl.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/rseq.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>
#include <atomic>
#include <cerrno>
#include <csignal>
#include <cstring>
#include <ctime>

#include "base/check.h"

namespace skep {

std::unexpected<Error> HostFail(std::string message, int host_errno) {
  if (host_errno != 0) {
    message += ": ";
    message += strerror(host_errno);
  }
  return std::unexpected(Error{std::move(message), host_errno});
}

void OwnedFd::Reset(int fd) {
  if (fd_ >= 0) close(fd_);
  fd_ = fd;
}

namespace host {
namespace {

// Calls `io` again while it is interrupted; -1 becomes errno.
template <class Io>
auto Retry(Io io) -> Result<decltype(io())> {
  for (;;) {
    auto n = io();
    if (n != -1) return n;
    if (errno != EINTR) return Fail(errno);
  }
}

template <class Io>
Result<size_t> RetrySize(Io io) {
  Result<ssize_t> n = Retry(io);
  if (!n) return std::unexpected(n.error());
  return static_cast<size_t>(*n);
}

Result<void> Done(int rc) {
  if (rc != 0) return Fail(errno);
  return {};
}

Result<OwnedFd> Owned(Result<int> fd) {
  if (!fd) return std::unexpected(fd.error());
  return OwnedFd(*fd);
}

}  // namespace

Result<int64_t> internal::CallRegisters(long number, const std::array<uint64_t, 6>& registers) {
  const auto& [a, b, c, d, e, f] = registers;
  const long rc = syscall(number, a, b, c, d, e, f);
  if (rc == -1) return Fail(errno);
  return rc;
}

Result<OwnedFd> Open(const char* path, int flags, mode_t mode) {
  return OpenAt(AT_FDCWD, path, flags, mode);
}
Result<OwnedFd> OpenAt(int dir, const char* path, int flags, mode_t mode) {
  return Owned(Retry([&] { return openat(dir, path, flags | O_CLOEXEC, mode); }));
}
Result<OwnedFd> Dup(int fd) {
  return Owned(Retry([&] { return fcntl(fd, F_DUPFD_CLOEXEC, 3); }));
}
Result<void> Dup2(int from, int to) {
  if (dup2(from, to) < 0) return Fail(errno);
  return {};
}
Result<OwnedFd> MemfdCreate(const char* name, unsigned flags) {
  return Owned(Retry([&] { return memfd_create(name, flags | MFD_CLOEXEC); }));
}
Result<void> Truncate(int fd, uint64_t size) {
  return Done(ftruncate(fd, static_cast<off_t>(size)));
}
Result<void> Fallocate(int fd, int mode, uint64_t offset, uint64_t size) {
  Result<int> rc = Retry(
      [&] { return fallocate(fd, mode, static_cast<off_t>(offset), static_cast<off_t>(size)); });
  if (!rc) return std::unexpected(rc.error());
  return {};
}
Result<void> SetCloexec(int fd, bool on) { return Done(fcntl(fd, F_SETFD, on ? FD_CLOEXEC : 0)); }
Result<void> SetNonblock(int fd, bool on) {
  const int flags = fcntl(fd, F_GETFL);
  if (flags < 0) return Fail(errno);
  return Done(fcntl(fd, F_SETFL, on ? flags | O_NONBLOCK : flags & ~O_NONBLOCK));
}
Result<SocketPair> MakeSocketPair(int type) {
  int fds[2];
  if (socketpair(AF_UNIX, type | SOCK_CLOEXEC, 0, fds) != 0) return Fail(errno);
  return SocketPair{OwnedFd(fds[0]), OwnedFd(fds[1])};
}
Result<PipePair> MakePipe(int flags) {
  int fds[2];
  if (pipe2(fds, flags | O_CLOEXEC) != 0) return Fail(errno);
  return PipePair{OwnedFd(fds[0]), OwnedFd(fds[1])};
}

Result<size_t> Read(int fd, std::span<std::byte> to) {
  return RetrySize([&] { return read(fd, to.data(), to.size()); });
}
Result<size_t> Write(int fd, std::span<const std::byte> from) {
  return RetrySize([&] { return write(fd, from.data(), from.size()); });
}
Result<size_t> PRead(int fd, std::span<std::byte> to, uint64_t offset) {
  return RetrySize([&] { return pread(fd, to.data(), to.size(), static_cast<off_t>(offset)); });
}
Result<size_t> PWrite(int fd, std::span<const std::byte> from, uint64_t offset) {
  return RetrySize(
      [&] { return pwrite(fd, from.data(), from.size(), static_cast<off_t>(offset)); });
}
Result<size_t> PReadV(int fd, std::span<const iovec> to, uint64_t offset) {
  return RetrySize([&] {
    return preadv(fd, to.data(), static_cast<int>(to.size()), static_cast<off_t>(offset));
  });
}
Result<size_t> PWriteV(int fd, std::span<const iovec> from, uint64_t offset) {
  return RetrySize([&] {
    return pwritev(fd, from.data(), static_cast<int>(from.size()), static_cast<off_t>(offset));
  });
}
Result<size_t> ReadV(int fd, std::span<const iovec> to) {
  return RetrySize([&] { return readv(fd, to.data(), static_cast<int>(to.size())); });
}
Result<size_t> WriteV(int fd, std::span<const iovec> from) {
  return RetrySize([&] { return writev(fd, from.data(), static_cast<int>(from.size())); });
}
Result<void> WriteAll(int fd, std::span<const std::byte> from) {
  while (!from.empty()) {
    size_t n = TRY(Write(fd, from));
    from = from.subspan(n);
  }
  return {};
}
Result<std::string> ReadWholeFile(const char* path, size_t max) {
  OwnedFd fd = TRY(Open(path, O_RDONLY));
  std::string text;
  char block[2048];
  for (;;) {
    size_t n = TRY(Read(fd.get(), std::as_writable_bytes(std::span(block))));
    if (n == 0) return text;
    if (text.size() + n > max) return Fail(EFBIG);
    text.append(block, n);
  }
}
Result<struct stat> Stat(int fd) {
  struct stat st{};
  if (fstat(fd, &st) != 0) return Fail(errno);
  return st;
}
Result<int> Poll(std::span<pollfd> fds, int timeout_ms) {
  const int n = poll(fds.data(), fds.size(), timeout_ms);
  if (n < 0) return Fail(errno);
  return n;
}
Result<int64_t> internal::IoctlRegister(int fd, unsigned long request, uint64_t arg) {
  const int rc = ioctl(fd, request, arg);
  if (rc == -1) return Fail(errno);
  return rc;
}
Result<OwnedFd> EpollCreate() {
  const int fd = epoll_create1(EPOLL_CLOEXEC);
  if (fd < 0) return Fail(errno);
  return OwnedFd(fd);
}
Result<void> EpollCtl(int epoll, int operation, int fd, epoll_event* event) {
  return Done(epoll_ctl(epoll, operation, fd, event));
}

Result<void*> Mmap(void* at, size_t size, int prot, int flags, int fd, uint64_t offset) {
  void* p = mmap(at, size, prot, flags, fd, static_cast<off_t>(offset));
  if (p == MAP_FAILED) return Fail(errno);
  return p;
}
Result<void> Munmap(void* at, size_t size) { return Done(munmap(at, size)); }
Result<void> Mprotect(void* at, size_t size, int prot) { return Done(mprotect(at, size, prot)); }

Result<size_t> SendMsg(int socket, std::span<const iovec> parts, std::span<const int> fds,
                       int flags) {
  CHECK(fds.size() <= kMaxSentFds);
  alignas(cmsghdr) char control[CMSG_SPACE(kMaxSentFds * sizeof(int))];
  msghdr message{};
  message.msg_iov = const_cast<iovec*>(parts.data());
  message.msg_iovlen = parts.size();
  if (!fds.empty()) {
    message.msg_control = control;
    message.msg_controllen = CMSG_SPACE(fds.size_bytes());
    memset(control, 0, message.msg_controllen);
    cmsghdr* header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(fds.size_bytes());
    memcpy(CMSG_DATA(header), fds.data(), fds.size_bytes());
  }
  return RetrySize([&] { return sendmsg(socket, &message, flags | MSG_NOSIGNAL); });
}

Result<Received> RecvMsg(int socket, std::span<const iovec> parts, std::span<OwnedFd> fds,
                         int flags) {
  alignas(cmsghdr) char control[CMSG_SPACE(kMaxSentFds * sizeof(int))];
  msghdr message{};
  message.msg_iov = const_cast<iovec*>(parts.data());
  message.msg_iovlen = parts.size();
  message.msg_control = control;
  message.msg_controllen = sizeof control;
  Received received;
  received.size =
      TRY(RetrySize([&] { return recvmsg(socket, &message, flags | MSG_CMSG_CLOEXEC); }));
  // MSG_CTRUNC: the process has no room for a descriptor. The caller counts them.
  received.truncated = (message.msg_flags & MSG_TRUNC) != 0;
  for (cmsghdr* h = CMSG_FIRSTHDR(&message); h != nullptr; h = CMSG_NXTHDR(&message, h)) {
    if (h->cmsg_level != SOL_SOCKET || h->cmsg_type != SCM_RIGHTS) continue;
    const size_t count = (h->cmsg_len - CMSG_LEN(0)) / sizeof(int);
    for (size_t i = 0; i < count; ++i) {
      int fd = -1;
      memcpy(&fd, CMSG_DATA(h) + i * sizeof(int), sizeof fd);
      OwnedFd owned(fd);
      if (received.fd_count < fds.size()) {
        fds[received.fd_count++] = std::move(owned);
      } else {
        received.truncated = true;
      }
    }
  }
  return received;
}

Result<void> Kill(pid_t pid, int signal) { return Done(kill(pid, signal)); }
Result<void> SetAffinity(pid_t thread, std::span<const std::byte> cpus) {
  const Result<int64_t> set = Call(SYS_sched_setaffinity, thread, cpus.size(), cpus.data());
  if (!set) return std::unexpected(set.error());
  return {};
}
Result<void> SetAffinity(pid_t thread, const cpu_set_t& cpus) {
  return SetAffinity(thread, std::as_bytes(std::span(&cpus, 1)));
}
Result<pid_t> WaitPid(pid_t pid, int* status, int options) {
  return Retry([&] { return waitpid(pid, status, options); });
}

namespace {
uint64_t ClockNs(clockid_t clock) {
  timespec t{};
  clock_gettime(clock, &t);
  return static_cast<uint64_t>(t.tv_sec) * 1'000'000'000 + static_cast<uint64_t>(t.tv_nsec);
}
}  // namespace

int CurrentCpu() { return sched_getcpu(); }

uint64_t MonotonicNs() { return ClockNs(CLOCK_MONOTONIC); }
uint64_t RealtimeNs() { return ClockNs(CLOCK_REALTIME); }

bool LeaveRseq() {
  if (__rseq_size == 0) return true;  // libc registers none
  char* area = static_cast<char*>(__builtin_thread_pointer()) + __rseq_offset;
  // SAFETY: the thread's own area; the host writes to it.
  const uint32_t cpu =
      std::atomic_ref(reinterpret_cast<struct rseq*>(area)->cpu_id).load(std::memory_order_relaxed);
  if (static_cast<int32_t>(cpu) < 0) return true;
  // glibc registers all of it, whatever it says of the size.
  return syscall(SYS_rseq, area, sizeof(struct rseq), RSEQ_FLAG_UNREGISTER, RSEQ_SIG) == 0;
}

}  // namespace host
}  // namespace skep
