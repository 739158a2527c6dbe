// prctl's everyday options, capget and capset.
#include <linux/capability.h>
#include <linux/securebits.h>
#include <sys/prctl.h>
#include <sys/syscall.h>

#include <thread>

#include "tests/util/matchers.h"
#include "tests/util/process.h"

namespace skep::test {
namespace {

struct Capabilities {
  __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
  __user_cap_data_struct data[2] = {};
  long Get() { return syscall(SYS_capget, &header, data); }
  long Set() { return syscall(SYS_capset, &header, data); }
};

TEST(Prctl, NameIsCutAt15AndPerThread) {
  EXPECT_THAT(ForkAndRun([] {
                char name[16] = {};
                EXPECT_THAT(prctl(PR_SET_NAME, "a name longer than fifteen"), Succeeds());
                EXPECT_THAT(prctl(PR_GET_NAME, name), Succeeds());
                EXPECT_STREQ(name, "a name longer t");
                std::thread([] { prctl(PR_SET_NAME, "other"); }).join();
                prctl(PR_GET_NAME, name);
                EXPECT_STREQ(name, "a name longer t");
                EXPECT_EQ(ReadFile("/proc/self/comm"), "a name longer t\n");
              }),
              ExitsWith(0));
}

TEST(Prctl, NameBadAddress) {
  EXPECT_THAT(syscall(SYS_prctl, PR_SET_NAME, kBadAddress), FailsWith(EFAULT));
  EXPECT_THAT(syscall(SYS_prctl, PR_GET_NAME, kBadAddress), FailsWith(EFAULT));
}

TEST(Prctl, UnknownOptionIsEinval) { EXPECT_THAT(prctl(0x7777, 0, 0, 0, 0), FailsWith(EINVAL)); }

TEST(Prctl, ParentDeathSignalIsKeptAndClearedByFork) {
  EXPECT_THAT(ForkAndRun([] {
                int signo = -1;
                EXPECT_THAT(prctl(PR_GET_PDEATHSIG, &signo), Succeeds());
                EXPECT_EQ(signo, 0);
                EXPECT_THAT(prctl(PR_SET_PDEATHSIG, SIGHUP), Succeeds());
                prctl(PR_GET_PDEATHSIG, &signo);
                EXPECT_EQ(signo, SIGHUP);
                EXPECT_THAT(prctl(PR_SET_PDEATHSIG, 65), FailsWith(EINVAL));
                EXPECT_THAT(ForkAndRun([] {
                              int inherited = -1;
                              prctl(PR_GET_PDEATHSIG, &inherited);
                              EXPECT_EQ(inherited, 0);
                            }),
                            ExitsWith(0));
              }),
              ExitsWith(0));
}

TEST(Prctl, DumpableTakesZeroAndOne) {
  EXPECT_THAT(ForkAndRun([] {
                EXPECT_THAT(prctl(PR_GET_DUMPABLE), SucceedsWith(1));
                EXPECT_THAT(prctl(PR_SET_DUMPABLE, 0), Succeeds());
                EXPECT_THAT(prctl(PR_GET_DUMPABLE), SucceedsWith(0));
                EXPECT_THAT(prctl(PR_SET_DUMPABLE, 2), FailsWith(EINVAL));
              }),
              ExitsWith(0));
}

TEST(Prctl, NoNewPrivsIsOneWayAndInherited) {
  EXPECT_THAT(ForkAndRun([] {
                EXPECT_THAT(prctl(PR_SET_NO_NEW_PRIVS, 0, 0, 0, 0), FailsWith(EINVAL));
                EXPECT_THAT(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 1), FailsWith(EINVAL));
                EXPECT_THAT(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), Succeeds());
                EXPECT_THAT(prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0), SucceedsWith(1));
                EXPECT_THAT(ForkAndRun([] {
                              EXPECT_THAT(prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0), SucceedsWith(1));
                            }),
                            ExitsWith(0));
              }),
              ExitsWith(0));
}

TEST(Prctl, KeepcapsIsZeroOrOne) {
  EXPECT_THAT(ForkAndRun([] {
                EXPECT_THAT(prctl(PR_GET_KEEPCAPS), SucceedsWith(0));
                EXPECT_THAT(prctl(PR_SET_KEEPCAPS, 1), Succeeds());
                EXPECT_THAT(prctl(PR_GET_KEEPCAPS), SucceedsWith(1));
                EXPECT_THAT(prctl(PR_SET_KEEPCAPS, 2), FailsWith(EINVAL));
              }),
              ExitsWith(0));
}

