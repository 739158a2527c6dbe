// What execve and changes of ids do to privileges, and what protects a program from who started it:
// set-id bits, file and ambient capabilities, shared fs contexts, exit signals, personality,
// limits, dumpable, parent death signals.
#include <fcntl.h>
#include <grp.h>
#include <linux/capability.h>
#include <linux/securebits.h>
#include <sched.h>
#include <sys/auxv.h>
#include <sys/personality.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/xattr.h>

#include <array>
#include <map>
#include <sstream>

#include "tests/util/matchers.h"
#include "tests/util/process.h"

namespace skep::test {
namespace {

constexpr uid_t kUser = 1003, kOwner = 1001, kGroup = 1002;
constexpr uint64_t kBind = uint64_t{1} << CAP_NET_BIND_SERVICE;
constexpr uint64_t kRaw = uint64_t{1} << CAP_NET_RAW;
constexpr unsigned long kWeakening = ADDR_NO_RANDOMIZE | ADDR_COMPAT_LAYOUT | MMAP_PAGE_ZERO;

// A line of /proc/self/status as a number.
unsigned long StatusOf(const std::string& name, int base) {
  const std::string text = ReadFile("/proc/self/status");
  const size_t at = text.find("\n" + name + ":");
  return at == std::string::npos ? ~0ul
                                 : strtoul(text.c_str() + at + name.size() + 2, nullptr, base);
}

// What a program says of itself: a name and a number in each line.
const Helper kReport("report_privileges", [](int, char**) {
  int death = -1;
  prctl(PR_GET_PDEATHSIG, &death);
  rlimit stack = {};
  getrlimit(RLIMIT_STACK, &stack);
  printf("uid %u\neuid %u\ngid %u\negid %u\nsecure %lu\ndumpable %d\ndeath %d\n", getuid(),
         geteuid(), getgid(), getegid(), getauxval(AT_SECURE), prctl(PR_GET_DUMPABLE), death);
  printf("personality %u\nstack %lu\npermitted %lu\neffective %lu\nambient %lu\n",
         static_cast<unsigned>(personality(0xffffffff)), static_cast<unsigned long>(stack.rlim_cur),
         StatusOf("CapPrm", 16), StatusOf("CapEff", 16), StatusOf("CapAmb", 16));
  return 0;
});

using Report = std::map<std::string, uint64_t>;

Report Parse(const std::string& text) {
  Report report;
  std::istringstream lines(text);
  std::string name;
  uint64_t value = 0;
  while (lines >> name >> value) report[name] = value;
  return report;
}

// A copy of this program that anybody may reach, with this mode and owner.
class Program {
 public:
  explicit Program(mode_t mode, uid_t uid = kOwner, gid_t gid = kGroup) {
    chmod(dir_.c_str(), 0755);
    WriteFile(path_, ReadFile(TestBinary()), 0755);
    EXPECT_THAT(chown(path_.c_str(), uid, gid), Succeeds());
    EXPECT_THAT(chmod(path_.c_str(), mode), Succeeds());
  }
  const std::string& path() const { return path_; }
  void Exec() const { execl(path_.c_str(), path_.c_str(), "--helper=report_privileges", nullptr); }

  void SetCapabilities(uint64_t permitted, bool effective) const {
    const uint32_t flags = effective ? VFS_CAP_FLAGS_EFFECTIVE : 0;
    const uint32_t value[5] = {VFS_CAP_REVISION_2 | flags, static_cast<uint32_t>(permitted), 0,
                               static_cast<uint32_t>(permitted >> 32), 0};
    EXPECT_THAT(setxattr(path_.c_str(), "security.capability", value, sizeof value, 0), Succeeds());
  }

