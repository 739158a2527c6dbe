#include "platform/ptrace/address_space.h"

#include <sys/syscall.h>
#include <csignal>

#include "base/host_call.h"
#include "platform/ptrace/engine.h"

namespace skep::platform::ptrace {
namespace {

constexpr uint64_t kNsPerSecond = 1'000'000'000;

}  // namespace

PtraceSpace::~PtraceSpace() { engine_.Drop(*this); }

AddressSpace::Applied PtraceSpace::Apply(std::span<const MapOp> ops) {
  return engine_.Apply(*this, ops);
}

Result<void> PtraceSpace::Reset() {
  const MapOp all = {.kind = MapOp::Kind::kUnmap, .start = 0, .size = kGuestAddressEnd};
  const Applied applied = engine_.Apply(*this, {&all, 1});
  if (applied.error != 0) return Fail(applied.error);
  return {};
}

void PtraceSpace::Kill() {
  if (dead()) return;
  if (!kill_awaited_.exchange(true)) engine_.ExpectDeath();
  (void)host::Kill(pid_, SIGKILL);
}

bool PtraceSpace::Serves(const Engine& engine) const { return &engine == &engine_; }

uint64_t PtraceSpace::CpuTimeNs() const {
  if (dead()) return 0;
  // Linux: include/linux/posix-timers_types.h, the scheduler's clock of a process.
  const auto clock = static_cast<clockid_t>((~static_cast<unsigned>(pid_) << 3) | 2);
  timespec time = {};
  if (clock_gettime(clock, &time) != 0) return 0;
  return static_cast<uint64_t>(time.tv_sec) * kNsPerSecond + static_cast<uint64_t>(time.tv_nsec);
}

}  // namespace skep::platform::ptrace
