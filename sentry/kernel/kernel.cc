#include "sentry/kernel/kernel.h"

#include <linux/capability.h>
#include <algorithm>

#include "base/host_call.h"
#include "base/limits.h"
#include "sentry/kernel/oom.h"
#include "sentry/kernel/posix_timer.h"
#include "sentry/kernel/signal_source.h"
#include "sentry/kernel/signals.h"
#include "sentry/kernel/vdso_clock.h"

namespace skep::kernel {

Kernel::Kernel(const KernelConfig& config_in)
    : config(config_in),
      scheduler(config_in.workers),
      signal_source(std::make_unique<KernelSignalSource>()),
      boot_realtime_ns(host::RealtimeNs()),
      boot_monotonic_ns(scheduler.clock().MonotonicNs()),
      hostname(config_in.hostname) {}

Kernel::~Kernel() = default;

Task* Kernel::FindTask(int tid) {
  const auto it = pids.find(tid);
  return it == pids.end() ? nullptr : it->second.task;
}

ThreadGroup* Kernel::FindGroup(int tgid) {
  const auto it = pids.find(tgid);
  return it == pids.end() ? nullptr : it->second.group;
}

// Linux: alloc_pid hands out ascending numbers and starts again at 300 after the highest.
Result<int> Kernel::AllocatePid() {
  constexpr int kReserved = 300;
  constexpr int kHighest = 32768;  // sysctl kernel.pid_max's usual value
  for (int tries = 0; tries < kHighest; ++tries) {
    int pid = last_pid + 1;
    if (pid >= kHighest) pid = kReserved;
    last_pid = pid;
    const auto it = pids.find(pid);
    if (it == pids.end() || it->second.empty()) return pid;
  }
  return Fail(EAGAIN);
}

void Kernel::DropPidIfEmpty(int pid) {
  const auto it = pids.find(pid);
  if (it != pids.end() && it->second.empty()) pids.erase(it);
}

void Kernel::JoinProcessGroup(ThreadGroup& group, int pgid) {
  const int old = group.pgid;
  group.pgid = pgid;
  ++pids[pgid].group_members;
  if (old != 0) {
    --pids[old].group_members;
    DropPidIfEmpty(old);
  }
}

void Kernel::JoinSession(ThreadGroup& group, int sid) {
  const int old = group.sid;
  group.sid = sid;
  ++pids[sid].session_members;
  if (old != 0) {
    --pids[old].session_members;
    DropPidIfEmpty(old);
  }
}

void Kernel::LeaveProcessGroup(ThreadGroup& group) {
  --pids[group.pgid].group_members;
  DropPidIfEmpty(group.pgid);
  --pids[group.sid].session_members;
  DropPidIfEmpty(group.sid);
}

void Kernel::ForEachInProcessGroup(int pgid, const std::function<void(ThreadGroup&)>& fn) {
  const auto it = pids.find(pgid);
  if (it == pids.end() || it->second.group_members == 0) return;
  for (auto& [pid, entry] : pids) {
    if (entry.group != nullptr && entry.group->pgid == pgid) fn(*entry.group);
  }
}

void Usage::Add(const Usage& o) {
  user_ns += o.user_ns;
  system_ns += o.system_ns;
  minor_faults += o.minor_faults;
  major_faults += o.major_faults;
  voluntary_switches += o.voluntary_switches;
  involuntary_switches += o.involuntary_switches;
  max_rss = std::max(max_rss, o.max_rss);
}

Limits Limits::Default() {
  Limits limits;
  for (rlimit& l : limits.values) l = {RLIM_INFINITY, RLIM_INFINITY};
  const auto set = [&](int resource, rlim_t soft, rlim_t hard) {
    limits.values[static_cast<size_t>(resource)] = {soft, hard};
  };
  set(RLIMIT_STACK, 8u << 20, RLIM_INFINITY);
  set(RLIMIT_CORE, 0, RLIM_INFINITY);
  set(RLIMIT_NOFILE, 1024, 1048576);
  set(RLIMIT_MEMLOCK, 8u << 20, 8u << 20);
  set(RLIMIT_SIGPENDING, 95000, 95000);
  set(RLIMIT_MSGQUEUE, 819200, 819200);
  set(RLIMIT_NICE, 0, 0);
  set(RLIMIT_RTPRIO, 0, 0);
  return limits;
}

ThreadGroup::~ThreadGroup() = default;
Task::~Task() = default;

mm::MemoryLimits Task::MemoryLimits() const {
  mm::MemoryLimits limits;
  limits.address_space = Limit(RLIMIT_AS);
  limits.data = Limit(RLIMIT_DATA);
  limits.stack = Limit(RLIMIT_STACK);
  limits.locked = creds().Has(CAP_IPC_LOCK) ? ~uint64_t{0} : Limit(RLIMIT_MEMLOCK);
  return limits;
}

int Task::ProcessGroupId() const {
  TasksLock lock(kernel);
  return group->pgid;
}

int Task::SessionId() const {
  TasksLock lock(kernel);
  return group->sid;
}

bool Task::IsSessionLeader() const {
  TasksLock lock(kernel);
  return group->sid == group->tgid;
}

bool Task::IsBlockedOrIgnored(int signo) const {
  TasksLock lock(kernel);
  return blocked.Get().Has(signo) || group->handlers->Of(signo).IsIgnored();
}

bool Task::InOrphanedGroup() const {
  TasksLock lock(kernel);
  return IsOrphaned(kernel, group->pgid, nullptr);
}

void Task::SignalGroup(int process_group, int signo) {
  TasksLock lock(kernel);
  kernel.ForEachInProcessGroup(process_group, [&](ThreadGroup& g) REQUIRES(tasks) {
    (void)SendToGroup(g, MakeInfo(signo, SI_KERNEL));
  });
}

void Task::SignalSelf(int signo) {
  TasksLock lock(kernel);
  (void)SendToTask(*this, MakeInfo(signo, SI_KERNEL));
}

}  // namespace skep::kernel
