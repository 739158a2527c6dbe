#include "sentry/anon/tty_file.h"

#include <sys/epoll.h>
#include <algorithm>
#include <csignal>

#include "sentry/sched/scheduler.h"

namespace skep::anon {
namespace {

constexpr size_t kChunk = 4096;
// A read takes at most what the line discipline holds.
constexpr size_t kReadMax = 4096;

}  // namespace

TtyFile::TtyFile(vfs::Path path, Ref<Terminal> terminal, uint32_t flags)
    : File(std::move(path), flags),
      terminal_(std::move(terminal)),
      generation_(terminal_->OpenEnd()) {}

TtyFile::~TtyFile() { terminal_->CloseEnd(generation_); }

bool TtyFile::TimeIsUp(const Terminal::ReadTiming& timing) {
  if (timing.canonical || timing.time_ns == 0) return false;
  const size_t there = terminal_->InputSize();
  // With VMIN the clock runs from the last character on.
  if (timing.least != 0 && there == 0) return false;
  if (timing_.load() && (timing.least == 0 || there == seen_)) return time_is_up_.load();
  sched::Scheduler& scheduler = sched::Fiber::Current().worker().scheduler();
  if (!timer_) {
    timer_ = std::make_unique<sched::Timer>(scheduler, [this] {
      time_is_up_.store(true);
      terminal_->waiters().Wake(EPOLLIN);
    });
  }
  seen_ = there;
  time_is_up_.store(false);
  timing_.store(true);
  timer_->Arm(scheduler.clock().MonotonicNs() + timing.time_ns);
  return false;
}

// Linux: n_tty_read.
Result<size_t> TtyFile::Read(vfs::Caller& caller, mm::IoSequence& to, uint64_t) {
  if (hung_up()) return 0;
  TRY(terminal_->terminals().CheckForeground(caller, *terminal_, SIGTTIN));
  if (to.empty()) return 0;
  const Terminal::ReadTiming timing = terminal_->read_timing();
  const size_t size = std::min(to.size(), kReadMax);
  Result<std::vector<std::byte>> got = terminal_->Read(size, nonblocking());
  if (!got && !nonblocking() && TimeIsUp(timing)) {
    got = terminal_->Read(size, true);
    if (!got) got = std::vector<std::byte>();
  }
  if (!got) {
    if (got.error() == Errno(EAGAIN)) terminal_->NoteReader();
    return std::unexpected(got.error());
  }
  if (timing_.exchange(false)) timer_->Cancel();
  const mm::CopyResult copied = to.CopyOut(*got);
  if (copied.bytes < got->size()) terminal_->Unread(std::span(*got).subspan(copied.bytes));
  return copied.OrFault();
}

// Linux: n_tty_write.
Result<size_t> TtyFile::Write(vfs::Caller& caller, mm::IoSequence& from, uint64_t*) {
  if (hung_up()) return Fail(EIO);
  if ((terminal_->modes().lflag & TOSTOP) != 0) {
    TRY(terminal_->terminals().CheckForeground(caller, *terminal_, SIGTTOU));
  }
  std::vector<std::byte> buffer(std::min(from.size(), kChunk));
  size_t done = 0;
  while (!from.empty()) {
    const size_t size = std::min(from.size(), kChunk);
    mm::IoSequence part = from.TakeFirst(size);
    const mm::CopyResult copied = part.CopyIn(std::span(buffer).first(size));
    if (copied.bytes == 0) return mm::CopyResult{done, copied.fault}.OrFault();
    const Result<size_t> written = terminal_->Write(std::span(buffer).first(copied.bytes));
    if (!written) {
      if (done != 0) return done;
      return written;
    }
    from.DropFirst(*written);
    done += *written;
    if (*written < size) break;
  }
  return done;
}

vfs::EventMask TtyFile::Poll(vfs::EventMask) {
  constexpr vfs::EventMask kAll = EPOLLIN | EPOLLOUT | EPOLLRDNORM | EPOLLWRNORM;
  if (hung_up()) return kAll | EPOLLERR | EPOLLHUP;  // Linux: hung_up_tty_poll
  return terminal_->Poll();
}

Result<uint64_t> TtyFile::Ioctl(vfs::Caller& caller, uint64_t command, uint64_t argument) {
  if (hung_up()) return Fail(command == TIOCSPGRP ? ENOTTY : EIO);
  if (command == FIONREAD) {
    const auto count = static_cast<int32_t>(terminal_->InputSize());
    TRY(caller.memory().CopyOut(mm::UserPtr<int32_t>(argument), count));
    return 0;
  }
  return TerminalIoctl(caller, *terminal_, false, readable(), command, argument);
}

// Linux: tty_open.
Result<Ref<vfs::File>> OpenTerminal(vfs::Caller& caller, Ref<Terminal> terminal,
                                    const vfs::Path& path, uint32_t flags) {
  if (terminal->locked()) return Fail(EIO);
  auto file = MakeRef<TtyFile>(path, terminal, flags & ~static_cast<uint32_t>(O_NOCTTY));
  // Linux does not make a terminal controlling on a write-only open.
  if ((flags & O_NOCTTY) == 0 && file->readable()) {
    terminal->terminals().AcquireAtOpen(caller, *terminal);
  }
  return Ref<vfs::File>(std::move(file));
}

}  // namespace skep::anon
