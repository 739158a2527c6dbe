// Host system calls. Each reads errno before it returns, retries EINTR where that is harmless, and
// is never inlined: `errno` is thread-local and a fiber may change threads between two calls, so no
// other file may name it (tools/tidy.py).
#pragma once

#include <poll.h>
#include <sched.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <array>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <type_traits>

#include "base/owned_fd.h"
#include "base/result.h"

namespace skep::host {

// What a system call takes in a register.
template <class T>
concept CallArg =
    std::integral<T> || std::is_enum_v<T> || std::is_pointer_v<T> || std::is_null_pointer_v<T>;

namespace internal {

// As the call of libc for the argument would make it: an int goes sign-extended (-1, AT_FDCWD).
template <CallArg T>
uint64_t Register(T value) {
  if constexpr (std::is_null_pointer_v<T>) {
    return 0;
  } else if constexpr (std::is_pointer_v<T>) {
    // SAFETY: what it points to outlives the call, which is over when Call returns.
    return reinterpret_cast<uint64_t>(value);
  } else {
    return static_cast<uint64_t>(value);
  }
}

Result<int64_t> CallRegisters(long number, const std::array<uint64_t, 6>& registers);
Result<int64_t> IoctlRegister(int fd, unsigned long request, uint64_t arg);

}  // namespace internal

// syscall(2) as a Result. For calls that have no wrapper of their own below. Arguments that are
// left out are 0.
template <CallArg... Args>
  requires(sizeof...(Args) <= 6)
Result<int64_t> Call(long number, Args... args) {
  return internal::CallRegisters(number, {internal::Register(args)...});
}
// One that returns a new descriptor.
template <CallArg... Args>
Result<OwnedFd> CallFd(long number, Args... args) {
  const Result<int64_t> fd = Call(number, args...);
  if (!fd) return std::unexpected(fd.error());
  return OwnedFd(static_cast<int>(*fd));
}

Result<OwnedFd> Open(const char* path, int flags, mode_t mode = 0);
Result<OwnedFd> OpenAt(int dir, const char* path, int flags, mode_t mode = 0);
Result<OwnedFd> Dup(int fd);          // with FD_CLOEXEC
Result<void> Dup2(int from, int to);  // without FD_CLOEXEC
Result<OwnedFd> MemfdCreate(const char* name, unsigned flags);
Result<void> Truncate(int fd, uint64_t size);
Result<void> Fallocate(int fd, int mode, uint64_t offset, uint64_t size);
Result<void> SetCloexec(int fd, bool on);
Result<void> SetNonblock(int fd, bool on);
struct SocketPair {
  OwnedFd a, b;
};
Result<SocketPair> MakeSocketPair(int type);  // AF_UNIX, cloexec
struct PipePair {
  OwnedFd reader, writer;
};
Result<PipePair> MakePipe(int flags);

Result<size_t> Read(int fd, std::span<std::byte> to);
Result<size_t> Write(int fd, std::span<const std::byte> from);
Result<size_t> PRead(int fd, std::span<std::byte> to, uint64_t offset);
Result<size_t> PWrite(int fd, std::span<const std::byte> from, uint64_t offset);
Result<size_t> PReadV(int fd, std::span<const iovec> to, uint64_t offset);
Result<size_t> PWriteV(int fd, std::span<const iovec> from, uint64_t offset);
Result<size_t> ReadV(int fd, std::span<const iovec> to);
Result<size_t> WriteV(int fd, std::span<const iovec> from);
Result<void> WriteAll(int fd, std::span<const std::byte> from);
Result<std::string> ReadWholeFile(const char* path, size_t max);
Result<struct stat> Stat(int fd);
Result<int> Poll(std::span<pollfd> fds, int timeout_ms);
template <CallArg Arg>
Result<int64_t> Ioctl(int fd, unsigned long request, Arg arg) {
  return internal::IoctlRegister(fd, request, internal::Register(arg));
}
Result<OwnedFd> EpollCreate();
// `event`: null for EPOLL_CTL_DEL.
Result<void> EpollCtl(int epoll, int operation, int fd, epoll_event* event);

// Where to map is a hint unless MAP_FIXED(_NOREPLACE) is in flags.
Result<void*> Mmap(void* at, size_t size, int prot, int flags, int fd, uint64_t offset);
Result<void> Munmap(void* at, size_t size);
Result<void> Mprotect(void* at, size_t size, int prot);

// A message with at most `kMaxSentFds` descriptors over a unix socket.
inline constexpr size_t kMaxSentFds = 64;
Result<size_t> SendMsg(int socket, std::span<const iovec> parts, std::span<const int> fds,
                       int flags);
struct Received {
  size_t size = 0;
  size_t fd_count = 0;
  bool truncated = false;
};
// Fills `fds` with received descriptors (cloexec). Size 0: the peer closed.
Result<Received> RecvMsg(int socket, std::span<const iovec> parts, std::span<OwnedFd> fds,
                         int flags);

// kill(2), with its meanings of 0 and negative numbers.
Result<void> Kill(pid_t pid, int signal);
// `thread`: 0 is the caller. `cpus`: a cpu_set_t, or as many words as the machine's CPUs need.
Result<void> SetAffinity(pid_t thread, std::span<const std::byte> cpus);
Result<void> SetAffinity(pid_t thread, const cpu_set_t& cpus);
Result<pid_t> WaitPid(pid_t pid, int* status, int options);

// The number of the CPU that the thread runs on, for hints; -1: unknown.
int CurrentCpu();

uint64_t MonotonicNs();
uint64_t RealtimeNs();

// Ends the calling thread's registration of rseq(2), which libc makes for each thread: the host
// then writes nothing to the thread's memory when it switches to it. sched_getcpu(3) goes on
// working, as a system call. False: the host refused.
bool LeaveRseq();

}  // namespace skep::host
