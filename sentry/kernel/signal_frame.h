// Signal frames: what a handler finds on its stack, byte for byte as on x86-64 Linux
// (arch/x86/kernel/signal_64.c, fpu/signal.c).
#pragma once

#include "sentry/kernel/task.h"

namespace skep::kernel {

// Pushes a frame for `info` and points the registers at the handler. `mask`: what sigreturn
// restores. EFAULT: the stack cannot take it (the caller forces SIGSEGV).
Result<void> PushSignalFrame(Task& task, platform::Registers& registers, const siginfo_t& info,
                             const SignalAction& action, SignalSet mask);
// rt_sigreturn(2): registers, xsave state, mask and alternate stack as the frame says.
Result<void> PopSignalFrame(Task& task, platform::Registers& registers);

// sigaltstack(2) rules. EPERM on the stack itself, EINVAL, ENOMEM.
Result<void> SetAltStack(Task& task, const stack_t& stack, uint64_t sp, size_t min_size);
bool OnAltStack(const Task& task, uint64_t sp);
stack_t CurrentAltStack(const Task& task, uint64_t sp);

}  // namespace skep::kernel
