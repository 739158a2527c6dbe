// What is said of hosts that cannot have this engine.
#include "platform/notify/factory.h"

#include <gtest/gtest.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>
#include <vector>

namespace skep::platform::notify {
namespace {

// In a child under this filter of somebody else's: whether the engine says that it cannot work.
bool SaysNoUnder(std::vector<sock_filter> filter, unsigned flags) {
  const pid_t child = fork();
  if (child == 0) {
    const sock_fprog program = {static_cast<unsigned short>(filter.size()), filter.data()};
    prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
    if (syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, flags, &program) < 0) _exit(2);
    const auto why = WhyUnavailable();
    _exit(why && !why->empty() ? 0 : 1);
  }
  int status = 0;
  EXPECT_EQ(waitpid(child, &status, 0), child);
  EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) < 2);
  return WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

const sock_filter kAllow = BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);

TEST(NotifyFactory, WorksUnderAFilterThatDoesNotMind) { EXPECT_FALSE(SaysNoUnder({kAllow}, 0)); }

TEST(NotifyFactory, NoSecondListener) {
  EXPECT_TRUE(SaysNoUnder({kAllow}, SECCOMP_FILTER_FLAG_NEW_LISTENER));
}

TEST(NotifyFactory, SeccompMayBeRefused) {
  for (const uint32_t refusal : {EPERM, ENOSYS}) {
    EXPECT_TRUE(SaysNoUnder({BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr)),
                             BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_seccomp, 0, 1),
                             BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | refusal), kAllow},
                            0));
  }
}

}  // namespace
}  // namespace skep::platform::notify
