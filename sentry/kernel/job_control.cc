#include "sentry/kernel/job_control.h"

#include "sentry/anon/pty.h"
#include "sentry/kernel/container.h"
#include "sentry/kernel/signals.h"

namespace skep::kernel {

void ThreadGroup::JoinProcessGroup(Ref<ProcessGroup> joined) {
  LeaveProcessGroup();
  process_group = std::move(joined);
  ThreadGroup*& first = process_group->first_;
  next_in_group_ = first;
  if (first != nullptr) first->previous_in_group_ = this;
  first = this;
}

void ThreadGroup::LeaveProcessGroup() {
  if (!process_group) return;
  if (next_in_group_ != nullptr) next_in_group_->previous_in_group_ = previous_in_group_;
  (previous_in_group_ != nullptr ? previous_in_group_->next_in_group_ : process_group->first_) =
      next_in_group_;
  next_in_group_ = previous_in_group_ = nullptr;
  process_group = {};
}

Result<void> SetProcessGroup(Task& task, int pid, int pgid) {
  TasksLock lock(task.kernel);
  ThreadGroup& self = *task.group;
  const PidNamespace& pids = task.pid_namespace();
  if (pid == 0) pid = self.tgid;
  if (pgid == 0) pgid = pid;
  if (pgid < 0) return Fail(EINVAL);
  ThreadGroup* target = pids.FindGroup(pid);
  if (target == nullptr) return Fail(pids.FindTask(pid) != nullptr ? EINVAL : ESRCH);
  if (target->parent == &self) {
    if (&target->session() != &self.session()) return Fail(EPERM);
    if (target->has_exec) return Fail(EACCES);
  } else if (target != &self) {
    return Fail(ESRCH);
  }
  if (target->IsSessionLeader()) return Fail(EPERM);
  Ref<ProcessGroup> joined(pids.FindProcessGroup(pgid));
  if (pgid != pid && (!joined || &joined->session() != &self.session())) return Fail(EPERM);
  if (!joined) {
    joined = ProcessGroup::Make(target->pid, Ref<Session>(&target->session()));
  }
  if (target->process_group != joined) target->JoinProcessGroup(std::move(joined));
  return {};
}

Result<int> NewSession(Task& task) {
  TasksLock lock(task.kernel);
  ThreadGroup& self = *task.group;
  if (self.pid->session() != nullptr || self.pid->process_group() != nullptr) return Fail(EPERM);
  self.JoinProcessGroup(ProcessGroup::Make(self.pid, Session::Make(self.pid)));
  return self.tgid;
}

bool IsOrphaned(const ProcessGroup& group, const ThreadGroup* ignored) {
  bool orphaned = true;
  group.ForEach([&](const ThreadGroup& g) REQUIRES(tasks) {
    if (&g == ignored || g.zombie) return;
    if (g.parent == nullptr) {
      if (g.started && g.started->job_control()) orphaned = false;
      return;
    }
    if (g.parent->process_group != g.process_group && &g.parent->session() == &g.session()) {
      orphaned = false;
    }
  });
  return orphaned;
}

bool HasStopped(const ProcessGroup& group) {
  bool stopped = false;
  group.ForEach([&](const ThreadGroup& g)
                    REQUIRES(tasks) { stopped = stopped || g.stop.complete(); });
  return stopped;
}

void HangUpOrphan(const ProcessGroup& group) {
  group.ForEach([](ThreadGroup& g) REQUIRES(tasks) {
    (void)SendToGroup(g, MakeInfo(SIGHUP, SI_KERNEL));
    (void)SendToGroup(g, MakeInfo(SIGCONT, SI_KERNEL));
  });
}

ControllingTerminal ControllingTerminalOf(Kernel& kernel, const Pid& session) {
  const anon::Terminals::Controlling found = kernel.terminals().ControllingOf(session);
  if (found.number < 0) return {};
  // Linux: new_encode_dev; the numbers of ptys are below 256.
  return {.device = static_cast<int>(anon::kPtyMajor << 8) | found.number,
          .foreground = Ref<Pid>(static_cast<Pid*>(found.foreground.get()))};
}

// -- what terminals ask --------------------------------------------------------------------------

Ref<vfs::ProcessId> Task::ProcessGroupId() const {
  TasksLock lock(kernel);
  return group->process_group->id();
}

Ref<vfs::ProcessId> Task::SessionId() const {
  TasksLock lock(kernel);
  return group->session().id();
}

bool Task::IsSessionLeader() const {
  TasksLock lock(kernel);
  return group->IsSessionLeader();
}

bool Task::IsBlockedOrIgnored(int signo) const {
  TasksLock lock(kernel);
  return blocked.Get().Has(signo) || group->handlers->Of(signo).IsIgnored();
}

bool Task::InOrphanedGroup() const {
  TasksLock lock(kernel);
  return IsOrphaned(*group->process_group, nullptr);
}

void Task::SignalOwnGroup(int signo) {
  TasksLock lock(kernel);
  group->process_group->ForEach(
      [&](ThreadGroup& g) REQUIRES(tasks) { (void)SendToGroup(g, MakeInfo(signo, SI_KERNEL)); });
}

int Task::NumberOf(const vfs::ProcessId& id) const {
  return group->NumberOf(static_cast<const Pid&>(id));
}

Result<Ref<vfs::ProcessId>> Task::FindProcess(int number) const {
  TasksLock lock(kernel);
  Pid* found = pid_namespace().Find(number);
  if (found == nullptr) return Fail(ESRCH);
  return Ref<vfs::ProcessId>(found);
}

Result<Ref<vfs::ProcessId>> Task::FindProcessGroup(int number,
                                                   const vfs::ProcessId& session) const {
  TasksLock lock(kernel);
  const ProcessGroup* found = pid_namespace().FindProcessGroup(number);
  if (found == nullptr) return Fail(ESRCH);
  if (found->session().id().get() != &session) return Fail(EPERM);
  return Ref<vfs::ProcessId>(found->id());
}

}  // namespace skep::kernel
