// The system calls of x86-64, by number: the one list that dispatch, strace and docs/syscalls.md
// use, made of the rows at the end of each family's file.
#include "sentry/syscalls/families.h"

namespace skep::syscalls {
namespace {

std::array<Syscall, kSyscallCount> Merge() {
  std::array<Syscall, kSyscallCount> table{};
  for (const std::span<const Row>* family : kFamilies) {
    for (const Row& row : *family) table[row.number] = row.syscall;
  }
  return table;
}

}  // namespace

const std::array<Syscall, kSyscallCount> kSyscalls = Merge();

}  // namespace skep::syscalls
