// OomKiller: keeps the sandbox within its memory limit by ending a process (Linux: mm/oom_kill.c).
//
// Guests touch fresh pages without the sentry's help, so what they have taken is looked at while
// they run (sched::GuestWatch): seldom while there is room for what they could touch meanwhile,
// each millisecond near the limit. The process that has the most memory, its own and the kernel's,
// as /proc/<pid>/oom_score_adj would have it, gets SIGKILL with all that share its memory; its
// pages come back when it is gone. Its stub is killed first, so that it takes no more. A fiber of
// its own does all that, one victim at a time.
//
// Locks: takes `tasks` and mmap locks; fibers that ask for memory may hold SleepLocks before
// kMmap.
#pragma once

#include <atomic>
#include <cstdint>
#include <vector>

#include "sentry/kernel/kernel.h"
#include "sentry/mm/memory_limit.h"

namespace skep::kernel {

class OomKiller final : public mm::Reliever, public sched::GuestWatch {
 public:
  explicit OomKiller(Kernel& kernel) : kernel_(kernel) {}
  // Holds the sandbox to kernel.config.memory_limit from now on. Before the scheduler starts; arena
  // heap. EAGAIN: no fiber is to be had.
  Result<void> Start();

  uint64_t Look(uint64_t now_ns) override;
  Result<void> Relieve() override;

  // While a victim dies, no guest runs: the others could take its pages faster than they come free.
  bool paused() const { return paused_.load(std::memory_order_seq_cst); }
  void WaitWhilePaused();  // killable

 private:
  struct Candidate {
    Ref<ThreadGroup> group;
    Ref<mm::MemoryManager> mm;
    int adjustment = 0;
    bool exiting = false;
    uint64_t bytes = 0;
  };
  void Serve();
  void Pause();
  void Unpause();
  std::vector<Candidate> Candidates();
  const Candidate* Choose(std::vector<Candidate>& candidates) const;
  bool KillOne();
  void AwaitEnd(const ThreadGroup& victim);

  Kernel& kernel_;
  std::atomic<bool> wanted_{false};    // somebody has found too little memory
  std::atomic<uint64_t> rounds_{0};    // how often Serve has done what it could
  std::atomic<bool> hopeless_{false};  // ... and the last time found nobody to end
  std::atomic<bool> paused_{false};
  sched::WaitQueue wanted_queue_, done_queue_, pause_queue_;
  std::vector<int> victims_;  // of this round
};

}  // namespace skep::kernel
