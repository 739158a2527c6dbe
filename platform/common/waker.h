// Ends a worker's wait from other threads, from its timer and from its poll thread, so that no
// wake-up is ever lost: a word of reasons, and a signal if the worker sleeps in a host call.
#pragma once

#include <sys/types.h>
#include <atomic>
#include <cstdint>
#include <ctime>

#include "base/result.h"

namespace skep::platform {

inline constexpr int kKickSignal = 12;       // SIGUSR2, to a worker thread
inline constexpr int kInterruptSignal = 10;  // SIGUSR1, to a guest thread

enum WakeReason : uint32_t {
  kKicked = 1,
  kTimer = 2,
  kPolled = 4,
  kRequest = 8,  // another worker's request is queued
  kAnswer = 16,  // a request of ours was answered
  kDeath = 32,   // a stub is being killed
  kForget = 64,  // a descriptor of the stubs is to be closed
  kOwed = 128,   // a guest was interrupted, and may not stop for it
};

class Waker {
 public:
  Waker() = default;
  ~Waker();
  Waker(const Waker&) = delete;
  Waker& operator=(const Waker&) = delete;

  // On the worker's thread, once: the signal handler and the timer.
  HostResult<void> Start();

  // Any thread.
  void Wake(WakeReason reason);

  // The rest is the worker's.
  uint32_t reasons() const { return word_.load(std::memory_order_acquire); }
  // Clears these reasons; answers which of them were there.
  uint32_t Take(uint32_t reasons) { return word_.fetch_and(~reasons) & reasons; }
  // A host call that blocks, or EINTR at once or later because a reason is there.
  Result<int64_t> CallUnlessWoken(long number, uint64_t a = 0, uint64_t b = 0, uint64_t c = 0,
                                  uint64_t d = 0, uint64_t e = 0, uint64_t f = 0);
  // Sleeps until the word is no longer `seen`.
  void SleepWhile(uint32_t seen);
  // kTimer is set when CLOCK_MONOTONIC reaches `deadline`. A timer that is set for an earlier time
  // is left alone: it costs one spurious kTimer.
  void SetTimer(uint64_t deadline_ns);
  void TimerFired() { timer_at_ = 0; }

 private:
  enum Sleep : uint32_t { kAwake, kInCall, kInFutex };

  // SAFETY: wait.S reads the word as a plain uint32_t while others change it atomically.
  std::atomic<uint32_t> word_ = 0;
  std::atomic<uint32_t> sleep_ = kAwake;
  pid_t process_ = 0;
  pid_t thread_ = 0;
  bool has_timer_ = false;
  timer_t timer_ = {};
  uint64_t timer_at_ = 0;  // 0: not set
};

}  // namespace skep::platform
