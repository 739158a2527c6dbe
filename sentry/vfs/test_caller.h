// For unit tests of files: a caller whose memory is this process's, and bodies that run on fibers.
#pragma once

#include <gtest/gtest.h>
#include <cstring>
#include <map>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "sentry/arena/arena_test_environment.h"
#include "sentry/sched/sched_test_util.h"
#include "sentry/vfs/file.h"

namespace skep::vfs {

// Guest addresses are our own; those below kBadEnd cannot be read or written. Counts what it is
// used for.
class TestMemory final : public mm::UserMemory {
 public:
  static constexpr uint64_t kBadEnd = 0x10000;

  mm::CopyResult CopyIn(mm::UserAddr from, std::span<std::byte> to) override {
    if (Raw(from) < kBadEnd) return {0, EFAULT};
    memcpy(to.data(), reinterpret_cast<const void*>(Raw(from)), to.size());
    return {to.size(), 0};
  }
  mm::CopyResult CopyOut(mm::UserAddr to, std::span<const std::byte> from) override {
    copies_out++;
    if (Raw(to) < kBadEnd) return {0, EFAULT};
    memcpy(reinterpret_cast<void*>(Raw(to)), from.data(), from.size());
    return {from.size(), 0};
  }
  mm::CopyResult ZeroOut(mm::UserAddr to, size_t size) override {
    if (Raw(to) < kBadEnd) return {0, EFAULT};
    memset(reinterpret_cast<void*>(Raw(to)), 0, size);
    return {size, 0};
  }
  mm::CopyResult WithBlocks(
      std::span<const iovec> guest, size_t, bool,
      const std::function<Result<size_t>(std::span<const iovec>)>& io) override {
    transfers++;
    const Result<size_t> n = io(guest);
    return n ? mm::CopyResult{*n, 0} : mm::CopyResult{0, n.error().code()};
  }
  using UserMemory::CopyIn;
  using UserMemory::CopyOut;

  int copies_out = 0, transfers = 0;
};

// A process, group or session with this number, the same object each time.
class TestProcessId final : public ProcessId {
 public:
  explicit TestProcessId(int number_in) : number(number_in) {}
  static Ref<ProcessId> Of(int number) {
    static auto& all = *new std::map<int, Ref<ProcessId>>;
    Ref<ProcessId>& found = all[number];
    if (!found) found = MakeRef<TestProcessId>(number);
    return found;
  }
  static int NumberOf(const ProcessId& id) { return static_cast<const TestProcessId&>(id).number; }
  const int number;
};

class TestCaller : public Caller, public JobControlCaller {
 public:
  const auth::Credentials& creds() const override { return credentials; }
  mm::UserMemory& memory() override { return memory_; }
  Ref<ProcessId> Process() const override { return TestProcessId::Of(process); }
  int NumberOf(const ProcessId& id) const override { return TestProcessId::NumberOf(id); }
  JobControlCaller* job_control() override { return this; }
  Ref<ProcessId> ProcessGroupId() const override { return TestProcessId::Of(group); }
  Ref<ProcessId> SessionId() const override { return TestProcessId::Of(session); }
  bool IsSessionLeader() const override { return process == session; }
  bool IsBlockedOrIgnored(int signo) const override { return signo == ignored; }
  bool InOrphanedGroup() const override { return orphaned; }
  void SignalOwnGroup(int signo) override { group_signals.emplace_back(group, signo); }
  // Group 99 does not exist; those from 100 to 199 are in session 100, and so on.
  Result<Ref<ProcessId>> FindProcessGroup(int number, const ProcessId& in) const override {
    if (number == 99) return Fail(ESRCH);
    if (number / 100 * 100 != NumberOf(in)) return Fail(EPERM);
    return TestProcessId::Of(number);
  }
  void SignalSelf(int signo) override { signals.push_back(signo); }
  uint64_t FileSizeLimit() const override { return ~uint64_t{0}; }
  uint64_t FileLimit() const override { return file_limit; }

  auth::Credentials credentials;
  uint64_t file_limit = ~uint64_t{0};
  int process = 10, group = 10, session = 10;
  int ignored = 0;
  bool orphaned = false;
  std::vector<int> signals;
  std::vector<std::pair<int, int>> group_signals;

 private:
  TestMemory memory_;
};

template <class T>
int CodeOf(const Result<T>& result) {
  return result ? 0 : result.error().code();
}

// Without waiting, as a non-blocking call.
inline Result<std::string> TryRead(Caller& caller, File& file, size_t size) {
  std::string text(size, '\0');
  mm::IoSequence to = mm::IoSequence::FromKernel(std::as_writable_bytes(std::span(text)));
  Result<size_t> n = file.Read(caller, to, 0);
  if (!n) return std::unexpected(n.error());
  text.resize(*n);
  return text;
}

inline Result<size_t> TryWrite(Caller& caller, File& file, std::string_view text) {
  mm::IoSequence from = mm::IoSequence::FromKernel(std::as_bytes(std::span(text)));
  uint64_t offset = 0;
  return file.Write(caller, from, &offset);
}

// What the syscall layer does: again after each wake-up while the answer is EAGAIN.
inline Result<std::string> ReadBlocking(Caller& caller, File& file, size_t size) {
  sched::FiberWaiter waiter(*file.Waiters(), sched::kAllEvents);
  for (;;) {
    Result<std::string> text = TryRead(caller, file, size);
    if (CodeOf(text) != EAGAIN) return text;
    (void)file.Poll(sched::kAllEvents);
    sched::Suspend(std::nullopt, sched::Sleep::kInterruptible);
  }
}

inline Result<size_t> WriteBlocking(Caller& caller, File& file, std::string_view text) {
  sched::FiberWaiter waiter(*file.Waiters(), sched::kAllEvents);
  size_t done = 0;
  while (done < text.size()) {
    Result<size_t> n = TryWrite(caller, file, text.substr(done));
    if (n) {
      done += *n;
    } else if (CodeOf(n) != EAGAIN) {
      return n;
    } else {
      (void)file.Poll(sched::kAllEvents);
      sched::Suspend(std::nullopt, sched::Sleep::kInterruptible);
    }
  }
  return done;
}

// Runs the bodies on fibers of `workers` workers, in turn, to their ends.
inline void OnFibers(int workers, std::vector<std::move_only_function<void()>> bodies) {
  sched::TestScheduler scheduler(workers);
  scheduler.Start();
  scheduler.RunAll(std::move(bodies));
}
inline void OnFiber(std::move_only_function<void()> body) {
  std::vector<std::move_only_function<void()>> bodies;
  bodies.push_back(std::move(body));
  OnFibers(1, std::move(bodies));
}
template <class... Bodies>
void OnFibersOf(int workers, Bodies... bodies) {
  std::vector<std::move_only_function<void()>> all;
  (all.push_back(std::move(bodies)), ...);
  OnFibers(workers, std::move(all));
}

}  // namespace skep::vfs
