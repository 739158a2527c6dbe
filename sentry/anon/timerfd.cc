#include "sentry/anon/timerfd.h"

#include <sys/epoll.h>
#include <algorithm>
#include <span>

namespace skep::anon {
namespace {

constexpr uint64_t kFarFuture = uint64_t{1} << 62;  // about 146 years

uint64_t SaturatingAdd(uint64_t a, uint64_t b) {
  return std::min(std::min(a, kFarFuture) + std::min(b, kFarFuture), kFarFuture);
}

}  // namespace

TimerFd::TimerFd(vfs::Path path, sched::Scheduler& scheduler, ClockKind clock, uint32_t flags)
    : File(std::move(path), O_RDWR | (flags & O_NONBLOCK)),
      scheduler_(scheduler),
      clock_(clock),
      timer_(scheduler, [this] { OnExpiry(); }) {}

uint64_t TimerFd::Now() const { return scheduler_.clock().MonotonicNs(); }

void TimerFd::OnExpiry() {
  {
    MutexLock lock(mutex_);
    if (expiry_ns_ == 0 || fired_ || Now() < expiry_ns_) return;  // it was set anew meanwhile
    fired_ = true;
    ++ticks_;
  }
  waiters_.Wake(EPOLLIN);
}

// Counts the periods since the timer fired, and sets it going again.
void TimerFd::CatchUp() {
  if (!fired_ || interval_ns_ == 0) return;
  const uint64_t now = Now();
  const uint64_t periods = now < expiry_ns_ ? 0 : (now - expiry_ns_) / interval_ns_ + 1;
  ticks_ += periods == 0 ? 0 : periods - 1;  // one was counted when it fired
  expiry_ns_ = SaturatingAdd(expiry_ns_, periods * interval_ns_);
  fired_ = false;
  timer_.Arm(expiry_ns_);
}

TimerSetting TimerFd::GetLocked() {
  CatchUp();
  TimerSetting setting{0, interval_ns_};
  if (expiry_ns_ == 0 || fired_) return setting;
  const uint64_t now = Now();
  setting.value_ns = expiry_ns_ > now ? expiry_ns_ - now : 1;
  return setting;
}

TimerSetting TimerFd::Get() {
  MutexLock lock(mutex_);
  return GetLocked();
}

TimerSetting TimerFd::Set(const TimerSetting& setting, bool absolute) {
  MutexLock lock(mutex_);
  const TimerSetting old = GetLocked();
  timer_.Cancel();
  ticks_ = 0;
  fired_ = false;
  interval_ns_ = setting.interval_ns;
  expiry_ns_ = 0;
  if (setting.value_ns == 0) return old;
  const uint64_t now = Now();
  uint64_t from_now = setting.value_ns;
  if (absolute) {
    const uint64_t reference =
        clock_ == ClockKind::kRealtime ? scheduler_.clock().RealtimeNs() : now;
    // A start in the past stays there: the periods since then count.
    if (setting.value_ns < reference) {
      const uint64_t ago = reference - setting.value_ns;
      expiry_ns_ = now > ago ? now - ago : 1;
      timer_.Arm(expiry_ns_);
      return old;
    }
    from_now = setting.value_ns - reference;
  }
  expiry_ns_ = std::max<uint64_t>(SaturatingAdd(now, from_now), 1);
  timer_.Arm(expiry_ns_);
  return old;
}

Result<size_t> TimerFd::Read(vfs::Caller&, mm::IoSequence& to, uint64_t) {
  if (to.size() < sizeof(uint64_t)) return Fail(EINVAL);
  uint64_t ticks = 0;
  {
    MutexLock lock(mutex_);
    if (ticks_ == 0) return Fail(EAGAIN);
    CatchUp();
    ticks = std::exchange(ticks_, 0);
  }
  const mm::CopyResult copied = to.CopyOut(std::as_bytes(std::span(&ticks, 1)));
  if (copied.fault != 0) return Fail(copied.fault);
  return sizeof ticks;
}

vfs::EventMask TimerFd::Poll(vfs::EventMask) {
  MutexLock lock(mutex_);
  return ticks_ != 0 ? vfs::EventMask{EPOLLIN} : 0;
}

}  // namespace skep::anon
