// Scheduling: what programs ask about CPUs and priorities. Workers schedule guests; priorities are
// kept and told back, as documented in docs/syscalls.md. Who may set them is checked as on Linux.
#include <linux/capability.h>
#include <linux/ioprio.h>
#include <sched.h>
#include <sys/resource.h>

#include "sentry/kernel/access.h"
#include "sentry/kernel/kernel.h"
#include "sentry/syscalls/families.h"
#include "sentry/syscalls/util.h"

namespace skep::syscalls {
namespace {

// Linux: find_process_by_pid.
Result<Task*> Find(Task& task, int32_t pid) REQUIRES(tasks) {
  Task* target = pid == 0 ? &task : task.pid_namespace().FindTask(pid);
  if (target == nullptr) return Fail(ESRCH);
  return target;
}

// Calls visit(Task&) for each thread that (which, who) names, as setpriority(2) and ioprio_set(2)
// name them: of a process group, or of a real user id. Ends when visit answers false.
enum class Whom : uint8_t { kGroup, kUser };
template <class Visit>
void ForEachNamed(Task& task, Whom whom, uint32_t who, Visit visit) REQUIRES(tasks) {
  const kernel::PidNamespace& pids = task.pid_namespace();
  if (whom == Whom::kUser) {
    pids.ForEach([&](kernel::Pid& pid) REQUIRES(tasks) {
      Task* const named = pid.task();
      return named == nullptr || named->credentials.Get()->uid != who || visit(*named);
    });
    return;
  }
  const kernel::ProcessGroup* group = pids.FindProcessGroup(static_cast<int>(who));
  if (group == nullptr) return;
  bool more = true;
  group->ForEach([&](kernel::ThreadGroup& member) REQUIRES(tasks) {
    for (Task* thread : member.threads) more = more && visit(*thread);
  });
}

// 0 is the caller's own group or real user id. A user's id is the kernel's number.
uint32_t Named(const Task& task, Whom whom, int32_t who) REQUIRES(tasks) {
  if (whom == Whom::kUser) {
    return who == 0 ? task.creds().uid : task.creds().KernelUser(static_cast<uint32_t>(who));
  }
  if (who != 0) return static_cast<uint32_t>(who);
  return static_cast<uint32_t>(task.NumberOf(*task.group->process_group->id()));
}

// ioprio_set(2) takes user id 0 for what it says.
uint32_t IoNamed(const Task& task, Whom whom, int32_t who) REQUIRES(tasks) {
  if (whom == Whom::kUser) return task.creds().KernelUser(static_cast<uint32_t>(who));
  return Named(task, whom, who);
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
    value = target->scheduling.cpu_mask & AllCpus(task);
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
  TRY(kernel::MaySchedule(*target, task.creds()));
  if ((value & AllCpus(task)) == 0) return Fail(EINVAL);
  target->scheduling.cpu_mask = value;
  return {};
}

Result<int32_t> SchedGetScheduler(Task& task, int32_t pid) {
  if (pid < 0) return Fail(EINVAL);
  TasksLock lock(task.kernel);
  const Task* target = TRY(Find(task, pid));
  return target->scheduling.policy | (target->scheduling.reset_on_fork ? SCHED_RESET_ON_FORK : 0);
}

// Linux: __sched_setscheduler. Real-time policies are refused, as where RLIMIT_RTPRIO is 0 and
// nobody has CAP_SYS_NICE: there is nothing that would make them true.
Result<void> SetScheduler(Task& task, Task& target, int32_t policy, int32_t priority)
    REQUIRES(tasks) {
  const bool reset = (policy & SCHED_RESET_ON_FORK) != 0;
  policy &= ~SCHED_RESET_ON_FORK;
  const bool real_time = policy == SCHED_FIFO || policy == SCHED_RR;
  const bool fair = policy == SCHED_OTHER || policy == SCHED_BATCH || policy == SCHED_IDLE;
  if (!real_time && !fair) return Fail(EINVAL);
  if (real_time ? priority < 1 || priority > 99 : priority != 0) return Fail(EINVAL);
  TRY(kernel::MaySchedule(target, task.creds()));
  if (real_time) return Fail(EPERM);
  const bool wakes_from_idle = target.scheduling.policy == SCHED_IDLE && policy != SCHED_IDLE;
  if (wakes_from_idle && !kernel::MayLowerNice(target, task.creds(), target.scheduling.nice)) {
    return Fail(EPERM);
  }
  if (target.scheduling.reset_on_fork && !reset && !task.creds().HasInFirst(CAP_SYS_NICE)) {
    return Fail(EPERM);
  }
  target.scheduling.policy = policy;
  target.scheduling.reset_on_fork = reset;
  return {};
}

Result<void> SchedSetScheduler(Task& task, int32_t pid, int32_t policy,
                               UserPtr<const int32_t> param) {
  if (policy < 0 || param.is_null() || pid < 0) return Fail(EINVAL);
  const int32_t priority = TRY(task.mm->CopyIn(param));
  TasksLock lock(task.kernel);
  Task* target = TRY(Find(task, pid));
  return SetScheduler(task, *target, policy, priority);
}

Result<void> SchedGetParam(Task& task, int32_t pid, UserPtr<int32_t> param) {
  if (param.is_null() || pid < 0) return Fail(EINVAL);
  {
    TasksLock lock(task.kernel);
    TRY(Find(task, pid));
  }
  return task.mm->CopyOut(param, 0);
}

Result<void> SchedSetParam(Task& task, int32_t pid, UserPtr<const int32_t> param) {
  if (param.is_null() || pid < 0) return Fail(EINVAL);
  const int32_t priority = TRY(task.mm->CopyIn(param));
  TasksLock lock(task.kernel);
  Task* target = TRY(Find(task, pid));
  const int32_t reset = target->scheduling.reset_on_fork ? SCHED_RESET_ON_FORK : 0;
  return SetScheduler(task, *target, target->scheduling.policy | reset, priority);
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
  if (pid < 0) return Fail(EINVAL);
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
    const Task* target = TRY(Find(task, who));
    return 20 - target->scheduling.nice;
  }
  int best = -1;
  const Whom whom = which == PRIO_PGRP ? Whom::kGroup : Whom::kUser;
  ForEachNamed(task, whom, Named(task, whom, who), [&](const Task& target) REQUIRES(tasks) {
    best = std::max(best, 20 - target.scheduling.nice);
    return true;
  });
  if (best < 0) return Fail(ESRCH);
  return best;
}

// Linux: set_one_prio. `so_far`: what the threads before this one came to; the answer is the last
// error, or success if there was none.
Result<void> SetNice(Task& task, Task& target, int nice, Result<void> so_far) REQUIRES(tasks) {
  const auth::Credentials& mine = task.creds();
  const auth::Credentials& theirs = *target.credentials.Get();
  const bool same = mine.euid == theirs.uid || mine.euid == theirs.euid;
  if (!same && !mine.HasIn(theirs.user_namespace.get(), CAP_SYS_NICE)) return Fail(EPERM);
  if (nice < target.scheduling.nice && !kernel::MayLowerNice(target, mine, nice))
    return Fail(EACCES);
  TRY(kernel::MaySchedule(target, mine));
  target.scheduling.nice = nice;
  if (!so_far && so_far.error().code() == ESRCH) return {};
  return so_far;
}

Result<void> SetPriority(Task& task, int32_t which, int32_t who, int32_t nice) {
  if (which < PRIO_PROCESS || which > PRIO_USER) return Fail(EINVAL);
  nice = std::clamp(nice, -20, 19);
  TasksLock lock(task.kernel);
  if (which == PRIO_PROCESS) {
    Task* target = TRY(Find(task, who));
    return SetNice(task, *target, nice, Fail(ESRCH));
  }
  Result<void> done = Fail(ESRCH);
  const Whom whom = which == PRIO_PGRP ? Whom::kGroup : Whom::kUser;
  ForEachNamed(task, whom, Named(task, whom, who), [&](Task& target) REQUIRES(tasks) {
    done = SetNice(task, target, nice, done);
    return true;
  });
  return done;
}

Result<void> GetCpu(Task& task, UserPtr<uint32_t> cpu, UserPtr<uint32_t> node, uint64_t) {
  if (!cpu.is_null()) {
    TRY(task.mm->CopyOut(cpu, static_cast<uint32_t>(task.fiber->worker().index())));
  }
  if (!node.is_null()) TRY(task.mm->CopyOut(node, 0u));
  return {};
}

constexpr int kPriorityValues = 8;  // of a class: 0 is the highest

// Linux: ioprio_check_cap.
Result<void> CheckIoPriority(const auth::Credentials& creds, int32_t value) {
  switch (IOPRIO_PRIO_CLASS(value)) {
    case IOPRIO_CLASS_RT:
      if (!creds.HasInFirst(CAP_SYS_ADMIN) && !creds.HasInFirst(CAP_SYS_NICE)) return Fail(EPERM);
      return {};
    case IOPRIO_CLASS_BE:
    case IOPRIO_CLASS_IDLE:
      return {};
    case IOPRIO_CLASS_NONE:
      if (IOPRIO_PRIO_DATA(value) % kPriorityValues != 0) return Fail(EINVAL);
      return {};
    default:
      return Fail(EINVAL);
  }
}

// Linux: set_task_ioprio.
Result<void> SetIoPriority(Task& task, Task& target, int32_t value) REQUIRES(tasks) {
  const auth::Credentials& mine = task.creds();
  const auth::Credentials& theirs = *target.credentials.Get();
  const bool same = theirs.uid == mine.euid || theirs.uid == mine.uid;
  const bool more = (theirs.permitted & ~mine.permitted) != 0;
  if ((!same || more) && !mine.HasIn(theirs.user_namespace.get(), CAP_SYS_NICE)) return Fail(EPERM);
  target.scheduling.io_priority = static_cast<uint16_t>(value);
  return {};
}

// What a thread that was given none has: by its nice value (Linux: __get_task_ioprio).
int32_t EffectiveIoPriority(const Task& target) REQUIRES(tasks) {
  if (IOPRIO_PRIO_CLASS(target.scheduling.io_priority) != IOPRIO_CLASS_NONE)
    return target.scheduling.io_priority;
  const int io_class = target.scheduling.policy == SCHED_IDLE ? IOPRIO_CLASS_IDLE : IOPRIO_CLASS_BE;
  return IOPRIO_PRIO_VALUE(io_class, (target.scheduling.nice + 20) / 5);
}

Result<int32_t> IoprioGet(Task& task, int32_t which, int32_t who) {
  if (which < IOPRIO_WHO_PROCESS || which > IOPRIO_WHO_USER) return Fail(EINVAL);
  TasksLock lock(task.kernel);
  if (which == IOPRIO_WHO_PROCESS) {
    const Task* target = TRY(Find(task, who));
    return target->scheduling.io_priority;
  }
  std::optional<int32_t> best;
  const Whom whom = which == IOPRIO_WHO_PGRP ? Whom::kGroup : Whom::kUser;
  ForEachNamed(task, whom, IoNamed(task, whom, who), [&](const Task& target) REQUIRES(tasks) {
    const int32_t priority = EffectiveIoPriority(target);
    best = std::min(best.value_or(priority), priority);
    return true;
  });
  if (!best) return Fail(ESRCH);
  return *best;
}

Result<void> IoprioSet(Task& task, int32_t which, int32_t who, int32_t value) {
  TRY(CheckIoPriority(task.creds(), value));
  if (which < IOPRIO_WHO_PROCESS || which > IOPRIO_WHO_USER) return Fail(EINVAL);
  TasksLock lock(task.kernel);
  if (which == IOPRIO_WHO_PROCESS) {
    Task* target = TRY(Find(task, who));
    return SetIoPriority(task, *target, value);
  }
  Result<void> done = Fail(ESRCH);
  const Whom whom = which == IOPRIO_WHO_PGRP ? Whom::kGroup : Whom::kUser;
  ForEachNamed(task, whom, IoNamed(task, whom, who), [&](Task& target) REQUIRES(tasks) {
    done = SetIoPriority(task, target, value);
    return done.has_value();
  });
  return done;
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
constexpr uint64_t kResetOnFork = 1;  // SCHED_FLAG_RESET_ON_FORK

Result<void> SchedGetattr(Task& task, int32_t pid, UserPtr<void> out, uint32_t size,
                          uint32_t flags) {
  if (out.is_null() || pid < 0 || size > kPageSize || size < kSchedAttrSizeVer0 || flags != 0) {
    return Fail(EINVAL);
  }
  AbiSchedAttr attr;
  {
    TasksLock lock(task.kernel);
    const Task* target = TRY(Find(task, pid));
    attr.policy = static_cast<uint32_t>(target->scheduling.policy);
    attr.flags = target->scheduling.reset_on_fork ? kResetOnFork : 0;
    attr.nice = target->scheduling.nice;
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
    Partial<IoprioSet>(SYSCALL(ioprio_set), "kept, without effect"),
    Full<IoprioGet>(SYSCALL(ioprio_get)),
    Full<GetCpu>(SYSCALL(getcpu)),
    Refused(SYSCALL(sched_setattr), ENOSYS, ""),
    Full<SchedGetattr>(SYSCALL(sched_getattr)),
};

}  // namespace

constinit const std::span<const Row> kSchedRows = kRows;

}  // namespace skep::syscalls
