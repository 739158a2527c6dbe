// Between the sentry's Registers and the host's user_regs_struct.
#pragma once

#include <sys/user.h>
#include <cstddef>
#include <span>

#include "platform/platform.h"
#include "platform/xsave.h"

namespace skep::platform::ptrace {

inline constexpr uint64_t kCodeSegment64 = 0x33;   // Linux: __USER_CS
inline constexpr uint64_t kStackSegment64 = 0x2b;  // Linux: __USER_DS
inline constexpr uint64_t kPoison = 0xdead'beef'bad0'0000;

// The prefix of user_regs_struct that is written back: what follows (segment bases, data selectors)
// is written one by one, because the host rejects a whole set for one value it does not like.
inline constexpr size_t kWrittenPrefix = offsetof(user_regs_struct, fs_base);

Registers FromHost(const user_regs_struct& from);
// orig_rax becomes -1, so that the host does no system call restart of its own. The host masks
// flags itself (Linux: arch/x86/kernel/ptrace.c, set_flags).
user_regs_struct ToHost(const Registers& from, uint64_t code_segment);
// Whether the host takes it as a segment base. A guest may have made others with wrfsbase; nobody
// else can, so such a base is left as the guest made it.
bool IsSegmentBase(uint64_t value);

// An XSAVE area as a new process has it.
inline constexpr size_t kXsaveMin = xsave::kMinSize;
inline constexpr size_t kXsaveMax = 16 << 10;  // larger than any CPU's today
void InitXsave(std::span<std::byte> area);

}  // namespace skep::platform::ptrace