 private:
  const TempDir dir_;
  const std::string path_ = dir_.File("program");
};

void BecomeUser(uid_t id = kUser) {
  ASSERT_THAT(setgroups(0, nullptr), Succeeds());
  ASSERT_THAT(setresgid(id, id, id), Succeeds());
  ASSERT_THAT(setresuid(id, id, id), Succeeds());
}

// Runs `body`, which ends in an exec, in a child; what the program reports.
Report ReportOf(const std::function<void()>& body) {
  Pipe out = MakePipe();
  EXPECT_THAT(ForkAndRun([&] {
                dup2(out.writer, STDOUT_FILENO);
                body();
                FAIL() << "exec failed: " << strerror(errno);
              }),
              ExitsWith(0));
  out.writer.Reset();
  return Parse(ReadAll(out.reader));
}

TEST(ExecPrivilege, SetIdProgramIsSecure) {
  REQUIRE_ROOT();
  const Program program(06755);
  Report report = ReportOf([&] {
    BecomeUser();
    program.Exec();
  });
  EXPECT_EQ(report["uid"], kUser);
  EXPECT_EQ(report["euid"], kOwner);
  EXPECT_EQ(report["egid"], kGroup);
  EXPECT_EQ(report["secure"], 1u);
  EXPECT_EQ(report["dumpable"], 0u);
}

TEST(ExecPrivilege, OrdinaryProgramIsNot) {
  REQUIRE_ROOT();
  const Program program(0755);
  Report report = ReportOf([&] {
    BecomeUser();
    program.Exec();
  });
  EXPECT_EQ(report["euid"], kUser);
  EXPECT_EQ(report["secure"], 0u);
  EXPECT_EQ(report["dumpable"], 1u);
  EXPECT_EQ(report["permitted"], 0u);
}

TEST(ExecPrivilege, NothingIsGainedWithASharedFsContext) {
  REQUIRE_ROOT();
  const Program program(06755, 0, 0);
  Report report = ReportOf([&] {
    BecomeUser();
    const long child = syscall(SYS_clone, CLONE_FS | SIGCHLD, nullptr, nullptr, nullptr, nullptr);
    if (child == 0) {
      program.Exec();
      _exit(9);
    }
    int status = 0;
    ASSERT_EQ(waitpid(static_cast<pid_t>(child), &status, 0), child);
    _exit(WEXITSTATUS(status));
  });
  EXPECT_EQ(report["euid"], kUser);
  EXPECT_EQ(report["egid"], kUser);
  EXPECT_EQ(report["permitted"], 0u);
  EXPECT_EQ(report["secure"], 1u);
}

TEST(ExecPrivilege, ThreadsOfTheProcessAreNoSharers) {
  REQUIRE_ROOT();
  const Program program(04755);
  Report report = ReportOf([&] {
    BecomeUser();
    char stack[4096];
    // A second thread of this process, with the same fs context, that waits for its end.
    const int flags = CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD;
    clone(
        [](void*) -> int {
          for (;;) syscall(SYS_pause);
        },
        stack + sizeof stack - 64, flags, nullptr);
    program.Exec();
  });
  EXPECT_EQ(report["euid"], kOwner);
}

TEST(ExecPrivilege, NothingIsGainedWithNoNewPrivileges) {
  REQUIRE_ROOT();
  const Program program(06755, 0, 0);
  program.SetCapabilities(kRaw, true);
  Report report = ReportOf([&] {
    BecomeUser();
    prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
    program.Exec();
  });
  EXPECT_EQ(report["euid"], kUser);
  EXPECT_EQ(report["permitted"], 0u);
}

TEST(ExecPrivilege, WeakeningFlagsGo) {
  REQUIRE_ROOT();
  const Program set_id(04755);
  const Program plain(0755);
  const auto run = [](const Program& program) {
    return ReportOf([&] {
      BecomeUser();
      personality(kWeakening | READ_IMPLIES_EXEC);
      program.Exec();
    })["personality"];
  };
  EXPECT_EQ(run(set_id), 0u);
  EXPECT_EQ(run(plain), kWeakening) << "of a 64-bit program READ_IMPLIES_EXEC goes always";
}

TEST(ExecPrivilege, StackLimitIsBackToEightMebibytes) {
  REQUIRE_ROOT();
  const Program set_id(04755);
  const Program plain(0755);
  const auto run = [](const Program& program) {
    return ReportOf([&] {
      BecomeUser();
      rlimit limit = {};
      getrlimit(RLIMIT_STACK, &limit);
      limit.rlim_cur = std::min<rlim_t>(limit.rlim_max, 64 << 20);
      ASSERT_THAT(setrlimit(RLIMIT_STACK, &limit), Succeeds());
      program.Exec();
    })["stack"];
  };
  EXPECT_EQ(run(set_id), 8u << 20);
  EXPECT_EQ(run(plain), 64u << 20);
}

TEST(ExecPrivilege, ParentDeathSignalGoes) {
  REQUIRE_ROOT();
  const Program set_id(04755);
  const Program plain(0755);
  const auto run = [](const Program& program) {
    return ReportOf([&] {
      BecomeUser();
      prctl(PR_SET_PDEATHSIG, SIGUSR1);
      program.Exec();
    })["death"];
  };
  EXPECT_EQ(run(set_id), 0u);
  EXPECT_EQ(run(plain), static_cast<uint64_t>(SIGUSR1));
}

TEST(ExecPrivilege, UnreadableProgramIsNotDumpable) {
  REQUIRE_ROOT();
  const Program program(0711, 0, 0);
  Report report = ReportOf([&] {
    BecomeUser();
    program.Exec();
  });
  EXPECT_EQ(report["dumpable"], 0u);
  EXPECT_EQ(report["secure"], 0u);
  const auto as_root = ReportOf([&] { program.Exec(); });
  EXPECT_EQ(as_root.at("dumpable"), 1u) << "root may read it";
}

TEST(ExecPrivilege, UserWithTooManyProcessesExecutesNothing) {
  REQUIRE_ROOT();
  const Program program(0755);
  constexpr uid_t kBusy = 54'323;
  EXPECT_THAT(ForkAndRun([&] {
                const auto sleeper = [] {
                  BecomeUser(kBusy);
                  for (;;) pause();
                };
                const auto is_busy = [&](const ChildProcess& child) {
                  struct stat st = {};
                  const std::string proc = "/proc/" + std::to_string(child.pid());
                  return stat(proc.c_str(), &st) == 0 && st.st_uid == kBusy;
                };
                ChildProcess first(sleeper);
                ChildProcess second(sleeper);
                ASSERT_TRUE(WaitUntil([&] { return is_busy(first) && is_busy(second); }));
                const rlimit one = {1, 1};
                ASSERT_THAT(setrlimit(RLIMIT_NPROC, &one), Succeeds());
                EXPECT_THAT(ForkAndRun([&] {
                              BecomeUser(kBusy);
                              EXPECT_THAT(execl(program.path().c_str(), "x", nullptr),
                                          FailsWith(EAGAIN));
                              EXPECT_THAT(execl("/nowhere", "x", nullptr), FailsWith(EAGAIN));
                            }),
                            ExitsWith(0));
              }),
              ExitsWith(0));
}

// The parent becomes another program; its child, whose end is announced by SIGKILL, ends after it.
const Helper kOutliveChild("outlive_child", [](int argc, char** argv) {
  if (argc < 1) return 2;
  close(atoi(argv[0]));  // lets the child end
  int status = 0;
  const pid_t child = waitpid(-1, &status, __WALL);
  printf("waited %d\n", child > 0 ? 1 : 0);
  return 0;
});

TEST(ExecPrivilege, ExitSignalOfAChildFromBeforeIsSigchld) {
  Pipe out = MakePipe();
  EXPECT_THAT(ForkAndRun([&] {
                dup2(out.writer, STDOUT_FILENO);
                Pipe gate = MakePipe();
                const long child = syscall(SYS_clone, SIGKILL, nullptr, nullptr, nullptr, nullptr);
                if (child == 0) {
                  gate.writer.Reset();
                  char byte;
                  (void)read(gate.reader, &byte, 1);
                  _exit(0);
                }
                const std::string number = std::to_string(gate.writer.Release());
                execl(TestBinary().c_str(), TestBinary().c_str(), "--helper=outlive_child",
                      number.c_str(), nullptr);
              }),
              ExitsWith(0));
  out.writer.Reset();
  EXPECT_EQ(ReadAll(out.reader), "waited 1\n");
}

TEST(ExecPrivilege, ExitSignalOfAChildIsTheOneItWasGiven) {
  EXPECT_THAT(ForkAndRun([] {
                const long child = syscall(SYS_clone, SIGKILL, nullptr, nullptr, nullptr, nullptr);
                if (child == 0) _exit(0);
                for (;;) pause();
              }),
              KilledBy(SIGKILL));
}

// As kUser with this capability permitted, inheritable and ambient.
void BecomeUserWithAmbient(uint64_t capabilities) {
  ASSERT_THAT(prctl(PR_SET_KEEPCAPS, 1), Succeeds());
  BecomeUser();
  __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
  const auto low = static_cast<uint32_t>(capabilities);
  const __user_cap_data_struct data[2] = {{low, low, low}, {0, 0, 0}};
  ASSERT_THAT(syscall(SYS_capset, &header, data), Succeeds());
  for (int i = 0; i < 32; ++i) {
    if ((capabilities >> i & 1) == 0) continue;
    ASSERT_THAT(prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, i, 0, 0), Succeeds());
  }
}

TEST(AmbientCapabilities, StayWithOrdinaryProgramsOnly) {
  REQUIRE_ROOT();
  REQUIRE_CAPABILITY(CAP_NET_BIND_SERVICE);
  const auto run = [](const Program& program) {
    return ReportOf([&] {
      BecomeUserWithAmbient(kBind);
      program.Exec();
    });
  };
  const Program plain(0755);
  Report report = run(plain);
  EXPECT_EQ(report["ambient"], kBind);
  EXPECT_EQ(report["effective"], kBind);
  EXPECT_EQ(report["secure"], 0u);
  const Program set_id(04755);
  report = run(set_id);
  EXPECT_EQ(report["ambient"], 0u);
  EXPECT_EQ(report["permitted"], 0u);
  const Program with_capabilities(0755);
  with_capabilities.SetCapabilities(kRaw, true);
  report = run(with_capabilities);
  EXPECT_EQ(report["ambient"], 0u);
  EXPECT_EQ(report["permitted"], kRaw);
}

TEST(FileCapabilities, AreGained) {
  REQUIRE_ROOT();
  REQUIRE_CAPABILITY(CAP_NET_RAW);
  const Program program(0755);
  const auto run = [&] {
    return ReportOf([&] {
      BecomeUser();
      program.Exec();
    });
  };
  program.SetCapabilities(kRaw, true);
  Report report = run();
  EXPECT_EQ(report["permitted"], kRaw);
  EXPECT_EQ(report["effective"], kRaw);
  EXPECT_EQ(report["secure"], 1u);
  EXPECT_EQ(report["dumpable"], 0u);
  program.SetCapabilities(kRaw, false);
  report = run();
  EXPECT_EQ(report["permitted"], kRaw);
  EXPECT_EQ(report["effective"], 0u);
}

TEST(FileCapabilities, ThatCannotBeHadRefuseTheExec) {
  REQUIRE_ROOT();
  REQUIRE_CAPABILITY(CAP_SETPCAP);
  const Program program(0755);
  program.SetCapabilities(kRaw, true);
  EXPECT_THAT(ForkAndRun([&] {
                ASSERT_THAT(prctl(PR_CAPBSET_DROP, CAP_NET_RAW), Succeeds());
                BecomeUser();
                EXPECT_THAT(execl(program.path().c_str(), "x", nullptr), FailsWith(EPERM));
              }),
              ExitsWith(0));
}

TEST(FileCapabilities, GoWithAnyChangeOfTheFile) {
  REQUIRE_ROOT();
  const Program program(0755);
  const auto kept = [&] {
    char value[32];
    return getxattr(program.path().c_str(), "security.capability", value, sizeof value) > 0;
  };
  const auto after = [&](const std::function<void()>& change) {
    program.SetCapabilities(kRaw, true);
    change();
    return kept();
  };
  const Fd fd(open(program.path().c_str(), O_RDWR));
  EXPECT_FALSE(after([&] { EXPECT_THAT(pwrite(fd, "x", 1, 0), SucceedsWith(1)); }));
  EXPECT_FALSE(after([&] { EXPECT_THAT(ftruncate(fd, 100), Succeeds()); }));
  EXPECT_FALSE(after([&] { EXPECT_THAT(truncate(program.path().c_str(), 99), Succeeds()); }));
  EXPECT_FALSE(after([&] { EXPECT_THAT(fallocate(fd, 0, 0, 200), Succeeds()); }));
  EXPECT_FALSE(after([&] { EXPECT_THAT(chown(program.path().c_str(), -1, 5), Succeeds()); }));
  EXPECT_FALSE(after([&] { EXPECT_THAT(chown(program.path().c_str(), -1, -1), Succeeds()); }));
  EXPECT_FALSE(after([&] { const Fd cut(open(program.path().c_str(), O_WRONLY | O_TRUNC)); }));
  EXPECT_TRUE(after([&] { EXPECT_THAT(chmod(program.path().c_str(), 0700), Succeeds()); }));
  EXPECT_TRUE(after([&] { const Fd other(open(program.path().c_str(), O_RDWR)); }));
}

TEST(Dumpable, IsClearedByChangesOfIds) {
  REQUIRE_ROOT();
  const auto after = [](const std::function<void()>& change) {
    int status = ForkAndRun([&] {
      prctl(PR_SET_DUMPABLE, 1);
      prctl(PR_SET_PDEATHSIG, SIGUSR1);
      change();
      int death = 0;
      prctl(PR_GET_PDEATHSIG, &death);
      EXPECT_EQ(death == 0, prctl(PR_GET_DUMPABLE) == 0) << "they go together";
      _exit(testing::Test::HasFailure() ? 1 : 10 + prctl(PR_GET_DUMPABLE));
    });
    return WEXITSTATUS(status) - 10;
  };
  EXPECT_EQ(after([] {}), 1);
  EXPECT_EQ(after([] { (void)!setresuid(7, 7, 7); }), 0);
  EXPECT_EQ(after([] { (void)!setresgid(7, 7, 7); }), 0);
  EXPECT_EQ(after([] { (void)!seteuid(7); }), 0);
  EXPECT_EQ(after([] { syscall(SYS_setfsuid, 7); }), 0);
  EXPECT_EQ(after([] { syscall(SYS_setfsgid, 7); }), 0);
  EXPECT_EQ(after([] { (void)!setresuid(7, -1, 7); }), 1) << "real and saved ids do not matter";
  EXPECT_EQ(after([] { setgroups(0, nullptr); }), 1);
  EXPECT_EQ(after([] {
              __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
              const __user_cap_data_struct none[2] = {};
              syscall(SYS_capset, &header, none);
            }),
            1)
      << "fewer capabilities";
}

TEST(Dumpable, BelongsToTheMemory) {
  REQUIRE_ROOT();
  EXPECT_THAT(ForkAndRun([] {
                prctl(PR_SET_DUMPABLE, 1);
                const pid_t child = vfork();
                if (child == 0) {
                  syscall(SYS_setresuid, 7, 7, 7);
                  _exit(0);
                }
                EXPECT_EQ(prctl(PR_GET_DUMPABLE), 0) << "the child shared it";
                waitpid(child, nullptr, 0);
              }),
              ExitsWith(0));
}

// A process that became `kUser` without an exec, and one of the same user that looks at it.
TEST(Dumpable, ProtectsFromEquals) {
  REQUIRE_ROOT();
  static char secret[] = "secret";
  Gate ready;
  ChildProcess daemon([&] {
    BecomeUser();
    ready.Open();
    for (;;) pause();
  });
  ready.Wait();
  const std::string proc = "/proc/" + std::to_string(daemon.pid());
  struct stat st = {};
  ASSERT_THAT(stat((proc + "/environ").c_str(), &st), Succeeds());
  EXPECT_EQ(st.st_uid, 0u) << "root's, while it is not dumpable";
  ASSERT_THAT(stat(proc.c_str(), &st), Succeeds());
  EXPECT_EQ(st.st_uid, kUser) << "but for the directory";
  EXPECT_THAT(
      ForkAndRun([&] {
        BecomeUser();
        for (const char* name : {"/mem", "/environ"}) {
          EXPECT_THAT(open((proc + name).c_str(), O_RDONLY), FailsWith(EACCES)) << name;
        }
        EXPECT_THAT(open((proc + "/fd").c_str(), O_RDONLY), FailsWith(EACCES));
        char link[64];
        EXPECT_THAT(readlink((proc + "/exe").c_str(), link, sizeof link), FailsWith(EACCES));
        char buffer[8];
        const iovec local = {buffer, sizeof secret};
        const iovec remote = {secret, sizeof secret};
        EXPECT_THAT(process_vm_readv(daemon.pid(), &local, 1, &remote, 1, 0), FailsWith(EPERM));
      }),
      ExitsWith(0));
}

TEST(Securebits, LocksHold) {
  REQUIRE_ROOT();
  REQUIRE_CAPABILITY(CAP_SETPCAP);
  EXPECT_THAT(ForkAndRun([] {
                const int locked = SECBIT_NO_CAP_AMBIENT_RAISE |
                                   SECBIT_NO_CAP_AMBIENT_RAISE_LOCKED | SECBIT_KEEP_CAPS_LOCKED;
                EXPECT_THAT(prctl(PR_SET_SECUREBITS, 1 << 20), FailsWith(EPERM)) << "unknown";
                ASSERT_THAT(prctl(PR_SET_SECUREBITS, locked), Succeeds());
                EXPECT_THAT(prctl(PR_GET_SECUREBITS), SucceedsWith(locked));
                EXPECT_THAT(prctl(PR_SET_SECUREBITS, 0), FailsWith(EPERM));
                EXPECT_THAT(prctl(PR_SET_KEEPCAPS, 1), FailsWith(EPERM));
              }),
              ExitsWith(0));
}

TEST(PrSetMm, NeedsACapability) {
  REQUIRE_ROOT();
  EXPECT_THAT(ForkAndRun([] {
                BecomeUser();
                EXPECT_THAT(prctl(PR_SET_MM, PR_SET_MM_BRK, 0, 0, 0), FailsWith(EPERM));
              }),
              ExitsWith(0));
}

}  // namespace
}  // namespace skep::test
