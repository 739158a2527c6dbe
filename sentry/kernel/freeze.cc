#include "sentry/kernel/freeze.h"

#include <algorithm>

#include "sentry/arena/arena.h"
#include "sentry/kernel/cpu_time.h"
#include "sentry/kernel/kernel.h"

namespace skep::kernel {
namespace {

// Those that live; under `tasks` they cannot be on their way to or from being.
std::vector<Ref<Task>> AllTasks(Kernel& kernel) {
  std::vector<Ref<Task>> all;
  TasksLock lock(kernel);
  kernel.pid_namespace->ForEachTask([&](Task& task) {
    if (task.fiber) all.push_back(Ref<Task>(&task));
  });
  return all;
}

Result<void> SaveContext(Task& task) {
  platform::Context* context = arena::HostTable::Get().Get(task.context_ref);
  if (context == nullptr) return Fail(ESRCH);
  {
    const arena::HostHeapScope host;
    TRY(context->Load(platform::LoadXsave::kYes));
  }
  task.saved_registers = context->registers();
  const std::span<std::byte> xsave = context->xsave();
  task.saved_xsave.assign(xsave.begin(), xsave.end());
  return {};
}

Result<void> RestoreContext(Task& task) {
  mm::MemoryManager& mm = *task.mm;
  platform::Engine& engine = task.fiber->worker().engine();
  if (arena::HostTable::Get().Get(mm.space()) == nullptr) {
    TRY(mm.Reactivate(engine));
    StartCpuAccount(task);
  }
  TRY(mm.RestoreContext(engine, task.context_ref, task.saved_registers, task.saved_xsave));
  task.saved_xsave = {};
  return {};
}

// Calls `each` for every task that has a guest thread, on its worker.
Result<void> OnEveryContext(Kernel& kernel, Result<void> (*each)(Task&)) {
  const arena::ArenaHeapScope arena_heap;
  const std::vector<Ref<Task>> tasks = AllTasks(kernel);
  Result<void> result;
  kernel.scheduler.OnEachWorker([&](sched::Worker& worker) {
    for (const Ref<Task>& task : tasks) {
      if (!result || &task->fiber->worker() != &worker) continue;
      if (task->context_ref && task->mm) result = each(*task);
    }
  });
  return result;
}

}  // namespace

bool Freeze(Kernel& kernel, uint64_t timeout_ns) {
  {
    const arena::ArenaHeapScope arena_heap;
    // A task that is not in the list was published later, and sees the gate closed.
    kernel.freeze_gate().Close();
    for (const Ref<Task>& task : AllTasks(kernel)) task->fiber->StopGuest();
  }
  if (kernel.scheduler.Quiesce(timeout_ns)) return true;
  const arena::ArenaHeapScope arena_heap;
  kernel.freeze_gate().Open();
  return false;
}

Result<void> SaveContexts(Kernel& kernel) {
  {
    // CPU time that is kept in ticks of this processor becomes nanoseconds.
    const arena::ArenaHeapScope arena_heap;
    TasksLock lock(kernel);
    SettleEverybody(kernel);
  }
  return OnEveryContext(kernel, &SaveContext);
}
Result<void> RestoreContexts(Kernel& kernel) { return OnEveryContext(kernel, &RestoreContext); }

void Thaw(Kernel& kernel) {
  kernel.scheduler.Thaw();
  const arena::ArenaHeapScope arena_heap;
  kernel.freeze_gate().Open();
}

}  // namespace skep::kernel
