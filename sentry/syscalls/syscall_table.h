// The table of system calls as data: number, name, support, arity. It knows a Task by name only, so
// the command line can print it without the kernel's headers.
#pragma once

#include <sys/syscall.h>
#include <array>
#include <cstddef>
#include <cstdint>
#include <string>

#include "base/missing_defs.h"
#include "base/result.h"

namespace skep::kernel {
class Task;
}  // namespace skep::kernel

namespace skep::syscalls {

using kernel::Task;

using RawArgs = std::array<uint64_t, 6>;
using RawHandler = Result<uint64_t> (*)(Task&, const RawArgs&);
// Formats one argument for strace.
using ArgumentFormatter = void (*)(Task&, uint64_t raw, std::string& out);

enum class Support : uint8_t { kNone, kPartial, kFull };

struct Syscall {
  const char* name = nullptr;
  RawHandler handler = nullptr;
  Support support = Support::kNone;
  int refusal = 38;  // kNone: the errno it answers (ENOSYS)
  const char* note = "";
  size_t arity = 0;
  const ArgumentFormatter* formats = nullptr;
};

// One system call and its number, as a family's file lists it.
struct Row {
  uint32_t number;
  Syscall syscall;
};

// A number and its name, from one word: Full<SchedYield>(SYSCALL(sched_yield)).
#define SYSCALL(name) SYS_##name, #name

// By number. Numbers without a row have no name and answer ENOSYS. Made from the families' rows
// (families.h) before main; never changed.
inline constexpr size_t kSyscallCount = 512;
extern const std::array<Syscall, kSyscallCount> kSyscalls;

// The kernel's hook: decodes, executes, traces.
Result<uint64_t> Dispatch(Task& task, uint64_t number, const RawArgs& args, bool compat);

}  // namespace skep::syscalls
