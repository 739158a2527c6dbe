// HostFile: an open file over a descriptor that the sentry was given: stdin, stdout and stderr of
// `skep do` when they are pipes, sockets, regular files or devices.
//
// The host's description is shared with strangers, so its flags are never changed: reads and writes
// are made not to block by poll, RWF_NOWAIT and MSG_DONTWAIT; what can promise neither (terminals,
// FIFOs) is written by a helper thread. Of regular files the host's position is moved along, so
// that the next program of a shell's `(a; b) > file` goes on where we stopped.
#pragma once

#include <cstdint>
#include <optional>

#include "sentry/arena/host_table.h"
#include "sentry/sched/host_poller.h"
#include "sentry/vfs/file.h"
#include "sentry/vfs/mount.h"

namespace skep::anon {

class HostFile final : public vfs::File {
 public:
  // Owns `fd`. Access mode and O_APPEND are the host's. EBADF.
  static Result<Ref<HostFile>> Make(sched::Scheduler& scheduler, arena::HostFd fd, vfs::Path path);
  ~HostFile() override;

  bool seekable() const override { return kind_ == Kind::kRegular; }
  Result<size_t> Read(vfs::Caller& caller, mm::IoSequence& to, uint64_t offset) override;
  Result<size_t> Write(vfs::Caller& caller, mm::IoSequence& from, uint64_t* offset) override;
  Result<uint64_t> Seek(int64_t offset, int whence) override;
  // Of a terminal: its size and modes (so that isatty tells the truth); FIONREAD.
  Result<uint64_t> Ioctl(vfs::Caller& caller, uint64_t command, uint64_t argument) override;
  Result<void> Truncate(vfs::Caller& caller, uint64_t size) override;
  Result<void> Sync(bool data_only) override;
  vfs::EventMask Poll(vfs::EventMask wanted) override;
  sched::WaitQueue* Waiters() override { return kind_ == Kind::kRegular ? nullptr : &waiters_; }

 private:
  enum class Kind : uint8_t { kRegular, kSocket, kOther };
  HostFile(sched::Scheduler& scheduler, arena::HostFd fd, vfs::Path path, uint32_t flags,
           Kind kind);

  int fd() const { return arena::HostTable::Get().Get(fd_); }
  Result<size_t> WriteRegular(mm::IoSequence& from, uint64_t* offset);
  Result<size_t> WriteByHelper(mm::IoSequence& from);

  const arena::HostFd fd_;
  const Kind kind_;
  sched::WaitQueue waiters_;
  std::optional<sched::HostWatch> watch_;
};

// The readiness of a host descriptor now, in EPOLL* bits. EPOLLERR if it is gone.
vfs::EventMask PollHost(int fd, vfs::EventMask wanted);

}  // namespace skep::anon
