// The gofer's system calls: an allow-list with a reason per row.
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/host_call.h"
#include "gofer/jail/jail.h"
#include "jail/filter.h"
#include "jail/identity.h"

namespace skep::gofer {
namespace {

constexpr int kSetXid = 33;  // libc's own signal for set*id calls

constexpr ArgumentRule KindIs(unsigned type) { return {2, S_IFMT, type}; }

constexpr FilterRow kAllowed[] = {
    {SYS_recvfrom, "the next request", {IsNull(4), Only(3, MSG_TRUNC)}},
    {SYS_sendmsg, "its reply, with a donated descriptor", {Is(2, MSG_NOSIGNAL)}},
    {SYS_openat2, "nodes (beneath), donation (by the private /proc/self/fd), directory streams"},
    {SYS_close, "descriptors that were donated or evicted"},
    {SYS_statx, "attributes; what a name stands for"},
    {SYS_fstatfs, "Statfs; whether a mount shows the host"},
    {SYS_getdents64, "Readdir"},
    {SYS_lseek, "Readdir from a cookie", {Is(2, SEEK_SET)}},
    {SYS_readlinkat, "Readlink, Walk"},
    {SYS_mkdirat, "Mkdir"},
    {SYS_mknodat, "Create: a file, never a device node", {KindIs(S_IFREG)}},
    {SYS_mknodat, "Mknod: a FIFO", {KindIs(S_IFIFO)}},
    {SYS_mknodat, "Mknod: a socket's name", {KindIs(S_IFSOCK)}},
    {SYS_symlinkat, "Symlink"},
    {SYS_linkat, "Link"},
    {SYS_unlinkat, "Unlink, Rmdir"},
    {SYS_renameat2, "Rename"},
    {SYS_fchownat, "SetAttr, owner of new inodes"},
    {SYS_fchmodat, "SetAttr, set-id bits of new inodes"},
    {SYS_utimensat, "SetAttr"},
    {SYS_ftruncate, "SetAttr"},
    {SYS_fsync, "Fsync"},
    {SYS_fdatasync, "Fsync"},
    {SYS_fchdir, "xattr calls name descriptors relative to /proc/self/fd"},
    {SYS_getxattr, "GetXattr"},
    {SYS_setxattr, "SetXattr"},
    {SYS_listxattr, "ListXattr"},
    {SYS_removexattr, "RemoveXattr"},
    {SYS_faccessat2, "whether an owner shown as the overflow id is the gofer's own"},
    {SYS_brk, "malloc"},
    {SYS_openat,
     "malloc asks for overcommit_memory before it shrinks a heap: refused",
     {Is(0, static_cast<uint32_t>(AT_FDCWD)), Is(2, O_RDONLY | O_CLOEXEC)},
     EPERM},
    // Memory is never executable and never a file.
    {SYS_mmap, "malloc", {Without(2, PROT_EXEC), With(3, MAP_ANONYMOUS)}},
    {SYS_mremap, "malloc: large vectors"},
    {SYS_munmap, "malloc"},
    {SYS_madvise, "malloc", {Is(2, MADV_DONTNEED)}},
    {SYS_sched_setaffinity, "it runs where its client waits; nobody else is moved", {Is(0, 0)}},
    {SYS_write, "log records, a CHECK's last words", {Is(0, STDERR_FILENO)}},
    {SYS_clock_gettime, "time of a log record, where the vDSO cannot tell it"},
    {SYS_clock_nanosleep, "a rename that is under way"},
    {SYS_clone, "threads that serve while others wait for the host", {Is(0, jail::kThreadFlags)}},
    {SYS_clone3, "threads: libc then asks for clone, whose flags can be judged", {}, ENOSYS},
    {SYS_mprotect, "threads: their stacks", {Without(2, PROT_EXEC)}},
    {SYS_rt_sigaction, "threads: with the first one", {Is(0, kSetXid)}},
    {SYS_socketpair, "a connection for one more of the client's threads", {Is(0, AF_UNIX)}},
    {SYS_setsockopt,
     "that connection is not waited for in vain",
     {Is(1, SOL_SOCKET), Is(2, SO_RCVTIMEO)}},
    {SYS_futex, "threads: their mutex"},
    {SYS_rt_sigprocmask, "threads of libc"},
    {SYS_set_robust_list, "threads of libc"},
    {SYS_rseq, "threads of libc"},
    {SYS_exit, "threads of libc"},
    {SYS_restart_syscall, "a stopped and continued gofer"},
    {SYS_rt_sigreturn, "a stopped and continued gofer"},
    {SYS_exit_group, "the client is gone"},
};

}  // namespace

std::span<const FilterRow> FilterRows() { return kAllowed; }

HostResult<void> InstallFilter(jail::Refusal refusal, const jail::FilterUse& use) {
  if (const auto set = host::Call(SYS_prctl, PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); !set) {
    return HostFail("cannot set no_new_privs", set.error().code());
  }
  TRY(jail::StayUndumped());
  return jail::InstallFilter(kAllowed, refusal, use);
}

}  // namespace skep::gofer
