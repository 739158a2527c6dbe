// Workers: host threads, one per allowed CPU, that run fibers and drive an engine each.
//
// Worker loop: run ready fibers; when none is left, Engine::Wait(next timer, host descriptors);
// hand the stop to the fiber that waits for it. Scheduler and Worker live in the arena; their host
// halves (thread, engine, epoll descriptor) live in malloc's heap and are made anew after a restore.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "base/mutex.h"
#include "platform/platform.h"
#include "sentry/sched/clock.h"
#include "sentry/sched/fiber.h"

namespace skep::sched {

class Scheduler;

class Worker {
 public:
  int index() const { return index_; }
  // Of this worker's thread only (and Engine::Kick).
  platform::Engine& engine();
  Scheduler& scheduler() const { return *scheduler_; }
  // Fibers that are ready or have a guest running, as a measure of load. A hint.
  int Load() const;

 private:
  friend class Scheduler;
  friend class Fiber;
  friend class Timer;
  friend struct WorkerAccess;
  Worker(Scheduler& scheduler, int index) : scheduler_(&scheduler), index_(index) {}
  Scheduler* scheduler_;
  int index_;
  struct State;  // arena half: run queue, timers, system fiber
  struct Host;   // malloc half: thread, engine, poller
  State* state_ = nullptr;
  Host* host_ = nullptr;
};

class Scheduler {
 public:
  // Makes `workers` workers (no threads yet). In the arena (arena::ArenaScope).
  explicit Scheduler(int workers);
  ~Scheduler();

  // Starts the workers' threads; each makes its engine by `make_engine(worker index)` on its own
  // thread. Returns when all engines are up, or the first error (no thread is left then).
  // Fibers spawned before Start run from now on. Also used after a restore. `pin`: a worker's thread
  // is pinned to its CPU.
  using MakeEngine =
      std::function<HostResult<std::unique_ptr<platform::Engine>>(int worker_index)>;
  HostResult<void> Start(const MakeEngine& make_engine, bool pin = true);
  // Ends the threads and destroys the engines; no fiber may be left. Not from a worker.
  void Stop();

  int worker_count() const;
  Worker& worker(int index);
  Worker& LeastLoaded();
  Clock& clock() { return clock_; }

  // Brings all workers to rest: on return no fiber runs or is ready and no engine call, Offload or
  // guest is in progress; workers wait. The caller (not a worker) has asked fibers beforehand to
  // stop their guests (Fiber::Interrupt) and to suspend. False: the deadline passed; workers go on.
  bool Quiesce(uint64_t timeout_ns);
  // After Quiesce: workers go on.
  void Thaw();
  // After Quiesce: calls `work` once on each worker's thread with the arena heap (engine calls such
  // as Context::Load must be made there).
  void OnEachWorker(const std::function<void(Worker&)>& work);

 private:
  friend class Worker;
  friend class Timer;
  friend class HostWatch;
  friend struct SchedulerAccess;
  Clock clock_;
  struct State;
  State* state_ = nullptr;
};

}  // namespace skep::sched
