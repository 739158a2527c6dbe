// Processes as guests see them: fork and its failures, wait and reparenting, exec with threads.
#include <fcntl.h>
#include <linux/sched.h>
#include <sys/prctl.h>
#include <sys/wait.h>

#include "sentry/syscalls/test_kernel.h"

namespace skep::syscalls {
namespace {

using Guest = TestKernel::Guest;

constexpr uint64_t kAnyChild = ~uint64_t{0};
constexpr uint64_t kThread =
    CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD | CLONE_SYSVSEM;

size_t TaskCount(TestKernel& kernel) {
  kernel::TasksLock lock(kernel.kernel());
  return kernel.kernel().task_count();
}
size_t PidCount(TestKernel& kernel) {
  kernel::TasksLock lock(kernel.kernel());
  return kernel.kernel().pid_namespace->size();
}
Guest NewThread(TestKernel& kernel, Guest& parent) {
  return kernel.Find(static_cast<int>(parent.Run(SYS_clone, {kThread, parent.Allocate(4096)})));
}

TEST(Wait, TellsHowAChildEnded) {
  TestKernel kernel;
  Guest init = kernel.init();
  const uint64_t status = init.Allocate(4);
  Guest child = init.Fork();
  child.Begin(SYS_exit_group, {7});
  EXPECT_EQ(init.Run(SYS_wait4, {kAnyChild, status, 0, 0}), child.tid());
  EXPECT_EQ(init.Get<int32_t>(status), 7 << 8);
  EXPECT_EQ(init.Run(SYS_wait4, {kAnyChild, status, 0, 0}), -ECHILD);
  EXPECT_EQ(TaskCount(kernel), 1U);
  EXPECT_EQ(PidCount(kernel), 1U);
}

TEST(Wait, SleepsUntilAChildEnds) {
  TestKernel kernel;
  Guest init = kernel.init();
  Guest child = init.Fork();
  EXPECT_EQ(init.Run(SYS_wait4, {kAnyChild, 0, WNOHANG, 0}), 0);
  init.Begin(SYS_wait4, {kAnyChild, 0, 0, 0});
  EXPECT_EQ(child.Run(SYS_getppid), init.tid());  // the worker has served both since
  EXPECT_FALSE(init.IsDone());
  child.Begin(SYS_exit, {0});
  EXPECT_EQ(init.Finish(), child.tid());
}

TEST(Wait, NoWaitLeavesTheZombie) {
  TestKernel kernel;
  Guest init = kernel.init();
  const uint64_t info = init.Allocate(sizeof(siginfo_t));
  Guest child = init.Fork();
  child.Begin(SYS_exit_group, {3});
  for (const uint64_t options : {WEXITED | WNOWAIT, WEXITED}) {
    ASSERT_EQ(init.Run(SYS_waitid, {P_ALL, 0, info, options, 0}), 0);
    const auto told = init.Get<siginfo_t>(info);
    EXPECT_EQ(told.si_pid, child.tid());
    EXPECT_EQ(told.si_code, CLD_EXITED);
    EXPECT_EQ(told.si_status, 3);
  }
  EXPECT_EQ(init.Run(SYS_waitid, {P_ALL, 0, info, WEXITED, 0}), -ECHILD);
}

TEST(Reparent, OrphansGoToInit) {
  TestKernel kernel;
  Guest init = kernel.init();
  Guest child = init.Fork();
  Guest grandchild = child.Fork();
  EXPECT_EQ(grandchild.Run(SYS_getppid), child.tid());
  child.Begin(SYS_exit_group, {0});
  EXPECT_EQ(init.Run(SYS_wait4, {kAnyChild, 0, 0, 0}), child.tid());
  EXPECT_EQ(grandchild.Run(SYS_getppid), init.tid());
  grandchild.Begin(SYS_exit_group, {0});
  EXPECT_EQ(init.Run(SYS_wait4, {kAnyChild, 0, 0, 0}), grandchild.tid());
}

TEST(Reparent, ToTheNearestSubreaper) {
  TestKernel kernel;
  Guest init = kernel.init();
  Guest reaper = init.Fork();
  ASSERT_EQ(reaper.Run(SYS_prctl, {PR_SET_CHILD_SUBREAPER, 1}), 0);
  Guest middle = reaper.Fork();
  Guest last = middle.Fork();
  middle.Begin(SYS_exit_group, {0});
  EXPECT_EQ(reaper.Run(SYS_wait4, {kAnyChild, 0, 0, 0}), middle.tid());
  EXPECT_EQ(last.Run(SYS_getppid), reaper.tid());
  reaper.Begin(SYS_exit_group, {0});
  EXPECT_EQ(init.Run(SYS_wait4, {kAnyChild, 0, 0, 0}), reaper.tid());
  EXPECT_EQ(last.Run(SYS_getppid), init.tid());
}

// A zombie that nobody waited for goes to the new parent too, which is told.
TEST(Reparent, ZombiesAreInherited) {
  TestKernel kernel;
  Guest init = kernel.init();
  Guest child = init.Fork();
  Guest grandchild = child.Fork();
  grandchild.Begin(SYS_exit_group, {9});
  grandchild.WaitForEnd();
  child.Begin(SYS_exit_group, {0});
  const uint64_t status = init.Allocate(4);
  EXPECT_EQ(init.Run(SYS_wait4, {static_cast<uint64_t>(child.tid()), status, 0, 0}), child.tid());
  EXPECT_EQ(init.Run(SYS_wait4, {kAnyChild, status, 0, 0}), grandchild.tid());
  EXPECT_EQ(init.Get<int32_t>(status), 9 << 8);
}

// Each way in which the engine can fail a fork: the errno arrives, and nothing is left of the
// child.
TEST(Clone, FailuresLeaveNothing) {
  TestKernel kernel;
  Guest init = kernel.init();
  init.Fork().Begin(SYS_exit_group, {0});  // what is made at the first fork is there from now on
  ASSERT_GT(init.Run(SYS_wait4, {kAnyChild, 0, 0, 0}), 0);
  for (int skip = 0; skip < 2; ++skip) {  // the space; the context
    for (const int error : {ENOMEM, EAGAIN, EMFILE}) {
      kernel.engine().FailNew(error, 1, skip);
      EXPECT_EQ(init.Run(SYS_fork), -error) << skip;
      EXPECT_EQ(TaskCount(kernel), 1U);
      EXPECT_EQ(PidCount(kernel), 1U);
      EXPECT_EQ(init.Run(SYS_wait4, {kAnyChild, 0, WNOHANG, 0}), -ECHILD);
    }
  }
  kernel.engine().FailNew(ENOMEM, 1, 0);  // a thread has a context only
  EXPECT_EQ(init.Run(SYS_clone, {kThread, init.Allocate(4096)}), -ENOMEM);
  EXPECT_EQ(TaskCount(kernel), 1U);
  EXPECT_EQ(init.Run(SYS_gettid), init.tid());
}

TEST(Clone, RefusesWhatLinuxRefuses) {
  TestKernel kernel;
  Guest init = kernel.init();
  for (const uint64_t flags : {uint64_t{CLONE_SIGHAND}, uint64_t{CLONE_THREAD | CLONE_VM},
                               uint64_t{CLONE_FS | CLONE_NEWNS}}) {
    EXPECT_EQ(init.Run(SYS_clone, {flags}), -EINVAL) << std::hex << flags;
  }
  EXPECT_EQ(TaskCount(kernel), 1U);
}

TEST(Threads, AreOneProcess) {
  TestKernel kernel;
  Guest init = kernel.init();
  Guest thread = NewThread(kernel, init);
  EXPECT_NE(thread.tid(), init.tid());
  EXPECT_EQ(thread.Run(SYS_getpid), init.tid());
  EXPECT_EQ(thread.Run(SYS_gettid), thread.tid());
  EXPECT_EQ(init.Run(SYS_wait4, {kAnyChild, 0, 0, 0}), -ECHILD);
  thread.Begin(SYS_exit, {0});
  thread.WaitForEnd();
  EXPECT_EQ(TaskCount(kernel), 1U);
}

TEST(Threads, ExitGroupEndsAll) {
  TestKernel kernel;
  Guest init = kernel.init();
  Guest child = init.Fork();
  Guest one = NewThread(kernel, child);
  Guest two = NewThread(kernel, child);
  two.Begin(SYS_pause);
  one.Begin(SYS_exit_group, {5});
  const uint64_t status = init.Allocate(4);
  EXPECT_EQ(init.Run(SYS_wait4, {kAnyChild, status, 0, 0}), child.tid());
  EXPECT_EQ(init.Get<int32_t>(status), 5 << 8);
  EXPECT_EQ(TaskCount(kernel), 1U);
}

// Linux: de_thread. The thread that calls execve goes on alone, with the leader's id.
TEST(Threads, ExecByAnotherThreadTakesTheLeadersPlace) {
  TestKernel kernel;
  Guest init = kernel.init();
  Guest child = init.Fork();
  const int pid = child.tid();
  Guest thread = NewThread(kernel, child);
  Guest bystander = NewThread(kernel, child);
  bystander.Begin(SYS_pause);
  const uint64_t path = thread.Text("/init");
  thread.Begin(SYS_execve, {path, 0, 0});
  bystander.WaitForEnd();
  child.WaitForEnd();
  ASSERT_TRUE(TestKernel::WaitFor([&] { return thread.tid() == pid; }));
  Guest now = kernel.Find(pid);
  EXPECT_EQ(&now.task(), &thread.task());
  EXPECT_EQ(now.Run(SYS_getpid), pid);
  EXPECT_EQ(now.Run(SYS_gettid), pid);
  EXPECT_EQ(TaskCount(kernel), 2U);
  now.Begin(SYS_exit_group, {1});
  EXPECT_EQ(init.Run(SYS_wait4, {kAnyChild, 0, 0, 0}), pid);
}

TEST(Exec, AFailureLeavesTheProgramAndItsThreads) {
  TestKernel kernel;
  Guest init = kernel.init();
  Guest child = init.Fork();
  Guest thread = NewThread(kernel, child);
  EXPECT_EQ(thread.Run(SYS_execve, {thread.Text("/nowhere"), 0, 0}), -ENOENT);
  EXPECT_EQ(thread.Run(SYS_execve, {0, 0, 0}), -EFAULT);
  EXPECT_EQ(child.Run(SYS_gettid), child.tid());
  EXPECT_EQ(TaskCount(kernel), 3U);
}

}  // namespace
}  // namespace skep::syscalls
