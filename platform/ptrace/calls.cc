#include "platform/ptrace/calls.h"

#include <elf.h>
#include <sys/syscall.h>
#include <sys/uio.h>

#include "base/host_call.h"

namespace skep::platform::ptrace {
namespace {

Result<int64_t> Ptrace(long request, pid_t tid, uint64_t address, const void* data) {
  return host::Call(SYS_ptrace, request, tid, address, data);
}

Result<void> Plain(Result<int64_t> result) {
  if (!result) return std::unexpected(result.error());
  return {};
}

}  // namespace

Result<void> Seize(pid_t tid) {
  return Plain(
      host::Call(SYS_ptrace, PTRACE_SEIZE, tid, 0, PTRACE_O_EXITKILL | PTRACE_O_TRACESYSGOOD));
}
Result<void> Continue(pid_t tid) { return Plain(Ptrace(PTRACE_CONT, tid, 0, nullptr)); }
Result<void> Emulate(pid_t tid) { return Plain(Ptrace(PTRACE_SYSEMU, tid, 0, nullptr)); }

Result<SyscallInfo> GetSyscallInfo(pid_t tid) {
  SyscallInfo info = {};
  TRY(Plain(Ptrace(PTRACE_GET_SYSCALL_INFO, tid, sizeof(info), &info)));
  return info;
}

Result<siginfo_t> GetSignal(pid_t tid) {
  siginfo_t info = {};
  TRY(Plain(Ptrace(PTRACE_GETSIGINFO, tid, 0, &info)));
  return info;
}

Result<user_regs_struct> GetRegisters(pid_t tid) {
  user_regs_struct registers = {};
  TRY(Plain(Ptrace(PTRACE_GETREGS, tid, 0, &registers)));
  return registers;
}

Result<void> SetRegisters(pid_t tid, const user_regs_struct& registers, size_t size) {
  iovec part = {const_cast<user_regs_struct*>(&registers), size};
  return Plain(Ptrace(PTRACE_SETREGSET, tid, NT_PRSTATUS, &part));
}

Result<void> PokeRegister(pid_t tid, size_t offset, uint64_t value) {
  return Plain(host::Call(SYS_ptrace, PTRACE_POKEUSER, tid, offset, value));
}

Result<size_t> GetXsave(pid_t tid, std::span<std::byte> area) {
  iovec part = {area.data(), area.size()};
  TRY(Plain(Ptrace(PTRACE_GETREGSET, tid, NT_X86_XSTATE, &part)));
  return part.iov_len;
}

Result<void> SetXsave(pid_t tid, std::span<const std::byte> area) {
  iovec part = {const_cast<std::byte*>(area.data()), area.size()};
  return Plain(Ptrace(PTRACE_SETREGSET, tid, NT_X86_XSTATE, &part));
}

}  // namespace skep::platform::ptrace
