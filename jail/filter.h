// The allow-list of a process: rows become a seccomp filter.
#pragma once

#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "base/filter_row.h"
#include "base/result.h"

namespace skep::jail {

// What a call that no row allows meets. kErrno (EPERM) is for self tests alone.
enum class Refusal : uint8_t { kKill, kErrno };

// clone's flags for a thread, as pthread_create passes them. clone3's cannot be judged: a row that
// answers ENOSYS makes libc ask for clone.
inline constexpr uint32_t kThreadFlags = CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SYSVSEM |
                                         CLONE_SIGHAND | CLONE_THREAD | CLONE_SETTLS |
                                         CLONE_PARENT_SETTID | CLONE_CHILD_CLEARTID;

// Rows of one number and the same rules become one, whose reason names both.
std::vector<FilterRow> Joined(std::span<const FilterRow> rows);
// "ioctl(1: 0x5413)", "mmap(2: without 0x4)".
std::string TextOf(const FilterRow& row);
bool Allows(const FilterRow& row, const seccomp_data& call);
// A row that allows nothing which an earlier one does not; -1: none.
int FindShadowed(std::span<const FilterRow> rows);

// A test mode's counts, one for each row in its order: a file that they stay in, and which part of
// it is this process's.
struct FilterUse {
  int fd = -1;  // -1: calls are not counted
  unsigned part = 0;
};
inline constexpr size_t kCountsOfPart = 256;

// A filter that is ready to be installed: making one takes 0.3 ms.
class Filter {
 public:
  static HostResult<Filter> Compile(std::span<const FilterRow> rows, Refusal refusal);
  // For all threads of the process, and for ever. Needs no_new_privs.
  HostResult<void> Install() const;

 private:
  std::vector<sock_filter> program_;
};

// Compiles and installs; with `use` a filter whose allowed calls are seen, each before it is made,
// by a process beside this one, which counts it.
HostResult<void> InstallFilter(std::span<const FilterRow> rows, Refusal refusal,
                               const FilterUse& use = {});

}  // namespace skep::jail
