// Workers: host threads, one per allowed CPU, that run fibers and drive an engine each.
//
// Worker loop: run ready fibers; when none is left, Engine::Wait(next timer, host descriptors);
// hand the stop to the fiber that waits for it. Scheduler and Worker live in the arena; their host
// halves (thread, engine, epoll descriptor) live in malloc's heap and are made anew after a
// restore.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>

#include "platform/platform.h"
#include "sentry/sched/clock.h"
#include "sentry/sched/fiber.h"

namespace skep::sched {

class Scheduler;

class Worker {
 public:
  int index() const { return index_; }
  // Only this worker's thread may use it (except for Engine::Kick).
  platform::Engine& engine();
  Scheduler& scheduler() const { return *scheduler_; }
  // Fibers that are ready or have a guest running, as a measure of load. A hint.
  int Load() const;
  // Any thread. Runs `work` on this worker's system fiber; it may take Mutexes but must not sleep.
  void Post(std::move_only_function<void()> work);

  Worker(const Worker&) = delete;
  Worker& operator=(const Worker&) = delete;

 private:
  friend class Scheduler;
  friend struct WorkerAccess;
  Worker(Scheduler& scheduler, int index);
  ~Worker();
  Scheduler* const scheduler_;
  const int index_;
  struct State;  // arena half: run queue, timers, system fiber
  State* state_ = nullptr;
};

// Something to look at while guests run: what they do without asking anybody, such as taking fresh
// memory. While none runs, nobody wakes up for it.
class GuestWatch {
 public:
  // On a worker's own stack: quick, and takes Mutexes at most. The host's monotonic clock has
  // reached the time that the last call returned; returns when to look again.
  virtual uint64_t Look(uint64_t now_ns) = 0;

 protected:
  ~GuestWatch() = default;
};

class Scheduler {
 public:
  // Makes `workers` workers (no threads yet). In the arena (arena::ArenaHeapScope).
  explicit Scheduler(int workers);
  ~Scheduler();  // not while it is started
  Scheduler(const Scheduler&) = delete;
  Scheduler& operator=(const Scheduler&) = delete;

  // Starts the workers' threads; each makes its engine by `make_engine(worker index)` on its own
  // thread, all at once. Returns when all engines are up, or the first error (no thread is left
  // then). Fibers spawned before Start run from now on. `pin`: a worker's thread is pinned to its
  // CPU. One Scheduler at a time may be started in a process.
  //
  // Also used after a restore, when the HostTable's descriptors are back: virtual time continues
  // from the Quiesce that came before the Freeze, deadlines stand, HostWatches are armed again.
  using MakeEngine = std::function<HostResult<std::unique_ptr<platform::Engine>>(int worker_index)>;
  // kFrozen: as after Quiesce, so that OnEachWorker can make what engines had before; then Thaw.
  enum class StartAs : bool { kRunning, kFrozen };
  HostResult<void> Start(const MakeEngine& make_engine, bool pin = true,
                         StartAs as = StartAs::kRunning);
  // Ends the threads and destroys the engines. No guest may be running; fibers that are suspended
  // or ready stay so (and go on if Start is called again, but are not destroyed with the
  // Scheduler). Not from a worker.
  void Stop();

  // Before Start; a test mode: MaybeMove moves all the time.
  void MoveForTest() { moves_for_test_ = true; }

  // Before the first Start; it outlives the last Stop.
  void SetGuestWatch(GuestWatch* watch);

  int worker_count() const;
  Worker& worker(int index);
  Worker& LeastLoaded();
  Clock& clock() { return clock_; }

  // Brings all workers to rest: on return no fiber runs or is ready and no engine call, Offload or
  // guest is in progress; workers wait. The caller (not a worker) has asked fibers beforehand to
  // stop their guests (Fiber::Interrupt) and to suspend. Deadlines and timers that pass meanwhile
  // are seen after Thaw. False: `timeout_ns` passed; workers go on.
  bool Quiesce(uint64_t timeout_ns);
  // After Quiesce: workers go on.
  void Thaw();
  // After Quiesce: calls `work` once on each worker's thread with the arena heap (engine calls such
  // as Context::Load must be made there), one after the other.
  void OnEachWorker(const std::function<void(Worker&)>& work);

 private:
  friend struct SchedulerAccess;
  Clock clock_;
  bool moves_for_test_ = false;
  struct State;
  State* state_ = nullptr;
};

}  // namespace skep::sched
