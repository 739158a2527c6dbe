#include "sentry/boot/jail.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <linux/capability.h>
#include <seccomp.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>
#include <array>
#include <csignal>

#include "base/host_call.h"
#include "platform/engines.h"

namespace skep::boot {
namespace {

struct Row {
  int number;
  const char* why;
};

// What the sentry itself does after boot; an engine adds its own (EngineInfo::HostSyscalls).
constexpr Row kAllowed[] = {
    {SYS_read, "files of the CLI, eventfds of workers"},
    {SYS_write, "log, strace, stdio, eventfds of workers"},
    {SYS_readv, "stdio into guest pages"},
    {SYS_writev, "stdio from guest pages"},
    {SYS_pread64, "donated files"},
    {SYS_pwrite64, "donated files"},
    {SYS_preadv, "donated files into guest pages"},
    {SYS_pwritev, "donated files from guest pages"},
    {SYS_preadv2, "stdio that must not block (RWF_NOWAIT)"},
    {SYS_pwritev2, "stdio that must not block"},
    {SYS_lseek, "position of stdio files; holes of donated files"},
    {SYS_fstat, "size of donated files, memory in use"},
    {SYS_newfstatat, "fstat as libc spells it (empty path)"},
    {SYS_ftruncate, "donated files"},
    {SYS_fallocate, "memory files: pages are given back"},
    {SYS_fsync, "donated files"},
    {SYS_fdatasync, "donated files"},
    {SYS_close, "donated files"},
    {SYS_fcntl, "flags of stdio"},
    {SYS_ioctl, "terminal modes and size, FIONREAD of stdio"},
    {SYS_poll, "readiness of stdio"},
    {SYS_ppoll, "readiness of stdio"},
    {SYS_epoll_wait, "host descriptors that files wait for"},
    {SYS_epoll_pwait, "host descriptors that files wait for"},
    {SYS_epoll_ctl, "host descriptors that files wait for"},
    {SYS_eventfd2, "wake-ups of workers"},
    {SYS_recvmsg, "gofer replies, commands of the CLI"},
    {SYS_recvfrom, "stdio sockets without blocking"},
    {SYS_sendmsg, "gofer requests, events to the CLI"},
    {SYS_sendto, "stdio sockets without blocking"},
    {SYS_futex, "mutexes between workers"},
    {SYS_mmap, "heap of libc, windows"},
    {SYS_munmap, "heap of libc"},
    {SYS_mremap, "heap of libc"},
    {SYS_mprotect, "guard pages of fiber stacks, heap of libc"},
    {SYS_madvise, "unused stacks and heap go back"},
    {SYS_brk, "heap of libc"},
    {SYS_getrandom, "randomness of guests"},
    {SYS_sysinfo, "the machine's memory, for guests"},
    {SYS_clock_gettime, "clocks where the vDSO cannot tell"},
    {SYS_clock_nanosleep, "an engine that waits for a stub"},
    {SYS_nanosleep, "an engine that waits for a stub"},
    {SYS_sched_yield, "spinning locks"},
    {SYS_sched_getaffinity, "number of workers"},
    {SYS_sched_setaffinity, "a worker's own CPU"},
    {SYS_mincore, "resident pages of memory files"},
    {SYS_getpid, "log lines"},
    {SYS_gettid, "signals to own threads"},
    {SYS_tgkill, "abort; signals to own threads"},
    {SYS_rt_sigaction, "abort"},
    {SYS_rt_sigprocmask, "abort, threads"},
    {SYS_rt_sigreturn, "faults in tolerant copies"},
    {SYS_sigaltstack, "threads"},
    {SYS_restart_syscall, "a host call that a stop interrupted"},
    {SYS_rseq, "threads of libc"},
    {SYS_set_robust_list, "threads of libc"},
    {SYS_exit, "threads"},
    {SYS_exit_group, "the end"},
};

}  // namespace

namespace {

uint64_t Address(const void* p) { return reinterpret_cast<uint64_t>(p); }

struct Step {
  const char* what;
  long number;
  std::array<uint64_t, 5> args;
};

}  // namespace

// In our own mount namespace: an empty tmpfs becomes the root, the old tree is let go.
HostResult<void> EnterEmptyRoot() {
  constexpr uint64_t kBare = MS_NOSUID | MS_NODEV | MS_NOEXEC;
  const char *root = "/", *point = "/proc", *here = ".", *type = "tmpfs";
  const char* options = "size=0,mode=0555";
  const Step steps[] = {
      {"make mounts private", SYS_mount, {0, Address(root), 0, MS_REC | MS_PRIVATE, 0}},
      {"mount a tmpfs",
       SYS_mount,
       {Address(type), Address(point), Address(type), kBare, Address(options)}},
      {"enter it", SYS_chdir, {Address(point)}},
      {"make it the root", SYS_pivot_root, {Address(here), Address(here)}},
      {"let go of the old root", SYS_umount2, {Address(here), MNT_DETACH}},
      {"make it read-only", SYS_mount, {0, Address(root), 0, MS_REMOUNT | MS_RDONLY | kBare, 0}},
      {"stand in it", SYS_chdir, {Address(root)}},
  };
  for (const Step& step : steps) {
    const auto& a = step.args;
    if (auto done = host::Call(step.number, a[0], a[1], a[2], a[3], a[4]); !done) {
      return HostFail(std::string("cannot make the sentry's empty root: ") + step.what,
                      done.error().code());
    }
  }
  return {};
}

HostResult<void> DropPrivileges() {
  if (auto set = host::Call(SYS_prctl, PR_SET_NO_NEW_PRIVS, 1); !set) {
    return HostFail("cannot set no_new_privs", set.error().code());
  }
  for (uint64_t capability = 0; capability < 64; ++capability) {
    auto dropped = host::Call(SYS_prctl, PR_CAPBSET_DROP, capability);
    if (!dropped && dropped.error().code() == EINVAL) break;
  }
  __user_cap_header_struct header{_LINUX_CAPABILITY_VERSION_3, 0};
  __user_cap_data_struct none[2] = {};
  if (auto dropped = host::Call(SYS_capset, &header, none); !dropped) {
    return HostFail("cannot drop capabilities", dropped.error().code());
  }
  return {};
}

HostResult<void> InstallFilter(platform::EngineKind engine, bool errno_instead) {
  const uint32_t refused = errno_instead ? SCMP_ACT_ERRNO(EPERM) : SCMP_ACT_KILL_PROCESS;
  scmp_filter_ctx filter = seccomp_init(refused);
  if (filter == nullptr) return HostFail("cannot make the sentry's seccomp filter", ENOMEM);
  int rc = seccomp_attr_set(filter, SCMP_FLTATR_CTL_TSYNC, 1);
  for (const Row& row : kAllowed) {
    if (rc == 0) rc = seccomp_rule_add(filter, SCMP_ACT_ALLOW, row.number, 0);
  }
  // The name of a thread that is still starting.
  if (rc == 0) {
    rc = seccomp_rule_add(filter, SCMP_ACT_ALLOW, SYS_prctl, 1, SCMP_A0(SCMP_CMP_EQ, PR_SET_NAME));
  }
  for (const platform::HostSyscall& call : platform::InfoOf(engine).HostSyscalls()) {
    if (rc == 0) rc = seccomp_rule_add(filter, SCMP_ACT_ALLOW, call.number, 0);
  }
  if (rc == 0) rc = seccomp_load(filter);
  seccomp_release(filter);
  if (rc != 0) return HostFail("cannot install the sentry's seccomp filter", -rc);
  return {};
}

JailTrial JailSelfTest() {
  struct Attempt {
    const char* what;
    uint32_t number;
    std::array<uint64_t, 6> args;
  };
  const char *path = "/etc/passwd", *root = "/", *program = "/bin/true";
  const char* const arguments[] = {program, nullptr};
  const Attempt attempts[] = {
      {"openat of /etc/passwd", SYS_openat, {static_cast<uint64_t>(AT_FDCWD), Address(path)}},
      {"open of /", SYS_open, {Address(root), O_PATH}},
      {"openat2 of /", SYS_openat2, {static_cast<uint64_t>(AT_FDCWD), Address(root), 0, 0}},
      {"a network socket", SYS_socket, {AF_INET, SOCK_STREAM}},
      {"a unix socket", SYS_socket, {AF_UNIX, SOCK_STREAM}},
      {"a mount", SYS_mount, {0, Address(root), 0, MS_REC | MS_PRIVATE}},
      {"a fork", SYS_fork, {}},
      {"unshare", SYS_unshare, {CLONE_NEWUSER}},
      {"bpf", SYS_bpf, {0, 0, 0}},
      // Last: were it to work, there would be nobody left to tell of the others.
      {"execve", SYS_execve, {Address(program), Address(arguments), 0}},
  };
  JailTrial trial;
  // The engine may kill, for the stubs' sake: so the pid namespace must hold nobody else.
  ++trial.attempts;
  for (pid_t pid = 1'000; pid < 65'536; ++pid) {
    if (!host::Kill(pid, 0)) continue;
    trial.breaches = "a signal to a process outside";
    break;
  }
  for (const Attempt& attempt : attempts) {
    const auto& a = attempt.args;
    const Result<int64_t> done = host::Call(attempt.number, a[0], a[1], a[2], a[3], a[4]);
    if (attempt.number == SYS_fork && done && *done == 0) _exit(0);  // we are the child
    ++trial.attempts;
    // The filter says EPERM. Any other error came from behind it.
    if (!done && done.error().code() == EPERM) continue;
    trial.breaches += fmt::format("{}{}", trial.breaches.empty() ? "" : ", ", attempt.what);
  }
  return trial;
}

}  // namespace skep::boot
