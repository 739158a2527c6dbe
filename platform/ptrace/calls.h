// ptrace(2) and its wait4(2) as the engine uses them. Each must run on the tracer's thread.
#pragma once

#include <signal.h>
#include <sys/ptrace.h>
#include <sys/types.h>
#include <sys/user.h>
#include <cstddef>
#include <cstdint>
#include <span>

#include "base/result.h"

namespace skep::platform::ptrace {

using SyscallInfo = struct __ptrace_syscall_info;

Result<void> Seize(pid_t tid);
Result<void> Continue(pid_t tid);  // runs native code of ours: managers only
Result<void> Emulate(pid_t tid);   // PTRACE_SYSEMU: how guests run
Result<SyscallInfo> GetSyscallInfo(pid_t tid);
Result<siginfo_t> GetSignal(pid_t tid);
Result<user_regs_struct> GetRegisters(pid_t tid);
// Writes the first `size` bytes of the structure.
Result<void> SetRegisters(pid_t tid, const user_regs_struct& registers, size_t size);
// One word of user_regs_struct, by its offset.
Result<void> PokeRegister(pid_t tid, size_t offset, uint64_t value);
// The standard-format XSAVE area. Get answers how many bytes there are.
Result<size_t> GetXsave(pid_t tid, std::span<std::byte> area);
Result<void> SetXsave(pid_t tid, std::span<const std::byte> area);

}  // namespace skep::platform::ptrace
