// A process whose children are made in a pid namespace below its own: who has which number for
// whom.
#include <sched.h>
#include <sys/wait.h>

#include "sentry/syscalls/test_kernel.h"

namespace skep::syscalls {
namespace {

using Guest = TestKernel::Guest;

constexpr uint64_t kThread =
    CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD | CLONE_SYSVSEM;

struct PidNamespaceTest : ::testing::Test {
  TestKernel kernel;
  Guest init = kernel.init();
  Guest parent = init.Fork();
  Ref<kernel::PidNamespace> below;

  void SetUp() override {
    const arena::ArenaHeapScope arena;
    kernel::Kernel& k = kernel.kernel();
    kernel::PidNamespace& own = parent.task().pid_namespace();
    below = MakeRef<kernel::PidNamespace>(Ref<kernel::PidNamespace>(&own), k.user_namespace,
                                          k.NextNamespaceNumber());
    // As unshare(CLONE_NEWPID) does.
    auto set = MakeRef<kernel::Namespaces>();
    const kernel::Namespaces& old = *parent.task().namespaces;
    set->uts = old.uts, set->ipc = old.ipc, set->net = old.net, set->cgroup = old.cgroup;
    set->pids_of_children = below;
    kernel::TasksLock lock(k);
    parent.task().namespaces.Set(std::move(set));
  }
  void TearDown() override { below = {}; }
};

TEST_F(PidNamespaceTest, AChildHasANumberForEach) {
  const int64_t number = parent.Run(SYS_fork);
  ASSERT_EQ(number, 3) << "as its parent counts";
  Guest child = kernel.Find(3);
  EXPECT_EQ(child.Run(SYS_getpid), 1);
  EXPECT_EQ(child.Run(SYS_gettid), 1);
  EXPECT_EQ(child.Run(SYS_getppid), 0) << "its parent cannot be seen from there";
  EXPECT_EQ(parent.Run(SYS_getpid), 2) << "its own namespace never changes";
}

TEST_F(PidNamespaceTest, NobodyIsSignalledFromBelow) {
  Guest child = parent.Fork();
  EXPECT_EQ(child.Run(SYS_kill, {2, 0}), -ESRCH) << "there is no 2 there";
  EXPECT_EQ(child.Run(SYS_kill, {1, 0}), 0) << "itself";
  EXPECT_EQ(init.Run(SYS_kill, {3, 0}), 0);
  EXPECT_EQ(child.Run(SYS_setpgid, {0, 0}), 0);
  EXPECT_EQ(child.Run(SYS_getpgid, {0}), 1);
  EXPECT_EQ(init.Run(SYS_getpgid, {3}), 3);
}

TEST_F(PidNamespaceTest, ItsInitIsSparedFromBelowAndItsEndEndsAll) {
  Guest child = parent.Fork();
  const int64_t second = child.Run(SYS_fork);
  ASSERT_EQ(second, 2);
  Guest grandchild = kernel.Find(4);
  EXPECT_EQ(grandchild.Run(SYS_getppid), 1);
  EXPECT_EQ(grandchild.Run(SYS_kill, {1, SIGTERM}), 0);
  EXPECT_EQ(child.Run(SYS_getpid), 1) << "an init that catches nothing is left alone";
  EXPECT_EQ(grandchild.Run(SYS_kill, {1, SIGKILL}), 0);
  EXPECT_EQ(parent.Run(SYS_kill, {3, SIGTERM}), 0);
  EXPECT_EQ(child.Run(SYS_getpid), 1) << "not even from above";
  EXPECT_EQ(parent.Run(SYS_kill, {3, SIGKILL}), 0);
  child.WaitForEnd();
  grandchild.WaitForEnd();
  const uint64_t status = parent.Allocate(8);
  EXPECT_EQ(parent.Run(SYS_wait4, {3, status, 0, 0}), 3);
  EXPECT_EQ(parent.Get<int32_t>(status), SIGKILL);
  EXPECT_EQ(parent.Run(SYS_fork), -ENOMEM) << "the namespace has ended";
  EXPECT_TRUE(init.alive());
}

TEST_F(PidNamespaceTest, ThreadsStayInTheOwnOne) {
  EXPECT_EQ(parent.Run(SYS_clone, {kThread, parent.Allocate(4096)}), -EINVAL);
  Guest child = parent.Fork();
  EXPECT_EQ(child.Run(SYS_clone, {kThread, child.Allocate(4096)}), 2);
  EXPECT_EQ(child.tid(), 1);
}

}  // namespace
}  // namespace skep::syscalls
