// PidFd: a process as an open file: pidfd_open(2), CLONE_PIDFD. It names this very process,
// whatever becomes of its number (Linux: pidfd_fops in kernel/fork.c).
#pragma once

#include "sentry/kernel/kernel.h"
#include "sentry/vfs/fd_table.h"
#include "sentry/vfs/file.h"

namespace skep::kernel {

class PidFd final : public vfs::File {
 public:
  PidFd(vfs::Path path, Ref<ThreadGroup> group, uint32_t flags)
      : File(std::move(path), O_RDWR | (flags & O_NONBLOCK)), group_(std::move(group)) {}

  ThreadGroup& group() const { return *group_; }

  bool seekable() const override { return false; }
  bool stream() const override { return false; }
  vfs::EventMask Poll(vfs::EventMask wanted) override;
  sched::WaitQueue* Waiters() override { return &group_->exit_watch; }

 private:
  const Ref<ThreadGroup> group_;
};

// flags: O_NONBLOCK (PIDFD_NONBLOCK) or nothing.
Ref<vfs::File> MakePidFd(Kernel& kernel, Ref<ThreadGroup> group, uint32_t flags);
// The process that descriptor `fd` of the table names. EBADF: it is no pidfd.
Result<Ref<ThreadGroup>> ProcessOf(const vfs::FdTable& files, int fd);

}  // namespace skep::kernel
