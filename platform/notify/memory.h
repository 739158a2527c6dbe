// The memory file behind what stubs have above the guest's addresses (platform/stub/notify_stub.h):
// the code, the shared page, a page of commands per stub, and the alternate stacks of threads. Each
// stub maps what is its own and no more.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "base/owned_fd.h"
#include "base/result.h"
#include "platform/common/numbers.h"
#include "platform/stub/notify_stub.h"

namespace skep::platform::notify {

// Its numbers belong to the caller's lock.
class StubMemory {
 public:
  static constexpr uint32_t kMaxStubs = 1 << 16;
  static constexpr uint32_t kMaxThreads = 1 << 16;
  static constexpr uint64_t kCodeAt = 0, kSharedAt = kPageSize;  // in the file

  StubMemory() = default;
  ~StubMemory();
  StubMemory(const StubMemory&) = delete;
  StubMemory& operator=(const StubMemory&) = delete;

  HostResult<void> Create();
  int fd() const { return fd_.get(); }

  // Slot 0 is the template's.
  NotifyCommands& commands(uint32_t slot) {
    return *reinterpret_cast<NotifyCommands*>(base_ + CommandsAt(slot));
  }
  static uint64_t CommandsAt(uint32_t slot) { return (2 + uint64_t{slot}) * kPageSize; }
  // How large an alternate stack is: a frame of the largest kind this CPU has, and some.
  size_t stack_size() const { return stack_size_; }
  uint64_t StackAt(uint32_t slot) const {
    return CommandsAt(kMaxStubs) + uint64_t{slot} * stack_size_;
  }
  std::span<std::byte> stack(uint32_t slot) { return {base_ + StackAt(slot), stack_size_}; }

  Numbers stubs{kMaxStubs};
  Numbers stacks{kMaxThreads};

 private:
  void WriteShared();

  OwnedFd fd_;
  std::byte* base_ = nullptr;
  size_t size_ = 0;
  size_t stack_size_ = 0;
};

}  // namespace skep::platform::notify
