#include "jail/filter_use.h"

#include <poll.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>
#include <array>
#include <csignal>
#include <cstring>

#include "base/host_call.h"

namespace skep::jail {
namespace {

// In the process that counts: a copy of ours with one thread, so plain system calls only.
[[noreturn]] void Count(std::span<const FilterRow> rows, std::atomic<uint64_t>* counts,
                        const std::atomic<int>& listener) {
  prctl(PR_SET_NAME, "skep-count");
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  while (listener.load() < 0) syscall(SYS_sched_yield);
  for (;;) {
    seccomp_notif call;
    memset(&call, 0, sizeof call);
    if (ioctl(listener, SECCOMP_IOCTL_NOTIF_RECV, &call) != 0) {
      pollfd fd = {listener, 0, 0};
      if (poll(&fd, 1, 0) == 1 && (fd.revents & POLLHUP) != 0) syscall(SYS_exit_group, 0);
      continue;
    }
    seccomp_notif_resp answer = {call.id, 0, 0, SECCOMP_USER_NOTIF_FLAG_CONTINUE};
    for (size_t i = 0; i < rows.size() && i < kCountsOfPart; ++i) {
      if (!Allows(rows[i], call.data)) continue;
      counts[i].fetch_add(1, std::memory_order_relaxed);
      if (rows[i].error != 0) answer = {call.id, 0, -rows[i].error, 0};
      break;
    }
    (void)ioctl(listener, SECCOMP_IOCTL_NOTIF_SEND, &answer);
  }
}

}  // namespace

HostResult<void> FilterCounter::Start(std::span<const FilterRow> rows, const FilterUse& use) {
  constexpr size_t kPart = kCountsOfPart * sizeof(uint64_t);
  const auto map = [](size_t size, int flags, int fd) {
    return host::Mmap(nullptr, size, PROT_READ | PROT_WRITE, flags, fd, 0);
  };
  const Result<void*> counts = map(kPart * (use.part + 1), MAP_SHARED, use.fd);
  const Result<void*> word = map(4096, MAP_SHARED | MAP_ANONYMOUS, -1);
  if (!counts || !word) return HostFail("cannot map the counts of a filter's use");
  listener_ = new (*word) std::atomic<int>(-1);  // tidy: allow(new) placement in shared memory
  // SAFETY: the file is as long, and nothing else is in it.
  auto* first = reinterpret_cast<std::atomic<uint64_t>*>(*counts) + kCountsOfPart * use.part;
  const Result<int64_t> pid = host::Call(SYS_clone, CLONE_FILES | SIGCHLD, 0, 0, 0, 0);
  if (!pid) return HostFail("cannot start the counter of a filter's use", pid.error().code());
  if (*pid == 0) Count(rows, first, *listener_);
  return {};
}

}  // namespace skep::jail
