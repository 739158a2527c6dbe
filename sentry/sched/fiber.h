// Fibers: the kernel-side execution of guest threads and of the sentry's own background work.
//
// A fiber runs on its worker's host thread until it suspends; nothing preempts it. It may hold no
// Mutex across a suspension. Wake-ups are never lost: Unpark on a running fiber makes its next
// Suspend return at once; so every wait is a loop around its condition.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>

#include "base/ref.h"
#include "base/result.h"
#include "platform/platform.h"

namespace skep::sched {

class Worker;

// What may end a sleep early (Linux: TASK_INTERRUPTIBLE, TASK_KILLABLE, TASK_UNINTERRUPTIBLE).
enum class Sleep : uint8_t { kInterruptible, kKillable, kUninterruptible };
enum class WakeReason : uint8_t { kWoken, kTimedOut, kInterrupted };

// Absolute time on the sandbox's virtual monotonic clock, ns (sched/clock.h); nullopt: for ever.
using Deadline = std::optional<uint64_t>;

class Fiber : public RefCounted<Fiber> {
 public:
  // A new fiber on `worker`, ready to run `body` there. EAGAIN when stacks have run out. Any
  // thread.
  static Result<Ref<Fiber>> Spawn(Worker& worker, std::move_only_function<void()> body);

  // The fiber that is running on this thread. CHECKs that there is one.
  static Fiber& Current();
  static Fiber* CurrentOrNull();

  // Where it runs; another one after MaybeMove.
  Worker& worker() const { return *worker_.load(std::memory_order_relaxed); }

  // Any thread. Wakes the fiber if it is suspended; else its next Suspend returns kWoken at once.
  void Unpark();

  // Any thread. There is something for this fiber to look at (a signal, a stop, a freeze):
  // interruptible sleeps end with kInterrupted now and from now on, and a guest that runs for this
  // fiber is interrupted, until ClearInterrupt.
  void Interrupt();
  void ClearInterrupt() {
    interrupted_.store(false, std::memory_order_seq_cst);
    guest_stop_wanted_.store(false, std::memory_order_seq_cst);
  }
  bool interrupted() const { return interrupted_.load(std::memory_order_seq_cst); }
  // Any thread; for a freeze. A guest that runs for this fiber is interrupted, now or at the next
  // RunGuest, until ClearInterrupt; sleeps go on.
  void StopGuest();
  bool guest_stop_wanted() const { return guest_stop_wanted_.load(std::memory_order_seq_cst); }
  // Any thread; for good: as Interrupt, and killable sleeps end too.
  void Kill();
  bool killed() const { return killed_.load(std::memory_order_seq_cst); }

  bool finished() const { return finished_.load(std::memory_order_acquire); }

  // What it has cost so far, in ticks (sched/ticks.h) of wall time: `kernel`, its own turns on its
  // worker (less what the host took away from them); `guest`, while RunGuest's guest could run. Any
  // thread; of the fiber that runs now elsewhere, as of the start of its turn.
  struct Costs {
    uint64_t kernel_ticks = 0, guest_ticks = 0;
    uint64_t voluntary_switches = 0, involuntary_switches = 0;  // sleeps; yields
  };
  Costs costs() const;

  // What the fiber executes for (kernel::Task); sched/ does not look at it.
  void* cookie = nullptr;

 private:
  friend class RefCounted<Fiber>;
  friend struct FiberAccess;
  explicit Fiber(Worker& worker) : worker_(&worker) {}
  ~Fiber();
  void InterruptGuest();

  std::atomic<Worker*> worker_;  // changed while the fiber neither runs nor is parked
  std::atomic<bool> interrupted_{false};
  std::atomic<bool> killed_{false};
  std::atomic<bool> guest_stop_wanted_{false};
  std::atomic<bool> finished_{false};
  struct State;  // fiber_state.h: stack, parking state, deadline, the guest that is being run
  State* state_ = nullptr;
};

// Suspends the current fiber until Unpark, the deadline, or what `sleep` lets end it. May return
// kWoken spuriously.
WakeReason Suspend(Deadline deadline, Sleep sleep);
// Lets other ready fibers of this worker (and guests that have stopped) go first.
void Yield();

// For loops over many bytes or entries, after each step of at most some hundred microseconds: lets
// others go first once the current fiber has run for a millisecond. False: it was killed, and the
// loop ends with what is done (Linux: cond_resched and fatal_signal_pending). Where there is no
// fiber: true. No Mutex may be held.
[[nodiscard]] bool YieldIfLong();

// Zeroes what earlier, deeper calls left below the caller's frame, so that the holes of frames to
// come hold no stale words: before a fiber stops for a checkpoint that is to be scanned.
void ScrubStack();

// Resumes a guest and suspends the current fiber until it stops. `context` delivers its stops on
// the engine of the current worker. An Unpark meanwhile does not end it and counts for the next
// Suspend. Interrupt and Kill, before or meanwhile, reach the guest as Context::Interrupt; as that
// is sticky, a guest that stops of itself at that moment may stop with Interrupted once more at its
// next Resume.
enum class GuestEnd : uint8_t { kStopped, kDied };
GuestEnd RunGuest(platform::Context& context, platform::AddressSpace& space);

// Between a guest's stop and its next RunGuest, outside of any call: the current fiber goes on,
// with its guest, on another worker if it is better off there: its own has had more to do than it
// can for a while and another is idle, or a peer over there wakes it again and again and then
// waits. Nothing happens under an engine without shares_spaces.
void MaybeMove(platform::Context& context);

// Runs `work` on a helper thread (malloc heap) while the current fiber is suspended (not
// interruptible): for host calls that may block, such as fsync or a read of a cold file.
void Offload(std::move_only_function<void()> work);

}  // namespace skep::sched
