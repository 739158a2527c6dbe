#include "sentry/sched/fiber.h"

#include <boost/context/detail/fcontext.hpp>
#include <cstring>

#include "base/check.h"
#include "sentry/arena/arena.h"
#include "sentry/sched/fiber_heap.h"
#include "sentry/sched/fiber_sleep.h"
#include "sentry/sched/fiber_state.h"
#include "sentry/sched/release_slot.h"
#include "sentry/sched/worker_internal.h"

#ifdef SKEP_NO_ARENA
#include <sanitizer/common_interface_defs.h>
#endif

namespace skep::sched {
namespace {

using boost::context::detail::jump_fcontext;
using boost::context::detail::make_fcontext;
using boost::context::detail::transfer_t;

// Above a fiber's first frame: the sanitizer build keeps a word there, and frames start aligned.
constexpr size_t kTopReserve = 64;

#ifdef SKEP_NO_ARENA
void LeaveLoop(WorkerHost& host, Fiber& fiber, void** fake_stack) {
  (void)host;
  __sanitizer_start_switch_fiber(fake_stack, FiberAccess::StateOf(fiber).stack, arena::kStackSize);
}
void BackInLoop(void* fake_stack) { __sanitizer_finish_switch_fiber(fake_stack, nullptr, nullptr); }
void LeaveFiber(WorkerHost& host, void** fake_stack) {
  __sanitizer_start_switch_fiber(fake_stack, host.loop_stack, host.loop_stack_size);
}
void BackInFiber(void* fake_stack) {
  WorkerHost* host = ThreadWorker();
  __sanitizer_finish_switch_fiber(fake_stack, &host->loop_stack, &host->loop_stack_size);
}
#else
void LeaveLoop(WorkerHost&, Fiber&, void**) {}
void BackInLoop(void*) {}
void LeaveFiber(WorkerHost&, void**) {}
void BackInFiber(void*) {}
#endif

void FiberMain(transfer_t from) {
  BackInFiber(nullptr);
  ThreadWorker()->loop_context = from.fctx;
  FiberAccess::State& s = FiberAccess::StateOf(Fiber::Current());
  s.body();
  s.body = nullptr;
  SwitchToLoop(/*finished=*/true);
  __builtin_unreachable();
}

// Its address tells the loop that the fiber does not come back.
constexpr char kEnds = 0;

bool MayEnd(const Fiber& fiber, Sleep sleep) {
  switch (sleep) {
    case Sleep::kInterruptible:
      return fiber.interrupted() || fiber.killed();
    case Sleep::kKillable:
      return fiber.killed();
    case Sleep::kUninterruptible:
      return false;
  }
  return false;
}

}  // namespace

// Nothing of the host may stay in this frame: it is on the fiber's stack while that sleeps.
[[gnu::noinline]] void SwitchToLoop(bool finished) {
  void** fake_stack = nullptr;
#ifdef SKEP_NO_ARENA
  if (!finished) fake_stack = &FiberAccess::StateOf(Fiber::Current()).fake_stack;
#endif
  LeaveFiber(*ThreadWorker(), fake_stack);
  // No address of a local is given away: a sanitizer may have taken this frame from us.
  const transfer_t from =
      jump_fcontext(ThreadWorker()->loop_context, finished ? const_cast<char*>(&kEnds) : nullptr);
  BackInFiber(fake_stack != nullptr ? *fake_stack : nullptr);
  ThreadWorker()->loop_context = from.fctx;
}

void WorkerHost::RunFiber(Fiber& fiber) {
  FiberAccess::State& s = FiberAccess::StateOf(fiber);
  current = &fiber;
  void* fake_stack = nullptr;
  LeaveLoop(*this, fiber, &fake_stack);
  arena::SetThreadHeap(arena::Heap::kArena);
  const size_t heap_before = arena::CurrentUsage().heap_bytes;
  BeginTurn(fiber);
  const transfer_t from = jump_fcontext(*s.saved_sp, &fiber);
  EndTurn(fiber);
  const auto taken = static_cast<int64_t>(arena::CurrentUsage().heap_bytes - heap_before);
  if (taken != 0) s.heap_bytes.fetch_add(taken, std::memory_order_relaxed);
  arena::SetThreadHeap(arena::Heap::kHost);
  BackInLoop(fake_stack);
  current = nullptr;
  if (from.data != nullptr) {
    FiberAccess::Finish(fiber);
    return;
  }
  *s.saved_sp = from.fctx;
  if (s.moves_to != nullptr) FiberAccess::FinishMove(fiber);
}

int64_t HeapBytesOf(Fiber& fiber) {
  return FiberAccess::StateOf(fiber).heap_bytes.load(std::memory_order_relaxed);
}

Result<Ref<Fiber>> FiberAccess::Make(Worker& worker, std::move_only_function<void()> body) {
  const arena::ArenaHeapScope arena;
  Result<std::byte*> stack = arena::AllocateStack();
  if (!stack) return Fail(EAGAIN);
  Ref<Fiber> fiber(new Fiber(worker));
  fiber->state_ = new Fiber::State;
  State& s = *fiber->state_;
  s.stack = *stack;
  s.saved_sp = &arena::SavedStackPointer(*stack);
  s.body = std::move(body);
  s.deadline.fiber = fiber.get();
  std::byte* top = *stack + arena::kStackSize - kTopReserve;
  // Values that an earlier fiber left there would become this one's first register values.
  memset(top - 256, 0, 256);
  *s.saved_sp = make_fcontext(top, arena::kStackSize - kTopReserve, &FiberMain);
  fiber->IncRef();  // its own, until Finish
  return fiber;
}

void FiberAccess::ReleaseStack(Fiber& fiber) {
  arena::FreeStack(fiber.state_->stack);
  fiber.state_->stack = nullptr;
}

void FiberAccess::Finish(Fiber& fiber) {
  ReleaseStack(fiber);
  fiber.finished_.store(true, std::memory_order_release);
  fiber.DecRef();
}

void FiberAccess::Abandon(Fiber& fiber) {
  ReleaseStack(fiber);
  fiber.DecRef();
}

Result<Ref<Fiber>> Fiber::Spawn(Worker& worker, std::move_only_function<void()> body) {
  Ref<Fiber> fiber = TRY(FiberAccess::Make(worker, std::move(body)));
  WorkerAccess::Push(worker, *fiber);
  return fiber;
}

Fiber::~Fiber() {
  CHECK(state_->stack == nullptr);
  delete state_;
}

Fiber* Fiber::CurrentOrNull() {
  WorkerHost* host = ThreadWorker();
  return host == nullptr ? nullptr : host->current;
}

Fiber& Fiber::Current() {
  Fiber* fiber = CurrentOrNull();
  CHECK(fiber != nullptr);
  return *fiber;
}

void Fiber::Unpark() {
  const uint32_t old = state_->word.fetch_or(State::kToken, std::memory_order_acq_rel);
  // One that is late and is woken has something to do for somebody else: it is late no longer.
  const bool was_late =
      (old & State::kLate) != 0 &&
      (state_->word.fetch_and(~State::kLate, std::memory_order_acq_rel) & State::kLate) != 0;
  if (old == State::kParked || was_late) {
    FiberAccess::NoteWaker(*this);
    WorkerAccess::Push(worker(), *this);
  }
}

void Fiber::Interrupt() {
  interrupted_.store(true, std::memory_order_seq_cst);
  InterruptGuest();
  Unpark();
}

void Fiber::StopGuest() {
  guest_stop_wanted_.store(true, std::memory_order_seq_cst);
  InterruptGuest();
}

void Fiber::Kill() {
  killed_.store(true, std::memory_order_seq_cst);
  InterruptGuest();
  Unpark();
}

// RunGuest publishes the context under the lock and looks at the flags after: one of the two sees
// the other. The lock also keeps the context alive.
void Fiber::InterruptGuest() {
  const arena::HostHeapScope host;
  MutexLock lock(state_->guest_lock);
  if (state_->guest != nullptr) state_->guest->Interrupt();
}

void*& ReleaseSlot() {
  thread_local void* outside_of_fibers = nullptr;
  Fiber* fiber = Fiber::CurrentOrNull();
  return fiber != nullptr ? FiberAccess::StateOf(*fiber).release_list : outside_of_fibers;
}

char SleepLetterOf(const Fiber& fiber) {
  return FiberAccess::StateOf(fiber).sleep_letter.load(std::memory_order_relaxed);
}

WakeReason Suspend(Deadline deadline, Sleep sleep) {
  CHECK(HoldsNoMutex());
  Fiber& fiber = Fiber::Current();
  FiberAccess::State& s = FiberAccess::StateOf(fiber);
  uint32_t expected = 0;
  if (s.word.load(std::memory_order_acquire) == 0) {
    if (MayEnd(fiber, sleep)) return WakeReason::kInterrupted;
    if (deadline && fiber.worker().scheduler().clock().MonotonicNs() >= *deadline) {
      return WakeReason::kTimedOut;
    }
  }
  // A thread that makes the fiber ready from here on hands it to this thread, which is still busy.
  if (!s.word.compare_exchange_strong(expected, FiberAccess::State::kParked,
                                      std::memory_order_acq_rel)) {
    s.word.exchange(0, std::memory_order_seq_cst);
    return WakeReason::kWoken;
  }
  TimerQueue& timers = WorkerAccess::StateOf(fiber.worker()).timers;
  s.timed_out = false;
  if (deadline) {
    MutexLock lock(timers.mutex());
    timers.Add(s.deadline, *deadline);
  }
  s.voluntary_switches.fetch_add(1, std::memory_order_relaxed);
  if (sleep != Sleep::kUninterruptible) {
    s.sleep_letter.store(sleep == Sleep::kInterruptible ? 'S' : 'D', std::memory_order_relaxed);
  }
  SwitchToLoop(/*finished=*/false);
  s.sleep_letter.store('R', std::memory_order_relaxed);
  // A full barrier: the caller's look at its condition must not come before the token is gone.
  s.word.exchange(0, std::memory_order_seq_cst);
  if (deadline && !s.timed_out) {
    MutexLock lock(timers.mutex());
    if (s.deadline.queued()) timers.Remove(s.deadline);
  }
  if (MayEnd(fiber, sleep)) return WakeReason::kInterrupted;
  return s.timed_out ? WakeReason::kTimedOut : WakeReason::kWoken;
}

void Yield() {
  CHECK(HoldsNoMutex());
  Fiber& fiber = Fiber::Current();
  FiberAccess::StateOf(fiber).involuntary_switches.fetch_add(1, std::memory_order_relaxed);
  WorkerAccess::PushLocal(fiber.worker(), fiber);
  SwitchToLoop(/*finished=*/false);
}

bool YieldIfLong() {
  const WorkerHost* const host = ThreadWorker();
  if (host == nullptr || host->current == nullptr) return true;
  if (TicksNow() - host->turn_started >= host->turn.ms_ticks()) Yield();
  return !Fiber::Current().killed();
}

[[gnu::noinline]] void ScrubStack() {
  const std::byte* bottom = FiberAccess::StateOf(Fiber::Current()).stack;
  uintptr_t at = 0;
  asm volatile("mov %%rsp, %0" : "=r"(at));
  // SAFETY: below the stack pointer nothing is in use: only functions that call none have a red
  // zone.
  constexpr size_t kUntouched = 2 * 4096;
  size_t zeros = 0;
  while (at > reinterpret_cast<uintptr_t>(bottom) && zeros < kUntouched) {
    at -= sizeof(uint64_t);
    auto* word = reinterpret_cast<uint64_t*>(at);
    zeros = *word == 0 ? zeros + sizeof *word : 0;
    // Not a plain store: to the compiler nobody ever reads it.
    if (*word != 0) std::atomic_ref(*word).store(0, std::memory_order_relaxed);
  }
}

GuestEnd RunGuest(platform::Context& context, platform::AddressSpace& space) {
  CHECK(HoldsNoMutex());
  Fiber& fiber = Fiber::Current();
  FiberAccess::State& s = FiberAccess::StateOf(fiber);
  context.cookie = &fiber;
  s.waits_for = &context;
  s.space = &space;
  WorkerAccess::LinkGuest(fiber.worker(), fiber);
  {
    MutexLock lock(s.guest_lock);
    s.guest = &context;
  }
  {
    const arena::HostHeapScope host;
    if (fiber.interrupted() || fiber.killed() || fiber.guest_stop_wanted()) context.Interrupt();
    context.Resume();
  }
  // Only the stop (or the death) of the guest makes the fiber ready; an Unpark leaves its token.
  SwitchToLoop(/*finished=*/false);
  {
    MutexLock lock(s.guest_lock);
    s.guest = nullptr;
  }
  s.space = nullptr;
  FiberAccess::LookAtPeer(fiber);
  return s.guest_end;
}

}  // namespace skep::sched
