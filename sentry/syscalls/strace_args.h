// How --strace writes the arguments of system calls: names for flags and constants, the beginning
// of strings and buffers.
//
// A handler's signature gives every argument a form (adapter.h). Calls of which more is known have
// writers of their own here (strace_names.cc), which see the whole call: a buffer's length is
// another argument, or the result.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <span>
#include <string>

#include "sentry/syscalls/syscall_table.h"

namespace skep::syscalls {

struct TracedCall {
  Task& task;
  const RawArgs& args;
  std::optional<int64_t> result;  // what a call that has succeeded returned
};
using ArgumentWriter = void (*)(const TracedCall& call, size_t index, std::string& out);
using ArgumentWriters = std::array<ArgumentWriter, 6>;

// Null: the signature's forms will do. A null entry: likewise for that argument.
const ArgumentWriters* WritersOf(uint64_t number);

// How much is shown of a string, and of a buffer.
inline constexpr size_t kStraceText = 64;
inline constexpr size_t kStraceBytes = 32;

namespace trace {

// In double quotes, with C's escapes; "..." after it if `more` follows.
void Quote(std::string_view text, bool more, std::string& out);
// What is there in guest memory, up to `size` bytes and kStraceBytes; the address if nothing is.
void Bytes(Task& task, uint64_t address, uint64_t size, std::string& out);

struct Name {
  uint64_t value;
  const char* name;
};
// A|B|0x40; "0" if nothing is set.
void Flags(uint64_t value, std::span<const Name> names, std::string& out);
// The name of one value, or the value in hexadecimal.
void OneOf(uint64_t value, std::span<const Name> names, std::string& out);

}  // namespace trace
}  // namespace skep::syscalls
