// Guests are pinned to their worker's CPU, where a stop is handed over without waking another CPU.
// One that computes for more than a moment without a stop is let go, so that it does not hold up
// its worker; it is pinned again at its next stop.
#pragma once

#include <sched.h>
#include <sys/types.h>
#include <cstdint>
#include <optional>

namespace skep::platform {

class Pinning {
 public:
  // A guest thread's place in the list of those that run pinned.
  struct Link {
    Link* previous = nullptr;
    Link* next = nullptr;
    pid_t tid = 0;
    uint64_t tick = 0;  // when it was resumed
    bool is_listed = false;
    bool is_free = false;
  };

  // cpu -1: nothing is pinned.
  explicit Pinning(int cpu);

  void Ran(Link& link, pid_t tid);
  void Stopped(Link& link);
  void Drop(Link& link);

  // When Tick is to be called next, given the time now; nullopt: no guest runs pinned.
  std::optional<uint64_t> NextTick(uint64_t (*now)());
  // Lets those go that have run since before the last tick: the oldest, a few at a time. Most
  // of a crowd that is woken at once only wait for the CPU.
  void Tick(uint64_t now);

 private:
  bool enabled_ = false;
  cpu_set_t pinned_, free_;
  Link* running_ = nullptr;  // the latest first
  Link* oldest_ = nullptr;
  uint64_t tick_ = 0;
  uint64_t next_tick_at_ = 0;  // 0: not set
};

}  // namespace skep::platform
