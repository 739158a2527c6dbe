// eventfd, timerfd and signalfd.
#include <sys/epoll.h>
#include <csignal>
#include <cstring>
#include <deque>

#include "sentry/anon/eventfd.h"
#include "sentry/anon/signalfd.h"
#include "sentry/anon/timerfd.h"
#include "sentry/vfs/test_caller.h"

namespace skep::anon {
namespace {

using vfs::CodeOf;
using vfs::OnFiber;
using vfs::TestCaller;
using vfs::TryRead;
using vfs::TryWrite;

std::string Word(uint64_t value) { return {reinterpret_cast<const char*>(&value), sizeof value}; }
uint64_t Number(const std::string& text) {
  uint64_t value = 0;
  memcpy(&value, text.data(), sizeof value);
  return value;
}

TEST(EventFd, CountsUpToItsLimit) {
  TestCaller caller;
  auto fd = MakeRef<EventFd>(vfs::Path(), 3, false, O_NONBLOCK);
  EXPECT_EQ(fd->Poll(0), EPOLLIN | EPOLLOUT);
  EXPECT_EQ(CodeOf(TryRead(caller, *fd, 7)), EINVAL);
  EXPECT_EQ(Number(TryRead(caller, *fd, 16).value()), 3U);
  EXPECT_EQ(CodeOf(TryRead(caller, *fd, 8)), EAGAIN);
  EXPECT_EQ(CodeOf(TryWrite(caller, *fd, Word(~uint64_t{0}))), EINVAL);
  EXPECT_EQ(CodeOf(TryWrite(caller, *fd, "short")), EINVAL);
  EXPECT_EQ(CodeOf(TryWrite(caller, *fd, Word(~uint64_t{0} - 1))), 0);
  EXPECT_EQ(CodeOf(TryWrite(caller, *fd, Word(1))), EAGAIN);
  EXPECT_EQ(fd->Poll(0), static_cast<unsigned>(EPOLLIN));
}

TEST(EventFd, SemaphoreGivesOneAtATime) {
  TestCaller caller;
  auto fd = MakeRef<EventFd>(vfs::Path(), 2, true, O_NONBLOCK);
  EXPECT_EQ(Number(TryRead(caller, *fd, 8).value()), 1U);
  EXPECT_EQ(Number(TryRead(caller, *fd, 8).value()), 1U);
  EXPECT_EQ(CodeOf(TryRead(caller, *fd, 8)), EAGAIN);
}

TEST(TimerFd, FiresAndCountsPeriods) {
  OnFiber([] {
    constexpr uint64_t kMs = 1'000'000;
    TestCaller caller;
    sched::Scheduler& scheduler = sched::Fiber::Current().worker().scheduler();
    auto fd = MakeRef<TimerFd>(vfs::Path(), scheduler, TimerFd::ClockKind::kMonotonic, 0u);
    EXPECT_EQ(CodeOf(TryRead(caller, *fd, 8)), EAGAIN);
    fd->Set({.value_ns = kMs, .interval_ns = 0}, false);
    EXPECT_GT(fd->Get().value_ns, 0U);
    EXPECT_EQ(Number(vfs::ReadBlocking(caller, *fd, 8).value()), 1U);
    EXPECT_EQ(fd->Get().value_ns, 0U);
    EXPECT_EQ(CodeOf(TryRead(caller, *fd, 8)), EAGAIN);
    // Ten periods have passed when it is set: it fires at once and counts them.
    const uint64_t now = scheduler.clock().MonotonicNs();
    fd->Set({.value_ns = now - 10 * kMs, .interval_ns = kMs}, true);
    EXPECT_GE(Number(vfs::ReadBlocking(caller, *fd, 8).value()), 11U);
    EXPECT_GE(Number(vfs::ReadBlocking(caller, *fd, 8).value()), 1U);
    const TimerSetting old = fd->Set({}, false);
    EXPECT_EQ(old.interval_ns, kMs);
    EXPECT_LE(old.value_ns, kMs);
    EXPECT_EQ(fd->Poll(0), 0U);
  });
}

TEST(TimerFd, RealtimeDeadline) {
  OnFiber([] {
    TestCaller caller;
    sched::Scheduler& scheduler = sched::Fiber::Current().worker().scheduler();
    auto fd = MakeRef<TimerFd>(vfs::Path(), scheduler, TimerFd::ClockKind::kRealtime, 0u);
    fd->Set({.value_ns = scheduler.clock().RealtimeNs() + 2'000'000, .interval_ns = 0}, true);
    EXPECT_EQ(fd->Poll(0), 0U);
    EXPECT_EQ(Number(vfs::ReadBlocking(caller, *fd, 8).value()), 1U);
  });
}

class TestSignals final : public SignalSource {
 public:
  uint64_t PendingOfCurrent(uint64_t mask) override {
    uint64_t set = 0;
    for (const uint32_t signo : pending) set |= uint64_t{1} << (signo - 1);
    return set & mask;
  }
  bool DequeueForCurrent(uint64_t mask, signalfd_siginfo& info) override {
    for (auto it = pending.begin(); it != pending.end(); ++it) {
      if ((mask >> (*it - 1) & 1) == 0) continue;
      info.ssi_signo = *it;
      pending.erase(it);
      return true;
    }
    return false;
  }
  sched::WaitQueue& Arrivals() override { return queue; }
  std::deque<uint32_t> pending;
  sched::WaitQueue queue;
};

TEST(SignalFd, ReadsWhatItsMaskSays) {
  TestCaller caller;
  TestSignals signals;
  auto fd = MakeRef<SignalFd>(vfs::Path(), signals, ~uint64_t{0}, 0u);
  EXPECT_EQ(fd->mask() >> (SIGKILL - 1) & 1, 0U);
  EXPECT_EQ(CodeOf(TryRead(caller, *fd, 100)), EINVAL);
  EXPECT_EQ(CodeOf(TryRead(caller, *fd, 128)), EAGAIN);
  fd->SetMask(uint64_t{1} << (SIGUSR2 - 1) | uint64_t{1} << (SIGTERM - 1));
  signals.pending = {SIGUSR1, SIGUSR2, SIGTERM};
  EXPECT_EQ(fd->Poll(0), static_cast<unsigned>(EPOLLIN));
  const std::string text = TryRead(caller, *fd, 1000).value();
  ASSERT_EQ(text.size(), 2 * sizeof(signalfd_siginfo));
  signalfd_siginfo first{};
  memcpy(&first, text.data(), sizeof first);
  EXPECT_EQ(first.ssi_signo, static_cast<uint32_t>(SIGUSR2));
  EXPECT_EQ(fd->Poll(0), 0U);
}

}  // namespace
}  // namespace skep::anon
