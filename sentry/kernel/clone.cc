#include "sentry/kernel/clone.h"

#include <linux/capability.h>
#include <linux/sched.h>
#include <algorithm>

#include "base/host_call.h"
#include "sentry/kernel/container.h"
#include "sentry/kernel/credentials.h"
#include "sentry/kernel/exit.h"
#include "sentry/kernel/pidfd.h"
#include "sentry/kernel/signal_frame.h"
#include "sentry/kernel/signals.h"

namespace skep::kernel {
namespace {

constexpr uint64_t kNamespaces = CLONE_NEWNS | CLONE_NEWCGROUP | CLONE_NEWUTS | CLONE_NEWIPC |
                                 CLONE_NEWUSER | CLONE_NEWPID | CLONE_NEWNET | CLONE_NEWTIME;

// Its parent is outside: an init (Linux: SIGNAL_UNKILLABLE) or an exec session's first process.
bool HasNoParent(const Task& task) {
  TasksLock lock(task.kernel);
  return task.group->parent == nullptr;
}

// Linux: copy_process's checks, in its order.
Result<void> CheckFlags(const Task& parent, const CloneRequest& request) {
  const uint64_t flags = request.flags;
  const auto has = [&](uint64_t bits) { return (flags & bits) == bits; };
  if (has(CLONE_NEWNS | CLONE_FS) || has(CLONE_NEWUSER | CLONE_FS)) return Fail(EINVAL);
  if (has(CLONE_THREAD) && !has(CLONE_SIGHAND)) return Fail(EINVAL);
  if (has(CLONE_SIGHAND) && !has(CLONE_VM)) return Fail(EINVAL);
  if (has(CLONE_PARENT) && HasNoParent(parent)) return Fail(EINVAL);
  if (has(CLONE_THREAD) && (flags & (CLONE_NEWUSER | CLONE_NEWPID)) != 0) return Fail(EINVAL);
  // Its threads are in the process's own pid namespace.
  if (has(CLONE_THREAD) && parent.namespaces->pids_of_children.get() != &parent.pid_namespace()) {
    return Fail(EINVAL);
  }
  if (has(CLONE_PIDFD) && (flags & (CLONE_DETACHED | CLONE_THREAD)) != 0) return Fail(EINVAL);
  if ((flags & kNamespaces) != 0) {
    // Namespaces of guests are not offered: as a kernel built without them answers.
    return Fail(parent.creds().HasInOwn(CAP_SYS_ADMIN) ? EINVAL : EPERM);
  }
  return {};
}

Result<void> CheckProcessLimit(Task& parent) REQUIRES(tasks) {
  Kernel& kernel = parent.kernel;
  const uint64_t limit = parent.Limit(RLIMIT_NPROC);
  const auto& creds = *parent.credentials;
  if (limit != RLIM_INFINITY && creds.uid != 0 && !creds.HasInFirst(CAP_SYS_RESOURCE) &&
      !creds.HasInFirst(CAP_SYS_ADMIN)) {
    if (ThreadsOf(kernel, creds) >= limit) return Fail(EAGAIN);
  }
  return {};
}

Result<void> CopyMemory(Task& parent, Task& child, uint64_t flags) {
  Ref<mm::MemoryManager> mm;
  if ((flags & CLONE_VM) != 0) {
    mm = parent.mm.Mine();
  } else {
    mm = TRY(parent.mm->Fork());
    // As Linux's dup_mm: what the loader noted goes along.
    mm->layout = parent.mm->layout;
    mm->dumpable = parent.mm->dumpable.load();
  }
  mm->users.fetch_add(1);
  TasksLock lock(parent.kernel);
  child.mm.Set(std::move(mm));
  return {};
}

Result<void> CopyRegisters(Task& parent, Task& child, const CloneRequest& request) {
  platform::Registers* r = parent.LoadRegisters(platform::LoadXsave::kYes);
  if (r == nullptr) return Fail(kKilled);
  child.saved_registers = *r;
  child.saved_registers.rax = 0;
  if (request.stack != 0) child.saved_registers.rsp = request.stack;
  if ((request.flags & CLONE_SETTLS) != 0) child.saved_registers.fs_base = request.tls;
  const auto xsave = parent.context().xsave();
  child.saved_xsave.assign(xsave.begin(), xsave.end());
  return {};
}

Ref<ThreadGroup> NewGroup(Task& parent, const CloneRequest& request) {
  Kernel& kernel = parent.kernel;
  auto group = MakeRef<ThreadGroup>(kernel, parent.group->container);
  ThreadGroup& old = *parent.group;
  auto own_handlers = MakeRef<SignalHandlers>();
  TasksLock lock(kernel);
  const bool sibling = (request.flags & CLONE_PARENT) != 0;
  group->exit_signal = sibling ? old.exit_signal : request.exit_signal;
  group->self_exec_id = old.self_exec_id;
  group->parent_exec_id = sibling ? old.parent_exec_id : old.self_exec_id;
  if ((request.flags & CLONE_SIGHAND) != 0) {
    group->handlers = old.handlers;
  } else {
    group->handlers = std::move(own_handlers);
    group->handlers->actions = old.handlers->actions;
  }
  if ((request.flags & CLONE_CLEAR_SIGHAND) != 0) {
    for (SignalAction& action : group->handlers->actions) {
      if (!action.IsIgnored()) action = {};
    }
  }
  group->limits.SetAll(old.limits.All());
  group->cpu_watch_wanted = group->limits.Soft(RLIMIT_CPU) != RLIM_INFINITY;
  group->oom_score_adj = old.oom_score_adj;
  group->start_ns = kernel.scheduler.clock().MonotonicNs();
  return group;
}

void CopyRest(Task& parent, Task& child, const CloneRequest& request) {
  const uint64_t flags = request.flags;
  Ref<vfs::FsContext> fs = (flags & CLONE_FS) != 0 ? parent.fs.Mine() : parent.fs->Clone();
  vfs::FdTableHold files =
      (flags & CLONE_FILES) != 0 ? parent.files.Mine() : vfs::FdTableHold(parent.files->Clone());
  child.personality = parent.personality.load();
  child.timer_slack_ns = parent.timer_slack_ns.load();
  child.no_thp = parent.no_thp;
  if ((flags & CLONE_CHILD_CLEARTID) != 0) child.clear_child_tid = request.child_tid;
  // Linux: sas_ss_reset: a thread in the same memory does not share the alternate stack.
  if ((flags & (CLONE_VM | CLONE_VFORK)) != CLONE_VM) child.alt_stack = parent.alt_stack;
  // A process has its own, also when they are equal (Linux: copy_creds): who opened a file is told
  // by them.
  auth::CredentialsRef creds = parent.credentials.Mine();
  if ((flags & CLONE_THREAD) == 0) creds = std::make_shared<const auth::Credentials>(*creds);
  TasksLock lock(parent.kernel);
  child.namespaces.Set(parent.namespaces.Get());
  child.fs.Set(std::move(fs));
  child.files.Set(std::move(files));
  child.executable.Set(parent.executable.Get());
  child.blocked.Set(parent.blocked.Get());
  child.credentials.Set(std::move(creds));
  child.comm = parent.comm;
  child.scheduling = parent.scheduling.ForChild();
}

Result<vfs::FdReservation> ReservePidfd(Task& parent, const CloneRequest& request) {
  vfs::FdReservation slot = TRY(parent.files->Reserve(parent.Limit(RLIMIT_NOFILE)));
  TRY(parent.mm->CopyOut(mm::UserPtr<int32_t>(request.pidfd), slot.fd()));
  return slot;
}

// Linux: copy_process's last part, under tasklist_lock. The child's number as the parent sees it.
Result<int> Publish(Task& parent, Task& child, uint64_t flags) {
  Kernel& kernel = parent.kernel;
  TasksLock lock(kernel);
  TRY(CheckProcessLimit(parent));
  // A signal that came during the fork is taken before it (Linux: recalc_sigpending,
  // ERESTARTNOINTR).
  if ((flags & CLONE_THREAD) == 0 && HasDeliverable(parent)) return Fail(kRestartNoIntr);
  // A sibling's execve ends the threads that there are: there must be no more of them.
  if (parent.group->exiting || parent.fiber->killed()) return Fail(kKilled);
  ThreadGroup& group = *child.group;
  TRY(group.container->AddTask());
  Result<Ref<Pid>> pid = Pid::Allocate(*parent.namespaces->pids_of_children);
  if (!pid) {
    group.container->RemoveTask();
    return std::unexpected(pid.error());
  }
  if ((flags & CLONE_THREAD) == 0) {
    PublishLeader(child, *pid);
    PidNamespace& space = (*pid)->space();
    if (space.reaper() == nullptr) {  // the namespace's first process
      space.SetReaper(group);
      group.unkillable = true;
    }
    group.JoinProcessGroup(parent.group->process_group);
    group.parent = (flags & CLONE_PARENT) != 0 ? parent.group->parent : parent.group.get();
    group.parent_thread = (flags & CLONE_PARENT) != 0 ? parent.group->parent_thread : &parent;
    // It may have ended since CheckFlags.
    if (group.parent != nullptr) group.parent->children.push_back(child.group);
  } else {
    child.pid = *pid;
    child.tid = (*pid)->number();
    (*pid)->SetTask(&child);
    group.threads.push_back(&child);
    ++group.live;
  }
  parent.too_many_processes = false;
  kernel.NoteFork();
  return parent.group->NumberOf(**pid);
}

sched::Worker& WorkerFor(Task& parent, uint64_t flags) {
  sched::Worker& own = parent.fiber->worker();
  // An engine may have to keep the threads of an address space together.
  if ((flags & CLONE_VM) != 0 && !own.engine().shares_spaces()) return own;
  sched::Worker& least = parent.kernel.scheduler.LeastLoaded();
  // A thread's parent goes on beside it; a process's often waits for it.
  if ((flags & CLONE_THREAD) != 0) return least.Load() < own.Load() ? least : own;
  return own.Load() > 1 && least.Load() + 1 < own.Load() ? least : own;
}

// In memory that is shared, on the caller's own worker: a spare thread of the stub is there at
// once, while another worker would have to wake up first.
void MakeGuestThread(const Task& parent, Task& child) {
  auto made = child.mm->NewContext(parent.fiber->worker().engine(), child.saved_registers,
                                   child.saved_xsave);
  if (made) child.context_ref = *made;
  child.saved_xsave = {};
  if (!made) Unpublish(child);
  child.start.SetReady(made ? 0 : made.error().code());
}

}  // namespace

void Unpublish(Task& child) {
  Kernel& kernel = child.kernel;
  TasksLock lock(kernel);
  if (!child.IsLeader()) return;  // a thread: ExitTask takes it out of its process
  ThreadGroup& group = *child.group;
  group.exit_status = SIGKILL;
  ThreadGroup* parent = std::exchange(group.parent, nullptr);
  group.parent_thread = nullptr;
  if (parent == nullptr) return;
  std::erase_if(parent->children, [&](const Ref<ThreadGroup>& g) { return g.get() == &group; });
  parent->child_queue.WakeAll();  // another thread may wait for it
}

Result<int> Clone(Task& parent, const CloneRequest& request) {
  TRY(CheckFlags(parent, request));
  Kernel& kernel = parent.kernel;
  auto child = MakeRef<Task>(kernel);
  TRY(CopyRegisters(parent, *child, request));
  child->group = (request.flags & CLONE_THREAD) != 0 ? parent.group : NewGroup(parent, request);
  CopyRest(parent, *child, request);
  TRY(CopyMemory(parent, *child, request.flags));
  const auto abandon = [&] {
    child->mm->users.fetch_sub(1);
    ReleaseFiles(*child);
  };
  // After the child has its descriptors and its memory: this one is not for it.
  std::optional<vfs::FdReservation> pidfd;
  if ((request.flags & CLONE_PIDFD) != 0) {
    if (auto reserved = ReservePidfd(parent, request)) {
      pidfd.emplace(std::move(*reserved));
    } else {
      abandon();
      return std::unexpected(reserved.error());
    }
  }
  Task* raw = child.get();
  const bool lends = (request.flags & CLONE_VFORK) != 0;
  if (lends) child->loan.Begin();
  auto fiber = sched::Fiber::Spawn(WorkerFor(parent, request.flags), [hold = child]() mutable {
    const Ref<Task> task = std::move(hold);
    if (task->start.AwaitPermission()) task->Main();
  });
  if (!fiber) {
    abandon();
    return std::unexpected(fiber.error());
  }
  raw->fiber = *fiber;
  const Result<int> tid = Publish(parent, *raw, request.flags);
  if (!tid) {
    raw->start.GiveUp();
    abandon();
    return std::unexpected(tid.error());
  }
  if (pidfd) {
    (void)std::move(*pidfd).Commit(MakePidFd(kernel, raw->group, 0), vfs::CloseOnExec::kYes);
  }
  if ((request.flags & CLONE_PARENT_SETTID) != 0) {
    (void)parent.mm->CopyOut(mm::UserPtr<int32_t>(request.parent_tid), *tid);
  }
  if ((request.flags & CLONE_CHILD_SETTID) != 0) {
    (void)raw->mm->CopyOut(mm::UserPtr<int32_t>(request.child_tid), raw->tid.load());
  }
  if ((request.flags & CLONE_VM) != 0) MakeGuestThread(parent, *raw);
  raw->start.Allow();
  if (const int error = raw->start.AwaitReady(); error != 0) {
    // A stub that died while it was made: fork(2) knows no EIO.
    return Fail(error == EIO ? EAGAIN : error);
  }
  if (lends) raw->loan.AwaitEnd();
  return tid;
}

}  // namespace skep::kernel
