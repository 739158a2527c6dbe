#include "sentry/sched/ticks.h"

#include <algorithm>
#include <ctime>

#include "base/host_call.h"
#include "sentry/sched/worker_internal.h"

namespace skep::sched {
namespace {

__extension__ using Wide = unsigned __int128;

// Longer turns may have been taken from by the host.
constexpr uint64_t kLongTurnNs = 100'000;
// Maximum age of the last CPU-clock sample.
constexpr uint64_t kMarkEveryNs = 1'000'000;

uint64_t ThreadCpuNs() {
  timespec t{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
  return static_cast<uint64_t>(t.tv_sec) * 1'000'000'000 + static_cast<uint64_t>(t.tv_nsec);
}

void AddTo(std::atomic<uint64_t>& sum, uint64_t more) {
  sum.store(sum.load(std::memory_order_relaxed) + more, std::memory_order_relaxed);
}

}  // namespace

uint64_t TicksToNs(uint64_t ticks) {
  const SchedulerHost* host = RunningHost();
  return host == nullptr ? 0 : host->ToNs(ticks);
}

uint64_t SchedulerHost::ToNs(uint64_t ticks) const {
  const uint64_t elapsed_ticks = TicksNow() - first_ticks;
  const uint64_t elapsed_ns = host::MonotonicNs() - first_ns;
  if (elapsed_ticks == 0) return 0;
  return static_cast<uint64_t>(static_cast<Wide>(ticks) * elapsed_ns / elapsed_ticks);
}

uint64_t SchedulerHost::TicksPerMs() const {
  const uint64_t elapsed_ns = host::MonotonicNs() - first_ns;
  // Too early to tell: ask again soon.
  if (elapsed_ns < 100'000) return 1'000'000;
  return static_cast<uint64_t>(static_cast<Wide>(TicksNow() - first_ticks) * 1'000'000 /
                               elapsed_ns);
}

// Wall time overstates a turn during which the host ran something else on this CPU. The thread's
// own clock costs a host call, so it is asked at most once for each millisecond, and after long
// turns.
void TurnClock::Begin(const SchedulerHost& host) {
  began_ = TicksNow();
  if (began_ < next_mark_) return;
  ms_ticks_ = host.TicksPerMs();
  next_mark_ = began_ + ms_ticks_ * kMarkEveryNs / 1'000'000;
  long_turn_ = ms_ticks_ * kLongTurnNs / 1'000'000;
  mark_ns_ = ThreadCpuNs();
  charged_ticks_ = 0;
}

uint64_t TurnClock::End(const SchedulerHost& host) {
  const uint64_t now = TicksNow();
  uint64_t ticks = now > began_ ? now - began_ : 0;
  began_ = now;
  charged_ticks_ += ticks;
  if (ticks < long_turn_) return ticks;
  const uint64_t cpu_ns = ThreadCpuNs();
  const uint64_t charged_ns = host.ToNs(charged_ticks_);
  const uint64_t used_ns = cpu_ns - mark_ns_;
  if (charged_ns > used_ns) {
    ticks -= static_cast<uint64_t>(static_cast<Wide>(ticks) *
                                   std::min(charged_ns - used_ns, host.ToNs(ticks)) /
                                   std::max<uint64_t>(host.ToNs(ticks), 1));
  }
  mark_ns_ = cpu_ns;
  charged_ticks_ = 0;
  return ticks;
}

void WorkerHost::BeginTurn(Fiber& fiber) {
  turn.Begin(scheduler);
  turn_started = turn.began();
  FiberAccess::State& s = FiberAccess::StateOf(fiber);
  const uint64_t since = s.guest_since.load(std::memory_order_relaxed);
  if (since == 0) return;
  const uint64_t now = turn.began();
  AddTo(s.guest_ticks, now > since ? now - since : 0);
  s.guest_since.store(0, std::memory_order_relaxed);
}

void WorkerHost::EndTurn(Fiber& fiber) {
  FiberAccess::State& s = FiberAccess::StateOf(fiber);
  AddTo(s.kernel_ticks, turn.End(scheduler));
  if (s.waits_for != nullptr) s.guest_since.store(turn.began(), std::memory_order_relaxed);
}

Fiber::Costs Fiber::costs() const {
  // The current turn's cost counts too, so that a fiber sees its own clock go on.
  if (WorkerHost* here = ThreadWorker(); here != nullptr && here->current == this) {
    AddTo(state_->kernel_ticks, here->turn.End(here->scheduler));
  }
  Costs costs;
  costs.kernel_ticks = state_->kernel_ticks.load(std::memory_order_relaxed);
  costs.guest_ticks = state_->guest_ticks.load(std::memory_order_relaxed);
  const uint64_t since = state_->guest_since.load(std::memory_order_relaxed);
  const uint64_t now = TicksNow();
  if (since != 0 && now > since) costs.guest_ticks += now - since;
  costs.voluntary_switches = state_->voluntary_switches.load(std::memory_order_relaxed);
  costs.involuntary_switches = state_->involuntary_switches.load(std::memory_order_relaxed);
  return costs;
}

}  // namespace skep::sched
