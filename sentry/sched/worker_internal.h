// The two halves of workers and of their scheduler: arena (fibers, timers: survives a checkpoint)
// and host (threads, engines, pollers: made by Start).
#pragma once

#include <pthread.h>
#include <atomic>
#include <memory>
#include <unordered_map>
#include <vector>

#include "base/mutex.h"
#include "base/owned_fd.h"
#include "sentry/sched/fiber_state.h"
#include "sentry/sched/host_poller.h"
#include "sentry/sched/scheduler.h"
#include "sentry/sched/ticks.h"
#include "sentry/sched/timer_queue.h"

namespace skep::sched {

struct WorkerHost;
struct SchedulerHost;
struct WorkerStart;

struct PostedWork {
  std::move_only_function<void()> work;
  PostedWork* next = nullptr;
};

struct Worker::State {
  // Its thread only.
  Fiber* first_ready = nullptr;
  Fiber* last_ready = nullptr;
  // Fibers whose deadline has passed. A thousand threads that wait with a timeout come here at
  // once, so fibers that were woken, and guests that stopped, go first.
  Fiber* first_late = nullptr;
  Fiber* last_late = nullptr;
  Fiber* guests = nullptr;  // fibers in RunGuest
  Ref<Fiber> system;

  // Written by its thread.
  std::atomic<int> ready_count{0};
  std::atomic<int> guest_count{0};

  // Any thread. A stack of fibers, pushed one by one and taken all at once.
  std::atomic<Fiber*> inbox{nullptr};

  TimerQueue timers;
  Mutex post_lock{LockRank::kRunQueue};
  PostedWork* first_posted GUARDED_BY(post_lock) = nullptr;
  PostedWork* last_posted GUARDED_BY(post_lock) = nullptr;
  HostWatch* ready_watches = nullptr;  // guarded by Scheduler::State::watch_lock
};

struct Scheduler::State {
  std::vector<Worker*> workers;
  uint64_t quiesced_at_ns = 0;  // virtual time of the last Quiesce
  uint64_t generation = 0;      // of the arena, at the last Start
  GuestWatch* guest_watch = nullptr;
  std::atomic<uint64_t> guest_watch_due{0};  // on the host's monotonic clock
  // Held while ready watches are delivered, so that a HostWatch may be destroyed at any time.
  Mutex watch_lock{LockRank::kTimers};
  HostWatch* watches GUARDED_BY(watch_lock) = nullptr;
  uint64_t next_watch_id GUARDED_BY(watch_lock) = 1;
};

struct SchedulerAccess {
  using State = Scheduler::State;
  static State& StateOf(Scheduler& scheduler) { return *scheduler.state_; }
};

struct WorkerAccess {
  using State = Worker::State;
  static State& StateOf(Worker& worker) { return *worker.state_; }
  static SchedulerAccess::State& SchedulerStateOf(Worker& worker) {
    return SchedulerAccess::StateOf(worker.scheduler());
  }
  // Makes a fiber ready that is neither ready nor running. Any thread.
  static void Push(Worker& worker, Fiber& fiber);
  // Its own thread only: the same, without the detour.
  static void PushLocal(Worker& worker, Fiber& fiber);
  // Its own thread only: the fiber's deadline has passed.
  static void PushLate(Worker& worker, Fiber& fiber);
  // A fiber enters and leaves RunGuest. Its worker's thread only.
  static void LinkGuest(Worker& worker, Fiber& fiber);
  static void UnlinkGuest(Worker& worker, Fiber& fiber);
  // Makes the worker look at its inbox, timers, watches and orders, if it may be asleep. Any
  // thread.
  static void WakeUp(Worker& worker);
};

// A word to sleep on.
class HostEvent {
 public:
  uint32_t Now() const { return word_.load(std::memory_order_seq_cst); }
  void Signal();
  // Returns when the word is not `seen`, or the host's monotonic clock is past the deadline
  // (false).
  bool WaitPast(uint32_t seen, platform::Deadline deadline = std::nullopt);

