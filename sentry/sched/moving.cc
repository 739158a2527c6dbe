// Fibers that go from one worker to another, with the guest threads they run.
//
// A wake-up of another CPU costs far more than a system call, so peers that wait for each other
// belong on one worker; but guests that all have something to do belong on as many as there are.
#include "base/check.h"
#include "sentry/arena/arena.h"
#include "sentry/sched/worker_internal.h"

namespace skep::sched {
namespace {

// After a wake-up from another worker, a fiber samples at its next kLooksAtPeer stops whether that
// worker is idle. When idle samples outnumber busy ones by kPeerWaits, the two are peers and are
// brought together.
constexpr int kLooksAtPeer = 2;
constexpr int kPeerWaits = 3;
// A worker whose run queue has held more than one fiber for this long is overloaded.
constexpr uint64_t kCrowdedMs = 2;
// The test mode moves a fiber once in this many stops of its worker.
constexpr uint32_t kStopsForEachTestMove = 5;

bool IsIdle(SchedulerHost& host, Worker& worker) {
  return host.workers[static_cast<size_t>(worker.index())]->waiting.load() && worker.Load() == 0 &&
         WorkerAccess::StateOf(worker).inbox.load() == nullptr;
}

Worker* TestTarget(SchedulerHost& host, WorkerHost& here) {
  if (++here.stops_since_test_move < kStopsForEachTestMove) return nullptr;
  here.stops_since_test_move = 0;
  Scheduler& scheduler = host.scheduler;
  return &scheduler.worker((here.worker.index() + 1) % scheduler.worker_count());
}

// Called by the worker's own thread only.
bool IsCrowded(WorkerHost& here) {
  if (here.worker.Load() == 0) {  // but for the fiber that asks
    here.crowded_since = 0;
    return false;
  }
  if (here.crowded_since == 0) here.crowded_since = here.turn.began();
  return here.turn.began() - here.crowded_since > kCrowdedMs * here.turn.ms_ticks();
}

Worker* BetterFor(Fiber& fiber, SchedulerHost& host, WorkerHost& here) {
  if (host.moves_for_test) return TestTarget(host, here);
  FiberAccess::State& s = FiberAccess::StateOf(fiber);
  const bool crowded = IsCrowded(here);
  FiberAccess::LookAtPeer(fiber);
  if (s.peer_idle >= kPeerWaits) {
    s.peer_idle = 0;
    // One of two peers stays. A crowd would send the other away again.
    const WorkerHost& there = *host.workers[static_cast<size_t>(s.peer->index())];
    if (s.peer->index() < here.worker.index() && there.crowded_since == 0) return s.peer;
  }
  if (!crowded) return nullptr;
  here.crowded_since = 0;  // not all at once
  for (const std::unique_ptr<WorkerHost>& other : host.workers) {
    if (IsIdle(host, other->worker)) return &other->worker;
  }
  return nullptr;
}

bool MoveContext(platform::Context& context, SchedulerHost& host, Worker& to) {
  const arena::HostHeapScope scope;
  return context.MoveTo(*host.workers[static_cast<size_t>(to.index())]->engine).has_value();
}

// Not inlined, so that a fiber that switches has no pointer to a host object in its frame.
[[gnu::noinline]] Worker* PrepareMove(Fiber& fiber, platform::Context& context) {
  WorkerHost& here = *ThreadWorker();
  SchedulerHost& host = here.scheduler;
  if (host.workers.size() == 1 || !here.engine->shares_spaces()) return nullptr;
  if (host.phase.load() != Phase::kRunning) return nullptr;
  Worker* to = BetterFor(fiber, host, here);
  return to != nullptr && to != &here.worker && MoveContext(context, host, *to) ? to : nullptr;
}

}  // namespace

void FiberAccess::NoteWaker(Fiber& fiber) {
  WorkerHost* here = ThreadWorker();
  if (here == nullptr || here->current == nullptr) return;
  State& s = StateOf(fiber);
  if (&here->worker == &fiber.worker()) {
    s.peer_looks = s.peer_idle = 0;
    return;
  }
  if (s.peer != &here->worker) s.peer_idle = 0;
  s.peer = &here->worker;
  s.peer_looks = kLooksAtPeer;
}

void FiberAccess::LookAtPeer(Fiber& fiber) {
  State& s = StateOf(fiber);
  if (s.peer_looks == 0) return;
  if (IsIdle(ThreadWorker()->scheduler, *s.peer)) {
    s.peer_looks = 0;
    ++s.peer_idle;
  } else if (--s.peer_looks == 0 && s.peer_idle > 0) {
    --s.peer_idle;
  }
}

void FiberAccess::FinishMove(Fiber& fiber) {
  State& s = StateOf(fiber);
  Worker& to = *s.moves_to;
  s.moves_to = nullptr;
  s.peer_looks = s.peer_idle = 0;
  fiber.worker_.store(&to, std::memory_order_relaxed);
  WorkerAccess::Push(to, fiber);
}

void MaybeMove(platform::Context& context) {
  CHECK(HoldsNoMutex());
  Fiber& fiber = Fiber::Current();
  FiberAccess::State& s = FiberAccess::StateOf(fiber);
  s.moves_to = PrepareMove(fiber, context);
  if (s.moves_to != nullptr) SwitchToLoop(/*finished=*/false);
}

}  // namespace skep::sched
