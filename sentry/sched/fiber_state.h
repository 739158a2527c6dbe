// What sched/ keeps of a fiber, all of it in the arena.
#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <functional>

#include "base/mutex.h"
#include "sentry/sched/fiber.h"
#include "sentry/sched/timer_queue.h"

namespace skep::sched {

struct Fiber::State {
  // Bits of `word`. The thread whose Unpark finds a fiber parked without a token makes it ready.
  static constexpr uint32_t kToken = 1;   // woken since it last parked
  static constexpr uint32_t kParked = 2;  // suspended, or about to be by its own thread
  // Its deadline has passed and it is in its worker's list of late fibers. Who clears this makes it
  // ready, or runs it.
  static constexpr uint32_t kLate = 4;

  State() = default;

  // Constant while the fiber lives.
  std::byte* stack = nullptr;
  void** saved_sp = nullptr;  // the context to switch to, where Freeze finds it

  std::move_only_function<void()> body;
  std::atomic<uint32_t> word{0};
  std::atomic<char> sleep_letter{'R'};  // see fiber_sleep.h
  std::atomic<int64_t> heap_bytes{0};   // fiber_heap.h

  // Its worker's thread only (next_ready also by whoever pushes it to the worker's inbox).
  Fiber* next_ready = nullptr;
  TimerNode deadline;
  bool timed_out = false;
  Fiber *next_late = nullptr, *previous_late = nullptr;
  bool in_late_list = false;
  void* fake_stack = nullptr;  // AddressSanitizer's
  Worker* moves_to = nullptr;  // when it has switched to the loop

  // The other worker whose fiber woke it last: whoever makes it ready writes these. How many looks
  // at that worker are left; how often it had nothing to do then.
  Worker* peer = nullptr;
  int peer_looks = 0;
  int peer_idle = 0;

  // RunGuest. The lock is for Interrupt, which may come from any thread; `guest` is set while the
  // context may be interrupted. The rest is its worker's thread's.
  Mutex guest_lock{LockRank::kRunQueue};
  platform::Context* guest GUARDED_BY(guest_lock) = nullptr;
  platform::Context* waits_for = nullptr;
  platform::AddressSpace* space = nullptr;
  GuestEnd guest_end = GuestEnd::kStopped;
  Fiber* next_guest = nullptr;
  Fiber* previous_guest = nullptr;

  // Fiber::Costs. Written by its worker's thread only. `guest_since`: when the guest that runs now
  // was resumed; 0: none runs.
  std::atomic<uint64_t> kernel_ticks{0}, guest_ticks{0}, guest_since{0};
  std::atomic<uint64_t> voluntary_switches{0}, involuntary_switches{0};

  void* release_list = nullptr;  // release_slot.h

  // Debug builds: how many SleepLocks of each rank it holds.
  std::array<uint8_t, 8> sleep_locks{};
};

struct FiberAccess {
  using State = Fiber::State;
  static State& StateOf(Fiber& fiber) { return *fiber.state_; }
  static const State& StateOf(const Fiber& fiber) { return *fiber.state_; }
  // A fiber that is not ready yet.
  static Result<Ref<Fiber>> Make(Worker& worker, std::move_only_function<void()> body);
  // On its worker's loop, when its body has returned; drops the reference it had to itself.
  static void Finish(Fiber& fiber);
  // One that will never run again, in the middle of what it did.
  static void Abandon(Fiber& fiber);
  static void ReleaseStack(Fiber& fiber);
  // For a parked fiber that the caller is about to make ready.
  static void NoteWaker(Fiber& fiber);
  // For the current fiber, at a stop of its guest.
  static void LookAtPeer(Fiber& fiber);
  // On the loop of the worker that it leaves; it may run elsewhere at once.
  static void FinishMove(Fiber& fiber);
};

}  // namespace skep::sched
