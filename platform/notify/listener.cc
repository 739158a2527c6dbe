#include "platform/notify/listener.h"

#include <fcntl.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <sys/auxv.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <sys/utsname.h>
#include <cstdio>
#include <cstring>

#include "base/host_call.h"
#include "base/missing_defs.h"

namespace skep::platform::notify {

const char* WhyNoHost() {
  constexpr unsigned long kHasFsgsbase = 2;  // HWCAP2_FSGSBASE
  if ((getauxval(AT_HWCAP2) & kHasFsgsbase) == 0) {
    return "programs cannot set segment bases here (FSGSBASE)";
  }
  const uint32_t action = SECCOMP_RET_USER_NOTIF;
  if (!host::Call(SYS_seccomp, SECCOMP_GET_ACTION_AVAIL, 0, &action)) {
    return "the host has no seccomp user notification, or an outer filter hides it";
  }
  // A bad address is found after bad flags are.
  const auto flags =
      host::Call(SYS_seccomp, SECCOMP_SET_MODE_FILTER,
                 SECCOMP_FILTER_FLAG_NEW_LISTENER | SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV, 0);
  if (!flags && flags.error() == Errno(EINVAL)) {
    return "the host has no SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV (Linux 5.19)";
  }
  if (!flags && flags.error() != Errno(EFAULT)) return "an outer filter refuses seccomp(2)";
  seccomp_notif_sizes sizes = {};
  if (!host::Call(SYS_seccomp, SECCOMP_GET_NOTIF_SIZES, 0, &sizes) ||
      sizes.seccomp_notif != sizeof(seccomp_notif) ||
      sizes.seccomp_notif_resp != sizeof(seccomp_notif_resp)) {
    return "the host's seccomp notifications have another form";
  }
  return nullptr;
}

Result<Listener> Listener::Adopt(OwnedFd fd) {
  const auto set =
      host::Ioctl(fd.get(), SECCOMP_IOCTL_NOTIF_SET_FLAGS, SECCOMP_USER_NOTIF_FD_SYNC_WAKE_UP);
  if (!set) return std::unexpected(set.error());
  Listener listener;
  listener.fd_ = std::move(fd);
  return listener;
}

Listener::Received Listener::Failed(Errno error) {
  if (error == Errno(EINTR)) return Received::kNothing;
  return IsGone() ? Received::kGone : Received::kNothing;
}

bool Listener::IsGone() {
  pollfd fd = {fd_.get(), 0, 0};
  auto ready = host::Poll({&fd, 1}, 0);
  // A kick of the worker can end even a poll that does not wait.
  while (!ready && ready.error() == Errno(EINTR)) ready = host::Poll({&fd, 1}, 0);
  return !ready || (fd.revents & (POLLHUP | POLLERR | POLLNVAL)) != 0;
}

// The host takes the filter's lock interruptibly: a kick must not look like a thread's end.
Result<int64_t> Listener::ControlForSure(unsigned long request, void* argument) {
  for (;;) {
    Result<int64_t> done = host::Ioctl(fd_.get(), request, argument);
    if (done || done.error() != Errno(EINTR)) return done;
  }
}

bool ReceiveEndsWithThread() {
  static const bool ends = [] {
    utsname host = {};
    int major = 0, minor = 0;
    return uname(&host) == 0 && sscanf(host.release, "%d.%d", &major, &minor) == 2 &&
           (major > 6 || (major == 6 && minor >= 11));
  }();
  return ends;
}

Listener::Received Listener::Receive(seccomp_notif& call) {
  if (!ReceiveEndsWithThread()) {
    const Received ready = WaitForCall(-1);
    if (ready != Received::kCall) return ready;
  }
  memset(&call, 0, sizeof(call));
  const auto got = host::Ioctl(fd_.get(), SECCOMP_IOCTL_NOTIF_RECV, &call);
  return got ? Received::kCall : Failed(got.error());
}

Listener::Received Listener::ReceiveUnlessWoken(Waker& waker, seccomp_notif& call) {
  memset(&call, 0, sizeof(call));
  const auto got =
      waker.CallUnlessWoken(SYS_ioctl, static_cast<uint64_t>(fd_.get()), SECCOMP_IOCTL_NOTIF_RECV,
                            reinterpret_cast<uint64_t>(&call));
  return got ? Received::kCall : Failed(got.error());
}

Listener::Received Listener::WaitForCall(int timeout_ms) {
  pollfd fd = {fd_.get(), POLLIN, 0};
  const auto ready = host::Poll({&fd, 1}, timeout_ms);
  if (!ready || *ready == 0) return Received::kNothing;
  if ((fd.revents & POLLIN) != 0) return Received::kCall;
  return Received::kGone;
}

bool Listener::Answer(uint64_t id, uint64_t rax) {
  seccomp_notif_resp answer = {};
  answer.id = id;
  answer.val = static_cast<int64_t>(rax);
  return ControlForSure(SECCOMP_IOCTL_NOTIF_SEND, &answer).has_value();
}

Result<void> Listener::Donate(uint64_t id, int ours, int number) {
  seccomp_notif_addfd add = {};
  add.id = id;
  add.flags = SECCOMP_ADDFD_FLAG_SETFD;
  add.srcfd = static_cast<uint32_t>(ours);
  add.newfd = static_cast<uint32_t>(number);
  add.newfd_flags = O_CLOEXEC;
  const auto added = ControlForSure(SECCOMP_IOCTL_NOTIF_ADDFD, &add);
  if (!added) return std::unexpected(added.error());
  return {};
}

}  // namespace skep::platform::notify
