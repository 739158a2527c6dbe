// TtyFile: a guest's open end of a terminal: /dev/pts/N, /dev/console, /dev/tty.
#pragma once

#include <memory>

#include "sentry/anon/terminal.h"
#include "sentry/sched/timer.h"
#include "sentry/vfs/file.h"
#include "sentry/vfs/mount.h"

namespace skep::anon {

class TtyFile final : public vfs::File {
 public:
  TtyFile(vfs::Path path, Ref<Terminal> terminal, uint32_t flags);
  ~TtyFile() override;

  Terminal& terminal() { return *terminal_; }
  bool seekable() const override { return false; }
  Result<size_t> Read(vfs::Caller& caller, mm::IoSequence& to, uint64_t offset) override;
  Result<size_t> Write(vfs::Caller& caller, mm::IoSequence& from, uint64_t* offset) override;
  Result<uint64_t> Ioctl(vfs::Caller& caller, uint64_t command, uint64_t argument) override;
  vfs::EventMask Poll(vfs::EventMask wanted) override;
  sched::WaitQueue* Waiters() override { return &terminal_->waiters(); }

 private:
  bool hung_up() const { return terminal_->generation() != generation_; }
  // VTIME: whether the time is up; sets the clock going if it is not.
  bool TimeIsUp(const Terminal::ReadTiming& timing);

  const Ref<Terminal> terminal_;
  const uint64_t generation_;
  std::unique_ptr<sched::Timer> timer_;  // made at first need; fiber of the reader
  std::atomic<bool> time_is_up_{false}, timing_{false};
  size_t seen_ = 0;  // input there was when the clock was set
};

// open(2) of a terminal's node: O_NOCTTY in flags. EIO while a pty is locked.
Result<Ref<vfs::File>> OpenTerminal(vfs::Caller& caller, Ref<Terminal> terminal,
                                    const vfs::Path& path, uint32_t flags);

// The ioctls that both ends of a terminal have. ENOTTY: it is not one of them.
Result<uint64_t> TerminalIoctl(vfs::Caller& caller, Terminal& terminal, bool from_master,
                               bool readable, uint64_t command, uint64_t argument);

}  // namespace skep::anon
