// Credentials as guests see them: set-id programs and who shares what with them, what a change of
// ids protects, exit signals after execve, who may schedule whom.
#include <linux/ioprio.h>
#include <linux/sched.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "sentry/syscalls/test_kernel.h"

namespace skep::syscalls {
namespace {

using Guest = TestKernel::Guest;

constexpr uint64_t kUser = 1000, kOther = 1001, kSameId = ~uint64_t{0};

void Become(Guest& guest, uint64_t id) {
  EXPECT_EQ(guest.Run(SYS_setresgid, {id, id, id}), 0);
  EXPECT_EQ(guest.Run(SYS_setresuid, {id, id, id}), 0);
}

void MakeSetUidRoot(Guest& guest) {
  EXPECT_EQ(guest.Run(SYS_chmod, {guest.Text("/init"), 04755}), 0);
}

void Exec(Guest& guest) { EXPECT_EQ(guest.Run(SYS_execve, {guest.Text("/init"), 0, 0}), 0); }

bool IsDumpable(Guest& guest) { return guest.Run(SYS_prctl, {PR_GET_DUMPABLE}) == 1; }

TEST(SetIdExec, GainsTheOwnersId) {
  TestKernel kernel;
  Guest init = kernel.init();
  MakeSetUidRoot(init);
  Guest child = init.Fork();
  Become(child, kUser);
  EXPECT_EQ(child.Run(SYS_prctl, {PR_SET_PDEATHSIG, SIGTERM}), 0);
  Exec(child);
  EXPECT_EQ(child.Run(SYS_geteuid), 0);
  EXPECT_EQ(child.Run(SYS_getuid), static_cast<int64_t>(kUser));
  EXPECT_FALSE(IsDumpable(child));
  EXPECT_EQ(child.task().parent_death_signal.Mine(), 0);
}

TEST(SetIdExec, GainsNothingWithASharedFsContext) {
  TestKernel kernel;
  Guest init = kernel.init();
  MakeSetUidRoot(init);
  Guest parent = init.Fork();
  Become(parent, kUser);
  Guest child = kernel.Find(static_cast<int>(parent.Run(SYS_clone, {CLONE_FS | SIGCHLD})));
  Exec(child);
  EXPECT_EQ(child.Run(SYS_geteuid), static_cast<int64_t>(kUser));
  EXPECT_EQ(child.task().creds().permitted, 0u);
}

TEST(SetIdExec, ThreadsOfItsOwnAreNoSharers) {
  constexpr uint64_t kThread = CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD;
  TestKernel kernel;
  Guest init = kernel.init();
  MakeSetUidRoot(init);
  Guest child = init.Fork();
  Become(child, kUser);
  ASSERT_GT(child.Run(SYS_clone, {kThread, child.Allocate(4096)}), 0);
  Exec(child);
  EXPECT_EQ(child.Run(SYS_geteuid), 0);
}

TEST(ExitSignal, IsSigchldForAParentThatBecameAnotherProgram) {
  TestKernel kernel;
  Guest init = kernel.init();
  Guest parent = init.Fork();
  Guest child = kernel.Find(static_cast<int>(parent.Run(SYS_clone, {SIGKILL})));
  Exec(parent);
  child.Begin(SYS_exit_group, {0});
  child.WaitForEnd();
  EXPECT_EQ(parent.Run(SYS_getuid), 0) << "it lives";
  Guest second = kernel.Find(static_cast<int>(parent.Run(SYS_clone, {SIGKILL})));
  second.Begin(SYS_exit_group, {0});
  parent.WaitForEnd();
}

TEST(Dumpable, EndsWithAChangeOfIdsForAllWhoShareTheMemory) {
  TestKernel kernel;
  Guest init = kernel.init();
  Guest parent = init.Fork();
  Guest child = kernel.Find(static_cast<int>(parent.Run(SYS_clone, {CLONE_VM | SIGCHLD})));
  EXPECT_TRUE(IsDumpable(parent));
  EXPECT_EQ(child.Run(SYS_setresuid, {kUser, kSameId, kSameId}), 0);
  EXPECT_TRUE(IsDumpable(parent)) << "the real id alone does not matter";
  EXPECT_EQ(child.Run(SYS_setresuid, {kSameId, kUser, kSameId}), 0);
  EXPECT_FALSE(IsDumpable(parent));
  EXPECT_TRUE(IsDumpable(init));
}

TEST(Scheduling, IsForTheOwnerAndTheCapable) {
  TestKernel kernel;
  Guest init = kernel.init();
  Guest mine = init.Fork();
  Guest target = init.Fork();
  Guest other = init.Fork();
  Become(mine, kUser);
  Become(target, kUser);
  Become(other, kOther);
  const auto who = static_cast<uint64_t>(target.tid());
  const uint64_t priority = IOPRIO_PRIO_VALUE(IOPRIO_CLASS_BE, 3);
  const auto nice = [&](Guest& guest, int64_t value) {
    return guest.Run(SYS_setpriority, {PRIO_PROCESS, who, static_cast<uint64_t>(value)});
  };
  const auto io = [&](Guest& guest) {
    return guest.Run(SYS_ioprio_set, {IOPRIO_WHO_PROCESS, who, priority});
  };
  EXPECT_EQ(nice(other, 5), -EPERM);
  EXPECT_EQ(nice(mine, 5), 0);
  EXPECT_EQ(nice(mine, 4), -EACCES);
  EXPECT_EQ(nice(init, -5), 0);
  EXPECT_EQ(io(other), -EPERM);
  EXPECT_EQ(io(mine), 0);
  EXPECT_EQ(other.Run(SYS_ioprio_get, {IOPRIO_WHO_PROCESS, who}), static_cast<int64_t>(priority));
  EXPECT_EQ(other.Run(SYS_setpriority, {PRIO_USER, kUser, 10}), -EPERM);
  EXPECT_EQ(other.Run(SYS_setpriority, {PRIO_USER, 4321, 10}), -ESRCH);
}

}  // namespace
}  // namespace skep::syscalls
