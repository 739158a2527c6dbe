// timerfd(2): timer expirations that can be read (Linux: fs/timerfd.c).
//
// As on Linux a periodic timer fires once and is set going again by whoever reads it, which also
// counts the periods that went by meanwhile: a short period cannot flood the worker.
#pragma once

#include <cstdint>

#include "base/mutex.h"
#include "sentry/sched/scheduler.h"
#include "sentry/sched/timer.h"
#include "sentry/vfs/file.h"
#include "sentry/vfs/mount.h"

namespace skep::anon {

// struct itimerspec in nanoseconds.
struct TimerSetting {
  uint64_t value_ns = 0;  // 0: disarmed
  uint64_t interval_ns = 0;
};

class TimerFd final : public vfs::File {
 public:
  enum class ClockKind : uint8_t { kMonotonic, kRealtime };  // CLOCK_BOOTTIME is monotonic here
  TimerFd(vfs::Path path, sched::Scheduler& scheduler, ClockKind clock, uint32_t flags);

  // Values were judged by the caller. The old setting, as Get() would have told it.
  TimerSetting Set(const TimerSetting& setting, bool absolute);
  TimerSetting Get();

  bool seekable() const override { return false; }
  bool stream() const override { return false; }
  Result<size_t> Read(vfs::Caller& caller, mm::IoSequence& to, uint64_t offset) override;
  vfs::EventMask Poll(vfs::EventMask wanted) override;
  sched::WaitQueue* Waiters() override { return &waiters_; }

 private:
  void OnExpiry();
  void CatchUp() REQUIRES(mutex_);
  TimerSetting GetLocked() REQUIRES(mutex_);
  uint64_t Now() const;

  sched::Scheduler& scheduler_;
  const ClockKind clock_;
  Mutex mutex_{LockRank::kFile};
  uint64_t expiry_ns_ GUARDED_BY(mutex_) = 0;  // monotonic; 0: disarmed
  uint64_t interval_ns_ GUARDED_BY(mutex_) = 0;
  uint64_t ticks_ GUARDED_BY(mutex_) = 0;
  bool fired_ GUARDED_BY(mutex_) = false;  // and not set going again
  sched::WaitQueue waiters_;
  sched::Timer timer_;
};

}  // namespace skep::anon