 private:
  std::atomic<uint32_t> word_{0};
};

class WorkerPoller final : public platform::HostPoller {
 public:
  explicit WorkerPoller(OwnedFd epoll) : epoll_(std::move(epoll)) {}
  int epoll_fd() const override { return epoll_.get(); }
  bool watching() const override { return armed.load(std::memory_order_relaxed) > 0; }

  std::atomic<int> armed{0};  // how many watches

 private:
  const OwnedFd epoll_;
};

// How the workers of a process go on.
enum class Phase : uint32_t {
  kStarting,
  kRunning,
  kQuiescing,  // no timers; those that have nothing to do say so
  kFrozen,     // nothing but orders
  kStopping,   // workers leave their loops; their engines stay, for others may still kick them
  kStopped,    // nobody does
};

// How long the turns of a worker's fibers take: Begin, then End once or more.
class TurnClock {
 public:
  void Begin(const SchedulerHost& host);
  uint64_t End(const SchedulerHost& host);  // ticks since Begin or the last End, less the host's
  uint64_t began() const { return began_; }
  uint64_t ms_ticks() const { return ms_ticks_; }  // in a millisecond, about

 private:
  uint64_t ms_ticks_ = 1'000'000;
  uint64_t began_ = 0;
  uint64_t long_turn_ = ~uint64_t{0}, next_mark_ = 0;
  uint64_t mark_ns_ = 0;        // the thread's CPU time at the last look
  uint64_t charged_ticks_ = 0;  // since then
};

struct WorkerHost {
  WorkerHost(SchedulerHost& owner, Worker& of, OwnedFd epoll)
      : scheduler(owner), worker(of), poller(std::move(epoll)) {}

  void Loop();
  void RunReady();
  void RunLate();
  void RunFiber(Fiber& fiber);
  void BeginTurn(Fiber& fiber);
  void EndTurn(Fiber& fiber);
  void TakeInbox();
  void ExpireTimers();
  void LookAtGuests();
  void WaitForEvent(Phase phase);
  void TakeStops();
  bool OnEvent(platform::Event event);  // false: it was none but a wake-up
  void OnDied(platform::AddressSpace* space);
  void TakeDied();
  void StayFrozen();

  SchedulerHost& scheduler;
  Worker& worker;
  pthread_t thread{};
  void* stack = nullptr;
  int cpu = -1;  // -1: not pinned
  std::unique_ptr<platform::Engine> engine;
  WorkerPoller poller;

  // The running fiber and the context of the loop that runs it. Its thread only.
  Fiber* current = nullptr;
  void* loop_context = nullptr;
  TurnClock turn;
  int turns_since_late = 0;
  uint64_t turn_started = 0;       // ticks
  uint64_t watches_looked_at = 0;  // ticks
  uint64_t next_late_ns = 0;       // host's monotonic clock
  // Ticks; 0: its run queue is empty. Its thread writes it.
  std::atomic<uint64_t> crowded_since{0};
  uint32_t stops_since_test_move = 0;
  const void* loop_stack = nullptr;  // AddressSanitizer's
  size_t loop_stack_size = 0;

  // Set while the worker is in Engine::Wait or about to be, and nobody has kicked it.
  std::atomic<bool> waiting{false};
  // kQuiescing: it has nothing to do; how often it had something to do again.
  std::atomic<bool> resting{false};
  std::atomic<uint32_t> rest_epoch{0};
  bool frozen = false;                                  // guarded by SchedulerHost::order_lock
  const std::function<void(Worker&)>* order = nullptr;  // the same

