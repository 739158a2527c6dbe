// What lives in a stub process above the guest's addresses: one page of code, one page of commands
// that the sentry writes and the stub only reads, and (in the template process alone) a scratch
// page.
//
// A batch is a list of host system calls. The stub's manager thread makes them in order, stops at
// the first that fails, and ends in a breakpoint; it uses no stack and writes no memory.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

#include "base/limits.h"

namespace skep::platform {

inline constexpr uint64_t kStubCode = 0x7fff'f800'0000;           // the code page, read and execute
inline constexpr uint64_t kStubCommands = kStubCode + kPageSize;  // CommandPage, read-only
inline constexpr uint64_t kStubScratch = kStubCode + 2 * kPageSize;  // template only, read-write
inline constexpr uint64_t kStubEnd = kStubCode + 3 * kPageSize;
inline constexpr uint64_t kUserEnd = 0x7fff'ffff'f000;  // Linux: TASK_SIZE_MAX with 4-level tables
static_assert(kStubCode >= kGuestAddressEnd && kStubEnd <= kUserEnd);

// The descriptors that every stub table starts with.
inline constexpr int kStubSocket = 0;
inline constexpr int kStubMemory = 1;

// One host system call of a batch. stub.S knows the layout.
struct StubCall {
  uint64_t number;
  std::array<uint64_t, 6> args;
  uint64_t unused;
};
inline constexpr size_t kMaxBatch = kPageSize / sizeof(StubCall) - 1;
struct CommandPage {
  uint64_t count;
  std::array<uint64_t, 7> unused;
  std::array<StubCall, kMaxBatch> calls;
};
static_assert(sizeof(StubCall) == 64 && offsetof(CommandPage, calls) == 64);
static_assert(sizeof(CommandPage) == kPageSize);

// Addresses inside a stub.
struct StubAddresses {
  uint64_t run_batch;      // where the manager starts a batch
  uint64_t after_syscall;  // what seccomp sees as the address of a batch's system call
  uint64_t exit;           // where a guest thread is sent to end; its rax must be SYS_exit
  uint64_t after_exit;
};
StubAddresses AddressesOfStub();
// The code page's content.
std::span<const std::byte> StubCodeBytes();

// What registers hold when a batch has ended in its breakpoint: r12 calls done; rax the last call's
// result (a negative errno if r12 < count).

}  // namespace skep::platform
