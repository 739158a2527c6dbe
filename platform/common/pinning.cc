#include "platform/common/pinning.h"

#include <sys/syscall.h>
#include <unistd.h>

#include "base/host_call.h"

namespace skep::platform {
namespace {

constexpr uint64_t kTickNs = 1'000'000;
constexpr int kLetGoAtOnce = 4;

void SetAffinity(pid_t tid, const cpu_set_t& cpus) {
  // Failing (a CPU was taken away) leaves it where it is.
  (void)host::SetAffinity(tid, cpus);
}

}  // namespace

Pinning::Pinning(int cpu) {
  if (cpu < 0) return;
  CPU_ZERO(&pinned_);
  CPU_SET(static_cast<size_t>(cpu), &pinned_);
  // Where the process may run: its first thread is no worker and not pinned.
  CPU_ZERO(&free_);
  enabled_ = sched_getaffinity(getpid(), sizeof(free_), &free_) == 0 && CPU_COUNT(&free_) > 1;
}

void Pinning::Ran(Link& link, pid_t tid) {
  if (!enabled_) return;
  link.tid = tid;
  link.tick = tick_;
  link.previous = nullptr;
  link.next = running_;
  (running_ != nullptr ? running_->previous : oldest_) = &link;
  running_ = &link;
  link.is_listed = true;
}

void Pinning::Drop(Link& link) {
  if (!link.is_listed) return;
  (link.previous != nullptr ? link.previous->next : running_) = link.next;
  (link.next != nullptr ? link.next->previous : oldest_) = link.previous;
  link.is_listed = false;
}

void Pinning::Stopped(Link& link) {
  Drop(link);
  if (!link.is_free) return;
  link.is_free = false;
  SetAffinity(link.tid, pinned_);
}

std::optional<uint64_t> Pinning::NextTick(uint64_t (*now)()) {
  if (running_ == nullptr) return std::nullopt;
  if (next_tick_at_ == 0) next_tick_at_ = now() + kTickNs;
  return next_tick_at_;
}

void Pinning::Tick(uint64_t now) {
  if (next_tick_at_ == 0 || now < next_tick_at_) return;
  next_tick_at_ = 0;
  for (int i = 0; i < kLetGoAtOnce && oldest_ != nullptr && oldest_->tick < tick_; ++i) {
    Link& link = *oldest_;
    Drop(link);
    link.is_free = true;
    SetAffinity(link.tid, free_);
  }
  ++tick_;
}

}  // namespace skep::platform
