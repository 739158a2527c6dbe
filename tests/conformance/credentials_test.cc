// User and group ids, supplementary groups, set-id programs, and resource limits.
#include <fcntl.h>
#include <grp.h>
#include <linux/capability.h>
#include <sys/fsuid.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#include <array>
#include <thread>

#include "tests/util/matchers.h"
#include "tests/util/process.h"

namespace skep::test {
namespace {

using Ids = std::array<uid_t, 3>;

Ids Uids() {
  Ids ids = {};
  EXPECT_THAT(getresuid(&ids[0], &ids[1], &ids[2]), Succeeds());
  return ids;
}
Ids Gids() {
  Ids ids = {};
  EXPECT_THAT(getresgid(&ids[0], &ids[1], &ids[2]), Succeeds());
  return ids;
}
uid_t Fsuid() { return static_cast<uid_t>(setfsuid(~0u)); }

TEST(Ids, AreConsistent) {
  EXPECT_EQ(getuid(), Uids()[0]);
  EXPECT_EQ(geteuid(), Uids()[1]);
  EXPECT_EQ(getgid(), Gids()[0]);
  EXPECT_EQ(getegid(), Gids()[1]);
  EXPECT_EQ(Fsuid(), geteuid());
  EXPECT_THAT(syscall(SYS_getresuid, kBadAddress, nullptr, nullptr), FailsWith(EFAULT));
}

TEST(Setresuid, SetsEachAndKeepsMinusOne) {
  REQUIRE_ROOT();
  EXPECT_THAT(ForkAndRun([] {
                EXPECT_THAT(setresuid(1, 2, 3), Succeeds());
                EXPECT_EQ(Uids(), (Ids{1, 2, 3}));
                EXPECT_EQ(Fsuid(), 2u);
                EXPECT_THAT(setresuid(-1, 3, -1), Succeeds());
                EXPECT_EQ(Uids(), (Ids{1, 3, 3}));
                EXPECT_THAT(setresuid(4, -1, -1), FailsWith(EPERM));
                EXPECT_THAT(setresuid(-1, -1, 2), FailsWith(EPERM)) << "2 is gone";
              }),
              ExitsWith(0));
}

TEST(Setresgid, SetsEach) {
  REQUIRE_ROOT();
  EXPECT_THAT(ForkAndRun([] {
                EXPECT_THAT(setresgid(4, 5, 6), Succeeds());
                EXPECT_EQ(Gids(), (Ids{4, 5, 6}));
                ASSERT_THAT(setresuid(1, 1, 1), Succeeds());
                EXPECT_THAT(setresgid(6, 4, 5), Succeeds());
                EXPECT_THAT(setresgid(7, -1, -1), FailsWith(EPERM));
              }),
              ExitsWith(0));
}

TEST(Setuid, AsRootSetsAllThree) {
  REQUIRE_ROOT();
  EXPECT_THAT(ForkAndRun([] {
                EXPECT_THAT(setuid(9), Succeeds());
                EXPECT_EQ(Uids(), (Ids{9, 9, 9}));
                EXPECT_THAT(setuid(0), FailsWith(EPERM));
              }),
              ExitsWith(0));
}

TEST(Setuid, WithoutPrivilegeSetsTheEffectiveOnly) {
  REQUIRE_ROOT();
  EXPECT_THAT(ForkAndRun([] {
                ASSERT_THAT(setresuid(1, 2, 1), Succeeds());
                EXPECT_THAT(setuid(1), Succeeds());
                EXPECT_EQ(Uids(), (Ids{1, 1, 1}));
              }),
              ExitsWith(0));
}

TEST(Setreuid, SetsTheSavedIdToo) {
  REQUIRE_ROOT();
  EXPECT_THAT(ForkAndRun([] {
                EXPECT_THAT(setreuid(11, 12), Succeeds());
                EXPECT_EQ(Uids(), (Ids{11, 12, 12}));
                EXPECT_THAT(setreuid(12, 11), Succeeds());
                EXPECT_EQ(Uids(), (Ids{12, 11, 11}));
                EXPECT_THAT(setreuid(13, -1), FailsWith(EPERM));
              }),
              ExitsWith(0));
}

TEST(Setregid, FollowsTheSameRule) {
  REQUIRE_ROOT();
  EXPECT_THAT(ForkAndRun([] {
                EXPECT_THAT(setregid(21, 22), Succeeds());
                EXPECT_EQ(Gids(), (Ids{21, 22, 22}));
                EXPECT_THAT(setgid(23), Succeeds());
                EXPECT_EQ(Gids(), (Ids{23, 23, 23}));
              }),
              ExitsWith(0));
}

TEST(Setfsuid, AnswersTheOldOneAndRefusesQuietly) {
  REQUIRE_ROOT();
  EXPECT_THAT(ForkAndRun([] {
                EXPECT_EQ(setfsuid(77), 0);
                EXPECT_EQ(Fsuid(), 77u);
                ASSERT_THAT(setresuid(1, 1, 1), Succeeds());
                EXPECT_EQ(setfsuid(99), 1);
                EXPECT_EQ(Fsuid(), 1u);
              }),
              ExitsWith(0));
}

TEST(Groups, SetAndGet) {
  REQUIRE_ROOT();
  EXPECT_THAT(ForkAndRun([] {
                const gid_t groups[] = {30, 10, 20};
                EXPECT_THAT(setgroups(3, groups), Succeeds());
                gid_t got[8] = {};
                EXPECT_THAT(getgroups(0, nullptr), SucceedsWith(3));
                EXPECT_THAT(getgroups(2, got), FailsWith(EINVAL));
                EXPECT_THAT(getgroups(8, got), SucceedsWith(3));
                EXPECT_EQ(got[0] + got[1] + got[2], 60u);
                EXPECT_THAT(getgroups(-1, got), FailsWith(EINVAL));
                EXPECT_THAT(syscall(SYS_getgroups, 8, kBadAddress), FailsWith(EFAULT));
                EXPECT_THAT(syscall(SYS_setgroups, 65'537, groups), FailsWith(EINVAL));
                EXPECT_THAT(syscall(SYS_setgroups, 2, kBadAddress), FailsWith(EFAULT));
                ASSERT_THAT(setresuid(1, 1, 1), Succeeds());
                EXPECT_THAT(setgroups(0, nullptr), FailsWith(EPERM));
              }),
              ExitsWith(0));
}

TEST(Groups, DecideAccess) {
  REQUIRE_ROOT();
  const TempDir dir;
  chmod(dir.c_str(), 0755);
  WriteFile(dir.File("f"), "x");
  ASSERT_THAT(chown(dir.File("f").c_str(), 500, 600), Succeeds());
  ASSERT_THAT(chmod(dir.File("f").c_str(), 0040), Succeeds());
  EXPECT_THAT(ForkAndRun([&] {
                const gid_t group = 600;
                ASSERT_THAT(setgroups(1, &group), Succeeds());
                ASSERT_THAT(setresgid(1, 1, 1), Succeeds());
                ASSERT_THAT(setresuid(501, 501, 501), Succeeds());
                EXPECT_THAT(Fd(open(dir.File("f").c_str(), O_RDONLY)), Succeeds());
                EXPECT_THAT(open(dir.File("f").c_str(), O_WRONLY), FailsWith(EACCES));
              }),
              ExitsWith(0));
  EXPECT_THAT(ForkAndRun([&] {
                ASSERT_THAT(setgroups(0, nullptr), Succeeds());
                ASSERT_THAT(setresuid(500, 500, 500), Succeeds());
                EXPECT_THAT(open(dir.File("f").c_str(), O_RDONLY), FailsWith(EACCES))
                    << "the owner's bits count although the group's would allow it";
              }),
              ExitsWith(0));
}

const Helper kPrintIds("print_ids", [](int, char**) {
  printf("%u %u %u\n", Uids()[0], Uids()[1], Uids()[2]);
  return 0;
});

TEST(SetIdPrograms, TakeTheOwnersIds) {
  REQUIRE_ROOT();
  const TempDir dir;
  chmod(dir.c_str(), 0755);
  const std::string program = dir.File("program");
  WriteFile(program, ReadFile(TestBinary()), 0755);
  ASSERT_THAT(chown(program.c_str(), 1001, 1002), Succeeds());
  ASSERT_THAT(chmod(program.c_str(), 04755), Succeeds());
  Pipe out = MakePipe();
  EXPECT_THAT(ForkAndRun([&] {
                dup2(out.writer, STDOUT_FILENO);
                ASSERT_THAT(setresuid(1003, 1003, 1003), Succeeds());
                execl(program.c_str(), program.c_str(), "--helper=print_ids", nullptr);
              }),
              ExitsWith(0));
  out.writer.Reset();
  EXPECT_EQ(ReadAll(out.reader), "1003 1001 1001\n");
}

TEST(Threads, RawCallsChangeOneThreadOnly) {
  REQUIRE_ROOT();
  EXPECT_THAT(ForkAndRun([] {
                std::thread([] {
                  EXPECT_THAT(syscall(SYS_setresuid, 5, 5, 5), Succeeds());
                  EXPECT_EQ(getuid(), 5u);
                }).join();
                EXPECT_EQ(getuid(), 0u);
              }),
              ExitsWith(0));
}

TEST(Rlimit, GetSetAndInherit) {
  EXPECT_THAT(ForkAndRun([] {
                rlimit limit = {};
                ASSERT_THAT(getrlimit(RLIMIT_CORE, &limit), Succeeds());
                const rlimit lower = {0, 0};
                EXPECT_THAT(setrlimit(RLIMIT_CORE, &lower), Succeeds());
                EXPECT_THAT(ForkAndRun([] {
                              rlimit inherited = {9, 9};
                              getrlimit(RLIMIT_CORE, &inherited);
                              EXPECT_EQ(inherited.rlim_max, 0u);
                            }),
                            ExitsWith(0));
              }),
              ExitsWith(0));
}

TEST(Rlimit, Errors) {
  rlimit limit = {2, 1};
  EXPECT_THAT(setrlimit(RLIMIT_NOFILE, &limit), FailsWith(EINVAL)) << "soft above hard";
  EXPECT_THAT(syscall(SYS_getrlimit, 99, &limit), FailsWith(EINVAL));
  EXPECT_THAT(syscall(SYS_getrlimit, RLIMIT_NOFILE, kBadAddress), FailsWith(EFAULT));
  EXPECT_THAT(syscall(SYS_prlimit64, 0x7ffffff, RLIMIT_NOFILE, nullptr, &limit), FailsWith(ESRCH));
}

TEST(Rlimit, OnlyPrivilegeRaisesTheHardLimit) {
  REQUIRE_ROOT();
  EXPECT_THAT(ForkAndRun([] {
                ASSERT_THAT(setresuid(1, 1, 1), Succeeds());
                const rlimit low = {10, 20};
                ASSERT_THAT(setrlimit(RLIMIT_NOFILE, &low), Succeeds());
                const rlimit soft = {20, 20};
                EXPECT_THAT(setrlimit(RLIMIT_NOFILE, &soft), Succeeds());
                const rlimit hard = {20, 21};
                EXPECT_THAT(setrlimit(RLIMIT_NOFILE, &hard), FailsWith(EPERM));
              }),
              ExitsWith(0));
}

TEST(Rlimit, PrlimitOfAChild) {
  ChildProcess child([] {
    for (;;) pause();
  });
  const rlimit wanted = {33, 44};
  EXPECT_THAT(prlimit(child.pid(), RLIMIT_NOFILE, &wanted, nullptr), Succeeds());
  rlimit got = {};
  EXPECT_THAT(prlimit(child.pid(), RLIMIT_NOFILE, nullptr, &got), Succeeds());
  EXPECT_EQ(got.rlim_cur, 33u);
  EXPECT_EQ(got.rlim_max, 44u);
}

TEST(Rlimit, NofileBoundsNewDescriptors) {
  const int next = LowestFreeFd();
  const ScopedRlimit limit(RLIMIT_NOFILE, static_cast<rlim_t>(next));
  EXPECT_THAT(open("/dev/null", O_RDONLY), FailsWith(EMFILE));
  EXPECT_THAT(dup(0), FailsWith(EMFILE));
  EXPECT_THAT(dup2(0, next), FailsWith(EBADF));
  EXPECT_THAT(fcntl(0, F_DUPFD, next), FailsWith(EINVAL));
}

TEST(Rlimit, FsizeSignalsAndFails) {
  const TempDir dir;
  EXPECT_THAT(ForkAndRun([&] {
                const Fd fd(open(dir.File("f").c_str(), O_RDWR | O_CREAT, 0600));
                const rlimit limit = {10, 10};
                setrlimit(RLIMIT_FSIZE, &limit);
                const ScopedSignalHandler ignore(SIGXFSZ, SIG_IGN);
                EXPECT_THAT(write(fd, "0123456789abc", 13), SucceedsWith(10));
                EXPECT_THAT(write(fd, "x", 1), FailsWith(EFBIG));
                EXPECT_THAT(ftruncate(fd, 11), FailsWith(EFBIG));
                EXPECT_THAT(fallocate(fd, 0, 0, 11), FailsWith(EFBIG));
                EXPECT_THAT(fallocate(fd, FALLOC_FL_KEEP_SIZE, 0, 11), Succeeds());
                const rlimit lower = {5, 10};
                setrlimit(RLIMIT_FSIZE, &lower);
                EXPECT_THAT(ftruncate(fd, 8), Succeeds()) << "it does not grow";
                EXPECT_THAT(ftruncate(fd, 9), FailsWith(EFBIG));
                signal(SIGXFSZ, SIG_DFL);
                if (!testing::Test::HasFailure()) write(fd, "x", 1);
              }),
              KilledBy(SIGXFSZ));
}

TEST(Rlimit, CpuSendsXcpuThenKill) {
  EXPECT_THAT(ForkAndRun([] {
                const rlimit limit = {1, 2};
                setrlimit(RLIMIT_CPU, &limit);
                static volatile sig_atomic_t seen = 0;
                const ScopedSignalHandler handler(SIGXCPU, [](int) { seen = 1; });
                while (seen == 0) asm volatile("" ::: "memory");
              }),
              ExitsWith(0));
}

TEST(Rlimit, NprocStopsForks) {
  REQUIRE_ROOT();
  EXPECT_THAT(ForkAndRun([] {
                const rlimit limit = {2, 2};
                ASSERT_THAT(setrlimit(RLIMIT_NPROC, &limit), Succeeds());
                ASSERT_THAT(setresuid(54'322, 54'322, 54'322), Succeeds());
                ChildProcess child([] {
                  for (;;) pause();
                });
                EXPECT_THAT(fork(), FailsWith(EAGAIN));
              }),
              ExitsWith(0));
}

TEST(Rusage, SelfAndChildren) {
  rusage usage = {};
  EXPECT_THAT(getrusage(RUSAGE_SELF, &usage), Succeeds());
  EXPECT_GT(usage.ru_maxrss, 0);
  EXPECT_THAT(getrusage(RUSAGE_CHILDREN, &usage), Succeeds());
  EXPECT_THAT(getrusage(RUSAGE_THREAD, &usage), Succeeds());
  EXPECT_THAT(syscall(SYS_getrusage, 9, &usage), FailsWith(EINVAL));
  EXPECT_THAT(syscall(SYS_getrusage, RUSAGE_SELF, kBadAddress), FailsWith(EFAULT));
}

}  // namespace
}  // namespace skep::test
