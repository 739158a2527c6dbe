#include "sentry/kernel/oom.h"

#include <fmt/format.h>
#include <algorithm>
#include <csignal>

#include "base/host_call.h"
#include "base/log.h"
#include "sentry/arena/arena.h"
#include "sentry/kernel/signals.h"
#include "sentry/sched/fiber_heap.h"

namespace skep::kernel {
namespace {

constexpr uint64_t kMsNs = 1'000'000;
constexpr uint64_t kMinLookNs = kMsNs;
constexpr uint64_t kMaxLookNs = 250 * kMsNs;
// What one CPU can fill with zeros, at most.
constexpr uint64_t kBytesPerNs = 4;
// A victim's pages come back within this time, or another one is chosen.
constexpr uint64_t kVictimTimeNs = 1000 * kMsNs;
constexpr uint64_t kVictimStepNs = 2 * kMsNs;
constexpr uint64_t kRelieveTimeNs = 2 * kVictimTimeNs;
constexpr int kNeverKilled = -1000;  // Linux: OOM_SCORE_ADJ_MIN

}  // namespace

Result<void> OomKiller::Start() {
  TRY(sched::Fiber::Spawn(kernel_.scheduler.worker(0), [this] { Serve(); }));
  kernel_.memory->limit().Set(kernel_.config.memory_limit, this);
  kernel_.scheduler.SetGuestWatch(this);
  return {};
}

uint64_t OomKiller::Look(uint64_t now_ns) {
  const uint64_t room = kernel_.memory->limit().Room();
  if (room == 0 && !wanted_.exchange(true)) wanted_queue_.Wake();
  const auto workers = static_cast<uint64_t>(kernel_.scheduler.worker_count());
  return now_ns + std::clamp(room / (kBytesPerNs * workers), kMinLookNs, kMaxLookNs);
}

Result<void> OomKiller::Relieve() {
  const uint64_t round = rounds_.load();
  wanted_ = true;
  wanted_queue_.Wake();
  const uint64_t deadline = kernel_.scheduler.clock().MonotonicNs() + kRelieveTimeNs;
  sched::WaitUntil(done_queue_, sched::kAllEvents, deadline, sched::Sleep::kKillable,
                   [&] { return rounds_.load() != round; });
  if (sched::Fiber::Current().killed()) return Fail(kKilled);
  if (rounds_.load() != round && hopeless_.load()) return Fail(ENOMEM);
  return {};
}

void OomKiller::Serve() {
  for (;;) {
    sched::WaitUntil(wanted_queue_, sched::kAllEvents, std::nullopt, sched::Sleep::kUninterruptible,
                     [&] { return wanted_.load(); });
    bool killed = true;
    // Whoever asked has found less than it needs, if more than nothing.
    while (killed && kernel_.memory->limit().Room() < mm::MemoryLimit::kCopyStep) {
      killed = KillOne();
    }
    hopeless_ = !killed;
    wanted_ = false;
    rounds_.fetch_add(1);
    done_queue_.Wake(sched::kAllEvents, 1 << 30);
  }
}

std::vector<OomKiller::Candidate> OomKiller::Candidates() {
  std::vector<Candidate> candidates;
  MutexLock lock(kernel_.tasks_mutex);
  for (const auto& [pid, entry] : kernel_.pids) {
    ThreadGroup* const group = entry.group;
    if (group == nullptr || group->zombie || group->exiting) continue;
    if (group->oom_score_adj == kNeverKilled) continue;
    Candidate candidate = {Ref<ThreadGroup>(group), {}, group->oom_score_adj};
    int64_t kernel_bytes = 0;
    for (Task* task : group->threads) {
      if (!candidate.mm) candidate.mm = task->mm;
      if (task->fiber) kernel_bytes += sched::HeapBytesOf(*task->fiber);
    }
    candidate.bytes = static_cast<uint64_t>(std::max<int64_t>(kernel_bytes, 0));
    if (candidate.mm) candidates.push_back(std::move(candidate));
  }
  return candidates;
}

// Linux: oom_badness and __oom_kill_process; but memory of the kernel counts for those who made it
// grow, because a process that fills pipes has next to none of its own. False: there is nobody to
// end.
bool OomKiller::KillOne() {
  std::vector<Candidate> candidates = Candidates();
  const auto total = static_cast<int64_t>(kernel_.config.memory_limit);
  const auto badness = [&](const Candidate& c) {
    return static_cast<int64_t>(c.bytes) + c.adjustment * (total / 1000);
  };
  for (Candidate& c : candidates) c.bytes += c.mm->MemoryBytes();
  const auto worst = std::max_element(
      candidates.begin(), candidates.end(),
      [&](const Candidate& a, const Candidate& b) { return badness(a) < badness(b); });
  if (worst == candidates.end()) return false;
  {
    const arena::HostScope host;
    SKEP_LOG(kWarning, "the memory limit is reached: process {} with {} KiB is killed",
             worst->group->tgid, worst->bytes >> 10);
  }
  {
    MutexLock lock(kernel_.tasks_mutex);
    for (const Candidate& c : candidates) {
      if (c.mm == worst->mm) StartGroupExit(*c.group, SIGKILL);
    }
  }
  kills_.fetch_add(1);
  const Ref<ThreadGroup> victim = worst->group;
  candidates.clear();  // what holds its memory
  AwaitEnd(*victim);
  return true;
}

// Until its memory is free. Nobody tells of that: it is a matter of milliseconds.
void OomKiller::AwaitEnd(const ThreadGroup& victim) {
  const sched::Clock& clock = kernel_.scheduler.clock();
  const uint64_t start = clock.MonotonicNs();
  for (uint64_t now = start; now < start + kVictimTimeNs; now = clock.MonotonicNs()) {
    {
      MutexLock lock(kernel_.tasks_mutex);
      if (victim.threads.empty()) return;
    }
    (void)sched::Suspend(now + kVictimStepNs, sched::Sleep::kUninterruptible);
  }
}

}  // namespace skep::kernel
