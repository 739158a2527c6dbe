// The seccomp filter that every thread of a stub inherits: a second line of defence, since guest
// threads run under PTRACE_SYSEMU and managers run only the stub's code.
#pragma once

#include <linux/filter.h>
#include <cstdint>
#include <vector>

namespace skep::platform::ptrace {

// How managers clone: another stub process, and a guest thread.
extern const uint64_t kCloneStub, kCloneThread;

// Allows the calls of a batch at their exact address with the arguments that the engine gives, and
// SYS_exit at its own; anything else, from anywhere, is a SIGSYS that the engine sees. That is also
// how a guest's vsyscall arrives, which SYSEMU does not stop.
std::vector<sock_filter> StubFilter();

}  // namespace skep::platform::ptrace
