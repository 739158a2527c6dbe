#include "sentry/boot/jail.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <linux/capability.h>
#include <linux/futex.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <termios.h>
#include <unistd.h>
#include <array>
#include <csignal>

#include "base/host_call.h"
#include "base/limits.h"
#include "base/missing_defs.h"
#include "platform/engines.h"

namespace skep::boot {
namespace {

// What the sentry itself does after boot; an engine adds its own (EngineInfo::HostSyscalls).
constexpr FilterRow kAllowed[] = {
    {SYS_read, "stdio, eventfds of workers"},
    {SYS_write, "log, strace, stdio, eventfds of workers"},
    {SYS_readv, "stdio into guest pages"},
    {SYS_writev, "stdio from guest pages"},
    {SYS_pread64, "donated files"},
    {SYS_pwrite64, "donated files"},
    {SYS_preadv, "donated files into guest pages"},
    {SYS_pwritev, "donated files from guest pages"},
    {SYS_preadv2, "stdio that must not block", {Is(5, RWF_NOWAIT)}},
    {SYS_pwritev2, "stdio that must not block", {Is(5, RWF_NOWAIT)}},
    {SYS_pwritev2, "stdio files, at their own position", {Is(5, 0)}},
    {SYS_pwritev2, "stdio files that the guest appends to", {Is(5, RWF_APPEND)}},
    {SYS_lseek, "position of stdio files; holes of donated files"},
    {SYS_fstat, "size of donated files, memory in use"},
    {SYS_newfstatat, "fstat as libc spells it (empty path)", {With(3, AT_EMPTY_PATH)}},
    {SYS_ftruncate, "donated files"},
    {SYS_fallocate, "memory files: pages are given back; donated files"},
    {SYS_fsync, "donated files"},
    {SYS_fdatasync, "donated files"},
    {SYS_close, "donated files"},
    {SYS_fcntl, "how stdio files were opened", {Is(1, F_GETFL)}},
    {SYS_fcntl, "a descriptor to watch, beside the file's own", {Is(1, F_DUPFD_CLOEXEC)}},
    {SYS_ioctl, "stdio: whether it is a terminal, and its modes", {Is(1, TCGETS)}},
    {SYS_ioctl, "stdio: size of the terminal", {Is(1, TIOCGWINSZ)}},
    {SYS_ioctl, "stdio: bytes to be read", {Is(1, FIONREAD)}},
    {SYS_poll, "readiness of stdio"},
    {SYS_ppoll, "readiness of stdio"},
    {SYS_epoll_wait, "host descriptors that files wait for"},
    {SYS_epoll_pwait, "host descriptors that files wait for"},
    {SYS_epoll_ctl, "host descriptors that files wait for"},
    {SYS_eventfd2, "wake-ups of workers"},
    {SYS_accept4, "clients of the control socket"},
    {SYS_recvmsg,
     "gofer replies, commands of the CLI",
     {IsWithAny(2, MSG_CMSG_CLOEXEC, MSG_DONTWAIT)}},
    {SYS_recvfrom, "stdio sockets without blocking", {IsNull(4)}},
    {SYS_sendmsg, "gofer requests, events to the CLI", {IsWithAny(2, MSG_NOSIGNAL, MSG_DONTWAIT)}},
    {SYS_sendto, "stdio sockets without blocking", {IsNull(4)}},
    {SYS_futex, "mutexes between workers", {Is(1, FUTEX_WAIT_PRIVATE)}},
    {SYS_futex, "mutexes between workers", {Is(1, FUTEX_WAKE_PRIVATE)}},
    {SYS_futex,
     "events of the host's threads",
     {IsWithAny(1, FUTEX_WAIT_BITSET, FUTEX_PRIVATE_FLAG | FUTEX_CLOCK_REALTIME)}},
    {SYS_mmap, "heap of libc, windows of files; never code", {Without(2, PROT_EXEC)}},
    {SYS_munmap, "heap of libc"},
    {SYS_mremap, "heap of libc"},
    {SYS_mprotect,
     "guard pages of fiber stacks, heap of libc; never code",
     {Without(2, PROT_EXEC)}},
    {SYS_madvise, "unused stacks and heap go back", {Is(2, MADV_DONTNEED)}},
    {SYS_madvise, "guard pages of fiber stacks", {Is(2, MADV_GUARD_INSTALL)}},
    {SYS_madvise, "pages that a checkpoint or a copy wants", {Is(2, MADV_POPULATE_READ)}},
    {SYS_brk, "heap of libc"},
    {SYS_openat,
     "malloc asks for overcommit_memory before it shrinks a heap: refused",
     {Is(0, static_cast<uint32_t>(AT_FDCWD)), Is(2, O_RDONLY | O_CLOEXEC)},
     EPERM},
    {SYS_getrandom, "randomness of guests", {Only(2, 0)}},
    {SYS_sysinfo, "the machine's memory, for guests"},
    {SYS_clock_gettime, "clocks where the vDSO cannot tell"},
    {SYS_clock_nanosleep, "a checkpoint that waits for the workers"},
    {SYS_nanosleep, "an engine that waits for a stub"},
    {SYS_sched_yield, "spinning locks"},
    {SYS_sched_getaffinity, "number of workers"},
    {SYS_sched_setaffinity, "a worker's own CPU"},
    {SYS_mincore, "resident pages of memory files"},
    {SYS_getpid, "log lines"},
    {SYS_gettid, "signals to own threads"},
    {SYS_tgkill, "abort; signals to own threads"},
    {SYS_rt_sigaction, "abort", {Is(0, SIGABRT)}},
    {SYS_rt_sigaction, "a fault that is our own: it happens again, and ends us", {Is(0, SIGSEGV)}},
    {SYS_rt_sigaction, "a fault that is our own", {Is(0, SIGBUS)}},
    {SYS_rt_sigprocmask, "abort, threads"},
    {SYS_rt_sigreturn, "faults in tolerant copies"},
    {SYS_sigaltstack, "threads"},
    {SYS_restart_syscall, "a host call that a stop interrupted"},
    {SYS_prctl, "the name of a thread that is still starting", {Is(0, PR_SET_NAME)}},
    {SYS_clone, "helper threads, for host calls that block", {Is(0, jail::kThreadFlags)}},
    {SYS_clone3, "threads: libc then asks for clone, whose flags can be judged", {}, ENOSYS},
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

std::vector<FilterRow> FilterRows(platform::EngineKind engine) {
  std::vector<FilterRow> rows(std::begin(kAllowed), std::end(kAllowed));
  const std::vector<FilterRow> more = platform::InfoOf(engine).HostSyscalls();
  rows.insert(rows.end(), more.begin(), more.end());
  return jail::Joined(rows);
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
      {"new executable memory", SYS_mmap, {0, kPageSize, PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS}},
      {"memory made executable", SYS_mprotect, {0, 0, PROT_READ | PROT_EXEC}},
      {"typing on the terminal", SYS_ioctl, {0, TIOCSTI, 0}},
      {"another file's signals", SYS_fcntl, {0, F_SETOWN, static_cast<uint64_t>(getpid())}},
      {"a signal handler", SYS_rt_sigaction, {SIGSYS, 0, 0, sizeof(uint64_t)}},
      {"being dumpable again", SYS_prctl, {PR_SET_DUMPABLE, 1}},
      {"a message with an address", SYS_sendto, {0, 0, 0, 0, Address(path), 16}},
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
