#include "platform/notify/template.h"

#include <linux/seccomp.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>
#include <array>
#include <csignal>

#include "platform/common/template_child.h"
#include "platform/common/waker.h"
#include "platform/notify/filters.h"

namespace skep::platform::notify {
namespace {

constexpr int kSignals = 64;
constexpr int kHandled[] = {SIGSYS, SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP, kInterruptSignal};

// What LeaveTemplate's numbers mean.
constexpr std::array kSteps = {"signal handlers", "mapping the stub's pages", "no_new_privs",
                               "seccomp", "PR_SET_DUMPABLE"};

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
    if (syscall(SYS_rt_sigaction, signal, &ignore, nullptr, sizeof(uint64_t)) != 0)
      LeaveTemplate(4);
  }
  for (const int signal : kHandled) {
    if (syscall(SYS_rt_sigaction, signal, &handle, nullptr, sizeof(uint64_t)) != 0)
      LeaveTemplate(4);
    if (signal != kInterruptSignal) blocked &= ~(uint64_t{1} << (signal - 1));
  }
  syscall(SYS_rt_sigprocmask, SIG_SETMASK, &blocked, nullptr, sizeof(blocked));
}

int TemplateMain(void* argument) {
  const TemplateChild& child = *static_cast<TemplateChild*>(argument);
  DropInherited(child);
  if (prctl(PR_SET_DUMPABLE, 0) != 0) LeaveTemplate(8);
  SetSignals();
  if (!MapStubPage(kStubCode, PROT_READ | PROT_EXEC, StubMemory::kCodeAt) ||
      !MapStubPage(kStubCommands, PROT_READ, StubMemory::CommandsAt(0)) ||
      !MapStubPage(kNotifyShared, PROT_READ, StubMemory::kSharedAt)) {
    LeaveTemplate(5);
  }
  if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0) LeaveTemplate(6);
  if (prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &child.filter) != 0) LeaveTemplate(7);
  // The rest of what was inherited goes by the first command.
  asm volatile("jmp *%0" ::"r"(AddressesOfNotifyStub().start));
  __builtin_unreachable();
}

}  // namespace

std::string WhyTemplateFailed(int status) { return platform::WhyTemplateFailed(status, kSteps); }

HostResult<pid_t> SpawnTemplate(StubMemory& memory, int socket, const EngineOptions& options) {
  NotifyCommands& page = memory.commands(0);
  page.calls[0] = {SYS_munmap, {0, kStubCode}};
  page.calls[1] = {SYS_munmap, {kNotifyShared + kPageSize, kUserEnd - kNotifyShared - kPageSize}};
  page.count = 2;
  page.sequence = 1;

  std::vector<sock_filter> filter = BaseFilter();
  TemplateChild child = {.memory = memory.fd(),
                         .socket = socket,
                         .parent = getpid(),
                         .filter = {static_cast<unsigned short>(filter.size()), filter.data()}};
  return ForkTemplate(TemplateMain, child, options);
}

}  // namespace skep::platform::notify
