// What a system call costs under an engine: a guest that makes one after the other, on one CPU.
#include <pthread.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <algorithm>
#include <array>

#include "base/host_call.h"
#include "base/limits.h"
#include "platform/platform.h"

namespace skep::platform {
namespace {

constexpr uint64_t kCodeAt = 0x40'0000;
// Short rounds, of which the best counts: others may be using the CPU.
constexpr int kWarmUp = 200, kRounds = 60, kCallsPerRound = 150;

class OneFile final : public HostFiles {
 public:
  explicit OneFile(OwnedFd fd) : fd_(std::move(fd)) {}
  Result<int> DescriptorOf(HostFileId) override { return fd_.get(); }

 private:
  OwnedFd fd_;
};

class NothingToPoll final : public HostPoller {
 public:
  int epoll_fd() const override { return -1; }
  bool watching() const override { return false; }
};

HostResult<void> Calls(Engine& engine, Context& guest, int count) {
  NothingToPoll poller;
  for (int i = 0; i < count; ++i) {
    guest.SetReturn(SYS_getpid);  // the number of its next call
    guest.Resume();
    const Event event = engine.Wait(std::nullopt, poller);
    if (!std::holds_alternative<Stopped>(event)) return HostFail("the guest's stub died");
    if (!std::holds_alternative<SyscallStop>(guest.stop())) return HostFail("no system call");
  }
  return {};
}

HostResult<uint64_t> Measure(EngineKind kind) {
  constexpr std::array<uint8_t, 4> kLoop = {0x0f, 0x05, 0xeb, 0xfc};  // 1: syscall; jmp 1b
  auto fd = host::MemfdCreate("probe", MFD_CLOEXEC);
  if (!fd || !host::Truncate(fd->get(), kPageSize) ||
      !host::PWrite(fd->get(), std::as_bytes(std::span(kLoop)), 0)) {
    return HostFail("memfd");
  }
  OneFile files(std::move(*fd));
  EngineOptions options;
  options.files = &files;
  options.cpu = sched_getcpu();
  cpu_set_t cpu;
  CPU_ZERO(&cpu);
  CPU_SET(static_cast<size_t>(options.cpu), &cpu);
  (void)sched_setaffinity(0, sizeof(cpu), &cpu);  // else it is measured as it is
  const std::unique_ptr<Engine> engine = TRY(MakeEngine(kind, options));
  Result<std::unique_ptr<AddressSpace>> space = engine->NewAddressSpace();
  if (!space) return HostFail("a stub cannot be made", space.error().code());
  const MapOp op = {MapOp::Kind::kMap, PROT_READ | PROT_EXEC, false, kCodeAt, kPageSize, {}, 0};
  if (const auto done = (*space)->Apply({&op, 1}); done.error != 0) {
    return HostFail("the stub cannot map", done.error);
  }
  Registers registers = {};
  registers.rip = kCodeAt;
  registers.rax = SYS_getpid;
  Result<std::unique_ptr<Context>> guest = engine->NewContext(**space, registers, {});
  if (!guest) return HostFail("a guest thread cannot be made", guest.error().code());
  TRY(Calls(*engine, **guest, kWarmUp));
  uint64_t best = ~uint64_t{0};
  for (int round = 0; round < kRounds; ++round) {
    const uint64_t start = host::MonotonicNs();
    TRY(Calls(*engine, **guest, kCallsPerRound));
    best = std::min(best, (host::MonotonicNs() - start) / kCallsPerRound);
  }
  return best;
}

struct Job {
  EngineKind kind;
  HostResult<uint64_t> result;
};

}  // namespace

// On a thread of its own, which has no engine yet and with which its stubs end.
HostResult<uint64_t> MeasureSyscallNs(EngineKind kind) {
  Job job = {kind, 0};
  const auto main = [](void* argument) -> void* {
    auto& j = *static_cast<Job*>(argument);
    j.result = Measure(j.kind);
    return nullptr;
  };
  pthread_t thread;
  // tidy: allow(std::thread) joined here; runs no kernel code
  if (pthread_create(&thread, nullptr, main, &job) != 0) {
    return HostFail("no thread can be started");
  }
  pthread_join(thread, nullptr);
  return std::move(job.result);
}

}  // namespace skep::platform
