#include "platform/ptrace/template.h"

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
#include <csignal>
#include <cstring>
#include <memory>

#include "base/check.h"
#include "base/host_call.h"
#include "platform/ptrace/calls.h"
#include "platform/ptrace/registers.h"
#include "platform/ptrace/stub_filter.h"

namespace skep::platform::ptrace {
namespace {

constexpr uint32_t kMaxStubs = 1 << 16;
constexpr size_t kMemorySize = (2 + size_t{kMaxStubs}) * kPageSize;
constexpr size_t kChildStack = 256 << 10;
constexpr unsigned kFirstFreeFd = 16;
constexpr int kSignals = 64;

struct ChildArgs {
  int memory;
  int socket;
  pid_t parent;
  sock_fprog filter;
};

// The template between fork and its first batch. It is a copy of the sentry with one thread: other
// threads' locks may be held for ever, so it makes plain system calls only. What it fails in is its
// exit status, a line of kSteps.
constexpr std::array kSteps = {"",
                               "the sentry died",
                               "descriptors",
                               "rseq",
                               "waiting for the tracer",
                               "mapping the stub's code",
                               "mapping the commands",
                               "mapping the scratch page",
                               "no_new_privs",
                               "seccomp"};

[[noreturn]] void Leave(int step) {
  for (;;) syscall(SYS_exit_group, step);
}

void DropInherited(const ChildArgs& args) {
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  prctl(PR_SET_NAME, "skep-stub");
  if (getppid() != args.parent) Leave(1);
  setsid();  // the terminal's signals are not for stubs
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
  char go;
  if (syscall(SYS_recvfrom, kStubSocket, &go, 1, 0, nullptr, nullptr) != 1) Leave(4);
  if (!MapFixed(kStubCode, PROT_READ | PROT_EXEC, 0)) Leave(5);
  if (!MapFixed(kStubCommands, PROT_READ, StubMemory::OffsetOf(0))) Leave(6);
  if (!MapFixed(kStubScratch, PROT_READ | PROT_WRITE, kPageSize) ||
      syscall(SYS_madvise, kStubScratch, kPageSize, MADV_DONTFORK) != 0) {
    Leave(7);
  }
  if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0) Leave(8);
  if (prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &args.filter) != 0) Leave(9);
  // The rest of what was inherited goes in the first batch, which ends in a breakpoint.
  asm volatile("jmp *%0" ::"r"(AddressesOfStub().run_batch));
  __builtin_unreachable();
}

std::string WhyFailed(int status) {
  if (WIFEXITED(status)) {
    const auto step = static_cast<size_t>(WEXITSTATUS(status));
    return fmt::format("the template process failed: {}", step < kSteps.size() ? kSteps[step] : "");
  }
  return fmt::format("the template process failed: wait status {:#x}", status);
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
  used_.resize(kMaxStubs / 64);
  used_[0] = 1;
  return {};
}

StubMemory::~StubMemory() {
  if (base_ != nullptr) (void)host::Munmap(base_, kMemorySize);
}

Result<uint32_t> StubMemory::TakeSlot() {
  for (uint32_t i = 0; i < used_.size(); ++i) {
    if (~used_[i] == 0) continue;
    const auto bit = static_cast<uint32_t>(__builtin_ctzll(~used_[i]));
    used_[i] |= uint64_t{1} << bit;
    return i * 64 + bit;
  }
  return Fail(ENOMEM);
}

void StubMemory::FreeSlot(uint32_t slot) { used_[slot / 64] &= ~(uint64_t{1} << (slot % 64)); }

HostResult<pid_t> SpawnTemplate(StubMemory& memory, int socket, int peer,
                                const EngineOptions& options) {
  CommandPage& page = memory.commands(0);
  page.calls[0] = {SYS_munmap, {0, kStubCode}};
  page.calls[1] = {SYS_munmap, {kStubEnd, kUserEnd - kStubEnd}};
  page.count = 2;

  std::vector<sock_filter> filter = StubFilter();
  ChildArgs args = {.memory = memory.fd(),
                    .socket = socket,
                    .parent = getpid(),
                    .filter = {static_cast<unsigned short>(filter.size()), filter.data()}};
  // A stack that is not where the stub's pages go.
  auto stack = std::make_unique<std::byte[]>(kChildStack);
  const pid_t pid = clone(TemplateMain, stack.get() + kChildStack, SIGCHLD, &args);
  if (pid < 0) return HostFail("cannot fork the template process");

  int status = 0;
  const auto give_up = [&](std::string why, int error = 0) {
    (void)host::Call(SYS_kill, static_cast<uint64_t>(pid), SIGKILL);
    (void)host::WaitPid(pid, &status, __WALL);
    return HostFail(std::move(why), error);
  };
  if (auto r = Seize(pid); !r) return give_up("ptrace is refused here", r.error().code());
  if (options.stub_cgroup_fd >= 0) {
    // Stubs, being clones of it, are in its group from the start: to move a process is slow.
    const std::string text = std::to_string(pid);
    if (auto r = host::Write(options.stub_cgroup_fd, std::as_bytes(std::span(text))); !r) {
      return give_up("cannot enter the stubs' control group", r.error().code());
    }
  }
  if (options.cpu >= 0) {
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET(static_cast<size_t>(options.cpu), &set);
    (void)sched_setaffinity(pid, sizeof(set), &set);  // the engine works without
  }
  const char go = 1;
  if (auto r = host::Write(peer, std::as_bytes(std::span(&go, 1))); !r) {
    return give_up("cannot start the template process", r.error().code());
  }
  for (;;) {
    if (!host::WaitPid(pid, &status, __WALL)) return HostFail("the template process is gone");
    if (!WIFSTOPPED(status)) return HostFail(WhyFailed(status));
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
