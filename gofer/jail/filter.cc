// The gofer's system calls: an allow-list with a reason per row.
#include <sched.h>
#include <seccomp.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <cerrno>
#include <iterator>

#include "base/host_call.h"
#include "gofer/jail/jail.h"

namespace skep::gofer {
namespace {

struct Row {
  int number;
  const char* reason;
};

constexpr Row kAllowed[] = {
    {SYS_recvfrom, "the next request"},
    {SYS_sendmsg, "its reply, with a donated descriptor"},
    {SYS_openat2, "nodes (beneath), donation (by the private /proc/self/fd), directory streams"},
    {SYS_close, "descriptors that were donated or evicted"},
    {SYS_statx, "attributes; what a name stands for"},
    {SYS_fstatfs, "Statfs; whether a mount shows the host"},
    {SYS_getdents64, "Readdir"},
    {SYS_lseek, "Readdir from a cookie"},
    {SYS_readlinkat, "Readlink, Walk"},
    {SYS_mkdirat, "Mkdir"},
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
    {SYS_munmap, "malloc"},
    {SYS_madvise, "malloc"},
    {SYS_clock_gettime, "time of a log record, where the vDSO cannot tell it"},
    {SYS_clock_nanosleep, "a rename that is under way"},
    {SYS_futex, "threads: their mutex"},
    {SYS_rt_sigprocmask, "threads of libc"},
    {SYS_set_robust_list, "threads of libc"},
    {SYS_rseq, "threads of libc"},
    {SYS_exit, "threads of libc"},
    {SYS_restart_syscall, "a stopped and continued gofer"},
    {SYS_rt_sigreturn, "a stopped and continued gofer"},
    {SYS_exit_group, "the client is gone"},
};

int AddConditional(scmp_filter_ctx filter, int log) {
  int rc = 0;
  // Memory is never executable and never a file.
  rc |= seccomp_rule_add(filter, SCMP_ACT_ALLOW, SYS_mmap, 2,
                         SCMP_A2(SCMP_CMP_MASKED_EQ, PROT_EXEC, 0),
                         SCMP_A3(SCMP_CMP_MASKED_EQ, MAP_ANONYMOUS, MAP_ANONYMOUS));
  rc |= seccomp_rule_add(filter, SCMP_ACT_ALLOW, SYS_mremap, 0);  // malloc: large vectors
  // Runs where its client waits; nobody else is moved.
  rc |= seccomp_rule_add(filter, SCMP_ACT_ALLOW, SYS_sched_setaffinity, 1, SCMP_A0(SCMP_CMP_EQ, 0));
  // Threads that serve while others wait for the host: pthread_create's flags and no others, which
  // clone3 would hide.
  constexpr uint64_t kThread = CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SYSVSEM | CLONE_SIGHAND |
                               CLONE_THREAD | CLONE_SETTLS | CLONE_PARENT_SETTID |
                               CLONE_CHILD_CLEARTID;
  rc |= seccomp_rule_add(filter, SCMP_ACT_ALLOW, SYS_clone, 1, SCMP_A0(SCMP_CMP_EQ, kThread));
  rc |= seccomp_rule_add(filter, SCMP_ACT_ERRNO(ENOSYS), SYS_clone3, 0);
  rc |= seccomp_rule_add(filter, SCMP_ACT_ALLOW, SYS_mprotect, 1,  // their stacks
                         SCMP_A2(SCMP_CMP_MASKED_EQ, PROT_EXEC, 0));
  // libc's own signal for set*id calls, with the first thread.
  constexpr int kSetXid = 33;
  rc |=
      seccomp_rule_add(filter, SCMP_ACT_ALLOW, SYS_rt_sigaction, 1, SCMP_A0(SCMP_CMP_EQ, kSetXid));
  // A connection for one more of the client's threads.
  rc |= seccomp_rule_add(filter, SCMP_ACT_ALLOW, SYS_socketpair, 1, SCMP_A0(SCMP_CMP_EQ, AF_UNIX));
  // Never a device node.
  for (unsigned type : {S_IFREG, S_IFIFO, S_IFSOCK}) {
    rc |= seccomp_rule_add(filter, SCMP_ACT_ALLOW, SYS_mknodat, 1,
                           SCMP_A2(SCMP_CMP_MASKED_EQ, S_IFMT, type));
  }
  // Log records; a CHECK's last words.
  rc |= seccomp_rule_add(filter, SCMP_ACT_ALLOW, SYS_write, 1, SCMP_A0(SCMP_CMP_EQ, 2));
  if (log > 2) {
    rc |= seccomp_rule_add(filter, SCMP_ACT_ALLOW, SYS_write, 1,
                           SCMP_A0(SCMP_CMP_EQ, static_cast<uint64_t>(log)));
  }
  return rc;
}

}  // namespace

Result<void> InstallFilter(Refusal refusal, int log) {
  TRY(host::Call(SYS_prctl, PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
  TRY(host::Call(SYS_prctl, PR_SET_DUMPABLE, 0, 0, 0, 0));
  const uint32_t otherwise =
      refusal == Refusal::kKill ? SCMP_ACT_KILL_PROCESS : SCMP_ACT_ERRNO(EPERM);
  const scmp_filter_ctx filter = seccomp_init(otherwise);
  if (filter == nullptr) return Fail(ENOMEM);
  int rc = seccomp_attr_set(filter, SCMP_FLTATR_CTL_OPTIMIZE, 2);  // a tree, not a list
  for (const Row& row : kAllowed) rc |= seccomp_rule_add(filter, SCMP_ACT_ALLOW, row.number, 0);
  rc |= AddConditional(filter, log);
  if (rc == 0) rc = seccomp_load(filter);
  seccomp_release(filter);
  if (rc != 0) return Fail(EINVAL);
  return {};
}

}  // namespace skep::gofer
