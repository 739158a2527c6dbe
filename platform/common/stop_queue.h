// What an engine has to tell its worker, and in which order: contexts that have stopped, first in,
// first out; spaces that died; and wake-ups, which wait for stops, but not for long.
//
// `C` is an engine's context: it has a member `StopLink<C> stop_link` and a method space(). `S` is
// its space: it has a member `DeathLink<S> death_link` and a method dead().
//
// Locks: Push, Announce and Remove may be called from any thread. The rest is the worker's.
#pragma once

#include <sys/types.h>
#include <cstdint>
#include <optional>

#include "base/host_call.h"
#include "base/mutex.h"
#include "platform/common/pinning.h"
#include "platform/common/waker.h"
#include "platform/platform.h"

namespace skep::platform {

inline bool HasPassed(Deadline deadline) { return deadline && host::MonotonicNs() >= *deadline; }

template <class C>
struct StopLink {
  C* next_ready = nullptr;
  bool is_ready = false;  // in the queue

  C* previous_running = nullptr;
  C* next_running = nullptr;
  bool is_running = false;
  Pinning::Link pinning;
};

template <class S>
struct DeathLink {
  S* next = nullptr;
  bool is_announced = false;  // in the queue
};

template <class C, class S>
class StopQueue {
 public:
  explicit StopQueue(int cpu) : pinning_(cpu) {}

  // -- what is to be reported --
  struct Item {
    C* stopped = nullptr;
    S* dead = nullptr;
  };

  void Push(C& context) {
    MutexLock lock(mutex_);
    context.stop_link.is_ready = true;
    context.stop_link.next_ready = nullptr;
    (first_ready_ == nullptr ? first_ready_ : last_ready_->stop_link.next_ready) = &context;
    last_ready_ = &context;
  }

  void Remove(C& context) {
    MutexLock lock(mutex_);
    if (!context.stop_link.is_ready) return;
    C** link = &first_ready_;
    C* before = nullptr;
    while (*link != &context) {
      before = *link;
      link = &before->stop_link.next_ready;
    }
    *link = context.stop_link.next_ready;
    if (last_ready_ == &context) last_ready_ = before;
    context.stop_link.is_ready = false;
  }

  // False: it is in the queue already.
  bool Announce(S& space) {
    MutexLock lock(mutex_);
    if (space.death_link.is_announced) return false;
    space.death_link.is_announced = true;
    space.death_link.next = first_dead_;
    first_dead_ = &space;
    return true;
  }

  void Remove(S& space) {
    MutexLock lock(mutex_);
    if (!space.death_link.is_announced) return;
    S** link = &first_dead_;
    while (*link != &space) link = &(*link)->death_link.next;
    *link = space.death_link.next;
    space.death_link.is_announced = false;
  }

  bool empty() {
    MutexLock lock(mutex_);
    return first_ready_ == nullptr && first_dead_ == nullptr;
  }

  // The oldest stop in a space that lives, else a death, else neither.
  Item Pop() {
    MutexLock lock(mutex_);
    while (first_ready_ != nullptr) {
      C& context = *first_ready_;
      first_ready_ = context.stop_link.next_ready;
      context.stop_link.is_ready = false;
      if (!context.space().dead()) return {&context, nullptr};
    }
    if (first_dead_ == nullptr) return {};
    S& space = *first_dead_;
    first_dead_ = space.death_link.next;
    space.death_link.is_announced = false;
    return {nullptr, &space};
  }

  // -- who runs --
  void Ran(C& context, pid_t tid) {
    StopLink<C>& link = context.stop_link;
    link.is_running = true;
    link.previous_running = nullptr;
    link.next_running = first_running_;
    if (first_running_ != nullptr) first_running_->stop_link.previous_running = &context;
    first_running_ = &context;
    pinning_.Ran(link.pinning, tid);
  }

  // Does nothing for a context that does not run.
  void Stopped(C& context) {
    StopLink<C>& link = context.stop_link;
    if (!link.is_running) return;
    link.is_running = false;
    (link.previous_running != nullptr ? link.previous_running->stop_link.next_running
                                      : first_running_) = link.next_running;
    if (link.next_running != nullptr) {
      link.next_running->stop_link.previous_running = link.previous_running;
    }
    pinning_.Stopped(link.pinning);
  }

  // The one that runs, if exactly one does.
  C* OnlyRunning() const {
    const bool one = first_running_ != nullptr && first_running_->stop_link.next_running == nullptr;
    return one ? first_running_ : nullptr;
  }
  bool SeveralRun() const {
    return first_running_ != nullptr && first_running_->stop_link.next_running != nullptr;
  }
  C* first_running() const { return first_running_; }  // then by stop_link.next_running

  // -- when --
  // A wake-up is due: it goes before further stops once it has waited for kMaxLateNs, however few
  // stops that was; each may have taken long to serve.
  static constexpr uint64_t kMaxLateNs = 1'000'000;
  bool IsLate(uint64_t now) {
    if (due_since_ == 0) due_since_ = now;
    return now - due_since_ >= kMaxLateNs;
  }
  // None is due, or it was reported.
  void NoneDue() { due_since_ = 0; }

  // What is to be done when the waker's timer has fired.
  void OnTimer(Waker& waker, uint64_t now) {
    waker.TimerFired();
    pinning_.Tick(now);
  }
  // The waker's timer wakes the worker at `deadline`, and for what OnTimer does.
  void SetTimer(Waker& waker, Deadline deadline, uint64_t (*now)()) {
    const std::optional<uint64_t> tick = pinning_.NextTick(now);
    if (tick && (!deadline || *tick < *deadline)) deadline = tick;
    if (deadline) waker.SetTimer(*deadline);
  }

 private:
  Mutex mutex_{LockRank::kStubPool};
  C* first_ready_ GUARDED_BY(mutex_) = nullptr;
  C* last_ready_ GUARDED_BY(mutex_) = nullptr;
  S* first_dead_ GUARDED_BY(mutex_) = nullptr;

  // The worker's.
  C* first_running_ = nullptr;
  uint64_t due_since_ = 0;  // 0: nothing is due
  Pinning pinning_;
};

}  // namespace skep::platform
