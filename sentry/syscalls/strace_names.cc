// Which names the arguments of which calls have, for --strace.
#include <fcntl.h>
#include <fmt/format.h>
#include <linux/close_range.h>
#include <linux/futex.h>
#include <linux/membarrier.h>
#include <linux/prctl.h>
#include <linux/sched.h>
#include <linux/sockios.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>
#include <cstring>
#include <ctime>
#include <iterator>

#include "sentry/syscalls/adapter.h"
#include "sentry/syscalls/strace_args.h"

namespace skep::syscalls {
namespace {

using trace::Name;
// An entry whose name is the constant's.
#define N(constant) {constant, #constant}

constexpr Name kProtections[] = {N(PROT_READ), N(PROT_WRITE), N(PROT_EXEC), N(PROT_GROWSDOWN)};
constexpr Name kMapFlags[] = {N(MAP_SHARED_VALIDATE), N(MAP_SHARED),    N(MAP_PRIVATE),
                              N(MAP_FIXED),           N(MAP_ANONYMOUS), N(MAP_32BIT),
                              N(MAP_GROWSDOWN),       N(MAP_DENYWRITE), N(MAP_LOCKED),
                              N(MAP_NORESERVE),       N(MAP_POPULATE),  N(MAP_NONBLOCK),
                              N(MAP_STACK),           N(MAP_HUGETLB),   N(MAP_FIXED_NOREPLACE)};
constexpr Name kRemapFlags[] = {N(MREMAP_MAYMOVE), N(MREMAP_FIXED), N(MREMAP_DONTUNMAP)};
constexpr Name kAdvice[] = {
    N(MADV_NORMAL),   N(MADV_RANDOM),        N(MADV_SEQUENTIAL),    N(MADV_WILLNEED),
    N(MADV_DONTNEED), N(MADV_FREE),          N(MADV_REMOVE),        N(MADV_DONTFORK),
    N(MADV_DOFORK),   N(MADV_HUGEPAGE),      N(MADV_NOHUGEPAGE),    N(MADV_DONTDUMP),
    N(MADV_DODUMP),   N(MADV_WIPEONFORK),    N(MADV_KEEPONFORK),    N(MADV_COLD),
    N(MADV_PAGEOUT),  N(MADV_POPULATE_READ), N(MADV_POPULATE_WRITE)};
constexpr Name kCloneFlags[] = {N(CLONE_VM),
                                N(CLONE_FS),
                                N(CLONE_FILES),
                                N(CLONE_SIGHAND),
                                N(CLONE_PIDFD),
                                N(CLONE_PTRACE),
                                N(CLONE_VFORK),
                                N(CLONE_PARENT),
                                N(CLONE_THREAD),
                                N(CLONE_NEWNS),
                                N(CLONE_SYSVSEM),
                                N(CLONE_SETTLS),
                                N(CLONE_PARENT_SETTID),
                                N(CLONE_DETACHED),
                                N(CLONE_CHILD_CLEARTID),
                                N(CLONE_UNTRACED),
                                N(CLONE_CHILD_SETTID),
                                N(CLONE_NEWCGROUP),
                                N(CLONE_NEWUTS),
                                N(CLONE_NEWIPC),
                                N(CLONE_NEWUSER),
                                N(CLONE_NEWPID),
                                N(CLONE_NEWNET),
                                N(CLONE_IO)};
constexpr Name kWaitOptions[] = {N(WNOHANG), N(WUNTRACED),   N(WEXITED), N(WCONTINUED),
                                 N(WNOWAIT), N(__WNOTHREAD), N(__WALL),  N(__WCLONE)};
constexpr Name kFutexOps[] = {
    N(FUTEX_WAIT),        N(FUTEX_WAKE),        N(FUTEX_REQUEUE),         N(FUTEX_CMP_REQUEUE),
    N(FUTEX_WAKE_OP),     N(FUTEX_LOCK_PI),     N(FUTEX_UNLOCK_PI),       N(FUTEX_TRYLOCK_PI),
    N(FUTEX_WAIT_BITSET), N(FUTEX_WAKE_BITSET), N(FUTEX_WAIT_REQUEUE_PI), N(FUTEX_CMP_REQUEUE_PI),
    N(FUTEX_LOCK_PI2)};
constexpr Name kFamiliesOfSockets[] = {N(AF_UNSPEC), N(AF_UNIX),    N(AF_INET),
                                       N(AF_INET6),  N(AF_NETLINK), N(AF_PACKET)};
constexpr Name kSocketTypes[] = {N(SOCK_STREAM), N(SOCK_DGRAM),     N(SOCK_RAW),
                                 N(SOCK_RDM),    N(SOCK_SEQPACKET), N(SOCK_PACKET)};
constexpr Name kSocketFlags[] = {N(SOCK_CLOEXEC), N(SOCK_NONBLOCK)};
constexpr Name kMessageFlags[] = {N(MSG_OOB),    N(MSG_PEEK),        N(MSG_DONTROUTE),
                                  N(MSG_CTRUNC), N(MSG_TRUNC),       N(MSG_DONTWAIT),
                                  N(MSG_EOR),    N(MSG_WAITALL),     N(MSG_NOSIGNAL),
                                  N(MSG_MORE),   N(MSG_CMSG_CLOEXEC)};
constexpr Name kSocketLevels[] = {N(SOL_SOCKET), {0, "SOL_IP"}, {6, "SOL_TCP"}};
constexpr Name kSocketOptions[] = {
    N(SO_DEBUG),       N(SO_REUSEADDR), N(SO_TYPE),       N(SO_ERROR),     N(SO_DONTROUTE),
    N(SO_BROADCAST),   N(SO_SNDBUF),    N(SO_RCVBUF),     N(SO_KEEPALIVE), N(SO_OOBINLINE),
    N(SO_LINGER),      N(SO_REUSEPORT), N(SO_PASSCRED),   N(SO_PEERCRED),  N(SO_RCVLOWAT),
    N(SO_RCVTIMEO),    N(SO_SNDTIMEO),  N(SO_ACCEPTCONN), N(SO_PEERSEC),   N(SO_SNDBUFFORCE),
    N(SO_RCVBUFFORCE), N(SO_PROTOCOL),  N(SO_DOMAIN)};
constexpr Name kShutdown[] = {N(SHUT_RD), N(SHUT_WR), N(SHUT_RDWR)};
constexpr Name kWhence[] = {N(SEEK_SET), N(SEEK_CUR), N(SEEK_END), N(SEEK_DATA), N(SEEK_HOLE)};
constexpr Name kAtFlags[] = {N(AT_SYMLINK_NOFOLLOW), N(AT_REMOVEDIR), N(AT_SYMLINK_FOLLOW),
                             N(AT_NO_AUTOMOUNT), N(AT_EMPTY_PATH)};
constexpr Name kAccessFlags[] = {N(AT_EACCESS), N(AT_SYMLINK_NOFOLLOW), N(AT_EMPTY_PATH)};
constexpr Name kAccessModes[] = {N(R_OK), N(W_OK), N(X_OK)};
constexpr Name kFcntlCommands[] = {
    N(F_DUPFD),         N(F_GETFD),      N(F_SETFD),      N(F_GETFL),     N(F_SETFL),
    N(F_GETLK),         N(F_SETLK),      N(F_SETLKW),     N(F_SETOWN),    N(F_GETOWN),
    N(F_SETSIG),        N(F_GETSIG),     N(F_OFD_GETLK),  N(F_OFD_SETLK), N(F_OFD_SETLKW),
    N(F_DUPFD_CLOEXEC), N(F_SETPIPE_SZ), N(F_GETPIPE_SZ), N(F_ADD_SEALS), N(F_GET_SEALS)};
constexpr Name kIoctls[] = {
    N(TCGETS),      N(TCSETS),     N(TCSETSW),     N(TCSETSF),      N(TCFLSH),     N(TCSBRK),
    N(TCXONC),      N(TIOCSCTTY),  N(TIOCNOTTY),   N(TIOCGPGRP),    N(TIOCSPGRP),  N(TIOCGSID),
    N(TIOCGWINSZ),  N(TIOCSWINSZ), N(TIOCINQ),     N(TIOCOUTQ),     N(TIOCGPTN),   N(TIOCSPTLCK),
    N(TIOCGPTPEER), N(TIOCSTI),    N(TIOCEXCL),    N(TIOCNXCL),     N(FIONBIO),    N(FIOASYNC),
    N(FIOCLEX),     N(FIONCLEX),   N(SIOCGIFCONF), N(SIOCGIFFLAGS), N(SIOCGIFADDR)};
constexpr Name kEpollOps[] = {N(EPOLL_CTL_ADD), N(EPOLL_CTL_DEL), N(EPOLL_CTL_MOD)};
constexpr Name kCloexecFlags[] = {N(O_CLOEXEC), N(O_NONBLOCK), N(O_DIRECT)};
constexpr Name kMaskActions[] = {N(SIG_BLOCK), N(SIG_UNBLOCK), N(SIG_SETMASK)};
constexpr Name kClocks[] = {N(CLOCK_REALTIME),           N(CLOCK_MONOTONIC),
                            N(CLOCK_PROCESS_CPUTIME_ID), N(CLOCK_THREAD_CPUTIME_ID),
                            N(CLOCK_MONOTONIC_RAW),      N(CLOCK_REALTIME_COARSE),
                            N(CLOCK_MONOTONIC_COARSE),   N(CLOCK_BOOTTIME)};
constexpr Name kTimerFlags[] = {N(TIMER_ABSTIME)};
constexpr Name kResources[] = {
    N(RLIMIT_CPU),      N(RLIMIT_FSIZE), N(RLIMIT_DATA),   N(RLIMIT_STACK),
    N(RLIMIT_CORE),     N(RLIMIT_RSS),   N(RLIMIT_NPROC),  N(RLIMIT_NOFILE),
    N(RLIMIT_MEMLOCK),  N(RLIMIT_AS),    N(RLIMIT_LOCKS),  N(RLIMIT_SIGPENDING),
    N(RLIMIT_MSGQUEUE), N(RLIMIT_NICE),  N(RLIMIT_RTPRIO), N(RLIMIT_RTTIME)};
constexpr Name kPrctlOptions[] = {N(PR_SET_PDEATHSIG),
                                  N(PR_GET_PDEATHSIG),
                                  N(PR_GET_DUMPABLE),
                                  N(PR_SET_DUMPABLE),
                                  N(PR_SET_NAME),
                                  N(PR_GET_NAME),
                                  N(PR_GET_SECCOMP),
                                  N(PR_SET_SECCOMP),
                                  N(PR_CAPBSET_READ),
                                  N(PR_CAPBSET_DROP),
                                  N(PR_SET_TIMERSLACK),
                                  N(PR_GET_TIMERSLACK),
                                  N(PR_SET_KEEPCAPS),
                                  N(PR_GET_KEEPCAPS),
                                  N(PR_SET_CHILD_SUBREAPER),
                                  N(PR_GET_CHILD_SUBREAPER),
                                  N(PR_SET_NO_NEW_PRIVS),
                                  N(PR_GET_NO_NEW_PRIVS),
                                  N(PR_SET_THP_DISABLE),
                                  N(PR_GET_THP_DISABLE),
                                  N(PR_CAP_AMBIENT),
                                  N(PR_SET_VMA)};
constexpr Name kRandomFlags[] = {N(GRND_NONBLOCK), N(GRND_RANDOM), N(GRND_INSECURE)};
constexpr Name kCloseRangeFlags[] = {N(CLOSE_RANGE_UNSHARE), N(CLOSE_RANGE_CLOEXEC)};
constexpr Name kMemfdFlags[] = {N(MFD_CLOEXEC), N(MFD_ALLOW_SEALING), N(MFD_HUGETLB)};
#undef N

uint64_t Low(const TracedCall& call, size_t i) { return call.args[i] & 0xffff'ffff; }

template <const auto& kNames>
void Some(const TracedCall& call, size_t i, std::string& out) {
  trace::Flags(Low(call, i), kNames, out);
}
template <const auto& kNames>
void One(const TracedCall& call, size_t i, std::string& out) {
  trace::OneOf(Low(call, i), kNames, out);
}

void Protection(const TracedCall& call, size_t i, std::string& out) {
  if (call.args[i] == 0) {
    out += "PROT_NONE";
  } else {
    Some<kProtections>(call, i, out);
  }
}
void AccessMode(const TracedCall& call, size_t i, std::string& out) {
  if (Low(call, i) == 0) {
    out += "F_OK";
  } else {
    Some<kAccessModes>(call, i, out);
  }
}
void CloneFlags(const TracedCall& call, size_t i, std::string& out) {
  const uint64_t flags = call.args[i] & ~uint64_t{0xff};
  const uint64_t signo = call.args[i] & 0xff;
  if (flags != 0 || signo == 0) trace::Flags(flags, kCloneFlags, out);
  if (signo == 0) return;
  if (flags != 0) out += '|';
  format::Signal(call.task, signo, out);
}
void FutexOp(const TracedCall& call, size_t i, std::string& out) {
  const uint64_t op = Low(call, i);
  trace::OneOf(op & uint64_t{static_cast<uint32_t>(FUTEX_CMD_MASK)}, kFutexOps, out);
  if ((op & FUTEX_PRIVATE_FLAG) != 0) out += "|FUTEX_PRIVATE_FLAG";
  if ((op & FUTEX_CLOCK_REALTIME) != 0) out += "|FUTEX_CLOCK_REALTIME";
}
void SocketType(const TracedCall& call, size_t i, std::string& out) {
  constexpr uint64_t kFlags = SOCK_CLOEXEC | SOCK_NONBLOCK;
  const uint64_t type = Low(call, i);
  trace::OneOf(type & ~kFlags, kSocketTypes, out);
  if ((type & kFlags) == 0) return;
  out += '|';
  trace::Flags(type & kFlags, kSocketFlags, out);
}

// A buffer that the call reads; its size is argument kSize.
template <size_t kSize>
void In(const TracedCall& call, size_t i, std::string& out) {
  trace::Bytes(call.task, call.args[i], call.args[kSize], out);
}
// One that it fills; the result says how much of it.
void Out(const TracedCall& call, size_t i, std::string& out) {
  if (call.result && *call.result >= 0) {
    trace::Bytes(call.task, call.args[i], static_cast<uint64_t>(*call.result), out);
  } else {
    format::Hex(call.task, call.args[i], out);
  }
}
// Two descriptors that it has made.
void Pair(const TracedCall& call, size_t i, std::string& out) {
  std::array<int32_t, 2> fds{};
  if (!call.result ||
      call.task.mm->CopyIn(UserAddr{call.args[i]}, std::as_writable_bytes(std::span(fds))).fault !=
          0) {
    format::Hex(call.task, call.args[i], out);
    return;
  }
  fmt::format_to(std::back_inserter(out), "[{}, {}]", fds[0], fds[1]);
}
void Timespec(const TracedCall& call, size_t i, std::string& out) {
  timespec time{};
  if (call.args[i] == 0 ||
      call.task.mm->CopyIn(UserAddr{call.args[i]}, std::as_writable_bytes(std::span(&time, 1)))
              .fault != 0) {
    format::Hex(call.task, call.args[i], out);
    return;
  }
  fmt::format_to(std::back_inserter(out), "{{tv_sec={}, tv_nsec={}}}", time.tv_sec, time.tv_nsec);
}
// A socket address whose size is argument kSize.
template <size_t kSize>
void SocketAddress(const TracedCall& call, size_t i, std::string& out) {
  sockaddr_un address{};
  const auto bytes = std::as_writable_bytes(std::span(&address, 1));
  const uint64_t size = std::min<uint64_t>(Low(call, kSize), sizeof address);
  constexpr size_t kFamily = sizeof(sa_family_t);
  if (call.args[i] == 0 || size < kFamily ||
      call.task.mm->CopyIn(UserAddr{call.args[i]}, bytes.first(size)).fault != 0) {
    format::Hex(call.task, call.args[i], out);
    return;
  }
  out += "{sa_family=";
  trace::OneOf(address.sun_family, kFamiliesOfSockets, out);
  if (address.sun_family == AF_UNIX && size > kFamily) {
    const bool abstract = address.sun_path[0] == '\0';
    const size_t length = abstract ? size - kFamily - 1 : strnlen(address.sun_path, size - kFamily);
    out += abstract ? ", sun_path=@" : ", sun_path=";
    trace::Quote({address.sun_path + (abstract ? 1 : 0), length}, false, out);
  }
  out += '}';
}
// The strings of execve's argv.
void Vector(const TracedCall& call, size_t i, std::string& out) {
  constexpr size_t kShown = 8;
  uint64_t at = call.args[i];
  if (at == 0) {
    out += "NULL";
    return;
  }
  out += '[';
  for (size_t count = 0; count <= kShown; ++count, at += sizeof at) {
    uint64_t text = 0;
    const auto bytes = std::as_writable_bytes(std::span(&text, 1));
    if (call.task.mm->CopyIn(UserAddr{at}, bytes).fault != 0 || text == 0) break;
    if (count > 0) out += ", ";
    if (count == kShown) {
      out += "...";
      break;
    }
    format::Text(call.task, text, out);
  }
  out += ']';
}

struct CallWriters {
  uint64_t number;
  ArgumentWriters writers;
};
constexpr ArgumentWriter kPlain = nullptr;
constexpr CallWriters kWriters[] = {
    {SYS_read, {kPlain, &Out}},
    {SYS_write, {kPlain, &In<2>}},
    {SYS_pread64, {kPlain, &Out}},
    {SYS_pwrite64, {kPlain, &In<2>}},
    {SYS_lseek, {kPlain, kPlain, &One<kWhence>}},
    {SYS_access, {kPlain, &AccessMode}},
    {SYS_faccessat, {kPlain, kPlain, &AccessMode}},
    {SYS_faccessat2, {kPlain, kPlain, &AccessMode, &Some<kAccessFlags>}},
    {SYS_readlink, {kPlain, &Out}},
    {SYS_readlinkat, {kPlain, kPlain, &Out}},
    {SYS_getcwd, {&Out}},
    {SYS_getxattr, {kPlain, kPlain, &Out}},
    {SYS_setxattr, {kPlain, kPlain, &In<3>}},
    {SYS_newfstatat, {kPlain, kPlain, kPlain, &Some<kAtFlags>}},
    {SYS_statx, {kPlain, kPlain, &Some<kAtFlags>}},
    {SYS_unlinkat, {kPlain, kPlain, &Some<kAtFlags>}},
    {SYS_linkat, {kPlain, kPlain, kPlain, kPlain, &Some<kAtFlags>}},
    {SYS_fchownat, {kPlain, kPlain, kPlain, kPlain, &Some<kAtFlags>}},
    {SYS_utimensat, {kPlain, kPlain, kPlain, &Some<kAtFlags>}},
    {SYS_fcntl, {kPlain, &One<kFcntlCommands>}},
    {SYS_ioctl, {kPlain, &One<kIoctls>}},
    {SYS_pipe, {&Pair}},
    {SYS_pipe2, {&Pair, &Some<kCloexecFlags>}},
    {SYS_dup3, {kPlain, kPlain, &Some<kCloexecFlags>}},
    {SYS_eventfd2, {kPlain, &Some<kCloexecFlags>}},
    {SYS_epoll_create1, {&Some<kCloexecFlags>}},
    {SYS_epoll_ctl, {kPlain, &One<kEpollOps>}},
    {SYS_close_range, {kPlain, kPlain, &Some<kCloseRangeFlags>}},
    {SYS_memfd_create, {kPlain, &Some<kMemfdFlags>}},
    {SYS_mmap, {kPlain, kPlain, &Protection, &Some<kMapFlags>}},
    {SYS_mprotect, {kPlain, kPlain, &Protection}},
    {SYS_mremap, {kPlain, kPlain, kPlain, &Some<kRemapFlags>}},
    {SYS_madvise, {kPlain, kPlain, &One<kAdvice>}},
    {SYS_getrandom, {kPlain, kPlain, &Some<kRandomFlags>}},
    {SYS_clone, {&CloneFlags}},
    {SYS_unshare, {&Some<kCloneFlags>}},
    {SYS_wait4, {kPlain, kPlain, &Some<kWaitOptions>}},
    {SYS_waitid, {kPlain, kPlain, kPlain, &Some<kWaitOptions>}},
    {SYS_execve, {kPlain, &Vector}},
    {SYS_execveat, {kPlain, kPlain, &Vector}},
    {SYS_prctl, {&One<kPrctlOptions>}},
    {SYS_futex, {kPlain, &FutexOp}},
    {SYS_rt_sigprocmask, {&One<kMaskActions>}},
    {SYS_getrlimit, {&One<kResources>}},
    {SYS_setrlimit, {&One<kResources>}},
    {SYS_prlimit64, {kPlain, &One<kResources>}},
    {SYS_nanosleep, {&Timespec}},
    {SYS_clock_gettime, {&One<kClocks>, &Timespec}},
    {SYS_clock_getres, {&One<kClocks>}},
    {SYS_clock_nanosleep, {&One<kClocks>, &Some<kTimerFlags>, &Timespec}},
    {SYS_timerfd_create, {&One<kClocks>, &Some<kCloexecFlags>}},
    {SYS_timer_create, {&One<kClocks>}},
    {SYS_socket, {&One<kFamiliesOfSockets>, &SocketType}},
    {SYS_socketpair, {&One<kFamiliesOfSockets>, &SocketType, kPlain, &Pair}},
    {SYS_bind, {kPlain, &SocketAddress<2>}},
    {SYS_connect, {kPlain, &SocketAddress<2>}},
    {SYS_accept4, {kPlain, kPlain, kPlain, &Some<kSocketFlags>}},
    {SYS_sendto, {kPlain, &In<2>, kPlain, &Some<kMessageFlags>, &SocketAddress<5>}},
    {SYS_recvfrom, {kPlain, &Out, kPlain, &Some<kMessageFlags>}},
    {SYS_sendmsg, {kPlain, kPlain, &Some<kMessageFlags>}},
    {SYS_recvmsg, {kPlain, kPlain, &Some<kMessageFlags>}},
    {SYS_shutdown, {kPlain, &One<kShutdown>}},
    {SYS_setsockopt, {kPlain, &One<kSocketLevels>, &One<kSocketOptions>, &In<4>}},
    {SYS_getsockopt, {kPlain, &One<kSocketLevels>, &One<kSocketOptions>}},
};

consteval std::array<const ArgumentWriters*, kSyscallCount> ByNumber() {
  std::array<const ArgumentWriters*, kSyscallCount> table{};
  for (const CallWriters& row : kWriters) {
    if (table[row.number] != nullptr) throw "two rows have this number";
    table[row.number] = &row.writers;
  }
  return table;
}
constexpr std::array<const ArgumentWriters*, kSyscallCount> kByNumber = ByNumber();

}  // namespace

const ArgumentWriters* WritersOf(uint64_t number) {
  return number < kSyscallCount ? kByNumber[number] : nullptr;
}

}  // namespace skep::syscalls
