// Every system call handler, by family. The table (table.cc) gives them their numbers.
#pragma once

#include <poll.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/sysinfo.h>
#include <sys/time.h>
#include <sys/times.h>
#include <sys/utsname.h>
#include <utime.h>

#include "sentry/syscalls/abi.h"
#include "sentry/syscalls/adapter.h"

namespace skep::syscalls {

// -- sys_process.cc, sys_exec.cc --
Result<int32_t> Fork(Task&);
Result<int32_t> Vfork(Task&);
Result<int32_t> CloneCall(Task&, uint64_t flags, uint64_t stack, UserPtr<int32_t> parent_tid,
                          UserPtr<int32_t> child_tid, uint64_t tls);
Result<int32_t> Clone3(Task&, UserPtr<void> args, uint64_t size);
Result<void> Execve(Task&, Path path, UserPtr<const uint64_t> argv, UserPtr<const uint64_t> envp);
Result<void> Execveat(Task&, Fd dir, Path path, UserPtr<const uint64_t> argv,
                      UserPtr<const uint64_t> envp, int32_t flags);
Result<void> Unshare(Task&, uint64_t flags);
Result<KeepRegisters> Exit(Task&, int32_t code);
Result<KeepRegisters> ExitGroupCall(Task&, int32_t code);
Result<int32_t> Wait4(Task&, int32_t pid, UserPtr<int32_t> status, int32_t options,
                      UserPtr<rusage> usage);
Result<void> Waitid(Task&, int32_t type, int32_t id, UserPtr<siginfo_t> info, int32_t options,
                    UserPtr<rusage> usage);
Result<int32_t> GetPid(Task&);
Result<int32_t> GetTid(Task&);
Result<int32_t> GetPpid(Task&);
Result<int32_t> GetPgid(Task&, int32_t pid);
Result<int32_t> GetPgrp(Task&);
Result<void> SetPgid(Task&, int32_t pid, int32_t pgid);
Result<int32_t> GetSid(Task&, int32_t pid);
Result<int32_t> SetSid(Task&);
Result<int32_t> SetTidAddress(Task&, uint64_t address);
Result<void> SetRobustList(Task&, uint64_t head, uint64_t size);
Result<void> GetRobustList(Task&, int32_t pid, UserPtr<uint64_t> head, UserPtr<uint64_t> size);
Result<int32_t> Prctl(Task&, int32_t option, uint64_t a, uint64_t b, uint64_t c, uint64_t d);
Result<void> ArchPrctl(Task&, int32_t code, uint64_t address);
Result<uint32_t> Personality(Task&, uint32_t persona);

// -- sys_sched.cc --
Result<void> SchedYield(Task&);
Result<int32_t> SchedGetAffinity(Task&, int32_t pid, uint32_t size, UserPtr<uint64_t> mask);
Result<void> SchedSetAffinity(Task&, int32_t pid, uint32_t size, UserPtr<const uint64_t> mask);
Result<int32_t> SchedGetScheduler(Task&, int32_t pid);
Result<void> SchedSetScheduler(Task&, int32_t pid, int32_t policy, UserPtr<const int32_t> param);
Result<void> SchedGetParam(Task&, int32_t pid, UserPtr<int32_t> param);
Result<void> SchedSetParam(Task&, int32_t pid, UserPtr<const int32_t> param);
Result<int32_t> SchedGetPriorityMax(Task&, int32_t policy);
Result<int32_t> SchedGetPriorityMin(Task&, int32_t policy);
Result<void> SchedRrGetInterval(Task&, int32_t pid, UserPtr<timespec> out);
Result<int32_t> GetPriority(Task&, int32_t which, int32_t who);
Result<void> SetPriority(Task&, int32_t which, int32_t who, int32_t nice);
Result<void> GetCpu(Task&, UserPtr<uint32_t> cpu, UserPtr<uint32_t> node, uint64_t unused);
Result<int32_t> IoprioGet(Task&, int32_t which, int32_t who);
Result<void> IoprioSet(Task&, int32_t which, int32_t who, int32_t value);

// -- sys_signal.cc --
Result<void> RtSigaction(Task&, int32_t signo, UserPtr<const AbiSigaction> act,
                         UserPtr<AbiSigaction> old, uint64_t size);
Result<void> RtSigprocmask(Task&, int32_t how, UserPtr<const uint64_t> set, UserPtr<uint64_t> old,
                           uint64_t size);
Result<void> RtSigpending(Task&, UserPtr<uint64_t> set, uint64_t size);
Result<void> RtSigsuspend(Task&, UserPtr<const uint64_t> set, uint64_t size);
Result<int32_t> RtSigtimedwait(Task&, UserPtr<const uint64_t> set, UserPtr<siginfo_t> info,
                               UserPtr<const timespec> timeout, uint64_t size);
Result<KeepRegisters> RtSigreturn(Task&);
Result<void> Sigaltstack(Task&, UserPtr<const AbiStack> stack, UserPtr<AbiStack> old);
Result<void> Kill(Task&, int32_t pid, SignalNumber signo);
Result<void> Tkill(Task&, int32_t tid, SignalNumber signo);
Result<void> Tgkill(Task&, int32_t tgid, int32_t tid, SignalNumber signo);
Result<void> RtSigqueueinfo(Task&, int32_t tgid, SignalNumber signo, UserPtr<const siginfo_t> info);
Result<void> RtTgsigqueueinfo(Task&, int32_t tgid, int32_t tid, SignalNumber signo,
                              UserPtr<const siginfo_t> info);
Result<void> Pause(Task&);
Result<Fd> SignalFd4(Task&, Fd fd, UserPtr<const uint64_t> mask, uint64_t size, int32_t flags);
Result<Fd> SignalFd(Task&, Fd fd, UserPtr<const uint64_t> mask, uint64_t size);

// -- sys_time.cc --
Result<void> ClockGettime(Task&, int32_t clock, UserPtr<timespec> out);
Result<void> ClockGetres(Task&, int32_t clock, UserPtr<timespec> out);
Result<void> ClockSettime(Task&, int32_t clock, UserPtr<const timespec> time);
Result<void> ClockNanosleep(Task&, int32_t clock, int32_t flags, UserPtr<const timespec> request,
                            UserPtr<timespec> remain);
Result<void> Nanosleep(Task&, UserPtr<const timespec> request, UserPtr<timespec> remain);
Result<int32_t> RestartSyscall(Task&);
Result<void> Gettimeofday(Task&, UserPtr<timeval> out, UserPtr<uint64_t> zone);
Result<void> Settimeofday(Task&, UserPtr<const timeval> time, UserPtr<const uint64_t> zone);
Result<int64_t> Time(Task&, UserPtr<int64_t> out);
Result<int64_t> Times(Task&, UserPtr<tms> out);
Result<void> Getitimer(Task&, int32_t which, UserPtr<itimerval> out);
Result<void> Setitimer(Task&, int32_t which, UserPtr<const itimerval> value,
                       UserPtr<itimerval> old);
Result<uint32_t> Alarm(Task&, uint32_t seconds);
Result<void> TimerCreate(Task&, int32_t clock, UserPtr<const sigevent> event, UserPtr<int32_t> id);
Result<void> TimerSettime(Task&, int32_t id, int32_t flags, UserPtr<const itimerspec> value,
                          UserPtr<itimerspec> old);
Result<void> TimerGettime(Task&, int32_t id, UserPtr<itimerspec> out);
Result<int32_t> TimerGetoverrun(Task&, int32_t id);
Result<void> TimerDelete(Task&, int32_t id);
Result<Fd> TimerfdCreate(Task&, int32_t clock, int32_t flags);
Result<void> TimerfdSettime(Task&, Fd fd, int32_t flags, UserPtr<const itimerspec> value,
                            UserPtr<itimerspec> old);
Result<void> TimerfdGettime(Task&, Fd fd, UserPtr<itimerspec> out);

// -- sys_mm.cc --
Result<uint64_t> Mmap(Task&, uint64_t address, uint64_t size, int32_t prot, int32_t flags, Fd fd,
                      uint64_t offset);
Result<void> Munmap(Task&, uint64_t start, uint64_t size);
Result<void> Mprotect(Task&, uint64_t start, uint64_t size, int32_t prot);
Result<uint64_t> Mremap(Task&, uint64_t start, uint64_t size, uint64_t new_size, int32_t flags,
                        uint64_t new_start);
Result<uint64_t> Brk(Task&, uint64_t wanted);
Result<void> Madvise(Task&, uint64_t start, uint64_t size, int32_t advice);
Result<void> Msync(Task&, uint64_t start, uint64_t size, int32_t flags);
Result<void> Mincore(Task&, uint64_t start, uint64_t size, UserPtr<uint8_t> out);
Result<void> Mlock(Task&, uint64_t start, uint64_t size);
Result<void> Mlock2(Task&, uint64_t start, uint64_t size, int32_t flags);
Result<void> Munlock(Task&, uint64_t start, uint64_t size);
Result<void> Mlockall(Task&, int32_t flags);
Result<void> Munlockall(Task&);
Result<int32_t> Membarrier(Task&, int32_t command, uint32_t flags, int32_t cpu);
Result<int64_t> Futex(Task&, UserPtr<uint32_t> address, int32_t op, uint32_t value,
                      uint64_t timeout, UserPtr<uint32_t> address2, uint32_t value3);
Result<int64_t> ProcessVmReadv(Task&, int32_t pid, UserPtr<const iovec> local, uint64_t local_count,
                               UserPtr<const iovec> remote, uint64_t remote_count, uint64_t flags);
Result<int64_t> ProcessVmWritev(Task&, int32_t pid, UserPtr<const iovec> local,
                                uint64_t local_count, UserPtr<const iovec> remote,
                                uint64_t remote_count, uint64_t flags);
Result<Fd> MemfdCreate(Task&, Path name, uint32_t flags);

// -- sys_ids.cc --
Result<uint32_t> GetUid(Task&);
Result<uint32_t> GetEuid(Task&);
Result<uint32_t> GetGid(Task&);
Result<uint32_t> GetEgid(Task&);
Result<void> SetUid(Task&, uint32_t uid);
Result<void> SetGid(Task&, uint32_t gid);
Result<void> SetReuid(Task&, uint32_t ruid, uint32_t euid);
Result<void> SetRegid(Task&, uint32_t rgid, uint32_t egid);
Result<void> SetResuid(Task&, uint32_t ruid, uint32_t euid, uint32_t suid);
Result<void> SetResgid(Task&, uint32_t rgid, uint32_t egid, uint32_t sgid);
Result<void> GetResuid(Task&, UserPtr<uint32_t> r, UserPtr<uint32_t> e, UserPtr<uint32_t> s);
Result<void> GetResgid(Task&, UserPtr<uint32_t> r, UserPtr<uint32_t> e, UserPtr<uint32_t> s);
Result<uint32_t> SetFsuid(Task&, uint32_t uid);
Result<uint32_t> SetFsgid(Task&, uint32_t gid);
Result<int32_t> GetGroups(Task&, int32_t size, UserPtr<uint32_t> list);
Result<void> SetGroups(Task&, int32_t size, UserPtr<const uint32_t> list);
Result<void> Capget(Task&, UserPtr<AbiCapHeader> header, UserPtr<AbiCapData> data);
Result<void> Capset(Task&, UserPtr<AbiCapHeader> header, UserPtr<const AbiCapData> data);
Result<void> Getrlimit(Task&, uint32_t resource, UserPtr<rlimit> out);
Result<void> Setrlimit(Task&, uint32_t resource, UserPtr<const rlimit> limit);
Result<void> Prlimit64(Task&, int32_t pid, uint32_t resource, UserPtr<const rlimit> limit,
                       UserPtr<rlimit> old);
Result<Fd> PidfdOpen(Task&, int32_t pid, uint32_t flags);
Result<void> PidfdSendSignal(Task&, Fd fd, SignalNumber signo, UserPtr<const siginfo_t> info,
                             uint32_t flags);
Result<Fd> PidfdGetfd(Task&, Fd pidfd, Fd fd, uint32_t flags);
Result<void> Getrusage(Task&, int32_t who, UserPtr<rusage> out);

// -- sys_system.cc --
Result<void> Uname(Task&, UserPtr<utsname> out);
Result<void> Sethostname(Task&, UserPtr<const char> name, int32_t size);
Result<void> Setdomainname(Task&, UserPtr<const char> name, int32_t size);
Result<void> Sysinfo(Task&, UserPtr<AbiSysinfo> out);
Result<int64_t> Getrandom(Task&, UserPtr<uint8_t> out, uint64_t size, uint32_t flags);
Result<int32_t> Syslog(Task&, int32_t type, UserPtr<char> buffer, int32_t size);
Result<void> Reboot(Task&, uint32_t magic, uint32_t magic2, uint32_t command, uint64_t arg);

// -- sys_open.cc --
Result<Fd> Open(Task&, Path path, OpenFlags flags, FileMode mode);
Result<Fd> OpenAt(Task&, Fd dir, Path path, OpenFlags flags, FileMode mode);
Result<Fd> OpenAt2(Task&, Fd dir, Path path, UserPtr<void> how, uint64_t size);
Result<Fd> Creat(Task&, Path path, FileMode mode);
Result<void> Close(Task&, Fd fd);
Result<void> CloseRange(Task&, uint32_t first, uint32_t last, uint32_t flags);
Result<Fd> Dup(Task&, Fd fd);
Result<Fd> Dup2(Task&, Fd from, Fd to);
Result<Fd> Dup3(Task&, Fd from, Fd to, OpenFlags flags);
Result<int64_t> Fcntl(Task&, Fd fd, int32_t command, uint64_t argument);
Result<void> Flock(Task&, Fd fd, int32_t operation);
Result<uint64_t> Ioctl(Task&, Fd fd, uint32_t command, uint64_t argument);
Result<void> Pipe(Task&, UserPtr<std::array<int32_t, 2>> out);
Result<void> Pipe2(Task&, UserPtr<std::array<int32_t, 2>> out, OpenFlags flags);

// -- sys_rw.cc --
Result<int64_t> Read(Task&, Fd fd, UserPtr<void> to, uint64_t size);
Result<int64_t> Write(Task&, Fd fd, UserPtr<void> from, uint64_t size);
Result<int64_t> Pread64(Task&, Fd fd, UserPtr<void> to, uint64_t size, int64_t offset);
Result<int64_t> Pwrite64(Task&, Fd fd, UserPtr<void> from, uint64_t size, int64_t offset);
Result<int64_t> Readv(Task&, Fd fd, UserPtr<const iovec> list, uint64_t count);
Result<int64_t> Writev(Task&, Fd fd, UserPtr<const iovec> list, uint64_t count);
Result<int64_t> Preadv(Task&, Fd fd, UserPtr<const iovec> list, uint64_t count, int64_t offset);
Result<int64_t> Pwritev(Task&, Fd fd, UserPtr<const iovec> list, uint64_t count, int64_t offset);
Result<int64_t> Preadv2(Task&, Fd fd, UserPtr<const iovec> list, uint64_t count, int64_t offset,
                        uint64_t offset_high, int32_t flags);
Result<int64_t> Pwritev2(Task&, Fd fd, UserPtr<const iovec> list, uint64_t count, int64_t offset,
                         uint64_t offset_high, int32_t flags);
Result<int64_t> Lseek(Task&, Fd fd, int64_t offset, int32_t whence);
Result<int64_t> Sendfile(Task&, Fd out, Fd in, UserPtr<int64_t> offset, uint64_t count);
Result<int64_t> CopyFileRange(Task&, Fd in, UserPtr<int64_t> in_offset, Fd out,
                              UserPtr<int64_t> out_offset, uint64_t size, uint32_t flags);
Result<void> Fsync(Task&, Fd fd);
Result<void> Fdatasync(Task&, Fd fd);
Result<void> Sync(Task&);
Result<void> Syncfs(Task&, Fd fd);
Result<void> SyncFileRange(Task&, Fd fd, int64_t offset, int64_t size, uint32_t flags);
Result<void> Fadvise64(Task&, Fd fd, int64_t offset, int64_t size, int32_t advice);
Result<void> Readahead(Task&, Fd fd, int64_t offset, uint64_t count);
Result<void> Truncate(Task&, Path path, int64_t size);
Result<void> Ftruncate(Task&, Fd fd, int64_t size);
Result<void> Fallocate(Task&, Fd fd, int32_t mode, int64_t offset, int64_t size);

// -- sys_stat.cc --
Result<void> Stat(Task&, Path path, UserPtr<struct stat> out);
Result<void> Lstat(Task&, Path path, UserPtr<struct stat> out);
Result<void> Fstat(Task&, Fd fd, UserPtr<struct stat> out);
Result<void> Newfstatat(Task&, Fd dir, Path path, UserPtr<struct stat> out, int32_t flags);
Result<void> StatxCall(Task&, Fd dir, Path path, int32_t flags, uint32_t mask,
                       UserPtr<struct statx> out);
Result<void> Access(Task&, Path path, int32_t mode);
Result<void> Faccessat(Task&, Fd dir, Path path, int32_t mode);
Result<void> Faccessat2(Task&, Fd dir, Path path, int32_t mode, int32_t flags);
Result<void> StatfsCall(Task&, Path path, UserPtr<struct statfs> out);
Result<void> Fstatfs(Task&, Fd fd, UserPtr<struct statfs> out);
Result<void> Chmod(Task&, Path path, FileMode mode);
Result<void> Fchmod(Task&, Fd fd, FileMode mode);
Result<void> Fchmodat(Task&, Fd dir, Path path, FileMode mode);
Result<void> Fchmodat2(Task&, Fd dir, Path path, FileMode mode, uint32_t flags);
Result<void> Chown(Task&, Path path, uint32_t uid, uint32_t gid);
Result<void> Lchown(Task&, Path path, uint32_t uid, uint32_t gid);
Result<void> Fchown(Task&, Fd fd, uint32_t uid, uint32_t gid);
Result<void> Fchownat(Task&, Fd dir, Path path, uint32_t uid, uint32_t gid, int32_t flags);
Result<void> Utime(Task&, Path path, UserPtr<const utimbuf> times);
Result<void> Utimes(Task&, Path path, UserPtr<const timeval> times);
Result<void> Futimesat(Task&, Fd dir, Path path, UserPtr<const timeval> times);
Result<void> Utimensat(Task&, Fd dir, Path path, UserPtr<const timespec> times, int32_t flags);
Result<int64_t> Getxattr(Task&, Path path, Path name, UserPtr<void> value, uint64_t size);
Result<int64_t> Lgetxattr(Task&, Path path, Path name, UserPtr<void> value, uint64_t size);
Result<int64_t> Fgetxattr(Task&, Fd fd, Path name, UserPtr<void> value, uint64_t size);
Result<void> Setxattr(Task&, Path path, Path name, UserPtr<void> value, uint64_t size,
                      int32_t flags);
Result<void> Lsetxattr(Task&, Path path, Path name, UserPtr<void> value, uint64_t size,
                       int32_t flags);
Result<void> Fsetxattr(Task&, Fd fd, Path name, UserPtr<void> value, uint64_t size, int32_t flags);
Result<int64_t> Listxattr(Task&, Path path, UserPtr<void> list, uint64_t size);
Result<int64_t> Llistxattr(Task&, Path path, UserPtr<void> list, uint64_t size);
Result<int64_t> Flistxattr(Task&, Fd fd, UserPtr<void> list, uint64_t size);
Result<void> Removexattr(Task&, Path path, Path name);
Result<void> Lremovexattr(Task&, Path path, Path name);
Result<void> Fremovexattr(Task&, Fd fd, Path name);

// -- sys_dir.cc --
Result<int64_t> Getdents64(Task&, Fd fd, UserPtr<void> to, uint32_t size);
Result<int64_t> Getdents(Task&, Fd fd, UserPtr<void> to, uint32_t size);
Result<int64_t> Getcwd(Task&, UserPtr<char> to, uint64_t size);
Result<void> Chdir(Task&, Path path);
Result<void> Fchdir(Task&, Fd fd);
Result<void> Chroot(Task&, Path path);
Result<uint32_t> Umask(Task&, uint32_t mask);
Result<void> Mkdir(Task&, Path path, FileMode mode);
Result<void> Mkdirat(Task&, Fd dir, Path path, FileMode mode);
Result<void> Mknod(Task&, Path path, FileMode mode, uint64_t device);
Result<void> Mknodat(Task&, Fd dir, Path path, FileMode mode, uint64_t device);
Result<void> Rmdir(Task&, Path path);
Result<void> Unlink(Task&, Path path);
Result<void> Unlinkat(Task&, Fd dir, Path path, int32_t flags);
Result<void> Rename(Task&, Path from, Path to);
Result<void> Renameat(Task&, Fd from_dir, Path from, Fd to_dir, Path to);
Result<void> Renameat2(Task&, Fd from_dir, Path from, Fd to_dir, Path to, uint32_t flags);
Result<void> Link(Task&, Path from, Path to);
Result<void> Linkat(Task&, Fd from_dir, Path from, Fd to_dir, Path to, int32_t flags);
Result<void> Symlink(Task&, Path target, Path path);
Result<void> Symlinkat(Task&, Path target, Fd dir, Path path);
Result<int64_t> Readlink(Task&, Path path, UserPtr<char> to, int32_t size);
Result<int64_t> Readlinkat(Task&, Fd dir, Path path, UserPtr<char> to, int32_t size);
Result<void> MountCall(Task&, Path source, Path target, Path type, uint64_t flags,
                       UserPtr<void> data);
Result<void> Umount2(Task&, Path target, int32_t flags);

// -- sys_poll.cc --
Result<int32_t> Poll(Task&, UserPtr<pollfd> fds, uint32_t count, int32_t timeout_ms);
Result<int32_t> Ppoll(Task&, UserPtr<pollfd> fds, uint32_t count, UserPtr<timespec> timeout,
                      UserPtr<const uint64_t> mask, uint64_t mask_size);
Result<int32_t> Select(Task&, int32_t count, UserPtr<uint64_t> read, UserPtr<uint64_t> write,
                       UserPtr<uint64_t> except, UserPtr<timeval> timeout);
Result<int32_t> Pselect6(Task&, int32_t count, UserPtr<uint64_t> read, UserPtr<uint64_t> write,
                         UserPtr<uint64_t> except, UserPtr<timespec> timeout,
                         UserPtr<const uint64_t> mask);
Result<Fd> EpollCreate(Task&, int32_t size);
Result<Fd> EpollCreate1(Task&, int32_t flags);
Result<void> EpollCtl(Task&, Fd epoll, int32_t op, Fd fd, UserPtr<const AbiEpollEvent> event);
Result<int32_t> EpollWait(Task&, Fd epoll, UserPtr<AbiEpollEvent> events, int32_t max,
                          int32_t timeout_ms);
Result<int32_t> EpollPwait(Task&, Fd epoll, UserPtr<AbiEpollEvent> events, int32_t max,
                           int32_t timeout_ms, UserPtr<const uint64_t> mask, uint64_t mask_size);
Result<int32_t> EpollPwait2(Task&, Fd epoll, UserPtr<AbiEpollEvent> events, int32_t max,
                            UserPtr<const timespec> timeout, UserPtr<const uint64_t> mask,
                            uint64_t mask_size);
Result<Fd> Eventfd(Task&, uint32_t initial);
Result<Fd> Eventfd2(Task&, uint32_t initial, int32_t flags);

// -- sys_socket.cc --
Result<Fd> Socket(Task&, int32_t family, int32_t type, int32_t protocol);
Result<void> Socketpair(Task&, int32_t family, int32_t type, int32_t protocol,
                        UserPtr<std::array<int32_t, 2>> out);
Result<void> Bind(Task&, Fd fd, UserPtr<const uint8_t> address, int32_t size);
Result<void> Connect(Task&, Fd fd, UserPtr<const uint8_t> address, int32_t size);
Result<void> Listen(Task&, Fd fd, int32_t backlog);
Result<Fd> Accept(Task&, Fd fd, UserPtr<uint8_t> address, UserPtr<uint32_t> size);
Result<Fd> Accept4(Task&, Fd fd, UserPtr<uint8_t> address, UserPtr<uint32_t> size, int32_t flags);
Result<void> Getsockname(Task&, Fd fd, UserPtr<uint8_t> address, UserPtr<uint32_t> size);
Result<void> Getpeername(Task&, Fd fd, UserPtr<uint8_t> address, UserPtr<uint32_t> size);
Result<int64_t> Sendto(Task&, Fd fd, UserPtr<void> data, uint64_t size, uint32_t flags,
                       UserPtr<const uint8_t> address, int32_t address_size);
Result<int64_t> Recvfrom(Task&, Fd fd, UserPtr<void> data, uint64_t size, uint32_t flags,
                         UserPtr<uint8_t> address, UserPtr<uint32_t> address_size);
Result<int64_t> Sendmsg(Task&, Fd fd, UserPtr<const AbiMsghdr> message, uint32_t flags);
Result<int64_t> Recvmsg(Task&, Fd fd, UserPtr<AbiMsghdr> message, uint32_t flags);
Result<int32_t> Sendmmsg(Task&, Fd fd, UserPtr<AbiMmsghdr> list, uint32_t count, uint32_t flags);
Result<int32_t> Recvmmsg(Task&, Fd fd, UserPtr<AbiMmsghdr> list, uint32_t count, uint32_t flags,
                         UserPtr<timespec> timeout);
Result<void> Shutdown(Task&, Fd fd, int32_t how);
Result<void> Setsockopt(Task&, Fd fd, int32_t level, int32_t name, UserPtr<const uint8_t> value,
                        int32_t size);
Result<void> Getsockopt(Task&, Fd fd, int32_t level, int32_t name, UserPtr<uint8_t> value,
                        UserPtr<int32_t> size);

}  // namespace skep::syscalls
