#include "platform/notify/stub.h"

#include <fmt/format.h>
#include <poll.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <algorithm>
#include <csignal>
#include <cstring>
#include <ctime>

#include "base/check.h"
#include "base/host_call.h"
#include "platform/common/waker.h"
#include "platform/notify/stubs.h"

namespace skep::platform::notify {
namespace {

constexpr uint64_t kNsPerSecond = 1'000'000'000, kNsPerMs = 1'000'000;
constexpr int kSliceMs = 20;
// A stub that has used this much CPU time without making the expected call is considered hostile
// and killed.
constexpr uint64_t kMaxCpuNs = 100 * kNsPerMs;
constexpr uint64_t kMaxWallNs = 5 * kNsPerSecond;
constexpr size_t kXsaveAlignment = 64;

std::string WhyEnded(int status) {
  if (WIFSIGNALED(status)) {
    const int signo = WTERMSIG(status);
    return fmt::format("the stub process was killed by signal {}{}", signo,
                       signo == SIGKILL  ? " (the host ran out of memory?)"
                       : signo == SIGSYS ? " (a call that no stub may make)"
                                         : "");
  }
  return fmt::format("the stub process ended unasked, wait status {:#x}", status);
}

}  // namespace

Stub::~Stub() {
  MarkDead("not used any more");
  MutexLock lock(mutex);
  stubs_.FreeLater({reaped_ ? 0 : pid_, slot_, std::move(stacks)});
}

std::string Stub::WhyDead() const {
  const char* why = why_dead_.load();
  return why != nullptr ? why : WhyEnded(end_status_.load());
}

bool Stub::MarkDead(const char* why) {
  if (dead_.exchange(true)) return false;
  why_dead_ = why;
  (void)host::Kill(pid_, SIGKILL);
  return true;
}

bool Stub::MarkEnded() {
  if (dead_.exchange(true)) return false;
  // In case only one of its threads has ended: kill the rest.
  (void)host::Kill(pid_, SIGKILL);
  int status = 0;
  if (host::WaitPid(pid_, &status, __WALL)) end_status_ = status;
  reaped_ = true;
  return true;
}

uint64_t Stub::CpuTimeNs() const {
  if (dead()) return 0;
  // Linux: include/linux/posix-timers_types.h, the scheduler's clock of a process.
  const auto clock = static_cast<clockid_t>((~static_cast<unsigned>(pid_) << 3) | 2);
  timespec time = {};
  if (clock_gettime(clock, &time) != 0) return 0;
  return static_cast<uint64_t>(time.tv_sec) * kNsPerSecond + static_cast<uint64_t>(time.tv_nsec);
}

AddressSpace::Applied Stub::RunBatch(size_t count) {
  if (dead()) return {0, EIO};
  NotifyCommands& page = stubs_.memory().commands(slot_);
  page.count = count;
  seccomp_notif call;
  Listener::Received got = Listener::Received::kGone;
  if (manager.Answer(manager_id, 0)) {
    do {
      got = manager.Receive(call);
    } while (got == Listener::Received::kNothing);
  }
  // Guests can read the page: they need not know what it says.
  memset(page.calls.data(), 0, sizeof(StubCall) * count);
  if (got == Listener::Received::kGone) return {0, EIO};
  manager_id = call.id;
  return {std::min<size_t>(call.data.args[0], count), static_cast<int>(call.data.args[1])};
}

bool Stub::UnmapAll() {
  stubs_.memory().commands(slot_).calls[0] = {SYS_munmap, {0, kGuestAddressEnd}};
  return RunBatch(1).error == 0;
}

bool Stub::HasHadShare(uint64_t cpu_ns) const {
  return cpu_ns / std::max(running.load(std::memory_order_relaxed), 1u) > kMaxCpuNs;
}

Listener::Received Stub::AwaitCall(GuestThread& thread, seccomp_notif& call) {
  using Received = Listener::Received;
  uint64_t started = 0, cpu_started = 0;
  while (!dead()) {
    const Received ready = thread.listener.WaitForCall(kSliceMs);
    if (ready == Received::kGone) return Received::kGone;
    if (ready == Received::kCall) {
      const Received got = thread.listener.Receive(call);
      if (got != Received::kNothing) return got;
      continue;
    }
    const uint64_t now = host::MonotonicNs(), cpu = CpuTimeNs();
    if (started == 0) {
      started = now;
      cpu_started = cpu;
    } else if (HasHadShare(cpu - cpu_started) || now - started > kMaxWallNs) {
      return Received::kNothing;
    }
  }
  return Received::kGone;
}

uint64_t Stub::StackBase(const GuestThread& thread) const {
  return kNotifyStacks + uint64_t{thread.index} * stubs_.memory().stack_size();
}

std::span<std::byte> Stub::StackOf(const GuestThread& thread) {
  return stubs_.memory().stack(thread.stack_slot);
}

bool Stub::TakeEvent(GuestThread& thread, const seccomp_notif& call, Frame& frame) {
  const std::span<std::byte> stack = StackOf(thread);
  const uint64_t at = call.data.args[2] - StackBase(thread);
  if (at > stack.size() - sizeof(Frame) || at % 16 != 0 ||
      call.data.args[1] != call.data.args[2] + offsetof(Frame, info)) {
    return false;
  }
  thread.id = call.id;
  thread.in_event = true;
  thread.frame_at = at;
  thread.fs_base = call.data.args[3];
  thread.gs_base = call.data.args[4];
  // SAFETY: shared with the guest: read once, judged as a copy.
  memcpy(&frame, stack.data() + at, sizeof(frame));
  const uint64_t xsave_at = frame.fpstate - StackBase(thread);
  const size_t xsave_size = stubs_.xsave().size_in_frame();
  if (xsave_at % kXsaveAlignment != 0 || xsave_at < at + sizeof(Frame) || xsave_at > stack.size() ||
      xsave_size > stack.size() - xsave_at) {
    return false;
  }
  thread.fpstate = frame.fpstate;
  frame.info.si_signo = static_cast<int>(call.data.args[0]);
  return true;
}

std::span<std::byte> Stub::XsaveOf(const GuestThread& thread) {
  return StackOf(thread).subspan(thread.fpstate - StackBase(thread),
                                 stubs_.xsave().size_in_frame());
}

void Stub::Signal(const GuestThread& thread) {
  (void)host::Call(SYS_tgkill, pid_, thread.tid, kInterruptSignal);
}

}  // namespace skep::platform::notify
