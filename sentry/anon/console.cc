#include "sentry/anon/console.h"

#include <poll.h>
#include <sys/epoll.h>

#include "base/host_call.h"
#include "sentry/anon/host_file.h"
#include "sentry/arena/arena.h"
#include "sentry/sched/host_poller.h"

namespace skep::anon {
namespace {

constexpr size_t kChunk = 4096;
constexpr vfs::EventMask kReadable = EPOLLIN | EPOLLERR | EPOLLHUP;

}  // namespace

Result<Ref<Console>> Console::Start(sched::Scheduler& scheduler, Ref<Terminal> terminal,
                                    arena::HostFd input, arena::HostFd output) {
  terminal->SetLocked(false);
  Ref<Console> console(new Console(std::move(terminal), input, output));
  sched::Worker& worker = scheduler.worker(0);
  const Ref<sched::Fiber> in =
      TRY(sched::Fiber::Spawn(worker, [console, &scheduler] { console->CarryInput(scheduler); }));
  const Ref<sched::Fiber> out =
      TRY(sched::Fiber::Spawn(worker, [console] { console->CarryOutput(); }));
  return console;
}

Console::~Console() {
  arena::HostHeapScope host;
  OwnedFd input = arena::HostTable::Get().Remove(input_);
  if (output_ != input_) OwnedFd output = arena::HostTable::Get().Remove(output_);
}

void Console::CarryInput(sched::Scheduler& scheduler) {
  sched::HostWatch watch(scheduler, input_, input_ready_);
  std::vector<std::byte> buffer(kChunk);
  std::span<const std::byte> pending;
  sched::FiberWaiter ready(input_ready_, sched::kAllEvents);
  sched::FiberWaiter room(terminal_->other_waiters(), EPOLLOUT);
  while (!stopping_.load()) {
    if (input_held_.load() && terminal_->TakeWantedInput() && wanted_) wanted_();
    if (!pending.empty()) {
      pending = pending.subspan(terminal_->Feed(pending));
      if (pending.empty()) continue;
    } else if (!input_held_.load()) {
      const int fd = arena::HostTable::Get().Get(input_);
      if ((PollHost(fd, EPOLLIN) & kReadable) != 0) {
        const Result<size_t> got = host::Read(fd, buffer);
        if (got && *got != 0) {
          pending = std::span(buffer).first(*got);
          continue;
        }
        const bool ended = got ? true : got.error().code() != EAGAIN;
        if (ended) {  // the user's terminal is gone
          terminal_->HangUp();
          return;
        }
      }
      watch.Arm(kReadable);
    }
    (void)sched::Suspend(std::nullopt, sched::Sleep::kUninterruptible);
  }
}

bool Console::WriteHost(std::vector<std::byte> bytes) {
  bool written = false;
  sched::Offload([&, fd = arena::HostTable::Get().Get(output_)] {
    std::span<const std::byte> left = bytes;
    while (!left.empty()) {
      pollfd entry{fd, POLLOUT, 0};  // it may be non-blocking
      if (!host::Poll(std::span(&entry, 1), -1)) return;
      const Result<size_t> n = host::Write(fd, left);
      if (!n && n.error().code() != EAGAIN) return;
      if (n) left = left.subspan(*n);
    }
    written = true;
  });
  return written;
}

void Console::CarryOutput() {
  sched::FiberWaiter waiter(terminal_->other_waiters(), EPOLLIN);
  for (;;) {
    writing_.store(true);
    Result<std::vector<std::byte>> taken = terminal_->TakeOutput(kChunk);
    if (taken && WriteHost(std::move(*taken))) continue;
    writing_.store(false);
    progress_.Wake();
    if (taken || stopping_.load()) return;  // nobody can read it any more
    (void)sched::Suspend(std::nullopt, sched::Sleep::kUninterruptible);
  }
}

void Console::Drain(sched::Deadline deadline) {
  (void)sched::WaitUntil(progress_, sched::kAllEvents, deadline, sched::Sleep::kUninterruptible,
                         [&] { return terminal_->OutputSize() == 0 && !writing_.load(); });
}

void Console::SetInput(Input input) {
  terminal_->SetAway(input == Input::kHeld);
  input_held_.store(input == Input::kHeld);
  input_ready_.Wake();
}

void Console::Stop() {
  stopping_.store(true);
  input_ready_.Wake();
  terminal_->other_waiters().Wake();
}

}  // namespace skep::anon
