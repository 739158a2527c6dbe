#include "sentry/kernel/pidfd.h"

#include <sys/epoll.h>

namespace skep::kernel {

vfs::EventMask PidFd::Poll(vfs::EventMask) {
  return group_->zombie.load() ? EPOLLIN | EPOLLRDNORM : 0;
}

Ref<vfs::File> MakePidFd(Kernel& kernel, Ref<ThreadGroup> group, uint32_t flags) {
  return MakeRef<PidFd>(kernel.anon_fs->SharedInode("[pidfd]"), std::move(group), flags);
}

Result<Ref<ThreadGroup>> ProcessOf(const vfs::FdTable& files, int fd) {
  const Ref<vfs::File> file = TRY(files.Get(fd));
  const auto* pidfd = dynamic_cast<const PidFd*>(file.get());
  if (pidfd == nullptr) return Fail(EBADF);
  return Ref<ThreadGroup>(&pidfd->group());
}

}  // namespace skep::kernel
