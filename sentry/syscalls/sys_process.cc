// Processes: clone, exit, wait, ids of processes, prctl.
#include <asm/prctl.h>
#include <linux/capability.h>
#include <linux/sched.h>
#include <linux/securebits.h>
#include <sys/prctl.h>
#include <sys/wait.h>

#include "sentry/kernel/access.h"
#include "sentry/kernel/clone.h"
#include "sentry/kernel/exit.h"
#include "sentry/kernel/job_control.h"
#include "sentry/kernel/kernel.h"
#include "sentry/kernel/pidfd.h"
#include "sentry/kernel/signals.h"
#include "sentry/syscalls/families.h"
#include "sentry/syscalls/util.h"

namespace skep::syscalls {
namespace {

using kernel::CloneRequest;
using kernel::ThreadGroup;

// The parts of a siginfo_t that waitid(2) writes.
struct WaitSignal {
  int32_t signo, error, code;
};
struct WaitChild {
  int32_t pid;
  uint32_t uid;
  int32_t status;
};

Result<int32_t> Fork(Task& task) { return kernel::Clone(task, {.exit_signal = SIGCHLD}); }

Result<int32_t> Vfork(Task& task) {
  return kernel::Clone(task, {.flags = CLONE_VFORK | CLONE_VM, .exit_signal = SIGCHLD});
}

Result<int32_t> CloneCall(Task& task, uint64_t flags, uint64_t stack, UserPtr<int32_t> parent_tid,
                          UserPtr<int32_t> child_tid, uint64_t tls) {
  flags &= 0xffffffff;
  // The descriptor's number goes where the thread's id would.
  if ((flags & CLONE_PIDFD) != 0 && (flags & CLONE_PARENT_SETTID) != 0) return Fail(EINVAL);
  return kernel::Clone(task, {.flags = flags & ~uint64_t{CSIGNAL},
                              .exit_signal = static_cast<int>(flags & CSIGNAL),
                              .stack = stack,
                              .tls = tls,
                              .parent_tid = Raw(parent_tid.addr()),
                              .child_tid = Raw(child_tid.addr()),
                              .pidfd = Raw(parent_tid.addr())});
}

// Linux: copy_clone_args_from_user, clone3_args_valid.
Result<int32_t> Clone3(Task& task, UserPtr<void> address, uint64_t size) {
  clone_args args{};
  if (size > kPageSize) return Fail(E2BIG);
  if (size < CLONE_ARGS_SIZE_VER0) return Fail(EINVAL);
  TRY(CopyInStruct(task, address, size, std::as_writable_bytes(std::span(&args, 1))));
  if (args.set_tid == 0 && args.set_tid_size > 0) return Fail(EINVAL);
  if (args.set_tid != 0) return Fail(args.set_tid_size == 0 ? EINVAL : EPERM);
  if (args.exit_signal > CSIGNAL ||
      (args.exit_signal != 0 && args.exit_signal > kernel::kSignals)) {
    return Fail(EINVAL);
  }
  constexpr uint64_t kKnown = UINT32_MAX | CLONE_CLEAR_SIGHAND | CLONE_INTO_CGROUP;
  if ((args.flags & ~kKnown) != 0) return Fail(EINVAL);
  if ((args.flags & (CLONE_DETACHED | (CSIGNAL & ~uint64_t{CLONE_NEWTIME}))) != 0)
    return Fail(EINVAL);
  if ((args.flags & (CLONE_SIGHAND | CLONE_CLEAR_SIGHAND)) ==
      (CLONE_SIGHAND | CLONE_CLEAR_SIGHAND)) {
    return Fail(EINVAL);
  }
  if ((args.flags & (CLONE_THREAD | CLONE_PARENT)) != 0 && args.exit_signal != 0)
    return Fail(EINVAL);
  if ((args.stack == 0) != (args.stack_size == 0)) return Fail(EINVAL);
  if ((args.flags & CLONE_INTO_CGROUP) != 0) return Fail(EINVAL);
  return kernel::Clone(task, {.flags = args.flags,
                              .exit_signal = static_cast<int>(args.exit_signal),
                              .stack = args.stack == 0 ? 0 : args.stack + args.stack_size,
                              .tls = args.tls,
                              .parent_tid = args.parent_tid,
                              .child_tid = args.child_tid,
                              .pidfd = args.pidfd});
}

// unshare(2) of what threads share; namespaces of guests are not offered.
Result<void> Unshare(Task& task, uint64_t flags) {
  constexpr uint64_t kShared = CLONE_FS | CLONE_FILES | CLONE_SYSVSEM;
  constexpr uint64_t kProcess = CLONE_THREAD | CLONE_SIGHAND | CLONE_VM;
  constexpr uint64_t kNamespaces = CLONE_NEWNS | CLONE_NEWCGROUP | CLONE_NEWUTS | CLONE_NEWIPC |
                                   CLONE_NEWUSER | CLONE_NEWPID | CLONE_NEWNET | CLONE_NEWTIME;
  if ((flags & ~(kShared | kProcess | kNamespaces)) != 0) return Fail(EINVAL);
  if ((flags & kNamespaces) != 0) return Fail(EPERM);
  if ((flags & kProcess) != 0) {
    TasksLock lock(task.kernel);
    if (task.group->threads.size() > 1) return Fail(EINVAL);
  }
  if ((flags & CLONE_FILES) != 0) {
    kernel::ReplaceFiles(task, task.files->Clone());
  }
  if ((flags & CLONE_FS) != 0) {
    Ref<vfs::FsContext> own = task.fs->Clone(), old;
    TasksLock lock(task.kernel);
    old = task.fs.Exchange(std::move(own));
  }
  return {};
}

Result<KeepRegisters> Exit(Task& task, int32_t code) {
  kernel::ExitThread(task, code);
  return Fail(kKilled);
}

Result<KeepRegisters> ExitGroupCall(Task& task, int32_t code) {
  kernel::ExitGroup(task, code);
  return Fail(kKilled);
}

// Null: nobody has this number.
Ref<kernel::Pid> FindPid(Task& task, int32_t number) {
  TasksLock lock(task.kernel);
  return Ref<kernel::Pid>(task.pid_namespace().Find(number));
}

// 0: the caller's own group.
Ref<kernel::Pid> ProcessGroupPid(Task& task, int32_t number) {
  if (number != 0) return FindPid(task, number);
  TasksLock lock(task.kernel);
  return task.group->process_group->id();
}

Result<int32_t> Wait4(Task& task, int32_t pid, UserPtr<int32_t> status, int32_t options,
                      UserPtr<rusage> usage) {
  constexpr int32_t kAllowed = WNOHANG | WUNTRACED | WCONTINUED | __WNOTHREAD | __WCLONE | __WALL;
  if ((options & ~kAllowed) != 0) return Fail(EINVAL);
  if (pid == INT32_MIN) return Fail(ESRCH);
  kernel::WaitRequest request;
  request.options = options | WEXITED;
  if (pid > 0) {
    request.type = P_PID;
    request.id = FindPid(task, pid);
  } else if (pid != -1) {
    request.type = P_PGID;
    request.id = ProcessGroupPid(task, pid == 0 ? 0 : -pid);
  }
  const kernel::WaitedFor waited = TRY(kernel::WaitForChild(task, request));
  if (waited.pid == 0) return 0;
  if (!usage.is_null()) TRY(task.mm->CopyOut(usage, ToRusage(waited.usage)));
  if (!status.is_null()) TRY(task.mm->CopyOut(status, waited.status));
  return waited.pid;
}

// Linux: kernel_waitid.
Result<kernel::WaitedFor> WaitForId(Task& task, int32_t type, int32_t id, int32_t options) {
  constexpr int32_t kEvents = WEXITED | WSTOPPED | WCONTINUED;
  constexpr int32_t kAllowed = WNOHANG | WNOWAIT | kEvents | __WNOTHREAD | __WCLONE | __WALL;
  if ((options & ~kAllowed) != 0 || (options & kEvents) == 0) return Fail(EINVAL);
  kernel::WaitRequest request;
  request.options = options;
  bool nonblocking = false;
  constexpr int32_t kPidFd = 3;  // P_PIDFD
  switch (type) {
    case P_ALL:
      break;
    case P_PID:
      if (id <= 0) return Fail(EINVAL);
      request.type = P_PID;
      request.id = FindPid(task, id);
      break;
    case P_PGID:
      if (id < 0) return Fail(EINVAL);
      request.type = P_PGID;
      request.id = ProcessGroupPid(task, id);
      break;
    case kPidFd: {
      if (id < 0) return Fail(EINVAL);
      const Ref<vfs::File> file = TRY(task.files->Get(id));
      request.type = P_PID;
      request.process = TRY(kernel::ProcessOf(*task.files, id));
      nonblocking = file->nonblocking() && (options & WNOHANG) == 0;
      if (nonblocking) request.options |= WNOHANG;
      break;
    }
    default:
      return Fail(EINVAL);
  }
  kernel::WaitedFor waited = TRY(kernel::WaitForChild(task, request));
  if (nonblocking && waited.pid == 0) return Fail(EAGAIN);
  return waited;
}

// Six fields of the siginfo are written, and no other byte of it: also when there is nothing to
// tell, and when the call fails (zeros).
Result<void> Waitid(Task& task, int32_t type, int32_t id, UserPtr<void> info, int32_t options,
                    UserPtr<rusage> usage) {
  const Result<kernel::WaitedFor> waited = WaitForId(task, type, id, options);
  if (!waited && waited.error() == Errno(kKilled)) return Fail(kKilled);
  const bool found = waited && waited->pid != 0;
  if (found && !usage.is_null()) TRY(task.mm->CopyOut(usage, ToRusage(waited->usage)));
  if (!info.is_null()) {
    const siginfo_t out = found ? waited->info : kernel::MakeInfo(0, 0);
    const uint64_t at = Raw(info.addr());
    TRY(task.mm->CopyOut(UserPtr<WaitSignal>(at), {out.si_signo, out.si_errno, out.si_code}));
    TRY(task.mm->CopyOut(UserPtr<WaitChild>(at + offsetof(siginfo_t, si_pid)),
                         {out.si_pid, out.si_uid, out.si_status}));
  }
  if (!waited) return std::unexpected(waited.error());
  return {};
}

Result<int32_t> GetPid(Task& task) { return task.group->tgid; }
Result<int32_t> GetTid(Task& task) { return task.tid; }

Result<int32_t> GetPpid(Task& task) {
  TasksLock lock(task.kernel);
  return task.group->parent == nullptr ? 0 : task.NumberOf(*task.group->parent->pid);
}

Result<ThreadGroup*> GroupOf(Task& task, int32_t pid) REQUIRES(tasks) {
  if (pid == 0) return task.group.get();
  const kernel::PidNamespace& pids = task.pid_namespace();
  Task* found = pids.FindTask(pid);
  ThreadGroup* group = found != nullptr ? found->group.get() : pids.FindGroup(pid);
  if (group == nullptr) return Fail(ESRCH);
  return group;
}

Result<int32_t> GetPgid(Task& task, int32_t pid) {
  TasksLock lock(task.kernel);
  ThreadGroup* group = TRY(GroupOf(task, pid));
  return task.NumberOf(*group->process_group->id());
}

Result<int32_t> GetPgrp(Task& task) { return GetPgid(task, 0); }

Result<int32_t> GetSid(Task& task, int32_t pid) {
  TasksLock lock(task.kernel);
  ThreadGroup* group = TRY(GroupOf(task, pid));
  return task.NumberOf(*group->session().id());
}

Result<void> SetPgid(Task& task, int32_t pid, int32_t pgid) {
  return kernel::SetProcessGroup(task, pid, pgid);
}

Result<int32_t> SetSid(Task& task) { return kernel::NewSession(task); }

Result<int32_t> SetTidAddress(Task& task, uint64_t address) {
  task.clear_child_tid = address;
  return task.tid;
}

Result<void> SetRobustList(Task& task, uint64_t head, uint64_t size) {
  if (size != 24) return Fail(EINVAL);
  task.robust_list = head;
  return {};
}

Result<void> GetRobustList(Task& task, int32_t pid, UserPtr<uint64_t> head,
                           UserPtr<uint64_t> size) {
  uint64_t value = 0;
  {
    TasksLock lock(task.kernel);
    Task* target = pid == 0 ? &task : task.pid_namespace().FindTask(pid);
    if (target == nullptr) return Fail(ESRCH);
    if (target != &task && target->group != task.group &&
        !kernel::MayAccess(*target, task.creds(), &task, kernel::AccessIds::kReal)) {
      return Fail(EPERM);
    }
    value = target->robust_list;
  }
  TRY(task.mm->CopyOut(size, uint64_t{24}));
  return task.mm->CopyOut(head, value);
}

Result<void> ArchPrctl(Task& task, int32_t code, uint64_t address) {
  platform::Registers* r = task.LoadRegisters();
  if (r == nullptr) return Fail(kKilled);
  switch (code) {
    case ARCH_SET_FS:
    case ARCH_SET_GS:
      if (address >= kGuestAddressEnd) return Fail(EPERM);
      (code == ARCH_SET_FS ? r->fs_base : r->gs_base) = address;
      return {};
    case ARCH_GET_FS:
      return task.mm->CopyOut(UserPtr<uint64_t>(address), r->fs_base);
    case ARCH_GET_GS:
      return task.mm->CopyOut(UserPtr<uint64_t>(address), r->gs_base);
    default:
      return Fail(EINVAL);
  }
}

Result<uint32_t> Personality(Task& task, uint32_t persona) {
  const uint32_t old = task.personality;
  if (persona != 0xffffffff) task.personality = persona;
  return old;
}

Result<int32_t> PrctlName(Task& task, bool set, UserPtr<char> address) {
  if (set) {
    auto name = task.mm->CopyInString(UserPtr<const char>(address.addr()), 16);
    std::array<char, 16> text{};
    if (name) {
      name->copy(text.data(), 15);
    } else if (name.error().code() == ENAMETOOLONG) {
      TRY(task.mm->CopyInArray(UserPtr<const char>(address.addr()), std::span(text).first(15)));
    } else {
      return std::unexpected(name.error());
    }
    TasksLock lock(task.kernel);
    task.comm = text;
    return 0;
  }
  std::array<char, 16> text;
  {
    TasksLock lock(task.kernel);
    text = task.comm;
  }
  TRY(task.mm->CopyOutArray(address, std::span<const char>(text)));
  return 0;
}

Result<int32_t> PrctlAmbient(Task& task, uint64_t what, uint64_t capability, uint64_t c,
                             uint64_t d) {
  if (what == PR_CAP_AMBIENT_CLEAR_ALL) {
    if ((capability | c | d) != 0) return Fail(EINVAL);
    ChangeCredentials(task, [](auth::Credentials& creds) { creds.ambient = 0; });
    return 0;
  }
  if ((c | d) != 0 || capability > CAP_LAST_CAP) return Fail(EINVAL);
  const uint64_t bit = uint64_t{1} << capability;
  const auth::Credentials& creds = task.creds();
  switch (what) {
    case PR_CAP_AMBIENT_IS_SET:
      return (creds.ambient & bit) != 0 ? 1 : 0;
    case PR_CAP_AMBIENT_RAISE:
      if ((creds.permitted & creds.inheritable & bit) == 0 ||
          (creds.securebits & SECBIT_NO_CAP_AMBIENT_RAISE) != 0) {
        return Fail(EPERM);
      }
      ChangeCredentials(task, [&](auth::Credentials& changed) { changed.ambient |= bit; });
      return 0;
    case PR_CAP_AMBIENT_LOWER:
      ChangeCredentials(task, [&](auth::Credentials& changed) { changed.ambient &= ~bit; });
      return 0;
    default:
      return Fail(EINVAL);
  }
}

constexpr uint32_t kKeepCapsBit = 1u << 4;  // SECBIT_KEEP_CAPS: the same as PR_SET_KEEPCAPS

// Linux: cap_task_prctl: no unknown bit, none that is locked changes, no lock opens.
bool MaySetSecurebits(const auth::Credentials& creds, uint64_t wanted) {
  constexpr uint64_t kBits = SECURE_ALL_BITS, kLocks = SECURE_ALL_LOCKS;
  const uint64_t old = creds.securebits | (creds.keep_caps ? kKeepCapsBit : 0);
  if ((wanted & ~(kBits | kLocks)) != 0) return false;
  if (((old & kLocks) >> 1 & (old ^ wanted)) != 0 || (old & kLocks & ~wanted) != 0) return false;
  return creds.HasInOwn(CAP_SETPCAP);
}

Result<int32_t> PrctlCapabilities(Task& task, int32_t option, uint64_t a) {
  const auth::Credentials& creds = task.creds();
  switch (option) {
    case PR_SET_MM:
      // Linux: prctl_set_mm, of which nothing is offered to those who have the capability.
      return Fail(creds.HasInFirst(CAP_SYS_RESOURCE) ? EINVAL : EPERM);
    case PR_GET_KEEPCAPS:
      return creds.keep_caps ? 1 : 0;
    case PR_SET_KEEPCAPS:
      if (a > 1) return Fail(EINVAL);
      if ((creds.securebits & SECBIT_KEEP_CAPS_LOCKED) != 0) return Fail(EPERM);
      ChangeCredentials(task, [&](auth::Credentials& changed) { changed.keep_caps = a != 0; });
      return 0;
    case PR_GET_SECUREBITS:
      return static_cast<int32_t>((creds.securebits & ~kKeepCapsBit) |
                                  (creds.keep_caps ? kKeepCapsBit : 0));
    case PR_SET_SECUREBITS:
      if (!MaySetSecurebits(creds, a)) return Fail(EPERM);
      ChangeCredentials(task, [&](auth::Credentials& changed) {
        changed.securebits = static_cast<uint32_t>(a) & ~kKeepCapsBit;
        changed.keep_caps = (a & kKeepCapsBit) != 0;
      });
      return 0;
    case PR_CAPBSET_READ:
      if (a > CAP_LAST_CAP) return Fail(EINVAL);
      return (creds.bounding >> a & 1) != 0 ? 1 : 0;
    case PR_CAPBSET_DROP:
      if (!creds.HasInOwn(CAP_SETPCAP)) return Fail(EPERM);
      if (a > CAP_LAST_CAP) return Fail(EINVAL);
      ChangeCredentials(
          task, [&](auth::Credentials& changed) { changed.bounding &= ~(uint64_t{1} << a); });
      return 0;
    default:
      return Fail(EINVAL);
  }
}

bool IsSubreaper(const ThreadGroup& group) {
  TasksLock lock(group.kernel);
  return group.is_subreaper;
}

Result<int32_t> Prctl(Task& task, int32_t option, uint64_t a, uint64_t b, uint64_t c, uint64_t d) {
  ThreadGroup& group = *task.group;
  const auto out_int = [&](int32_t value) -> Result<int32_t> {
    TRY(task.mm->CopyOut(UserPtr<int32_t>(a), value));
    return 0;
  };
  switch (option) {
    case PR_SET_NAME:
    case PR_GET_NAME:
      return PrctlName(task, option == PR_SET_NAME, UserPtr<char>(a));
    case PR_SET_PDEATHSIG: {
      if (a > static_cast<uint64_t>(kernel::kSignals)) return Fail(EINVAL);
      TasksLock lock(task.kernel);
      task.parent_death_signal.Set(static_cast<int>(a));
      return 0;
    }
    case PR_GET_PDEATHSIG:
      return out_int(task.parent_death_signal.Mine());
    case PR_GET_DUMPABLE:
      return static_cast<int32_t>(task.mm->dumpable.load());
    case PR_SET_DUMPABLE:
      if (a > 1) return Fail(EINVAL);
      task.mm->dumpable = a == 1 ? mm::Dumpable::kUser : mm::Dumpable::kNo;
      return 0;
    case PR_SET_CHILD_SUBREAPER: {
      TasksLock lock(task.kernel);
      group.is_subreaper = a != 0;
      return 0;
    }
    case PR_GET_CHILD_SUBREAPER:
      return out_int(IsSubreaper(group) ? 1 : 0);
    case PR_SET_NO_NEW_PRIVS:
      if (a != 1 || b != 0 || c != 0 || d != 0) return Fail(EINVAL);
      ChangeCredentials(task, [](auth::Credentials& creds) { creds.no_new_privs = true; });
      return 0;
    case PR_GET_NO_NEW_PRIVS:
      if ((a | b | c | d) != 0) return Fail(EINVAL);
      return task.creds().no_new_privs ? 1 : 0;
    case PR_SET_TIMERSLACK:
      task.timer_slack_ns = a == 0 ? 50000 : a;
      return 0;
    case PR_GET_TIMERSLACK:
      return static_cast<int32_t>(task.timer_slack_ns);
    case PR_SET_THP_DISABLE:
      if ((b | c | d) != 0) return Fail(EINVAL);
      task.no_thp = a != 0;
      return 0;
    case PR_GET_THP_DISABLE:
      if ((a | b | c | d) != 0) return Fail(EINVAL);
      return task.no_thp ? 1 : 0;
    case PR_GET_TSC:
      return out_int(PR_TSC_ENABLE);
    case PR_SET_TSC:
      return a == PR_TSC_ENABLE ? Result<int32_t>(0) : Fail(EINVAL);
    case PR_GET_TIMING:
      return PR_TIMING_STATISTICAL;
    case PR_SET_TIMING:
      return a == PR_TIMING_STATISTICAL ? Result<int32_t>(0) : Fail(EINVAL);
    case PR_GET_SECCOMP:
      return 0;
    case PR_CAP_AMBIENT:
      return PrctlAmbient(task, a, b, c, d);
    case PR_GET_TID_ADDRESS:
      TRY(task.mm->CopyOut(UserPtr<uint64_t>(a), task.clear_child_tid));
      return 0;
    default:
      return PrctlCapabilities(task, option, a);
  }
}

constexpr Row kRows[] = {
    Full<GetPid>(SYSCALL(getpid)),
    Partial<CloneCall>(SYSCALL(clone), "no namespaces"),
    Full<Fork>(SYSCALL(fork)),
    Full<Vfork>(SYSCALL(vfork)),
    Full<Exit>(SYSCALL(exit)),
    Full<Wait4>(SYSCALL(wait4)),
    Refused(SYSCALL(ptrace), ENOSYS, "debugging guests from within comes with a later version"),
    Full<SetPgid>(SYSCALL(setpgid)),
    Full<GetPpid>(SYSCALL(getppid)),
    Full<GetPgrp>(SYSCALL(getpgrp)),
    Full<SetSid>(SYSCALL(setsid)),
    Full<GetPgid>(SYSCALL(getpgid)),
    Full<GetSid>(SYSCALL(getsid)),
    Partial<Personality>(SYSCALL(personality), "kept; only ADDR_NO_RANDOMIZE has an effect"),
    Refused(SYSCALL(modify_ldt), ENOSYS, "32-bit segments"),
    Partial<Prctl>(SYSCALL(prctl),
                   "names, death signals, dumpable, subreaper, capabilities, timer slack, THP"),
    Partial<ArchPrctl>(SYSCALL(arch_prctl), "FS and GS bases"),
    Full<GetTid>(SYSCALL(gettid)),
    Refused(SYSCALL(set_thread_area), ENOSYS, "32-bit only"),
    Refused(SYSCALL(get_thread_area), ENOSYS, "32-bit only"),
    Full<SetTidAddress>(SYSCALL(set_tid_address)),
    Full<ExitGroupCall>(SYSCALL(exit_group)),
    Full<Waitid>(SYSCALL(waitid)),
    Partial<Unshare>(SYSCALL(unshare), "files, directories and semaphores; no namespaces"),
    Full<SetRobustList>(SYSCALL(set_robust_list)),
    Full<GetRobustList>(SYSCALL(get_robust_list)),
    Refused(SYSCALL(setns), EPERM, "namespaces of guests are not offered"),
    Refused(SYSCALL(kcmp), ENOSYS, ""),
    Refused(SYSCALL(seccomp), ENOSYS, "filters of guests come with a later version"),
    Refused(SYSCALL(rseq), ENOSYS, "not offered"),
    Partial<Clone3>(SYSCALL(clone3), "no namespaces, no set_tid"),
};

}  // namespace

constinit const std::span<const Row> kProcessRows = kRows;

}  // namespace skep::syscalls
