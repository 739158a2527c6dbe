#include "platform/common/template_child.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>
#include <csignal>
#include <memory>

#include "base/fd_room.h"
#include "base/host_call.h"
#include "platform/stub/stub.h"

namespace skep::platform {
namespace {

constexpr size_t kChildStack = 256 << 10;
constexpr unsigned kFirstFreeFd = 16;
constexpr unsigned kRoomForFds = 4096;  // donated files
constexpr const char* kSteps[kFirstOwnStep] = {"", "the sentry died", "descriptors", "rseq"};

}  // namespace

HostResult<pid_t> ForkTemplate(int (*main)(void*), TemplateChild& child,
                               const EngineOptions& options) {
  // A stack that is not where the stub's pages go.
  auto stack = std::make_unique<std::byte[]>(kChildStack);
  const pid_t pid = clone(main, stack.get() + kChildStack, SIGCHLD, &child);
  if (pid < 0) return HostFail("cannot fork the template process");
  if (options.stubs.cgroup_fd >= 0) {
    // Stubs, being clones of it, are in its group from the start: to move a process is slow.
    const std::string text = std::to_string(pid);
    if (auto r = host::Write(options.stubs.cgroup_fd, std::as_bytes(std::span(text))); !r) {
      int status = 0;
      (void)host::Kill(pid, SIGKILL);
      (void)host::WaitPid(pid, &status, __WALL);
      return HostFail("cannot enter the stubs' control group", r.error().code());
    }
  }
  if (options.cpu >= 0) {
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET(static_cast<size_t>(options.cpu), &set);
    (void)sched_setaffinity(pid, sizeof(set), &set);  // the engine works without
  }
  return pid;
}

std::string WhyTemplateFailed(int status, std::span<const char* const> steps) {
  if (!WIFEXITED(status)) {
    return fmt::format("the template process failed: wait status {:#x}", status);
  }
  const int step = WEXITSTATUS(status);
  const char* what = "";
  if (step < kFirstOwnStep) {
    what = kSteps[step];
  } else if (static_cast<size_t>(step - kFirstOwnStep) < steps.size()) {
    what = steps[static_cast<size_t>(step - kFirstOwnStep)];
  }
  return fmt::format("the template process failed: {}", what);
}

[[noreturn]] void LeaveTemplate(int step) {
  for (;;) syscall(SYS_exit_group, step);
}

void DropInherited(const TemplateChild& child) {
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  prctl(PR_SET_NAME, "skep-stub");
  if (getppid() != child.parent) LeaveTemplate(1);
  setsid();  // the terminal's signals are not for stubs
  const long socket = syscall(SYS_fcntl, child.socket, F_DUPFD, kFirstFreeFd);
  const long memory = syscall(SYS_fcntl, child.memory, F_DUPFD, kFirstFreeFd);
  if (socket < 0 || memory < 0 || dup2(static_cast<int>(socket), kStubSocket) < 0 ||
      dup2(static_cast<int>(memory), kStubMemory) < 0 ||
      syscall(SYS_close_range, kStubMemory + 1, ~0u, 0) != 0) {
    LeaveTemplate(2);
  }
  // As many descriptors as the host allows; no core files.
  rlimit limit;
  if (getrlimit(RLIMIT_NOFILE, &limit) == 0) {
    limit.rlim_cur = limit.rlim_max;
    setrlimit(RLIMIT_NOFILE, &limit);
  }
  host::ReserveFds(kRoomForFds);
  limit = {0, 0};
  setrlimit(RLIMIT_CORE, &limit);
  // libc registered an area that is about to vanish; the host would kill us for that.
  if (!host::LeaveRseq()) LeaveTemplate(3);
}

bool MapStubPage(uint64_t at, int protection, uint64_t offset) {
  return syscall(SYS_mmap, at, kPageSize, protection, MAP_SHARED | MAP_FIXED, kStubMemory,
                 offset) == static_cast<long>(at);
}

}  // namespace skep::platform
