#include "sentry/sched/timer.h"

#include <sys/syscall.h>

#include "base/check.h"
#include "base/host_call.h"
#include "sentry/arena/arena.h"
#include "sentry/sched/worker_internal.h"

namespace skep::sched {
namespace {

TimerQueue& QueueOf(Worker& worker) { return WorkerAccess::StateOf(worker).timers; }

// The home of a timer, with its queue locked.
Worker& LockHome(TimerState& s) NO_THREAD_SAFETY_ANALYSIS {
  for (;;) {
    Worker* home = s.home.load(std::memory_order_acquire);
    QueueOf(*home).mutex().Lock();
    if (s.home.load(std::memory_order_acquire) == home) return *home;
    QueueOf(*home).mutex().Unlock();
  }
}

bool RemoveArmed(TimerState& s, Worker& home) NO_THREAD_SAFETY_ANALYSIS {
  if (s.node.queued()) {
    QueueOf(home).Remove(s.node);
    return true;
  }
  if (s.due) {
    QueueOf(home).RemoveDue(s);
    return true;
  }
  return false;
}

}  // namespace

Timer::Timer(Scheduler& scheduler, std::move_only_function<void()> callback) {
  const arena::ArenaHeapScope arena;
  WorkerHost* here = ThreadWorker();
  state_ =
      new TimerState(std::move(callback), here != nullptr ? &here->worker : &scheduler.worker(0));
}

Timer::~Timer() NO_THREAD_SAFETY_ANALYSIS {
  for (;;) {
    Worker& home = LockHome(*state_);
    Mutex& lock = QueueOf(home).mutex();
    RemoveArmed(*state_, home);
    if (!state_->running) {
      lock.Unlock();
      break;
    }
    if (Fiber::CurrentOrNull() == WorkerAccess::StateOf(home).system.get()) {
      state_->dead = true;
      lock.Unlock();
      return;
    }
    lock.Unlock();
    (void)host::Call(SYS_sched_yield);  // a callback is short
  }
  delete state_;
}

void Timer::Arm(uint64_t deadline_ns) NO_THREAD_SAFETY_ANALYSIS {
  for (;;) {
    Worker& home = LockHome(*state_);
    TimerQueue& queue = QueueOf(home);
    RemoveArmed(*state_, home);
    WorkerHost* here = ThreadWorker();
    if (here != nullptr && &here->worker != &home && !state_->running) {
      // To the worker that is awake anyway.
      state_->home.store(&here->worker, std::memory_order_release);
      queue.mutex().Unlock();
      continue;
    }
    const bool first = queue.Add(state_->node, deadline_ns);
    queue.mutex().Unlock();
    if (first && (here == nullptr || &here->worker != &home)) WorkerAccess::WakeUp(home);
    return;
  }
}

bool Timer::Cancel() NO_THREAD_SAFETY_ANALYSIS {
  Worker& home = LockHome(*state_);
  const bool was_armed = RemoveArmed(*state_, home);
  QueueOf(home).mutex().Unlock();
  return was_armed;
}

Deadline Timer::deadline() const NO_THREAD_SAFETY_ANALYSIS {
  Worker& home = LockHome(*state_);
  Deadline deadline;
  if (state_->node.queued() || state_->due) deadline = state_->node.deadline;
  QueueOf(home).mutex().Unlock();
  return deadline;
}

bool RunDueTimer(Worker& worker) {
  TimerQueue& queue = QueueOf(worker);
  TimerState* s = nullptr;
  {
    MutexLock lock(queue.mutex());
    s = queue.first_due();
    if (s == nullptr) return false;
    queue.RemoveDue(*s);
    s->running = true;
  }
  s->callback();
  bool dead = false;
  {
    MutexLock lock(queue.mutex());
    s->running = false;
    dead = s->dead;
  }
  if (dead) delete s;
  return true;
}

}  // namespace skep::sched