  // Spaces that died on another worker's engine.
  Mutex died_lock{LockRank::kRunQueue};
  std::vector<platform::AddressSpace*> died_spaces GUARDED_BY(died_lock);
  std::atomic<bool> has_died{false};
};

struct OffloadJob {
  std::move_only_function<void()>* work;
  Fiber* fiber;
  const void* of;  // whose it is, or nullptr
  std::atomic<bool> done{false};
  OffloadJob* next = nullptr;
};

// Helper threads for host calls that may block: one, and more when all are busy.
class OffloadPool {
 public:
  HostResult<void> Start();
  void Stop();
  void Run(OffloadJob& job);
  int in_progress() const { return in_progress_.load(std::memory_order_seq_cst); }

 private:
  static constexpr size_t kThreads = 8;
  static constexpr int kThreadsOfOne = kThreads / 2;
  static void* ThreadMain(void* self);
  int AddThread();  // an errno
  void GrowIfShort();
  void Loop();
  OffloadJob* TakeJob();
  void EndJobOf(const void* of);

  Mutex lock_{LockRank::kRunQueue};
  std::vector<const void*> busy_for_ GUARDED_BY(lock_);  // one for each thread that works
  OffloadJob* first_ GUARDED_BY(lock_) = nullptr;
  OffloadJob* last_ GUARDED_BY(lock_) = nullptr;
  HostEvent news_;
  std::atomic<bool> stop_{false};
  std::atomic<int> in_progress_{0};
  size_t waiting_ GUARDED_BY(lock_) = 0;  // jobs that nobody has taken
  size_t size_ GUARDED_BY(lock_) = 1;     // of threads_, with those that are being made
  std::vector<pthread_t> threads_ GUARDED_BY(lock_);
};

struct SchedulerHost {
  explicit SchedulerHost(Scheduler& of) : scheduler(of) {}

  // Its thread begins to make the engine and says in `start` when it has one.
  HostResult<void> StartWorker(Worker& worker, int cpu, WorkerStart& start);
  void JoinAll();
  // Waits while the phase is `waited_out`. On a worker's thread.
  void AwaitEndOf(Phase waited_out);
  bool AllAtRest(std::vector<uint32_t>& epochs);
  bool AllIdle();
  uint64_t ToNs(uint64_t ticks) const;
  uint64_t TicksPerMs() const;

  Scheduler& scheduler;
  uint64_t first_ticks = 0, first_ns = 0;  // when the workers started
  bool moves_for_test = false;
  std::vector<std::unique_ptr<WorkerHost>> workers;
  OffloadPool offload;
  std::atomic<int> host_calls{0};  // HostCallInProgress
  std::atomic<Phase> phase{Phase::kStarting};
  std::atomic<size_t> left{0};  // workers that have left their loops
  HostEvent news;    // for the controlling thread: a worker rests, froze, ended an order, left
  HostEvent orders;  // for workers that wait for a new phase or order

  // tidy: allow(guards) WorkerHost::frozen and WorkerHost::order of each worker
  Mutex order_lock{LockRank::kLeaf};

  // Watches that are known to a worker's epoll. Guarded by Scheduler::State::watch_lock.
  struct Watch {
    HostWatch* watch;
    OwnedFd fd;  // a duplicate: two watches may look at one descriptor
    int worker;
    bool armed;
  };
  std::unordered_map<uint64_t, Watch> watches;
};

// The started scheduler's host half; nullptr if none is.
SchedulerHost* RunningHost();
void SetRunningHost(SchedulerHost* host);
// The worker this thread is; nullptr for other threads. Never inlined: a fiber may change threads
// between two calls.
WorkerHost* ThreadWorker();
void SetThreadWorker(WorkerHost* worker);

// Suspends the current fiber: returns when its worker runs it again. For fiber.cc.
void SwitchToLoop(bool finished);

// Armed watches of this worker that are ready go to its system fiber. Its thread only.
void CollectWatches(WorkerHost& host);
// Calls the wait queues of watches that are ready. On the system fiber. False: there were none.
bool DeliverWatches(Worker& worker);
// After Start: watches that were armed before.
void ArmAllWatches(SchedulerHost& host);
// On the system fiber: one callback that is due. False: there was none.
bool RunDueTimer(Worker& worker);

}  // namespace skep::sched
