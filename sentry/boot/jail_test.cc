#include "sentry/boot/jail.h"

#include <gtest/gtest.h>
#include <sched.h>
#include <sys/wait.h>
#include <unistd.h>

namespace skep::boot {
namespace {

// Whether the jail holds is tests/hostile/jail_test.py's to see; here: that the trial can fail.
TEST(JailSelfTest, FindsWaysOutWhereThereIsNoJail) {
  const pid_t child = fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    (void)unshare(CLONE_NEWNS);  // the attempt to mount must not be the machine's
    const JailTrial trial = JailSelfTest();
    _exit(trial.breaches.empty() ? 1 : 2);
  }
  int status = 0;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  ASSERT_TRUE(WIFEXITED(status));
  EXPECT_NE(WEXITSTATUS(status), 1);  // 0: execve worked
}

}  // namespace
}  // namespace skep::boot
