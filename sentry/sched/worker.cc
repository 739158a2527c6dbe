#include <fmt/format.h>
#include <linux/futex.h>
#include <sys/syscall.h>
#include <algorithm>
#include <ctime>

#include "base/check.h"
#include "base/host_call.h"
#include "base/log.h"
#include "sentry/arena/arena.h"
#include "sentry/sched/worker_internal.h"

namespace skep::sched {
namespace {

// After this many fibers the engine is asked for stops, and after this many stops fibers run; each
// after a millisecond at most.
constexpr int kBatch = 64;
// A fiber whose deadline has passed runs after this many others.
constexpr int kTurnsBeforeLate = 4;
// While this many guests run, a fiber whose deadline has passed is resumed only once in
// kLatePeriodNs: a crowd that is resumed at once takes the CPU from the holder of the lock it
// wants.
constexpr int kGuestsBeforeLate = 4;
constexpr uint64_t kLatePeriodNs = 100'000;

// State of the host process, not of the kernel.
std::atomic<SchedulerHost*> running_host{nullptr};
thread_local WorkerHost* thread_worker = nullptr;

void PushReady(WorkerAccess::State& w, Fiber& fiber) {
  FiberAccess::State& s = FiberAccess::StateOf(fiber);
  s.next_ready = nullptr;
  (w.last_ready != nullptr ? FiberAccess::StateOf(*w.last_ready).next_ready : w.first_ready) =
      &fiber;
  w.last_ready = &fiber;
  w.ready_count.store(w.ready_count.load(std::memory_order_relaxed) + 1, std::memory_order_relaxed);
}

void UnlinkLate(WorkerAccess::State& w, Fiber& fiber) {
  FiberAccess::State& s = FiberAccess::StateOf(fiber);
  if (!s.in_late_list) return;
  s.in_late_list = false;
  (s.previous_late != nullptr ? FiberAccess::StateOf(*s.previous_late).next_late : w.first_late) =
      s.next_late;
  (s.next_late != nullptr ? FiberAccess::StateOf(*s.next_late).previous_late : w.last_late) =
      s.previous_late;
}

Fiber& PopReady(WorkerAccess::State& w) {
  Fiber& fiber = *w.first_ready;
  w.first_ready = FiberAccess::StateOf(fiber).next_ready;
  if (w.first_ready == nullptr) w.last_ready = nullptr;
  w.ready_count.store(w.ready_count.load(std::memory_order_relaxed) - 1, std::memory_order_relaxed);
  return fiber;
}

}  // namespace

SchedulerHost* RunningHost() { return running_host.load(std::memory_order_acquire); }
void SetRunningHost(SchedulerHost* host) { running_host.store(host, std::memory_order_release); }

[[gnu::noinline]] WorkerHost* ThreadWorker() {
  asm volatile("" ::: "memory");  // not a function whose result the compiler may keep
  return thread_worker;
}
[[gnu::noinline]] void SetThreadWorker(WorkerHost* worker) { thread_worker = worker; }

void HostEvent::Signal() {
  word_.fetch_add(1, std::memory_order_seq_cst);
  (void)host::Call(SYS_futex, &word_, FUTEX_WAKE_PRIVATE, INT32_MAX);
}

bool HostEvent::WaitPast(uint32_t seen, platform::Deadline deadline) {
  while (Now() == seen) {
    timespec until{};
    if (deadline) {
      if (host::MonotonicNs() >= *deadline) return false;
      until.tv_sec = static_cast<time_t>(*deadline / 1'000'000'000);
      until.tv_nsec = static_cast<long>(*deadline % 1'000'000'000);
    }
    // FUTEX_WAIT_BITSET takes an absolute time. Whatever it answers, the word decides.
    (void)host::Call(SYS_futex, &word_, FUTEX_WAIT_BITSET_PRIVATE, seen,
                     deadline ? &until : nullptr, 0, FUTEX_BITSET_MATCH_ANY);
  }
  return true;
}

void WorkerAccess::PushLocal(Worker& worker, Fiber& fiber) { PushReady(StateOf(worker), fiber); }

void WorkerAccess::PushLate(Worker& worker, Fiber& fiber) {
  State& w = StateOf(worker);
  FiberAccess::State& s = FiberAccess::StateOf(fiber);
  s.timed_out = true;
  uint32_t parked = FiberAccess::State::kParked;
  constexpr uint32_t kWoken = FiberAccess::State::kParked | FiberAccess::State::kToken;
  s.next_late = nullptr;
  s.previous_late = w.last_late;
  s.in_late_list = true;
  (w.last_late != nullptr ? FiberAccess::StateOf(*w.last_late).next_late : w.first_late) = &fiber;
  w.last_late = &fiber;
  // Else it has been woken already, and is ready.
  if (!s.word.compare_exchange_strong(parked, kWoken | FiberAccess::State::kLate,
                                      std::memory_order_acq_rel)) {
    UnlinkLate(w, fiber);
  }
}

void WorkerAccess::Push(Worker& worker, Fiber& fiber) {
  WorkerHost* here = ThreadWorker();
  if (here != nullptr && &here->worker == &worker) {
    PushLocal(worker, fiber);
    return;
  }
  std::atomic<Fiber*>& inbox = StateOf(worker).inbox;
  Fiber*& next = FiberAccess::StateOf(fiber).next_ready;
  next = inbox.load(std::memory_order_relaxed);
  while (!inbox.compare_exchange_weak(next, &fiber, std::memory_order_seq_cst)) {
  }
  WakeUp(worker);
}

// The worker sets `waiting`, then looks for news; here the news come first, then the look at
// `waiting`. One of the two sees the other. Kick is sticky, so it may come before the Wait.
void WorkerAccess::WakeUp(Worker& worker) {
  SchedulerHost* scheduler = RunningHost();
  if (scheduler == nullptr) return;
  WorkerHost& host = *scheduler->workers[static_cast<size_t>(worker.index())];
  if (!host.waiting.load(std::memory_order_seq_cst)) return;
  if (host.waiting.exchange(false, std::memory_order_seq_cst)) host.engine->Kick();
}

void WorkerAccess::LinkGuest(Worker& worker, Fiber& fiber) {
  State& w = StateOf(worker);
  FiberAccess::State& s = FiberAccess::StateOf(fiber);
  s.previous_guest = nullptr;
  s.next_guest = w.guests;
  if (w.guests != nullptr) FiberAccess::StateOf(*w.guests).previous_guest = &fiber;
  w.guests = &fiber;
  w.guest_count.store(w.guest_count.load(std::memory_order_relaxed) + 1, std::memory_order_relaxed);
}

void WorkerAccess::UnlinkGuest(Worker& worker, Fiber& fiber) {
  State& w = StateOf(worker);
  FiberAccess::State& s = FiberAccess::StateOf(fiber);
  if (s.next_guest != nullptr)
    FiberAccess::StateOf(*s.next_guest).previous_guest = s.previous_guest;
  if (s.previous_guest != nullptr) {
    FiberAccess::StateOf(*s.previous_guest).next_guest = s.next_guest;
  } else {
    w.guests = s.next_guest;
  }
  s.next_guest = s.previous_guest = nullptr;
  w.guest_count.store(w.guest_count.load(std::memory_order_relaxed) - 1, std::memory_order_relaxed);
}

void WorkerHost::TakeInbox() {
  WorkerAccess::State& w = WorkerAccess::StateOf(worker);
  if (w.inbox.load(std::memory_order_relaxed) == nullptr) return;
  Fiber* taken = w.inbox.exchange(nullptr, std::memory_order_acquire);
  Fiber* in_order = nullptr;
  while (taken != nullptr) {
    Fiber*& next = FiberAccess::StateOf(*taken).next_ready;
    Fiber* after = next;
    next = in_order;
    in_order = taken;
    taken = after;
  }
  while (in_order != nullptr) {
    Fiber& fiber = *in_order;
    in_order = FiberAccess::StateOf(fiber).next_ready;
    PushReady(w, fiber);
  }
}

void WorkerHost::ExpireTimers() {
  WorkerAccess::State& w = WorkerAccess::StateOf(worker);
  if (w.timers.first() == TimerQueue::kNone) return;
  const uint64_t now = worker.scheduler().clock().MonotonicNs();
  if (w.timers.first() > now) return;
  bool due = false;
  {
    MutexLock lock(w.timers.mutex());
    while (TimerNode* node = w.timers.PopExpired(now)) {
      if (node->fiber != nullptr) {
        WorkerAccess::PushLate(worker, *node->fiber);
      } else {
        w.timers.AddDue(*node->timer);
        due = true;
      }
    }
  }
  if (due) w.system->Unpark();
}

void WorkerHost::LookAtGuests() {
  SchedulerAccess::State& s = WorkerAccess::SchedulerStateOf(worker);
  if (s.guest_watch == nullptr) return;
  uint64_t due = s.guest_watch_due.load(std::memory_order_relaxed);
  const uint64_t now = host::MonotonicNs();
  if (now < due) return;
  // One worker looks for all; the others, going to sleep meanwhile, wake up soon.
  if (!s.guest_watch_due.compare_exchange_strong(due, now + 1'000'000)) return;
  s.guest_watch_due.store(s.guest_watch->Look(now), std::memory_order_relaxed);
}

void WorkerHost::RunReady() {
  WorkerAccess::State& w = WorkerAccess::StateOf(worker);
  int batch = std::min(w.ready_count.load(std::memory_order_relaxed), kBatch);
  const uint64_t started = TicksNow();
  for (bool out_of_time = false; batch > 0 && !out_of_time; --batch) {
    Fiber& fiber = PopReady(w);
    UnlinkLate(w, fiber);
    RunFiber(fiber);
    out_of_time = TicksNow() - started >= turn.ms_ticks();
    if (++turns_since_late >= kTurnsBeforeLate || out_of_time) RunLate();
  }
}

// One of them.
void WorkerHost::RunLate() {
  WorkerAccess::State& w = WorkerAccess::StateOf(worker);
  turns_since_late = 0;
  while (Fiber* fiber = w.first_late) {
    UnlinkLate(w, *fiber);
    constexpr uint32_t kLate = FiberAccess::State::kLate;
    auto& word = FiberAccess::StateOf(*fiber).word;
    // Else it was woken meanwhile and is ready, or will be.
    if ((word.fetch_and(~kLate, std::memory_order_acq_rel) & kLate) == 0) continue;
    RunFiber(*fiber);
    return;
  }
}

bool WorkerHost::OnEvent(platform::Event event) {
  // Guests that stop all the time must not keep watched descriptors from being looked at.
  const bool woken = std::holds_alternative<platform::Woken>(event);
  if (poller.watching() && (woken || TicksNow() - watches_looked_at >= turn.ms_ticks())) {
    watches_looked_at = TicksNow();
    CollectWatches(*this);
  }
  if (auto* stopped = std::get_if<platform::Stopped>(&event)) {
    // A context that nobody waits for (its fiber was told Died) has nothing to say.
    auto* fiber = static_cast<Fiber*>(stopped->context->cookie);
    FiberAccess::State& s = FiberAccess::StateOf(*fiber);
    if (s.waits_for != stopped->context) return true;
    CHECK(&fiber->worker() == &worker && "a fiber runs guests of its own worker's engine");
    s.waits_for = nullptr;
    s.guest_end = GuestEnd::kStopped;
    WorkerAccess::UnlinkGuest(worker, *fiber);
    PushReady(WorkerAccess::StateOf(worker), *fiber);
    return true;
  }
  if (auto* died = std::get_if<platform::Died>(&event)) {
    SKEP_LOG(kInfo, "a guest address space died: {}", died->why);
    OnDied(died->space);
    for (const std::unique_ptr<WorkerHost>& other : scheduler.workers) {
      if (other.get() == this) continue;
      {
        MutexLock lock(other->died_lock);
        other->died_spaces.push_back(died->space);
      }
      other->has_died.store(true, std::memory_order_seq_cst);
      WorkerAccess::WakeUp(other->worker);
    }
  }
  return !woken;
}

void WorkerHost::OnDied(platform::AddressSpace* space) {
  WorkerAccess::State& w = WorkerAccess::StateOf(worker);
  Fiber* next = nullptr;
  for (Fiber* fiber = w.guests; fiber != nullptr; fiber = next) {
    FiberAccess::State& s = FiberAccess::StateOf(*fiber);
    next = s.next_guest;
    if (s.space != space) continue;
    s.waits_for = nullptr;
    s.guest_end = GuestEnd::kDied;
    WorkerAccess::UnlinkGuest(worker, *fiber);
    PushReady(w, *fiber);
  }
}

void WorkerHost::TakeDied() {
  if (!has_died.load(std::memory_order_relaxed)) return;
  has_died.store(false, std::memory_order_seq_cst);
  std::vector<platform::AddressSpace*> taken;
  {
    MutexLock lock(died_lock);
    taken.swap(died_spaces);
  }
  for (platform::AddressSpace* space : taken) OnDied(space);
}

// Guests that have stopped while fibers were, and still are, ready.
void WorkerHost::TakeStops() {
  for (int i = 0; i < kBatch && OnEvent(engine->Wait(0, poller)); ++i) {
  }
}

// `phase` is the one that Loop acted on: one that came after it must not be slept through.
void WorkerHost::WaitForEvent(Phase phase) {
  WorkerAccess::State& w = WorkerAccess::StateOf(worker);
  waiting.store(true, std::memory_order_seq_cst);
  if (w.inbox.load(std::memory_order_seq_cst) != nullptr ||
      has_died.load(std::memory_order_seq_cst) ||
      scheduler.phase.load(std::memory_order_seq_cst) != phase) {
    waiting.store(false, std::memory_order_relaxed);
    return;
  }
  platform::Deadline deadline;
  if (phase == Phase::kQuiescing) {
    if (w.guest_count.load(std::memory_order_relaxed) == 0) {
      resting.store(true, std::memory_order_seq_cst);
      scheduler.news.Signal();
    }
  } else if (const uint64_t first = w.timers.first(); first != TimerQueue::kNone) {
    deadline = worker.scheduler().clock().ToHost(first);
  }
  SchedulerAccess::State& s = WorkerAccess::SchedulerStateOf(worker);
  if (s.guest_watch != nullptr && w.guest_count.load(std::memory_order_relaxed) > 0) {
    const uint64_t due = s.guest_watch_due.load(std::memory_order_relaxed);
    if (!deadline || due < *deadline) deadline = due;
  }
  if (w.first_late != nullptr && (!deadline || next_late_ns < *deadline)) deadline = next_late_ns;
  platform::Event event = engine->Wait(deadline, poller);
  waiting.store(false, std::memory_order_seq_cst);
  if (resting.load(std::memory_order_relaxed)) {
    rest_epoch.fetch_add(1, std::memory_order_seq_cst);
    resting.store(false, std::memory_order_seq_cst);
  }
  // A frozen scheduler takes no event. One that is ready on the host stays ready.
  if (scheduler.phase.load(std::memory_order_seq_cst) == Phase::kFrozen) return;
  (void)OnEvent(std::move(event));
}

void WorkerHost::Loop() {
  WorkerAccess::State& w = WorkerAccess::StateOf(worker);
  for (;;) {
    const Phase phase = scheduler.phase.load(std::memory_order_seq_cst);
    if (phase == Phase::kStopping || phase == Phase::kStopped) return;
    if (phase == Phase::kFrozen) {
      StayFrozen();
      continue;
    }
    TakeInbox();
    TakeDied();
    if (phase == Phase::kRunning) {
      ExpireTimers();
      LookAtGuests();
    }
    RunReady();
    const bool may_stop = w.guest_count.load(std::memory_order_relaxed) > 0 || poller.watching();
    if (w.first_ready == nullptr && w.first_late == nullptr) {
      WaitForEvent(phase);
    } else if (may_stop) {
      TakeStops();
    }
    // Nothing else to do, and no guest has stopped.
    const bool news = w.inbox.load(std::memory_order_relaxed) != nullptr;
    if (w.first_late == nullptr || w.first_ready != nullptr || news) continue;
    const bool few = w.guest_count.load(std::memory_order_relaxed) < kGuestsBeforeLate;
    const uint64_t now = few ? 0 : host::MonotonicNs();
    if (few || now >= next_late_ns) {
      next_late_ns = few ? 0 : now + kLatePeriodNs;
      RunLate();
    } else {
      WaitForEvent(phase);
    }
  }
}

void WorkerHost::StayFrozen() {
  {
    MutexLock lock(scheduler.order_lock);
    frozen = true;
  }
  scheduler.news.Signal();
  for (;;) {
    const uint32_t seen = scheduler.orders.Now();
    if (scheduler.phase.load(std::memory_order_seq_cst) != Phase::kFrozen) break;
    const std::function<void(Worker&)>* work = nullptr;
    {
      MutexLock lock(scheduler.order_lock);
      work = order;
    }
    if (work == nullptr) {
      scheduler.orders.WaitPast(seen);
      continue;
    }
    {
      const arena::ArenaHeapScope arena;
      (*work)(worker);
    }
    {
      MutexLock lock(scheduler.order_lock);
      order = nullptr;
    }
    scheduler.news.Signal();
  }
  MutexLock lock(scheduler.order_lock);
  frozen = false;
}

}  // namespace skep::sched
