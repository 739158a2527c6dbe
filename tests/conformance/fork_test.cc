// fork, vfork, clone and clone3: what parent and child share, and which flags are refused.
#include <fcntl.h>
#include <linux/sched.h>
#include <sched.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>

#include <array>
#include <sstream>

#include "tests/util/matchers.h"
#include "tests/util/process.h"

namespace skep::test {
namespace {

constexpr size_t kStackSize = 64 * 1024;

long RawClone(uint64_t flags, void* stack = nullptr, int* parent_tid = nullptr,
              int* child_tid = nullptr, uint64_t tls = 0) {
  return syscall(SYS_clone, flags, stack, parent_tid, child_tid, tls);
}

long Clone3(const clone_args& args, size_t size = sizeof(clone_args)) {
  return syscall(SYS_clone3, &args, size);
}

int StatusOf(long pid) {
  int status = -1;
  EXPECT_EQ(waitpid(static_cast<pid_t>(pid), &status, __WALL), pid);
  return status;
}

TEST(Fork, ChildSeesZeroAndHasItsOwnPid) {
  const pid_t parent = getpid();
  const Pipe pipe = MakePipe();
  const pid_t child = fork();
  if (child == 0) {
    const std::array<pid_t, 3> ids = {getpid(), getppid(), GetTid()};
    write(pipe.writer, &ids, sizeof(ids));
    _exit(0);
  }
  ASSERT_THAT(child, Succeeds());
  std::array<pid_t, 3> ids = {};
  EXPECT_THAT(read(pipe.reader, &ids, sizeof(ids)), SucceedsWith(sizeof(ids)));
  EXPECT_EQ(ids[0], child);
  EXPECT_EQ(ids[1], parent);
  EXPECT_EQ(ids[2], child);
  EXPECT_THAT(StatusOf(child), ExitsWith(0));
}

TEST(Fork, MemoryIsCopiedNotShared) {
  static int value = 1;
  EXPECT_THAT(ForkAndRun([] { value = 2; }), ExitsWith(0));
  EXPECT_EQ(value, 1);
}

TEST(Fork, DescriptorsShareTheirOffset) {
  const TempDir dir;
  WriteFile(dir.File("f"), "0123456789");
  const Fd fd(open(dir.File("f").c_str(), O_RDONLY));
  EXPECT_THAT(ForkAndRun([&] { EXPECT_THAT(lseek(fd, 4, SEEK_SET), SucceedsWith(4)); }),
              ExitsWith(0));
  EXPECT_THAT(lseek(fd, 0, SEEK_CUR), SucceedsWith(4));
}

TEST(Fork, DescriptorTableIsCopied) {
  const Fd fd(open("/dev/null", O_RDONLY));
  ASSERT_THAT(fd, Succeeds());
  EXPECT_THAT(ForkAndRun([&] { EXPECT_THAT(close(fd), Succeeds()); }), ExitsWith(0));
  EXPECT_THAT(fcntl(fd, F_GETFD), Succeeds());
}

TEST(Fork, InheritsCwdUmaskAndMaskButNotPendingSignals) {
  const TempDir dir;
  EXPECT_THAT(ForkAndRun([&] {
                ASSERT_THAT(chdir(dir.c_str()), Succeeds());
                umask(0123);
                const ScopedSignalMask mask(SIG_BLOCK, {SIGUSR1});
                raise(SIGUSR1);
                EXPECT_THAT(ForkAndRun([&] {
                              char cwd[256];
                              EXPECT_NE(getcwd(cwd, sizeof(cwd)), nullptr);
                              EXPECT_EQ(cwd, dir.path());
                              EXPECT_EQ(umask(0), 0123u);
                              sigset_t set;
                              sigpending(&set);
                              EXPECT_FALSE(sigismember(&set, SIGUSR1));
                              pthread_sigmask(SIG_BLOCK, nullptr, &set);
                              EXPECT_TRUE(sigismember(&set, SIGUSR1));
                            }),
                            ExitsWith(0));
                signal(SIGUSR1, SIG_IGN);
              }),
              ExitsWith(0));
}

TEST(Fork, DoesNotInheritAlarms) {
  const itimerval hour = {{0, 0}, {3600, 0}};
  ASSERT_THAT(setitimer(ITIMER_REAL, &hour, nullptr), Succeeds());
  EXPECT_THAT(ForkAndRun([] {
                itimerval left = {};
                EXPECT_THAT(getitimer(ITIMER_REAL, &left), Succeeds());
                EXPECT_EQ(left.it_value.tv_sec, 0);
              }),
              ExitsWith(0));
  const itimerval off = {};
  EXPECT_THAT(setitimer(ITIMER_REAL, &off, nullptr), Succeeds());
}

TEST(Fork, ManyGenerationsDeep) {
  const std::function<void(int)> descend = [&](int depth) {
    if (depth == 0) return;
    EXPECT_THAT(ForkAndRun([&] { descend(depth - 1); }), ExitsWith(0));
  };
  descend(12);
}

TEST(Fork, ManyChildrenAtOnce) {
  constexpr int kChildren = 40;
  std::array<pid_t, kChildren> children;
  for (int i = 0; i < kChildren; ++i) {
    children[i] = fork();
    if (children[i] == 0) _exit(i);
    ASSERT_GT(children[i], 0);
  }
  for (int i = 0; i < kChildren; ++i) EXPECT_THAT(StatusOf(children[i]), ExitsWith(i));
}

TEST(Vfork, SharesMemoryAndSuspendsTheParent) {
  volatile int value = 0;
  const pid_t child = vfork();
  if (child == 0) {
    value = 7;
    _exit(3);
  }
  EXPECT_EQ(value, 7);
  EXPECT_THAT(StatusOf(child), ExitsWith(3));
}

TEST(Vfork, ParentGoesOnWhenTheChildExecs) {
  const Pipe pipe = MakePipe(O_CLOEXEC);
  const std::string path = TestBinary();
  const char* const argv[] = {path.c_str(), "--helper=wait_for_stdin", nullptr};
  const pid_t child = vfork();
  if (child == 0) {
    dup2(pipe.reader, STDIN_FILENO);
    execv(path.c_str(), const_cast<char**>(argv));
    _exit(127);
  }
  EXPECT_THAT(waitpid(child, nullptr, WNOHANG), SucceedsWith(0)) << "the child waits for us";
  EXPECT_THAT(write(pipe.writer, "x", 1), SucceedsWith(1));
  EXPECT_THAT(StatusOf(child), ExitsWith(9));
}
const Helper kWaitForStdin("wait_for_stdin", [](int, char**) {
  char byte;
  return read(STDIN_FILENO, &byte, 1) == 1 ? 9 : 1;
});

TEST(Clone, WithoutExitSignalNeedsWall) {
  const long child = RawClone(0);
  if (child == 0) _exit(5);
  ASSERT_THAT(child, Succeeds());
  EXPECT_THAT(waitpid(child, nullptr, 0), FailsWith(ECHILD));
  int status = 0;
  EXPECT_THAT(waitpid(child, &status, __WCLONE), SucceedsWith(child));
  EXPECT_THAT(status, ExitsWith(5));
}

// clone(2) takes any eight bits: a number above the last signal is kept and sends nothing.
TEST(Clone, AnExitSignalThatIsNoneSendsNothing) {
  for (const int signo : {65, 126, 128, 189, 255}) {
    const long child = RawClone(signo);
    if (child == 0) {
      pause();
      _exit(0);
    }
    ASSERT_THAT(child, Succeeds()) << signo;
    const std::string stat = ReadFile("/proc/" + std::to_string(child) + "/stat");
    std::istringstream fields(stat.substr(stat.rfind(')') + 2));
    std::string field;
    for (int i = 3; i <= 38; ++i) fields >> field;
    EXPECT_EQ(field, std::to_string(signo)) << stat;
    ASSERT_THAT(kill(static_cast<pid_t>(child), SIGKILL), Succeeds());
    EXPECT_THAT(waitpid(static_cast<pid_t>(child), nullptr, 0), FailsWith(ECHILD));
    int status = 0;
    EXPECT_THAT(waitpid(static_cast<pid_t>(child), &status, __WALL), SucceedsWith(child));
    EXPECT_THAT(status, KilledBy(SIGKILL));
  }
}

TEST(Clone, SetsTidsInParentAndChild) {
  int parent_tid = 0;
  int child_tid = 0;
  const Pipe pipe = MakePipe();
  const long child = RawClone(SIGCHLD | CLONE_PARENT_SETTID | CLONE_CHILD_SETTID, nullptr,
                              &parent_tid, &child_tid);
  if (child == 0) {
    write(pipe.writer, &child_tid, sizeof(child_tid));
    _exit(0);
  }
  int seen = 0;
  EXPECT_THAT(read(pipe.reader, &seen, sizeof(seen)), SucceedsWith(sizeof(seen)));
  EXPECT_EQ(parent_tid, child);
  EXPECT_EQ(seen, child);
  EXPECT_EQ(child_tid, 0) << "the child's memory is its own";
  EXPECT_THAT(StatusOf(child), ExitsWith(0));
}

int SharedChild(void* argument) {
  *static_cast<int*>(argument) = 5;
  return 4;
}

TEST(Clone, VmSharesMemory) {
  const Mapping stack(kStackSize);
  static int value = 0;
  const int child = clone(SharedChild, stack.data() + kStackSize, CLONE_VM | SIGCHLD, &value);
  ASSERT_THAT(child, Succeeds());
  EXPECT_THAT(StatusOf(child), ExitsWith(4));
  EXPECT_EQ(value, 5);
}

TEST(Clone, FilesSharesTheTable) {
  const Fd fd(open("/dev/null", O_RDONLY));
  const long child = RawClone(CLONE_FILES | SIGCHLD);
  if (child == 0) {
    close(fd);
    _exit(0);
  }
  EXPECT_THAT(StatusOf(child), ExitsWith(0));
  EXPECT_THAT(fcntl(fd, F_GETFD), FailsWith(EBADF));
}

TEST(Clone, FsSharesCwdAndUmask) {
  EXPECT_THAT(ForkAndRun([] {
                umask(022);
                const long child = RawClone(CLONE_FS | SIGCHLD);
                if (child == 0) {
                  umask(077);
                  _exit(chdir("/") == 0 ? 0 : 1);
                }
                EXPECT_THAT(StatusOf(child), ExitsWith(0));
                EXPECT_EQ(umask(0), 077u);
                char cwd[16];
                EXPECT_NE(getcwd(cwd, sizeof(cwd)), nullptr);
                EXPECT_STREQ(cwd, "/");
              }),
              ExitsWith(0));
}

TEST(Clone, ParentMakesASibling) {
  EXPECT_THAT(ForkAndRun([] {
                const pid_t grandparent = getpid();
                const Pipe pipe = MakePipe();
                const pid_t child = fork();
                if (child == 0) {
                  const long sibling = RawClone(CLONE_PARENT | SIGCHLD);
                  if (sibling == 0) _exit(getppid() == grandparent ? 21 : 22);
                  write(pipe.writer, &sibling, sizeof(sibling));
                  _exit(0);
                }
                long sibling = 0;
                EXPECT_THAT(read(pipe.reader, &sibling, sizeof(sibling)),
                            SucceedsWith(sizeof(sibling)));
                EXPECT_THAT(StatusOf(child), ExitsWith(0));
                EXPECT_THAT(StatusOf(sibling), ExitsWith(21));
              }),
              ExitsWith(0));
}

TEST(Clone, RejectsFlagsThatNeedOthers) {
  EXPECT_THAT(RawClone(CLONE_SIGHAND | SIGCHLD), FailsWith(EINVAL));
  EXPECT_THAT(RawClone(CLONE_THREAD | SIGCHLD), FailsWith(EINVAL));
  EXPECT_THAT(RawClone(CLONE_THREAD | CLONE_SIGHAND), FailsWith(EINVAL));
  EXPECT_THAT(RawClone(CLONE_FS | CLONE_NEWNS | SIGCHLD), FailsWith(EINVAL));
}

TEST(Clone3, MakesAChild) {
  clone_args args = {};
  int parent_tid = 0;
  args.flags = CLONE_PARENT_SETTID;
  args.parent_tid = reinterpret_cast<uint64_t>(&parent_tid);
  args.exit_signal = SIGCHLD;
  const long child = Clone3(args);
  if (child == 0) _exit(6);
  ASSERT_THAT(child, Succeeds());
  EXPECT_EQ(parent_tid, child);
  EXPECT_THAT(StatusOf(child), ExitsWith(6));
}

TEST(Clone3, ChecksItsSize) {
  clone_args args = {};
  args.exit_signal = SIGCHLD;
  EXPECT_THAT(Clone3(args, 63), FailsWith(EINVAL));
  EXPECT_THAT(Clone3(args, 8192), FailsWith(E2BIG));
  struct {
    clone_args args;
    uint64_t unknown;
  } longer = {args, 1};
  EXPECT_THAT(syscall(SYS_clone3, &longer, sizeof(longer)), FailsWith(E2BIG));
  longer.unknown = 0;
  const long child = syscall(SYS_clone3, &longer, sizeof(longer));
  if (child == 0) _exit(0);
  EXPECT_THAT(StatusOf(child), ExitsWith(0));
  EXPECT_THAT(syscall(SYS_clone3, kBadAddress, 64), FailsWith(EFAULT));
}

TEST(Clone3, RejectsBadArguments) {
  clone_args args = {};
  args.exit_signal = 65;
  EXPECT_THAT(Clone3(args), FailsWith(EINVAL));
  args.exit_signal = SIGCHLD;
  args.flags = 1ULL << 60;
  EXPECT_THAT(Clone3(args), FailsWith(EINVAL));
  args.flags = CLONE_DETACHED;
  EXPECT_THAT(Clone3(args), FailsWith(EINVAL));
  args.flags = 0;
  args.stack = 0x1000;
  EXPECT_THAT(Clone3(args), FailsWith(EINVAL)) << "a stack without a size";
  args.stack = 0;
  args.stack_size = 4096;
  EXPECT_THAT(Clone3(args), FailsWith(EINVAL)) << "a size without a stack";
}

TEST(Clone3, ClearSighandResetsHandlersAndExcludesSighand) {
  const ScopedSignalHandler handler(SIGUSR1, [](int) {});
  clone_args args = {};
  args.exit_signal = SIGCHLD;
  args.flags = CLONE_CLEAR_SIGHAND | CLONE_SIGHAND | CLONE_VM;
  EXPECT_THAT(Clone3(args), FailsWith(EINVAL));
  args.flags = CLONE_CLEAR_SIGHAND;
  const long child = Clone3(args);
  if (child == 0) {
    struct sigaction action;
    sigaction(SIGUSR1, nullptr, &action);
    _exit(action.sa_handler == SIG_DFL ? 0 : 1);
  }
  EXPECT_THAT(StatusOf(child), ExitsWith(0));
}

}  // namespace
}  // namespace skep::test
