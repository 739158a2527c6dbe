#include "platform/ptrace/template.h"

#include <linux/seccomp.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>
#include <array>
#include <csignal>
#include <cstring>

#include "base/check.h"
#include "base/host_call.h"
#include "platform/common/template_child.h"
#include "platform/ptrace/calls.h"
#include "platform/ptrace/registers.h"
#include "platform/ptrace/stub_filter.h"

namespace skep::platform::ptrace {
namespace {

constexpr size_t kMemorySize = (2 + size_t{StubMemory::kMaxStubs}) * kPageSize;
constexpr int kSignals = 64;

// What LeaveTemplate's numbers mean.
constexpr std::array kSteps = {"waiting for the tracer", "mapping the stub's code",
                               "mapping the commands",   "mapping the scratch page",
                               "no_new_privs",           "seccomp",
                               "PR_SET_DUMPABLE"};

void ResetSignals() {
  struct {
    void (*handler)(int);
    unsigned long flags;
    void (*restorer)();
    uint64_t mask;
  } action = {SIG_DFL, 0, nullptr, 0};
  for (int signal = 1; signal <= kSignals; ++signal) {
    syscall(SYS_rt_sigaction, signal, &action, nullptr, sizeof(action.mask));
  }
  const uint64_t none = 0;
  syscall(SYS_rt_sigprocmask, SIG_SETMASK, &none, nullptr, sizeof(none));
}

int TemplateMain(void* argument) {
  const TemplateChild& child = *static_cast<TemplateChild*>(argument);
  DropInherited(child);
  ResetSignals();
  char go;
  if (syscall(SYS_recvfrom, kStubSocket, &go, 1, 0, nullptr, nullptr) != 1) LeaveTemplate(4);
  // Seized: from now on nobody needs to ask whether it may be.
  if (prctl(PR_SET_DUMPABLE, 0) != 0) LeaveTemplate(10);
  if (!MapStubPage(kStubCode, PROT_READ | PROT_EXEC, 0)) LeaveTemplate(5);
  if (!MapStubPage(kStubCommands, PROT_READ, StubMemory::OffsetOf(0))) LeaveTemplate(6);
  if (!MapStubPage(kStubScratch, PROT_READ | PROT_WRITE, kPageSize) ||
      syscall(SYS_madvise, kStubScratch, kPageSize, MADV_DONTFORK) != 0) {
    LeaveTemplate(7);
  }
  if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0) LeaveTemplate(8);
  if (prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &child.filter) != 0) LeaveTemplate(9);
  // The rest of what was inherited goes in the first batch, which ends in a breakpoint.
  asm volatile("jmp *%0" ::"r"(AddressesOfStub().run_batch));
  __builtin_unreachable();
}

// No register and no vector register of the sentry stays.
Result<void> ClearRegisters(pid_t pid) {
  user_regs_struct registers = TRY(GetRegisters(pid));
  const uint64_t ip = registers.rip;
  const uint64_t flags = registers.eflags;
  const uint64_t cs = registers.cs;
  const uint64_t ss = registers.ss;
  registers = {};
  registers.rip = ip;
  registers.eflags = flags;
  registers.cs = cs;
  registers.ss = ss;
  registers.orig_rax = ~0ull;
  TRY(SetRegisters(pid, registers, sizeof(registers)));

  std::vector<std::byte> area(kXsaveMax);
  const size_t size = TRY(GetXsave(pid, area));
  area.resize(size);
  InitXsave(area);
  return SetXsave(pid, area);
}

}  // namespace

HostResult<void> StubMemory::Create() {
  auto fd = host::MemfdCreate("skep-stubs", MFD_CLOEXEC);
  if (!fd) return HostFail("memfd_create", fd.error().code());
  fd_ = std::move(*fd);
  if (auto r = host::Truncate(fd_.get(), kMemorySize); !r) {
    return HostFail("cannot size the stubs' memory file", r.error().code());
  }
  auto base = host::Mmap(nullptr, kMemorySize, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE,
                         fd_.get(), 0);
  if (!base) return HostFail("cannot map the stubs' memory file", base.error().code());
  base_ = static_cast<std::byte*>(*base);
  const auto code = StubCodeBytes();
  CHECK(code.size() <= kPageSize);
  memcpy(base_, code.data(), code.size());
  (void)slots.Take();  // 0: the template's
  return {};
}

StubMemory::~StubMemory() {
  if (base_ != nullptr) (void)host::Munmap(base_, kMemorySize);
}

HostResult<pid_t> SpawnTemplate(StubMemory& memory, int socket, int peer,
                                const EngineOptions& options) {
  CommandPage& page = memory.commands(0);
  page.calls[0] = {SYS_munmap, {0, kStubCode}};
  page.calls[1] = {SYS_munmap, {kStubEnd, kUserEnd - kStubEnd}};
  page.count = 2;

  std::vector<sock_filter> filter = StubFilter();
  TemplateChild child = {.memory = memory.fd(),
                         .socket = socket,
                         .parent = getpid(),
                         .filter = {static_cast<unsigned short>(filter.size()), filter.data()}};
  const pid_t pid = TRY(ForkTemplate(TemplateMain, child, options));
  int status = 0;
  const auto give_up = [&](std::string why, int error = 0) {
    (void)host::Kill(pid, SIGKILL);
    (void)host::WaitPid(pid, &status, __WALL);
    return HostFail(std::move(why), error);
  };
  if (auto r = Seize(pid); !r) return give_up("ptrace is refused here", r.error().code());
  const char go = 1;
  if (auto r = host::Write(peer, std::as_bytes(std::span(&go, 1))); !r) {
    return give_up("cannot start the template process", r.error().code());
  }
  for (;;) {
    if (!host::WaitPid(pid, &status, __WALL)) return HostFail("the template process is gone");
    if (!WIFSTOPPED(status)) return HostFail(WhyTemplateFailed(status, kSteps));
    if (status >> 8 == SIGTRAP) break;
    (void)Continue(pid);
  }
  auto registers = GetRegisters(pid);
  if (!registers || registers->r12 != page.count) {
    return give_up("the template process cannot unmap what it inherited",
                   registers ? static_cast<int>(-registers->rax) : 0);
  }
  if (auto r = ClearRegisters(pid); !r) return give_up("registers", r.error().code());
  return pid;
}

}  // namespace skep::platform::ptrace
