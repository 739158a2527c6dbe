#include "sentry/kernel/exit.h"

#include <algorithm>

#include "sentry/arena/arena.h"
#include "sentry/kernel/container.h"
#include "sentry/kernel/cpu_time.h"
#include "sentry/kernel/cpu_timer.h"
#include "sentry/kernel/job_control.h"
#include "sentry/kernel/posix_timer.h"
#include "sentry/kernel/signals.h"

namespace skep::kernel {
namespace {

void SendDeathSignals(Task& task) REQUIRES(tasks) {
  for (const Ref<ThreadGroup>& child : task.group->children) {
    if (child->parent_thread != &task) continue;
    child->parent_thread = nullptr;
    for (Task* t : child->threads) {
      if (const int signo = t->parent_death_signal.Get(); signo != 0) {
        const siginfo_t info = MakeInfoFrom(task, *child, signo, SI_USER);
        (void)SendToGroup(*child, info);
      }
    }
  }
}

// Who adopts the children of a dying process (Linux: find_new_reaper).
// Null: nobody, its pid namespace has ended.
ThreadGroup* ReaperFor(const ThreadGroup& dying) REQUIRES(tasks) {
  const PidNamespace& pids = dying.pid_namespace();
  for (ThreadGroup* g = dying.parent; g != nullptr; g = g->parent) {
    if (&g->pid_namespace() != &pids) break;
    if (g->is_subreaper && !g->exiting && !g->zombie) return g;
  }
  return pids.reaper() == &dying ? nullptr : pids.reaper();
}

void Reap(ThreadGroup& group) REQUIRES(tasks);

// Tells the parent of a dead process. True: nobody will wait, it is reaped at once.
bool NotifyParentOfExit(ThreadGroup& group) REQUIRES(tasks) {
  ThreadGroup* parent = group.parent;
  if (parent == nullptr) return false;
  int signo = group.exit_signal;
  // The parent may have become a program that this child must not harm.
  if (group.parent_exec_id != parent->self_exec_id) signo = SIGCHLD;
  // clone(2) takes any eight bits (Linux: do_notify_parent looks for valid_signal here).
  if (signo > kSignals) signo = 0;
  const SignalAction action = signo == 0 ? SignalAction{} : parent->handlers->Of(signo);
  const bool unwanted =
      signo == SIGCHLD && (action.IsIgnored() || (action.flags & SA_NOCLDWAIT) != 0);
  if (signo != 0 && !(signo == SIGCHLD && action.IsIgnored())) {
    const int status = group.exit_status;
    siginfo_t info = MakeInfo(signo, CLD_EXITED);
    info.si_pid = parent->NumberOf(*group.pid);
    info.si_uid = UserOf(group, *parent);
    if ((status & 0x7f) == 0) {
      info.si_status = status >> 8 & 0xff;
    } else {
      info.si_code = (status & 0x80) != 0 ? CLD_DUMPED : CLD_KILLED;
      info.si_status = status & 0x7f;
    }
    (void)SendToGroup(*parent, info);
  }
  return unwanted;
}

void Reparent(ThreadGroup& dying) REQUIRES(tasks) {
  ThreadGroup* const reaper = ReaperFor(dying);
  std::list<Ref<ThreadGroup>> children = std::move(dying.children);
  dying.children.clear();
  // Process groups that may lose their last link to the others of the session.
  std::vector<Ref<ProcessGroup>> cut_off;
  for (Ref<ThreadGroup>& child : children) {
    ThreadGroup& adopted = *child;
    const bool zombie = adopted.zombie;
    adopted.parent = reaper;
    adopted.parent_thread = nullptr;
    if (reaper == nullptr) {
      if (zombie) Reap(adopted);
      continue;
    }
    adopted.parent_thread = reaper->leader.get();
    adopted.exit_signal = SIGCHLD;
    if (!zombie && adopted.process_group != dying.process_group &&
        &adopted.session() == &dying.session()) {
      cut_off.push_back(adopted.process_group);
    }
    reaper->children.push_back(std::move(child));
    if (zombie && NotifyParentOfExit(adopted)) Reap(adopted);
  }
  if (reaper != nullptr) reaper->child_queue.WakeAll();
  for (const Ref<ProcessGroup>& group : cut_off) {
    if (IsOrphaned(*group, nullptr) && HasStopped(*group)) HangUpOrphan(*group);
  }
}

// A session's leader is going: its terminal is let go, and the foreground group will be hung up.
void EndSession(ThreadGroup& group) EXCLUDES(tasks) {
  Kernel& kernel = group.kernel;
  {
    TasksLock lock(kernel);
    if (!group.IsSessionLeader()) return;
  }
  const Ref<vfs::ProcessId> foreground = kernel.terminals().EndSession(*group.pid);
  TasksLock lock(kernel);
  group.hang_up = Ref<Pid>(static_cast<Pid*>(foreground.get()));
}

// One that the outside has started: with an init its container ends, and the pid namespace that it
// is the reaper of (Linux: zap_pid_ns_processes).
void EndStarted(ThreadGroup& group) REQUIRES(tasks) {
  if (group.pid_namespace().reaper() == &group) group.pid_namespace().Zap();
  const Ref<StartedProcess> started = group.started;
  if (!started) return;
  if (started->is_init()) group.container->KillAll();
  started->NoteExit(group.exit_status);
}

// The last thread is gone.
void BecomeZombie(ThreadGroup& group) REQUIRES(tasks) {
  group.zombie = true;
  group.exit_watch.WakeAll();
  (void)group.stop.End();
  group.pending.Discard(SignalSet::All());
  const Ref<ProcessGroup> own = group.process_group;
  const bool orphaned_before = IsOrphaned(*own, nullptr);
  if (group.hang_up) {
    if (const ProcessGroup* foreground = group.hang_up->process_group()) {
      foreground->ForEach([](ThreadGroup& g) REQUIRES(tasks) {
        (void)SendToGroup(g, MakeInfo(SIGHUP, SI_KERNEL));
      });
    }
    group.hang_up = {};
  }
  Reparent(group);
  if (!orphaned_before && IsOrphaned(*own, &group) && HasStopped(*own)) HangUpOrphan(*own);
  EndStarted(group);
  ThreadGroup* parent = group.parent;
  const bool unwanted = parent == nullptr || NotifyParentOfExit(group);
  if (unwanted) Reap(group);
  if (parent != nullptr) parent->child_queue.WakeAll();
}

void Reap(ThreadGroup& group) {
  if (group.reaped) return;
  group.reaped = true;
  const Ref<ThreadGroup> hold(&group);
  if (ThreadGroup* parent = group.parent; parent != nullptr) {
    std::erase_if(parent->children, [&](const Ref<ThreadGroup>& g) { return g.get() == &group; });
  }
  group.LeaveProcessGroup();
  group.pid->SetTask(nullptr);
  group.pid->SetGroup(nullptr);
  group.leader = {};
}

bool Matches(const ThreadGroup& child, const Task& task, const WaitRequest& request)
    REQUIRES(tasks) {
  switch (request.type) {
    case P_PID:
      if (request.process ? &child != request.process.get() : child.pid.get() != request.id.get()) {
        return false;
      }
      break;
    case P_PGID:
      if (child.process_group->id() != request.id) return false;
      break;
    default:
      break;
  }
  if ((request.options & __WNOTHREAD) != 0 && child.parent_thread != &task) return false;
  if ((request.options & __WALL) != 0) return true;
  const bool clone_child = child.exit_signal != SIGCHLD;
  return clone_child == ((request.options & __WCLONE) != 0);
}

siginfo_t ChildInfo(const ThreadGroup& child, int code, int status) REQUIRES(tasks) {
  siginfo_t info = MakeInfo(SIGCHLD, code);
  info.si_pid = child.parent->NumberOf(*child.pid);
  info.si_uid = UserOf(child, *child.parent);
  info.si_status = status;
  return info;
}

// Whether `child` has something to report; takes the report unless WNOWAIT.
bool Report(ThreadGroup& child, const WaitRequest& request, WaitedFor& out) REQUIRES(tasks) {
  const bool keep = (request.options & WNOWAIT) != 0;
  out.pid = child.parent->NumberOf(*child.pid);
  if ((request.options & WEXITED) != 0 && child.zombie) {
    const int status = child.exit_status;
    out.status = status;
    if ((status & 0x7f) == 0) {
      out.info = ChildInfo(child, CLD_EXITED, status >> 8 & 0xff);
    } else {
      out.info = ChildInfo(child, (status & 0x80) != 0 ? CLD_DUMPED : CLD_KILLED, status & 0x7f);
    }
    out.usage = child.dead_threads;
    out.usage.Add(child.children_usage);
    if (keep) return true;
    // Only of those that are waited for (Linux: wait_task_zombie).
    if (child.parent != nullptr) child.parent->children_usage.Add(out.usage);
    Reap(child);
    return true;
  }
  out.usage = UsageOf(child);
  out.usage.Add(child.children_usage);
  if ((request.options & WSTOPPED) != 0 && child.stop.ReportStop(keep)) {
    out.status = child.stop.signal() << 8 | 0x7f;
    out.info = ChildInfo(child, CLD_STOPPED, child.stop.signal());
    return true;
  }
  if ((request.options & WCONTINUED) != 0 && child.stop.ReportContinue(keep)) {
    out.status = 0xffff;
    out.info = ChildInfo(child, CLD_CONTINUED, SIGCONT);
    return true;
  }
  return false;
}

}  // namespace

void ExitThread(Task& task, int code) {
  {
    TasksLock lock(task.kernel);
    // The last thread's code becomes the process's (Linux: do_group_exit is not involved).
    if (!task.group->exiting) task.group->exit_status = (code & 0xff) << 8;
  }
  task.fiber->Kill();
}

void ExitGroup(Task& task, int code) {
  TasksLock lock(task.kernel);
  StartGroupExit(*task.group, (code & 0xff) << 8);
}

void ReleaseMemory(Task& task) {
  Ref<mm::MemoryManager> mm;
  {
    // /proc copies the reference under the same lock.
    TasksLock lock(task.kernel);
    mm = task.mm.Exchange({});
  }
  if (task.context_ref) {
    auto context = arena::HostTable::Get().Remove(task.context_ref);
    task.context_ref = {};
    arena::HostHeapScope host;
    context.reset();
  }
  if (mm && mm->users.fetch_sub(1) == 1) {
    // Nobody runs in it any more: the stub goes now, whoever still looks at it (/proc).
    mm->Deactivate();
    if (mm->RefCount() > 1) (void)mm->Clear();
  }
  task.loan.End();
}

void LeaveFutexes(Task& task) {
  if (!task.mm || !task.context_ref) return;
  ipc::MemoryWords words(*task.mm);
  const uint64_t robust = std::exchange(task.robust_list, 0);
  if (robust != 0) {
    ipc::ExitRobustList(task.kernel.futexes, *task.mm, words, mm::UserAddr{robust},
                        static_cast<uint32_t>(task.tid));
  }
  task.left_futexes = true;
  task.pid_namespace().pi_futexes().OwnerLeaves(static_cast<uint32_t>(task.tid));
  const uint64_t clear = std::exchange(task.clear_child_tid, 0);
  if (clear == 0 || task.mm->users.load() <= 1) return;
  (void)task.mm->CopyOut(mm::UserPtr<int32_t>(clear), 0);
  (void)task.kernel.futexes.Wake({words, mm::UserAddr{clear}, false}, 1, ~0u);
}

void FinishCloses(Task& task, vfs::FdTable& table, std::vector<Ref<vfs::File>> files) {
  for (Ref<vfs::File>& file : files) {
    (void)vfs::FinishClose(task, table, *file);
    file = {};
    (void)sched::YieldIfLong();  // all are closed, whoever was killed
  }
}

void ReleaseFiles(Task& task) {
  Ref<vfs::FdTable> files;
  {
    TasksLock lock(task.kernel);
    vfs::FdTableHold hold = task.files.Exchange({});
    files = hold.Release();
  }
  if (!files) return;
  FinishCloses(task, *files, files->RemoveIf([](int, bool) { return true; }));
}

void ReplaceFiles(Task& task, Ref<vfs::FdTable> own) {
  ReleaseFiles(task);
  TasksLock lock(task.kernel);
  task.files.Set(vfs::FdTableHold(std::move(own)));
}

void ExitTask(Task& task) {
  Kernel& kernel = task.kernel;
  const Ref<ThreadGroup> group = task.group;
  if (kernel.strace) kernel.strace->Exited(task);
  LeaveFutexes(task);
  bool last;
  {
    TasksLock lock(kernel);
    last = --group->live == 0;
    SettleUsage(task);
  }
  uint64_t resident = 0;
  if (last) {
    // A child of vfork that ends in its parent's memory says nothing of that.
    if (task.mm && task.mm->users.load() == 1) resident = task.mm->Stats().resident;
    DeleteAllTimers(*group);
    DeleteIntervalTimers(*group);
    EndCpuTimer(*group);
    EndSession(*group);
  }
  ReleaseFiles(task);
  ReleaseMemory(task);
  Ref<vfs::File> executable;
  Ref<vfs::FsContext> fs;
  TasksLock lock(kernel);
  executable = task.executable.Exchange({});
  fs = task.fs.Exchange({});
  SendDeathSignals(task);
  task.exited = true;
  task.state_letter = 'Z';
  SettleLastUsage(task);
  task.usage.max_rss = resident;
  group->dead_threads.Add(task.usage);
  kernel.NoteEnd(task.usage);
  std::erase(group->threads, &task);
  if (!task.IsLeader()) task.pid->SetTask(nullptr);
  if (group->threads.empty()) {
    BecomeZombie(*group);
  } else {
    // A stop may have waited for this thread; execve certainly does.
    group->exec_queue.Wake();
    CompleteStop(*group);
  }
  group->container->RemoveTask();
}

Result<WaitedFor> WaitForChild(Task& task, const WaitRequest& request) {
  Kernel& kernel = task.kernel;
  ThreadGroup& group = *task.group;
  std::optional<Result<WaitedFor>> answer;
  const auto attempt = [&] {
    TasksLock lock(kernel);
    bool any = false;
    WaitedFor found;
    for (const Ref<ThreadGroup>& child : group.children) {
      if (!Matches(*child, task, request)) continue;
      any = true;
      if (Report(*child, request, found)) {
        answer = found;
        return true;
      }
    }
    if (!any) {
      answer = Fail(ECHILD);
      return true;
    }
    if ((request.options & WNOHANG) != 0) {
      answer = WaitedFor{};
      return true;
    }
    return false;
  };
  const auto end = sched::WaitUntil(group.child_queue, sched::kAllEvents, std::nullopt,
                                    sched::Sleep::kInterruptible, attempt);
  if (answer) return *answer;
  (void)end;
  return Fail(kRestartSys);
}

}  // namespace skep::kernel
