// Host system calls. Each reads errno before it returns, retries EINTR where that is harmless, and
// is never inlined: `errno` is thread-local and a fiber may change threads between two calls, so no
// other file may name it (tools/tidy.py).
#pragma once

#include <poll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

#include "base/owned_fd.h"
#include "base/result.h"

namespace skep::host {

// syscall(2) as a Result. For calls that have no wrapper of their own below.
Result<int64_t> Call(long number, uint64_t a = 0, uint64_t b = 0, uint64_t c = 0, uint64_t d = 0,
                     uint64_t e = 0, uint64_t f = 0);

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
Result<int64_t> Ioctl(int fd, unsigned long request, uint64_t arg);

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
