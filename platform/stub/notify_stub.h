// What lives in a stub process of the notify engine above the guest's addresses: the code page, a
// page of commands of its own, a page that all stubs share (filters, constants), and the alternate
// stacks of guest threads. Stubs can write the stacks only; guests can read all of it.
//
// notify.S knows these layouts.
#pragma once

#include <linux/filter.h>
#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

#include "base/limits.h"
#include "platform/stub/stub.h"

namespace skep::platform {

inline constexpr uint64_t kNotifyShared = kStubCode + 2 * kPageSize;
inline constexpr uint64_t kNotifyStacks = kStubCode + (1 << 20);
inline constexpr uint64_t kNotifyStacksEnd = kUserEnd - kPageSize;

// Numbers that are no system calls: what stub code asks its listener with.
inline constexpr uint32_t kEventCall = 0x1001;    // rdi signo, rsi siginfo, rdx ucontext, r10 and
                                                  // r8 bases of fs and gs; the reply is that of fs
inline constexpr uint32_t kManagerCall = 0x1002;  // rdi calls done, rsi errno of the next

// The descriptor where listeners appear.
inline constexpr int kListenerSlot = 2;

// StubCall.unused of a clone.
enum class CloneKind : uint64_t { kNone = 0, kStub = 1, kGuest = 2, kManager = 3 };

struct NotifyCommands {
  uint64_t count;
  uint32_t sequence;  // the root thread runs the batch when this changes
  uint32_t pad;
  struct {
    uint64_t base;
    uint32_t flags, pad;
    uint64_t size;
  } stack;  // stack_t of the next guest thread
  std::array<uint64_t, 3> unused;
  std::array<StubCall, kMaxBatch> calls;
};
static_assert(sizeof(NotifyCommands) == kPageSize && offsetof(NotifyCommands, calls) == 64);
static_assert(offsetof(NotifyCommands, sequence) == 8 && offsetof(NotifyCommands, stack) == 16);

struct NotifyShared {
  struct Program {  // sock_fprog
    uint16_t length;
    std::array<uint16_t, 3> pad;
    uint64_t code;
  } guest, manager;
  std::array<sock_filter, 316> instructions;
  struct {  // msghdr, iovec, cmsghdr: a listener in a message
    std::array<std::byte, 56> header;
    std::array<uint64_t, 2> part;
    std::array<std::byte, 24> control;
  } message;
  std::array<int64_t, 2> millisecond;  // timespec
  std::array<std::byte, 144> unused;
  std::array<uint8_t, 256> bytes;  // bytes[i] == i
  alignas(64) std::array<std::byte, 1024> xsave;
};
static_assert(sizeof(NotifyShared) == kPageSize && offsetof(NotifyShared, manager) == 16);
static_assert(offsetof(NotifyShared, message) == 0xa00 &&
              offsetof(NotifyShared, millisecond) == 0xa60 &&
              offsetof(NotifyShared, bytes) == 0xb00);
static_assert(offsetof(NotifyShared, xsave) == 0xc00);

// Addresses inside a stub. `after_`: what seccomp sees as the address of that system call.
struct NotifyAddresses {
  uint64_t begin, end;
  uint64_t start;    // where the template enters
  uint64_t handler;  // of signals
  uint64_t after_futex, after_call, after_send, after_exit_group, after_send_listener,
      after_wait_listener, after_wake, after_close_listener, after_sigaltstack, after_seccomp,
      after_manager, after_event, after_sigreturn;
};
NotifyAddresses AddressesOfNotifyStub();
std::span<const std::byte> NotifyStubCode();

}  // namespace skep::platform
