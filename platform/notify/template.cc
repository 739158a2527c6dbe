#include "platform/notify/template.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/rseq.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>
#include <array>
#include <csignal>
#include <memory>

#include "base/host_call.h"
#include "platform/common/waker.h"
#include "platform/notify/filters.h"

namespace skep::platform::notify {
namespace {

constexpr size_t kChildStack = 256 << 10;
constexpr unsigned kFirstFreeFd = 16;
constexpr int kSignals = 64;
constexpr int kHandled[] = {SIGSYS, SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP, kInterruptSignal};

struct ChildArgs {
  int memory;
  int socket;
  pid_t parent;
  sock_fprog filter;
};

// The template between fork and its first command. It is a copy of the sentry with one thread:
// other threads' locks may be held for ever, so it makes plain system calls only. What it fails in
// is its exit status, a line of kSteps.
constexpr std::array kSteps = {"",
                               "the sentry died",
                               "descriptors",
                               "rseq",
                               "signal handlers",
                               "mapping the stub's pages",
                               "no_new_privs",
                               "seccomp"};

[[noreturn]] void Leave(int step) {
  for (;;) syscall(SYS_exit_group, step);
}

struct HostAction {  // Linux: struct sigaction
  uint64_t handler;
  uint64_t flags;
  uint64_t restorer;
  uint64_t mask;
};

// Stubs hear of what guests do by signals; others are not for them.
void SetSignals() {
  constexpr uint64_t kRestorer = 0x0400'0000;  // SA_RESTORER
  const NotifyAddresses stub = AddressesOfNotifyStub();
  const HostAction ignore = {reinterpret_cast<uint64_t>(SIG_IGN), 0, 0, 0};
  const HostAction handle = {stub.handler, SA_SIGINFO | SA_ONSTACK | SA_RESTART | kRestorer,
                             stub.end - 2, ~uint64_t{0}};
  uint64_t blocked = ~uint64_t{0};
  for (int signal = 1; signal <= kSignals; ++signal) {
    if (signal == SIGKILL || signal == SIGSTOP) continue;
    if (syscall(SYS_rt_sigaction, signal, &ignore, nullptr, sizeof(uint64_t)) != 0) Leave(4);
  }
  for (const int signal : kHandled) {
    if (syscall(SYS_rt_sigaction, signal, &handle, nullptr, sizeof(uint64_t)) != 0) Leave(4);
    if (signal != kInterruptSignal) blocked &= ~(uint64_t{1} << (signal - 1));
  }
  syscall(SYS_rt_sigprocmask, SIG_SETMASK, &blocked, nullptr, sizeof(blocked));
}

void DropInherited(const ChildArgs& args) {
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  prctl(PR_SET_NAME, "skep-stub");
  if (getppid() != args.parent) Leave(1);
  setsid();  // the terminal's signals are not for stubs
  const long socket = syscall(SYS_fcntl, args.socket, F_DUPFD, kFirstFreeFd);
  const long memory = syscall(SYS_fcntl, args.memory, F_DUPFD, kFirstFreeFd);
  if (socket < 0 || memory < 0 || dup2(static_cast<int>(socket), kStubSocket) < 0 ||
      dup2(static_cast<int>(memory), kStubMemory) < 0 ||
      syscall(SYS_close_range, kStubMemory + 1, ~0u, 0) != 0) {
    Leave(2);
  }
  // As many descriptors as the host allows; no core files.
  rlimit limit;
  if (getrlimit(RLIMIT_NOFILE, &limit) == 0) {
    limit.rlim_cur = limit.rlim_max;
    setrlimit(RLIMIT_NOFILE, &limit);
  }
  limit = {0, 0};
  setrlimit(RLIMIT_CORE, &limit);
  // libc registered an area that is about to vanish; the host would kill us for that.
  if (__rseq_size != 0) {
    constexpr uint32_t kRegistered = 32;  // what glibc registers, whatever it says of its size
    char* area = static_cast<char*>(__builtin_thread_pointer()) + __rseq_offset;
    if (syscall(SYS_rseq, area, kRegistered, 1 /* RSEQ_FLAG_UNREGISTER */, RSEQ_SIG) != 0) Leave(3);
  }
}

bool MapFixed(uint64_t at, int protection, uint64_t offset) {
  return syscall(SYS_mmap, at, kPageSize, protection, MAP_SHARED | MAP_FIXED, kStubMemory,
                 offset) == static_cast<long>(at);
}

int TemplateMain(void* argument) {
  const ChildArgs& args = *static_cast<ChildArgs*>(argument);
  DropInherited(args);
  SetSignals();
  if (!MapFixed(kStubCode, PROT_READ | PROT_EXEC, StubMemory::kCodeAt) ||
      !MapFixed(kStubCommands, PROT_READ, StubMemory::CommandsAt(0)) ||
      !MapFixed(kNotifyShared, PROT_READ, StubMemory::kSharedAt)) {
    Leave(5);
  }
  if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0) Leave(6);
  if (prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &args.filter) != 0) Leave(7);
  // The rest of what was inherited goes by the first command.
  asm volatile("jmp *%0" ::"r"(AddressesOfNotifyStub().start));
  __builtin_unreachable();
}

}  // namespace

std::string WhyTemplateFailed(int status) {
  if (WIFEXITED(status)) {
    const auto step = static_cast<size_t>(WEXITSTATUS(status));
    return fmt::format("the template process failed: {}", step < kSteps.size() ? kSteps[step] : "");
  }
  return fmt::format("the template process failed: wait status {:#x}", status);
}

HostResult<pid_t> SpawnTemplate(StubMemory& memory, int socket, const EngineOptions& options) {
  NotifyCommands& page = memory.commands(0);
  page.calls[0] = {SYS_munmap, {0, kStubCode}};
  page.calls[1] = {SYS_munmap, {kNotifyShared + kPageSize, kUserEnd - kNotifyShared - kPageSize}};
  page.count = 2;
  page.sequence = 1;

  std::vector<sock_filter> filter = BaseFilter();
  ChildArgs args = {.memory = memory.fd(),
                    .socket = socket,
                    .parent = getpid(),
                    .filter = {static_cast<unsigned short>(filter.size()), filter.data()}};
  // A stack that is not where the stub's pages go.
  auto stack = std::make_unique<std::byte[]>(kChildStack);
  const pid_t pid = clone(TemplateMain, stack.get() + kChildStack, SIGCHLD, &args);
  if (pid < 0) return HostFail("cannot fork the template process");
  if (options.stub_cgroup_fd >= 0) {
    // Stubs, being clones of it, are in its group from the start: to move a process is slow.
    const std::string text = std::to_string(pid);
    if (auto r = host::Write(options.stub_cgroup_fd, std::as_bytes(std::span(text))); !r) {
      int status = 0;
      (void)host::Call(SYS_kill, static_cast<uint64_t>(pid), SIGKILL);
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

}  // namespace skep::platform::notify
