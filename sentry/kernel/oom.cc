#include "sentry/kernel/oom.h"

#include <fmt/format.h>
#include <algorithm>
#include <csignal>
#include <utility>

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
// An upper bound of how fast one CPU can write zeros.
constexpr uint64_t kBytesPerNs = 4;
// A victim's pages come back within this time, or another one is chosen.
constexpr uint64_t kVictimTimeNs = 1000 * kMsNs;
constexpr uint64_t kStepNs = 2 * kMsNs;
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
  // The host counts kept pages, which go back to it at the next look.
  const uint64_t free = room - std::min(room, kernel_.memory->KeptBytes());
  return now_ns + std::clamp(free / (kBytesPerNs * workers), kMinLookNs, kMaxLookNs);
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
    Pause();
    if (kernel_.memory->limit().Room() < mm::MemoryLimit::kCopyStep) {
      for (const Candidate& c : Candidates()) c.mm->GiveBackUntouched();
    }
    // A caller asks when less than kCopyStep is free, which may be more than zero: kill until that
    // much is free.
    while (killed && kernel_.memory->limit().Room() < mm::MemoryLimit::kCopyStep) {
      killed = KillOne();
    }
    hopeless_ = !killed;
    victims_.clear();
    Unpause();
    wanted_ = false;
    rounds_.fetch_add(1);
    done_queue_.WakeAll();
  }
}

void OomKiller::Pause() {
  paused_.store(true, std::memory_order_seq_cst);
  TasksLock lock(kernel_);
  kernel_.pid_namespace->ForEachTask([](Task& task) {
    if (task.fiber) task.fiber->StopGuest();
  });
}

void OomKiller::Unpause() {
  paused_.store(false, std::memory_order_seq_cst);
  pause_queue_.WakeAll();
}

void OomKiller::WaitWhilePaused() {
  sched::WaitUntil(pause_queue_, sched::kAllEvents, std::nullopt, sched::Sleep::kKillable,
                   [&] { return !paused(); });
}

std::vector<OomKiller::Candidate> OomKiller::Candidates() {
  std::vector<Candidate> candidates;
  TasksLock lock(kernel_);
  kernel_.pid_namespace->ForEachGroup([&](ThreadGroup& group) REQUIRES(tasks) {
    if (group.zombie) return;
    Candidate candidate = {Ref<ThreadGroup>(&group), {}, group.oom_score_adj, group.exiting};
    int64_t kernel_bytes = 0;
    for (Task* task : group.threads) {
      if (!candidate.mm) candidate.mm = task->mm.Get();
      if (task->fiber) kernel_bytes += sched::HeapBytesOf(*task->fiber);
    }
    candidate.bytes = static_cast<uint64_t>(std::max<int64_t>(kernel_bytes, 0));
    if (candidate.mm) candidates.push_back(std::move(candidate));
  });
  return candidates;
}

// Linux: select_bad_process and oom_badness; but memory of the kernel counts for those who made it
// grow, because a process that fills pipes has next to none of its own.
const OomKiller::Candidate* OomKiller::Choose(std::vector<Candidate>& candidates) const {
  // A process that is ending anyway comes first: it may be waiting for memory in the host.
  for (const Candidate& c : candidates) {
    const auto keeps = [&](const Candidate& other) { return other.mm == c.mm && !other.exiting; };
    if (!c.exiting ||
        std::count(victims_.begin(), victims_.end(), c.group->pid->global_number()) != 0)
      continue;
    if (std::none_of(candidates.begin(), candidates.end(), keeps)) return &c;
  }
  const auto total = static_cast<int64_t>(kernel_.config.memory_limit);
  // Those that are never killed come last: Linux lets them wait for memory for ever, but guests
  // take it without asking.
  const auto badness = [&](const Candidate& c) {
    return std::pair(c.adjustment != kNeverKilled,
                     static_cast<int64_t>(c.bytes) + c.adjustment * (total / 1000));
  };
  const Candidate* worst = nullptr;
  for (Candidate& c : candidates) {
    if (c.exiting) continue;
    c.bytes += c.mm->MemoryBytes();
    if (worst == nullptr || badness(c) > badness(*worst)) worst = &c;
  }
  return worst;
}

// Linux: __oom_kill_process. False: there is nobody to end.
bool OomKiller::KillOne() {
  std::vector<Candidate> candidates = Candidates();
  const Candidate* const worst = Choose(candidates);
  if (worst == nullptr) return false;
  victims_.push_back(worst->group->pid->global_number());
  if (!worst->exiting) {
    const arena::HostHeapScope host;
    SKEP_LOG(kWarning, "the memory limit is reached: process {} with {} KiB is killed",
             worst->group->tgid, worst->bytes >> 10);
  }
  {
    TasksLock lock(kernel_);
    for (const Candidate& c : candidates) {
      if (c.mm == worst->mm) StartGroupExit(*c.group, SIGKILL);
    }
  }
  const Ref<ThreadGroup> victim = worst->group;
  worst->mm->KillGuests();
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
      TasksLock lock(kernel_);
      if (victim.threads.empty()) return;
    }
    (void)sched::Suspend(now + kStepNs, sched::Sleep::kUninterruptible);
  }
}

}  // namespace skep::kernel