TEST(Prctl, TimerslackIsKept) {
  EXPECT_THAT(ForkAndRun([] {
                EXPECT_THAT(prctl(PR_SET_TIMERSLACK, 70'000), Succeeds());
                EXPECT_THAT(prctl(PR_GET_TIMERSLACK), SucceedsWith(70'000));
              }),
              ExitsWith(0));
}

TEST(Prctl, BoundingSetIsReadAndDropped) {
  REQUIRE_CAPABILITY(CAP_SETPCAP);
  EXPECT_THAT(ForkAndRun([] {
                EXPECT_THAT(prctl(PR_CAPBSET_READ, CAP_CHOWN), SucceedsWith(1));
                EXPECT_THAT(prctl(PR_CAPBSET_DROP, CAP_CHOWN), Succeeds());
                EXPECT_THAT(prctl(PR_CAPBSET_READ, CAP_CHOWN), SucceedsWith(0));
                EXPECT_THAT(prctl(PR_CAPBSET_READ, 64), FailsWith(EINVAL));
                EXPECT_THAT(prctl(PR_CAPBSET_DROP, 64), FailsWith(EINVAL));
              }),
              ExitsWith(0));
}

TEST(Prctl, SecurebitsAreKept) {
  REQUIRE_CAPABILITY(CAP_SETPCAP);
  EXPECT_THAT(ForkAndRun([] {
                EXPECT_THAT(prctl(PR_GET_SECUREBITS), SucceedsWith(0));
                EXPECT_THAT(prctl(PR_SET_SECUREBITS, SECBIT_KEEP_CAPS), Succeeds());
                EXPECT_THAT(prctl(PR_GET_SECUREBITS), SucceedsWith(SECBIT_KEEP_CAPS));
                EXPECT_THAT(prctl(PR_GET_KEEPCAPS), SucceedsWith(1));
              }),
              ExitsWith(0));
}

TEST(Capget, KnowsItsVersions) {
  Capabilities caps;
  EXPECT_THAT(caps.Get(), Succeeds());
  caps.header.version = 0x1234;
  EXPECT_THAT(caps.Get(), FailsWith(EINVAL));
  EXPECT_EQ(caps.header.version, unsigned{_LINUX_CAPABILITY_VERSION_3}) << "the best it knows";
  caps.header.version = 0x1234;
  EXPECT_THAT(syscall(SYS_capget, &caps.header, nullptr), SucceedsWith(0)) << "a probe";
  EXPECT_THAT(syscall(SYS_capget, kBadAddress, nullptr), FailsWith(EFAULT));
}

TEST(Capget, OfAnotherProcess) {
  Capabilities caps;
  caps.header.pid = getppid();
  EXPECT_THAT(caps.Get(), Succeeds());
  caps.header.pid = -1;
  EXPECT_THAT(caps.Get(), FailsWith(EINVAL));
  caps.header.pid = 0x7ffffff;
  EXPECT_THAT(caps.Get(), FailsWith(ESRCH));
}

TEST(Capset, DropsForGoodAndNeverRaises) {
  REQUIRE_ROOT();
  EXPECT_THAT(ForkAndRun([] {
                Capabilities caps;
                ASSERT_THAT(caps.Get(), Succeeds());
                caps.data[0].effective &= ~(1u << CAP_CHOWN);
                EXPECT_THAT(caps.Set(), Succeeds());
                EXPECT_FALSE(HasCapability(CAP_CHOWN));
                caps.data[0].effective |= 1u << CAP_CHOWN;
                EXPECT_THAT(caps.Set(), Succeeds()) << "still permitted";
                caps.data[0].effective &= ~(1u << CAP_CHOWN);
                caps.data[0].permitted &= ~(1u << CAP_CHOWN);
                EXPECT_THAT(caps.Set(), Succeeds());
                caps.data[0].permitted |= 1u << CAP_CHOWN;
                EXPECT_THAT(caps.Set(), FailsWith(EPERM));
                caps.data[0].permitted &= ~(1u << CAP_CHOWN);
                caps.data[0].effective |= 1u << CAP_CHOWN;
                EXPECT_THAT(caps.Set(), FailsWith(EPERM)) << "effective within permitted";
              }),
              ExitsWith(0));
}

TEST(Capset, OnlyOfOneself) {
  Capabilities caps;
  ASSERT_THAT(caps.Get(), Succeeds());
  caps.header.pid = getppid();
  EXPECT_THAT(caps.Set(), FailsWith(EPERM));
}

TEST(Capset, LeavingRootLosesCapabilitiesUnlessKept) {
  REQUIRE_ROOT();
  EXPECT_THAT(ForkAndRun([] {
                ASSERT_THAT(setresuid(1000, 1000, 1000), Succeeds());
                Capabilities caps;
                caps.Get();
                EXPECT_EQ(caps.data[0].permitted, 0u);
                EXPECT_EQ(caps.data[0].effective, 0u);
              }),
              ExitsWith(0));
  EXPECT_THAT(ForkAndRun([] {
                prctl(PR_SET_KEEPCAPS, 1);
                ASSERT_THAT(setresuid(1000, 1000, 1000), Succeeds());
                Capabilities caps;
                caps.Get();
                EXPECT_NE(caps.data[0].permitted, 0u);
                EXPECT_EQ(caps.data[0].effective, 0u);
              }),
              ExitsWith(0));
}

TEST(Ambient, NeedsPermittedAndInheritable) {
  REQUIRE_ROOT();
  EXPECT_THAT(
      ForkAndRun([] {
        EXPECT_THAT(prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, CAP_KILL, 0, 0), FailsWith(EPERM));
        Capabilities caps;
        caps.Get();
        caps.data[0].inheritable |= 1u << CAP_KILL;
        ASSERT_THAT(caps.Set(), Succeeds());
        EXPECT_THAT(prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, CAP_KILL, 0, 0), Succeeds());
        EXPECT_THAT(prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_IS_SET, CAP_KILL, 0, 0), SucceedsWith(1));
        EXPECT_THAT(prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0), Succeeds());
        EXPECT_THAT(prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_IS_SET, CAP_KILL, 0, 0), SucceedsWith(0));
      }),
      ExitsWith(0));
}

}  // namespace
}  // namespace skep::test
