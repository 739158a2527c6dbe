#include "sentry/boot/caller_watch.h"

#include <algorithm>
#include <array>

#include "base/host_call.h"
#include "sentry/sched/fiber.h"

namespace skep::boot {
namespace {

constexpr uint64_t kPeriodNs = 100'000'000;

}  // namespace

char StateInStat(std::string_view line) {
  // "1 (a (strange) name) T 0 ...": what follows the last parenthesis.
  const size_t end = line.rfind(')');
  return end == std::string_view::npos || end + 2 >= line.size() ? '\0' : line[end + 2];
}

Result<void> CallerWatch::Start(sched::Scheduler& scheduler, std::function<void()> stopped) {
  TRY(sched::Fiber::Spawn(scheduler.worker(0), [this, stopped = std::move(stopped)] {
    for (;;) {
      sched::WaitUntil(queue_, sched::kAllEvents, std::nullopt, sched::Sleep::kUninterruptible,
                       [&] { return tell_.exchange(false); });
      stopped();
    }
  }));
  scheduler.SetGuestWatch(this);
  return {};
}

bool CallerWatch::IsStopped() const {
  std::array<char, 256> text;
  const Result<size_t> size =
      host::PRead(arena::HostTable::Get().Get(stat_), std::as_writable_bytes(std::span(text)), 0);
  return size && StateInStat(std::string_view(text.data(), *size)) == 'T';
}

uint64_t CallerWatch::Look(uint64_t now_ns) {
  if (now_ns >= due_ns_) {
    due_ns_ = now_ns + kPeriodNs;
    const bool stopped = IsStopped();
    if (stopped && !was_stopped_.load()) {
      tell_ = true;
      queue_.Wake();
    }
    was_stopped_ = stopped;
  }
  if (next_ == nullptr) return due_ns_;
  if (now_ns >= next_due_ns_) next_due_ns_ = next_->Look(now_ns);
  return std::min(due_ns_, next_due_ns_);
}

}  // namespace skep::boot
