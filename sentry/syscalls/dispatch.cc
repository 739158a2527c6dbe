// The kernel's way into the table.
#include "sentry/kernel/kernel.h"
#include "sentry/syscalls/adapter.h"

namespace skep::syscalls {

Result<uint64_t> Dispatch(Task& task, uint64_t number, const RawArgs& args, bool compat) {
  // int 0x80, sysenter and 32-bit code: as a kernel without CONFIG_IA32_EMULATION.
  if (compat || number >= kSyscallCount) return Fail(ENOSYS);
  const Syscall& call = kSyscalls[number];
  kernel::StraceSink* strace = task.kernel.strace.get();
  if (strace != nullptr) strace->Enter(task, number, args);
  Result<uint64_t> result =
      call.handler != nullptr ? call.handler(task, args) : Result<uint64_t>(Fail(call.refusal));
  if (strace != nullptr) strace->Leave(task, number, args, result);
  return result;
}

}  // namespace skep::syscalls
