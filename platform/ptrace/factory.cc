#include "platform/ptrace/factory.h"

#include <linux/futex.h>
#include <pthread.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <csignal>

#include "base/filter_row.h"
#include "platform/ptrace/engine.h"
#include "platform/stub/stub.h"

namespace skep::platform::ptrace {
namespace {

class NothingToPoll final : public HostPoller {
 public:
  int epoll_fd() const override { return -1; }
  bool watching() const override { return false; }
};

// A guest whose one instruction is the system call in the stub's own page.
std::optional<std::string> Probe() {
  HostResult<std::unique_ptr<Engine>> engine = PtraceEngine::Make({});
  if (!engine) return engine.error().message;
  Result<std::unique_ptr<AddressSpace>> space = (*engine)->NewAddressSpace();
  if (!space) return "a stub process cannot be cloned";
  Registers registers = {};
  registers.rip = AddressesOfStub().exit;
  registers.rax = SYS_getpid;
  Result<std::unique_ptr<Context>> guest = (*engine)->NewContext(**space, registers, {});
  if (!guest) return "a guest thread cannot be cloned";
  (*guest)->Resume();
  NothingToPoll poller;
  const Event event = (*engine)->Wait(std::nullopt, poller);
  const auto* stopped = std::get_if<platform::Stopped>(&event);
  if (stopped == nullptr) return "the guest's stub died";
  const auto* call = std::get_if<SyscallStop>(&stopped->context->stop());
  if (call == nullptr || call->number != SYS_getpid) return "PTRACE_SYSEMU does not stop the guest";
  return std::nullopt;
}

}  // namespace

HostResult<std::unique_ptr<EngineGroup>> MakeGroup(const EngineOptions& options) {
  return std::make_unique<SeparateEngines<PtraceEngine>>(options);
}

// On a thread of its own, which has no engine yet and whose children are the probe's.
std::optional<std::string> WhyUnavailable() {
  std::optional<std::string> why;
  const auto main = [](void* result) -> void* {
    *static_cast<std::optional<std::string>*>(result) = Probe();
    return nullptr;
  };
  pthread_t thread;
  // tidy: allow(std::thread) joined here; runs no kernel code
  if (pthread_create(&thread, nullptr, main, &why) != 0) return "no thread can be started";
  pthread_join(thread, nullptr);
  return why;
}

std::vector<FilterRow> HostSyscalls() {
  return {
      {SYS_ptrace, "guests run until they call or stop", {Is(0, PTRACE_SYSEMU)}},
      {SYS_ptrace, "managers of stubs run", {Is(0, PTRACE_CONT)}},
      {SYS_ptrace, "why a guest stopped", {Is(0, PTRACE_GET_SYSCALL_INFO)}},
      {SYS_ptrace, "why a guest stopped", {Is(0, PTRACE_GETSIGINFO)}},
      {SYS_ptrace, "registers of guests", {Is(0, PTRACE_GETREGS)}},
      {SYS_ptrace, "vector registers of guests", {Is(0, PTRACE_GETREGSET)}},
      {SYS_ptrace, "registers of guests", {Is(0, PTRACE_SETREGSET)}},
      {SYS_ptrace, "results of guests' calls", {Is(0, PTRACE_POKEUSER)}},
      {SYS_wait4, "stops of guests"},
      {SYS_tgkill, "wakes a worker; interrupts a guest"},
      {SYS_kill, "ends a stub", {Is(1, SIGKILL)}},
      {SYS_futex, "workers that ask each other; the poll thread", {Is(1, FUTEX_WAIT_PRIVATE)}},
      {SYS_futex, "workers that ask each other; the poll thread", {Is(1, FUTEX_WAKE_PRIVATE)}},
      {SYS_timer_settime, "the deadline of a wait"},
      {SYS_timer_delete, "an engine's end"},
      {SYS_rt_sigreturn, "the handler of a kick"},
      {SYS_sched_setaffinity, "lets a computing guest go, and pins it again"},
      {SYS_sendmsg,
       "a mapped file's descriptor to the stubs",
       {IsWithAny(2, MSG_NOSIGNAL, MSG_DONTWAIT)}},
      {SYS_poll, "watched host descriptors"},
      {SYS_write, "ends the poll thread"},
      {SYS_clock_gettime, "CPU time of a stub; deadlines where the vDSO cannot tell"},
      {SYS_munmap, "an engine's end"},
      {SYS_close, "an engine's end"},
      {SYS_sched_yield, "an engine's end"},
  };
}

}  // namespace skep::platform::ptrace
