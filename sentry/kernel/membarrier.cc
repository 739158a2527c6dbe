#include "sentry/kernel/membarrier.h"

#include <linux/membarrier.h>
#include <algorithm>

#include "sentry/kernel/kernel.h"

namespace skep::kernel {
namespace {

// Not offered: SYNC_CORE and RSEQ.
constexpr int kOffered = MEMBARRIER_CMD_GLOBAL | MEMBARRIER_CMD_GLOBAL_EXPEDITED |
                         MEMBARRIER_CMD_REGISTER_GLOBAL_EXPEDITED |
                         MEMBARRIER_CMD_PRIVATE_EXPEDITED |
                         MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED;

// A guest that stops and goes on passes a barrier of the host's. A thread
// that is not running will execute a barrier before it runs again. `mm`: whose threads; null:
// everybody's.
void Barrier(Task& caller, const mm::MemoryManager* mm) {
  Kernel& kernel = caller.kernel;
  struct Running {
    Ref<Task> task;
    uint64_t run;
  };
  std::vector<Running> running;
  GuestBarriers::Waiter waiter(kernel.barriers());
  {
    TasksLock lock(kernel);
    kernel.pid_namespace->ForEachTask([&](Task& task) REQUIRES(tasks) {
      if (&task == &caller || (mm != nullptr && task.mm.Get().get() != mm)) return;
      if (!task.in_guest.load(std::memory_order_seq_cst) || !task.fiber) return;
      running.push_back({Ref<Task>(&task), task.guest_runs.load(std::memory_order_relaxed)});
    });
  }
  for (const Running& r : running) r.task->fiber->StopGuest();
  waiter.WaitUntil([&] {
    return std::all_of(running.begin(), running.end(), [](const Running& r) {
      return !r.task->in_guest.load(std::memory_order_seq_cst) ||
             r.task->guest_runs.load(std::memory_order_relaxed) != r.run;
    });
  });
}

}  // namespace

Result<int> Membarrier(Task& task, int command, uint32_t flags) {
  if (flags != 0) return Fail(EINVAL);
  std::atomic<uint32_t>& registered = task.mm->membarriers;
  switch (command) {
    case MEMBARRIER_CMD_QUERY:
      return kOffered;
    case MEMBARRIER_CMD_GLOBAL:
    case MEMBARRIER_CMD_GLOBAL_EXPEDITED:
      Barrier(task, nullptr);
      return 0;
    case MEMBARRIER_CMD_REGISTER_GLOBAL_EXPEDITED:
    case MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED:
      registered.fetch_or(static_cast<uint32_t>(command));
      return 0;
    case MEMBARRIER_CMD_PRIVATE_EXPEDITED:
      if ((registered.load() & MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED) == 0) return Fail(EPERM);
      Barrier(task, task.mm.Mine().get());
      return 0;
    default:
      return Fail(EINVAL);
  }
}

}  // namespace skep::kernel
