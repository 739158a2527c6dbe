#include "sentry/kernel/cpu_time.h"

#include <algorithm>

#include "sentry/sched/ticks.h"

namespace skep::kernel {
namespace {

__extension__ using Wide = unsigned __int128;

// What the task's address space has used, as the host tells; 0: unknown.
uint64_t SpaceTime(const mm::MemoryManager& mm) {
  const platform::AddressSpace* space = arena::HostTable::Get().Get(mm.space());
  return space == nullptr ? 0 : space->CpuTimeNs();
}

// What the fiber did; returns how long the guest ran since the last time, in ticks.
uint64_t SettleFiber(Task& task) REQUIRES(tasks) {
  if (!task.fiber) return 0;
  const sched::Fiber::Costs costs = task.fiber->costs();
  Usage& usage = task.usage;
  usage.minor_faults = task.minor_faults.load(std::memory_order_relaxed);
  usage.major_faults = task.major_faults.load(std::memory_order_relaxed);
  usage.voluntary_switches = costs.voluntary_switches;
  usage.involuntary_switches = costs.involuntary_switches;
  if (costs.kernel_ticks > task.settled_kernel_ticks) {
    usage.system_ns += sched::TicksToNs(costs.kernel_ticks - task.settled_kernel_ticks);
    task.settled_kernel_ticks = costs.kernel_ticks;
  }
  if (costs.guest_ticks <= task.settled_guest_ticks) return 0;
  return costs.guest_ticks - std::exchange(task.settled_guest_ticks, costs.guest_ticks);
}

void SettleShared(Kernel& kernel, Task& task) REQUIRES(tasks) {
  mm::MemoryManager& mm = *task.mm;
  struct Share {
    Task* task;
    uint64_t ticks;
  };
  std::vector<Share> shares;
  uint64_t total = 0;
  const auto add = [&](Task& t) REQUIRES(tasks) {
    if (t.mm.Get().get() != &mm) return;
    shares.push_back({&t, SettleFiber(t)});
    total += shares.back().ticks;
  };
  if (static_cast<size_t>(mm.users.load()) <= task.group->threads.size()) {
    for (Task* t : task.group->threads) add(*t);
  } else {
    kernel.pid_namespace->ForEachTask(add);
  }
  const uint64_t now = SpaceTime(mm);
  if (now == 0) {
    for (const Share& share : shares) share.task->usage.user_ns += sched::TicksToNs(share.ticks);
    return;
  }
  const uint64_t used = now - std::min(now, mm.charged_cpu_ns);
  mm.charged_cpu_ns = std::max(now, mm.charged_cpu_ns);
  if (total == 0) {
    task.usage.user_ns += used;
    return;
  }
  uint64_t left = used;
  for (const Share& share : shares) {
    const auto part = static_cast<uint64_t>(static_cast<Wide>(used) * share.ticks / total);
    share.task->usage.user_ns += part;
    left -= part;
  }
  task.usage.user_ns += left;  // the division's rest
}

}  // namespace

void StartCpuAccount(Task& task) {
  TasksLock lock(task.kernel);
  task.mm->charged_cpu_ns = SpaceTime(*task.mm);
}

void SettleUsage(Task& task) {
  if (task.mm) {
    SettleShared(task.kernel, task);
  } else {
    (void)SettleFiber(task);
  }
}

void SettleLastUsage(Task& task) { (void)SettleFiber(task); }

void SettleEverybody(Kernel& kernel) {
  kernel.pid_namespace->ForEachGroup([](ThreadGroup& group) REQUIRES(tasks) {
    if (!group.threads.empty()) (void)UsageOf(group);
  });
}

Usage UsageOf(Task& task) {
  if (!task.exited) SettleUsage(task);
  return task.usage;
}

Usage UsageOf(ThreadGroup& group) {
  Usage usage = group.dead_threads;
  const mm::MemoryManager* settled = nullptr;
  for (Task* task : group.threads) {
    // Threads share their memory, except one that is about to exit or to start.
    const mm::MemoryManager* const mm = task->mm.Get().get();
    if (mm == nullptr || mm != settled) SettleUsage(*task);
    settled = mm;
  }
  for (const Task* task : group.threads) usage.Add(task->usage);
  return usage;
}

std::optional<CpuClock> CpuClockOf(clockid_t clock) {
  if (clock == CLOCK_PROCESS_CPUTIME_ID) return CpuClock{};
  if (clock == CLOCK_THREAD_CPUTIME_ID) return CpuClock{.thread = true};
  if (clock >= 0) return std::nullopt;
  // Linux: CPUCLOCK_PROF, CPUCLOCK_VIRT, CPUCLOCK_SCHED; 3 is a clock of a descriptor.
  constexpr int kVirt = 1, kDescriptor = 3, kThread = 4;
  if ((clock & 3) == kDescriptor) return std::nullopt;
  return CpuClock{
      .id = ~(clock >> 3), .thread = (clock & kThread) != 0, .user_only = (clock & 3) == kVirt};
}

Result<uint64_t> ReadCpuClock(Task& caller, const CpuClock& clock) {
  Kernel& kernel = caller.kernel;
  TasksLock lock(kernel);
  Usage usage;
  if (clock.thread) {
    Task* task = clock.id == 0 ? &caller : caller.pid_namespace().FindTask(clock.id);
    if (task == nullptr || task->group != caller.group) return Fail(EINVAL);
    usage = UsageOf(*task);
  } else {
    ThreadGroup* group =
        clock.id == 0 ? caller.group.get() : caller.pid_namespace().FindGroup(clock.id);
    if (group == nullptr) return Fail(EINVAL);
    usage = UsageOf(*group);
  }
  return clock.user_only ? usage.user_ns : usage.user_ns + usage.system_ns;
}

}  // namespace skep::kernel
