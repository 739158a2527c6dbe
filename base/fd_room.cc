#include "base/fd_room.h"

#include <fcntl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>
#include <algorithm>

namespace skep::host {

// Plain system calls: the template of stubs calls it between fork and its jail.
void ReserveFds(unsigned count) {
  rlimit limit;
  if (getrlimit(RLIMIT_NOFILE, &limit) != 0) return;
  const rlim_t most = std::min<rlim_t>(limit.rlim_cur, count);
  if (most == 0) return;
  // Any descriptor will do as the one that is copied.
  for (int fd = 0; fd < 16; ++fd) {
    const long last = syscall(SYS_fcntl, fd, F_DUPFD_CLOEXEC, most - 1);
    if (last < 0) continue;
    syscall(SYS_close, last);
    return;
  }
}

}  // namespace skep::host
