// New threads and processes (Linux: kernel/fork.c).
#pragma once

#include "sentry/kernel/kernel.h"
#include "sentry/kernel/task.h"
#include "sentry/loader/elf.h"

namespace skep::kernel {

struct CloneRequest {
  uint64_t flags = 0;       // CLONE_*, without the exit signal
  int exit_signal = 0;
  uint64_t stack = 0;       // the new stack pointer; 0: the parent's
  uint64_t tls = 0;
  uint64_t parent_tid = 0, child_tid = 0;
};
// clone, clone3, fork, vfork. The child's thread id. For CLONE_VFORK: after the child has released
// the memory.
Result<int> Clone(Task& parent, const CloneRequest& request);

// The sandbox's first process. Its memory is loaded by `program` on its own fiber; nothing runs until
// the scheduler does. The caller is boot (arena heap).
struct InitRequest {
  Ref<vfs::FsContext> fs;
  Ref<vfs::FdTable> files;
  auth::CredentialsRef credentials;
  Limits limits;
  std::string path;                     // resolved against fs and PATH by the caller's hook
  std::vector<std::string> argv, envp;
  int oom_score_adj = 0;
};
// What became of starting init: set by its fiber before its first instruction.
struct InitOutcome {
  std::atomic<int> done{0};             // 1: runs; negative: -errno of the failing step
};
Result<Ref<Task>> StartInit(Kernel& kernel, InitRequest request, Ref<sched::Fiber>* fiber,
                            InitOutcome* outcome);

// execve(2) past argument copying: everything from preparation to the new registers.
Result<void> Exec(Task& task, loader::Program program, Ref<vfs::File> executable);

}  // namespace skep::kernel
