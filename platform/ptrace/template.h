// The template process: what stubs are cloned from. It is a fork of the sentry that has given up
// everything it inherited (memory, descriptors, handlers), runs no guest, and receives descriptors
// into the table that it shares with all stubs of its worker.
#pragma once

#include <sys/types.h>
#include <array>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "base/owned_fd.h"
#include "base/result.h"
#include "platform/common/numbers.h"
#include "platform/platform.h"
#include "platform/stub/stub.h"

namespace skep::platform::ptrace {

// The memory file behind stubs' own pages: the code, the template's scratch page, and one page of
// commands per stub, of which stub n sees only the n-th.
class StubMemory {
 public:
  // What the template runs recvmsg with; the kernel writes here, no guest can.
  struct Scratch {
    std::array<std::byte, 56> message;  // msghdr
    std::array<uint64_t, 2> part;       // iovec
    std::array<std::byte, 8> data;
    std::array<std::byte, 24> control;  // cmsghdr with one descriptor
  };

  static constexpr uint32_t kMaxStubs = 1 << 16;
  Numbers slots{kMaxStubs};

  StubMemory() = default;
  ~StubMemory();
  StubMemory(const StubMemory&) = delete;
  StubMemory& operator=(const StubMemory&) = delete;

  HostResult<void> Create();
  int fd() const { return fd_.get(); }
  Scratch& scratch() { return *reinterpret_cast<Scratch*>(base_ + kPageSize); }
  // Slot 0 is the template's.
  CommandPage& commands(uint32_t slot) {
    return *reinterpret_cast<CommandPage*>(base_ + OffsetOf(slot));
  }
  static uint64_t OffsetOf(uint32_t slot) { return (2 + uint64_t{slot}) * kPageSize; }

 private:
  OwnedFd fd_;
  std::byte* base_ = nullptr;
};

// Forks the template, traced by the calling thread, and leaves it stopped where it can run batches
// (commands: slot 0). `socket` becomes its kStubSocket. options.cpu: where stubs run;
// options.stubs.cgroup_fd: the control group that they are in.
HostResult<pid_t> SpawnTemplate(StubMemory& memory, int socket, int peer,
                                const EngineOptions& options);

}  // namespace skep::platform::ptrace
