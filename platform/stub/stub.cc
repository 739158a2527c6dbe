#include "platform/stub/stub.h"

// SAFETY: labels of stub.S; only their addresses are used, and the bytes between begin and end.
extern "C" const std::byte skep_stub_begin[], skep_stub_run_batch[], skep_stub_after_syscall[],
    skep_stub_exit[], skep_stub_after_exit[], skep_stub_end[];

namespace skep::platform {

StubAddresses AddressesOfStub() {
  const auto at = [](const std::byte* label) {
    return kStubCode + static_cast<uint64_t>(label - skep_stub_begin);
  };
  return {.run_batch = at(skep_stub_run_batch),
          .after_syscall = at(skep_stub_after_syscall),
          .exit = at(skep_stub_exit),
          .after_exit = at(skep_stub_after_exit)};
}

std::span<const std::byte> StubCodeBytes() { return {skep_stub_begin, skep_stub_end}; }

}  // namespace skep::platform
