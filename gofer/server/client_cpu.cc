#include "gofer/server/client_cpu.h"

#include <sys/syscall.h>
#include <array>

#include "base/host_call.h"

namespace skep::gofer {
namespace {

constexpr size_t kWordBits = 64;
constexpr size_t kMaxCpus = 1024;  // a CPU beyond is not followed

}  // namespace

void ClientCpu::Follow(uint16_t cpu_plus_1) {
  if (cpu_plus_1 == pinned_ || cpu_plus_1 == 0) {
    in_a_row_ = 0;
    return;
  }
  if (cpu_plus_1 != candidate_) {
    candidate_ = cpu_plus_1;
    in_a_row_ = 0;
  }
  if (++in_a_row_ < kMessagesBeforeMove) return;
  in_a_row_ = 0;
  std::array<uint64_t, kMaxCpus / kWordBits> cpus{};
  const size_t cpu = cpu_plus_1 - size_t{1};
  if (cpu >= kMaxCpus) return;
  cpus[cpu / kWordBits] = uint64_t{1} << (cpu % kWordBits);
  if (host::SetAffinity(0, std::as_bytes(std::span(cpus)))) {
    pinned_ = cpu_plus_1;
  }
}

}  // namespace skep::gofer
