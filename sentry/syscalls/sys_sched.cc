// Scheduling: what programs ask about CPUs and priorities. Workers schedule guests; priorities are
// kept and told back, as documented in docs/syscalls.md.
#include <sched.h>
#include <sys/resource.h>

#include "sentry/kernel/kernel.h"
#include "sentry/syscalls/families.h"
#include "sentry/syscalls/util.h"

namespace skep::syscalls {
namespace {

Result<Task*> Find(Task& task, int32_t pid) REQUIRES(tasks) {
  if (pid < 0) return Fail(EINVAL);
  Task* target = pid == 0 ? &task : task.kernel.FindTask(pid);
  if (target == nullptr) return Fail(ESRCH);
  return target;
}

uint64_t AllCpus(Task& task) {
  const int count = task.kernel.scheduler.worker_count();
  return count >= 64 ? ~uint64_t{0} : (uint64_t{1} << count) - 1;
}

Result<void> SchedYield(Task&) {
  sched::Yield();
  return {};
}

Result<int32_t> SchedGetAffinity(Task& task, int32_t pid, uint32_t size, UserPtr<uint64_t> mask) {
  if (size < sizeof(uint64_t) || size % sizeof(uint64_t) != 0) return Fail(EINVAL);
  uint64_t value = 0;
  {
    TasksLock lock(task.kernel);
    Task* target = TRY(Find(task, pid));
    value = target->cpu_mask & AllCpus(task);
  }
  TRY(task.mm->CopyOut(mask, value));
  return static_cast<int32_t>(sizeof value);
}

Result<void> SchedSetAffinity(Task& task, int32_t pid, uint32_t size,
                              UserPtr<const uint64_t> mask) {
  uint64_t value = 0;
  const auto bytes = std::as_writable_bytes(std::span(&value, 1)).first(std::min<size_t>(size, 8));
  if (task.mm->CopyIn(mask.addr(), bytes).fault != 0) return Fail(EFAULT);
  TasksLock lock(task.kernel);
  Task* target = TRY(Find(task, pid));
  if ((value & AllCpus(task)) == 0) return Fail(EINVAL);
  target->cpu_mask = value;
  return {};
}

Result<int32_t> SchedGetScheduler(Task& task, int32_t pid) {
  TasksLock lock(task.kernel);
  TRY(Find(task, pid));
  return SCHED_OTHER;
}

Result<void> SchedSetScheduler(Task& task, int32_t pid, int32_t policy,
                               UserPtr<const int32_t> param) {
  if (policy < 0) return Fail(EINVAL);
  const int32_t priority = TRY(task.mm->CopyIn(param));
  TasksLock lock(task.kernel);
  TRY(Find(task, pid));
  policy &= ~SCHED_RESET_ON_FORK;
  if (policy == SCHED_FIFO || policy == SCHED_RR) {
    return Fail(priority < 1 || priority > 99 ? EINVAL : EPERM);
  }
  if (policy != SCHED_OTHER && policy != SCHED_BATCH && policy != SCHED_IDLE) return Fail(EINVAL);
  return priority == 0 ? Result<void>() : Fail(EINVAL);
}

Result<void> SchedGetParam(Task& task, int32_t pid, UserPtr<int32_t> param) {
  if (param.is_null()) return Fail(EINVAL);
  {
    TasksLock lock(task.kernel);
    TRY(Find(task, pid));
  }
  return task.mm->CopyOut(param, 0);
}

Result<void> SchedSetParam(Task& task, int32_t pid, UserPtr<const int32_t> param) {
  if (param.is_null()) return Fail(EINVAL);
  const int32_t priority = TRY(task.mm->CopyIn(param));
  TasksLock lock(task.kernel);
  TRY(Find(task, pid));
  return priority == 0 ? Result<void>() : Fail(EINVAL);
}

Result<int32_t> SchedGetPriorityMax(Task&, int32_t policy) {
  if (policy == SCHED_FIFO || policy == SCHED_RR) return 99;
  return policy == SCHED_OTHER || policy == SCHED_BATCH || policy == SCHED_IDLE || policy == 6
             ? Result<int32_t>(0)
             : Fail(EINVAL);
}

Result<int32_t> SchedGetPriorityMin(Task&, int32_t policy) {
  if (policy == SCHED_FIFO || policy == SCHED_RR) return 1;
  return policy == SCHED_OTHER || policy == SCHED_BATCH || policy == SCHED_IDLE || policy == 6
             ? Result<int32_t>(0)
             : Fail(EINVAL);
}

Result<void> SchedRrGetInterval(Task& task, int32_t pid, UserPtr<timespec> out) {
  {
    TasksLock lock(task.kernel);
    TRY(Find(task, pid));
  }
  return task.mm->CopyOut(out, timespec{0, 4'000'000});
}

// Linux: getpriority answers 20 - nice, so that the result is never negative.
Result<int32_t> GetPriority(Task& task, int32_t which, int32_t who) {
  if (which < PRIO_PROCESS || which > PRIO_USER) return Fail(EINVAL);
  TasksLock lock(task.kernel);
  if (which == PRIO_PROCESS) {
    Task* target = who == 0 ? &task : task.kernel.FindTask(who);
    if (target == nullptr) return Fail(ESRCH);
    return 20 - target->nice;
  }
  int best = -1;
  const uint32_t uid = who == 0 ? task.creds().uid : static_cast<uint32_t>(who);
  const int pgid = who == 0 ? task.group->pgid : who;
  for (const auto& [pid, entry] : task.kernel.pids) {
    if (entry.task == nullptr) continue;
    const bool match =
        which == PRIO_PGRP ? entry.task->group->pgid == pgid : entry.task->credentials->uid == uid;
    if (match) best = std::max(best, 20 - entry.task->nice);
  }
  if (best < 0) return Fail(ESRCH);
  return best;
}

Result<void> SetPriority(Task& task, int32_t which, int32_t who, int32_t nice) {
  if (which < PRIO_PROCESS || which > PRIO_USER) return Fail(EINVAL);
  nice = std::clamp(nice, -20, 19);
  TasksLock lock(task.kernel);
  const auto set = [&](Task& target) REQUIRES(tasks) -> Result<void> {
    constexpr int kSysNice = 23;  // CAP_SYS_NICE
    if (nice < target.nice && !task.creds().Has(kSysNice)) return Fail(EACCES);
    target.nice = nice;
    return {};
  };
  if (which == PRIO_PROCESS) {
    Task* target = who == 0 ? &task : task.kernel.FindTask(who);
    if (target == nullptr) return Fail(ESRCH);
    return set(*target);
  }
  Result<void> last = Fail(ESRCH);
  const uint32_t uid = who == 0 ? task.creds().uid : static_cast<uint32_t>(who);
  const int pgid = who == 0 ? task.group->pgid : who;
  for (const auto& [pid, entry] : task.kernel.pids) {
    if (entry.task == nullptr) continue;
    const bool match =
        which == PRIO_PGRP ? entry.task->group->pgid == pgid : entry.task->credentials->uid == uid;
    if (match) last = set(*entry.task);
  }
  return last;
}

Result<void> GetCpu(Task& task, UserPtr<uint32_t> cpu, UserPtr<uint32_t> node, uint64_t) {
  if (!cpu.is_null()) {
    TRY(task.mm->CopyOut(cpu, static_cast<uint32_t>(task.fiber->worker().index())));
  }
  if (!node.is_null()) TRY(task.mm->CopyOut(node, 0u));
  return {};
}

Result<int32_t> IoprioGet(Task& task, int32_t which, int32_t who) {
  if (which < 1 || which > 3) return Fail(EINVAL);
  TasksLock lock(task.kernel);
  if (which == 1) TRY(Find(task, who));
  return 0;
}

Result<void> IoprioSet(Task& task, int32_t which, int32_t who, int32_t value) {
  const int level_class = value >> 13;
  if (which < 1 || which > 3 || level_class < 0 || level_class > 3) return Fail(EINVAL);
  if (level_class == 1 && !task.creds().Has(21 /* CAP_SYS_ADMIN */)) return Fail(EPERM);
  TasksLock lock(task.kernel);
  if (which == 1) TRY(Find(task, who));
  return {};
}

// Linux 6.6's struct sched_attr; the first version ends before the utilisation clamps.
struct AbiSchedAttr {
  uint32_t size = sizeof(AbiSchedAttr), policy = SCHED_OTHER;
  uint64_t flags = 0;
  int32_t nice = 0;
  uint32_t priority = 0;
  uint64_t runtime = 0, deadline = 0, period = 0;
  uint32_t util_min = 0, util_max = 0;
};
constexpr uint32_t kSchedAttrSizeVer0 = 48;

Result<void> SchedGetattr(Task& task, int32_t pid, UserPtr<void> out, uint32_t size,
                          uint32_t flags) {
  if (out.is_null() || pid < 0 || size > kPageSize || size < kSchedAttrSizeVer0 || flags != 0) {
    return Fail(EINVAL);
  }
  AbiSchedAttr attr;
  {
    TasksLock lock(task.kernel);
    attr.nice = TRY(Find(task, pid))->nice;
  }
  attr.size = std::min<uint32_t>(size, sizeof attr);
  TRY(CopyOutStruct(task, out, size, std::as_bytes(std::span(&attr, 1))));
  return {};
}

constexpr Row kRows[] = {
    Full<SchedYield>(SYSCALL(sched_yield)),
    Full<GetPriority>(SYSCALL(getpriority)),
    Partial<SetPriority>(SYSCALL(setpriority), "kept, without effect"),
    Full<SchedSetParam>(SYSCALL(sched_setparam)),
    Full<SchedGetParam>(SYSCALL(sched_getparam)),
    Partial<SchedSetScheduler>(SYSCALL(sched_setscheduler),
                               "SCHED_OTHER, SCHED_BATCH and SCHED_IDLE"),
    Full<SchedGetScheduler>(SYSCALL(sched_getscheduler)),
    Full<SchedGetPriorityMax>(SYSCALL(sched_get_priority_max)),
    Full<SchedGetPriorityMin>(SYSCALL(sched_get_priority_min)),
    Full<SchedRrGetInterval>(SYSCALL(sched_rr_get_interval)),
    Partial<SchedSetAffinity>(SYSCALL(sched_setaffinity),
                              "kept; where threads run is the workers' business"),
    Full<SchedGetAffinity>(SYSCALL(sched_getaffinity)),
    Partial<IoprioSet>(SYSCALL(ioprio_set), "checked, without effect"),
    Full<IoprioGet>(SYSCALL(ioprio_get)),
    Full<GetCpu>(SYSCALL(getcpu)),
    Refused(SYSCALL(sched_setattr), ENOSYS, ""),
    Full<SchedGetattr>(SYSCALL(sched_getattr)),
};

}  // namespace

constinit const std::span<const Row> kSchedRows = kRows;

}  // namespace skep::syscalls
