// For targets that need a kernel: one that lives as long as the process.
#pragma once

#include "sentry/syscalls/test_kernel.h"
#include "tests/fuzz/fuzz.h"

namespace skep::fuzz {

inline syscalls::TestKernel& TheKernel() {
  static syscalls::TestKernel* const kernel = [] {
    static int argc = 1;
    static char name[] = "fuzz";
    static char* argv[] = {name, nullptr};
    testing::InitGoogleTest(&argc, argv);
    testing::GTEST_FLAG(throw_on_failure) = true;  // an EXPECT ends the run
    arena::ArenaTestEnvironment().SetUp();
    return new syscalls::TestKernel();
  }();
  return *kernel;
}

// Ends all processes but init, and sees that nothing is left of them.
inline void EndAll() {
  syscalls::TestKernel& kernel = TheKernel();
  syscalls::TestKernel::Guest init = kernel.init();
  (void)init.Run(SYS_kill, {~uint64_t{0}, SIGKILL});
  while (init.Run(SYS_wait4, {~uint64_t{0}, 0, __WALL, 0}) > 0) {
  }
  kernel::TasksLock lock(kernel.kernel());
  if (kernel.kernel().task_count() != 1) Fail("a task is left");
  if (kernel.kernel().pid_namespace->size() != 1) Fail("a number is left");
}

}  // namespace skep::fuzz
