// execve and execveat: formats, arguments, what survives, and errors.
#include <elf.h>
#include <fcntl.h>
#include <sys/auxv.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#include <cstring>
#include <thread>

#include "tests/util/matchers.h"
#include "tests/util/process.h"

namespace skep::test {
namespace {

// Prints its arguments and environment, one a line.
const Helper kPrint("print", [](int argc, char** argv) {
  for (int i = 0; i < argc; ++i) printf("%s\n", argv[i]);
  for (char** e = environ; *e != nullptr; ++e) printf("env %s\n", *e);
  return 0;
});

long Exec(const std::string& path) {
  char* const argv[] = {const_cast<char*>("x"), nullptr};
  char* const env[] = {nullptr};
  return execve(path.c_str(), argv, env);
}

void WriteScript(const std::string& path, const std::string& text) { WriteFile(path, text, 0755); }

TEST(Exec, PassesArgumentsAndEnvironment) {
  const Outcome outcome =
      RunProgram(TestBinary(), {TestBinary(), "--helper=print", "one", "", "t w o"}, {"A=1", "B="});
  EXPECT_THAT(outcome.status, ExitsWith(0));
  EXPECT_EQ(outcome.output, "one\n\nt w o\nenv A=1\nenv B=\n");
}

TEST(Exec, RunsAStaticPie) {
  const std::string path = SiblingBinary("exec_helper_pie");
  const Outcome outcome = RunProgram(path, {path, "a", "b"}, {"X=y"});
  EXPECT_THAT(outcome.status, ExitsWith(42));
  EXPECT_EQ(outcome.output, "argc 3 last b env X=y\n");
}

TEST(Exec, RunsADynamicProgram) {
  const std::string path = SiblingBinary("exec_helper_dynamic");
  const Outcome outcome = RunProgram(path, {path, "a"}, {"X=y"});
  EXPECT_THAT(outcome.status, ExitsWith(42));
  EXPECT_EQ(outcome.output, "argc 2 last a env X=y\n");
}

TEST(Exec, AnEmptyArgvGetsOneEmptyString) {
  const std::string path = SiblingBinary("exec_helper_pie");
  EXPECT_EQ(RunProgram(path, {}, {"X=y"}).output, "argc 1 last  env X=y\n");
}

TEST(Exec, ScriptGetsInterpreterItsArgumentAndThePath) {
  const TempDir dir;
  const std::string script = dir.File("script");
  WriteScript(script, "#! " + TestBinary() + "  --helper=print \nrest is ignored");
  const Outcome outcome = RunProgram(script, {"argv0 is replaced", "one", "two"});
  EXPECT_EQ(outcome.output, script + "\none\ntwo\n");
  EXPECT_THAT(outcome.status, ExitsWith(0));
}

TEST(Exec, ScriptsNestFourDeepAndNoDeeper) {
  const TempDir dir;
  std::string interpreter = SiblingBinary("exec_helper_pie");
  for (int depth = 1; depth <= 6; ++depth) {
    const std::string script = dir.File("s" + std::to_string(depth));
    WriteScript(script, "#!" + interpreter + "\n");
    interpreter = script;
    if (depth <= 5) {
      EXPECT_THAT(RunProgram(script, {script}).status, ExitsWith(42)) << depth;
    } else {
      EXPECT_THAT(ForkAndRun([&] { EXPECT_THAT(Exec(script), FailsWith(ELOOP)); }), ExitsWith(0));
    }
  }
}

TEST(Exec, ScriptErrors) {
  const TempDir dir;
  WriteScript(dir.File("missing"), "#!/no/such/interpreter\n");
  EXPECT_THAT(Exec(dir.File("missing")), FailsWith(ENOENT));
  WriteScript(dir.File("empty"), "#!  \n");
  EXPECT_THAT(Exec(dir.File("empty")), FailsWith(ENOEXEC));
  WriteScript(dir.File("directory"), "#!/\n");
  EXPECT_THAT(Exec(dir.File("directory")), FailsWith(EACCES));
}

TEST(Exec, NotAProgramIsEnoexec) {
  const TempDir dir;
  WriteScript(dir.File("text"), "just text\n");
  EXPECT_THAT(Exec(dir.File("text")), FailsWith(ENOEXEC));
  WriteScript(dir.File("empty"), "");
  EXPECT_THAT(Exec(dir.File("empty")), FailsWith(ENOEXEC));
  WriteScript(dir.File("short"),
              "\x7f"
              "ELF");
  EXPECT_THAT(Exec(dir.File("short")), FailsWith(ENOEXEC));
}

TEST(Exec, AnElfOfAnotherMachineIsEnoexec) {
  const TempDir dir;
  std::string image = ReadFile(SiblingBinary("exec_helper_pie"));
  reinterpret_cast<Elf64_Ehdr*>(image.data())->e_machine = EM_PPC64;
  WriteScript(dir.File("ppc"), image);
  EXPECT_THAT(Exec(dir.File("ppc")), FailsWith(ENOEXEC));
}

TEST(Exec, PathErrors) {
  const TempDir dir;
  WriteFile(dir.File("plain"), "#!/bin/sh\n", 0644);
  EXPECT_THAT(Exec(dir.File("plain")), FailsWith(EACCES));
  EXPECT_THAT(Exec(dir.path()), FailsWith(EACCES));
  EXPECT_THAT(Exec(dir.File("none")), FailsWith(ENOENT));
  EXPECT_THAT(Exec(dir.File("plain/x")), FailsWith(ENOTDIR));
  EXPECT_THAT(Exec(""), FailsWith(ENOENT));
  EXPECT_THAT(Exec(std::string(5000, 'a')), FailsWith(ENAMETOOLONG));
  EXPECT_THAT(symlink("loop", dir.File("loop").c_str()), Succeeds());
  EXPECT_THAT(Exec(dir.File("loop")), FailsWith(ELOOP));
}

TEST(Exec, BadPointers) {
  const std::string path = TestBinary();
  EXPECT_THAT(syscall(SYS_execve, kBadAddress, nullptr, nullptr), FailsWith(EFAULT));
  EXPECT_THAT(syscall(SYS_execve, path.c_str(), kBadAddress, nullptr), FailsWith(EFAULT));
  char* argv[] = {static_cast<char*>(kBadAddress), nullptr};
  EXPECT_THAT(syscall(SYS_execve, path.c_str(), argv, nullptr), FailsWith(EFAULT));
}

TEST(Exec, AStringOrAListTooLongIsE2big) {
  const std::string path = TestBinary();
  std::string word(32 * kPageSize, 'a');
  char* argv[] = {word.data(), nullptr};
  char* env[] = {nullptr};
  EXPECT_THAT(execve(path.c_str(), argv, env), FailsWith(E2BIG));
  word.resize(32 * kPageSize - 1);
  std::vector<char*> many(100, word.data());
  many.push_back(nullptr);
  const ScopedRlimit stack(RLIMIT_STACK, 8 << 20);
  EXPECT_THAT(execve(path.c_str(), many.data(), env), FailsWith(E2BIG))
      << "more than a quarter of the stack";
}

TEST(Exec, CloexecDescriptorsCloseAndOthersStay) {
  const Fd stays(open("/dev/null", O_RDONLY));
  const Fd closes(open("/dev/null", O_RDONLY | O_CLOEXEC));
  const Outcome outcome = RunHelper("check_fds", {std::to_string(stays), std::to_string(closes)});
  EXPECT_EQ(outcome.output, "0 -1\n");
}
const Helper kCheckFds("check_fds", [](int, char** argv) {
  const int first = fcntl(atoi(argv[0]), F_GETFD);
  printf("%d %d\n", first, fcntl(atoi(argv[1]), F_GETFD));
  return 0;
});

TEST(Exec, AFailedExecKeepsCloexecDescriptors) {
  const Fd fd(open("/dev/null", O_RDONLY | O_CLOEXEC));
  EXPECT_THAT(Exec("/no/such/file"), FailsWith(ENOENT));
  EXPECT_THAT(fcntl(fd, F_GETFD), SucceedsWith(FD_CLOEXEC));
}

const Helper kSignals("signals", [](int, char**) {
  struct sigaction usr1;
  struct sigaction usr2;
  sigaction(SIGUSR1, nullptr, &usr1);
  sigaction(SIGUSR2, nullptr, &usr2);
  sigset_t mask;
  sigset_t pending;
  sigprocmask(SIG_BLOCK, nullptr, &mask);
  sigpending(&pending);
  stack_t stack;
  sigaltstack(nullptr, &stack);
  printf("%d %d %d %d %d\n", usr1.sa_handler == SIG_DFL, usr2.sa_handler == SIG_IGN,
         sigismember(&mask, SIGHUP), sigismember(&pending, SIGHUP), stack.ss_flags == SS_DISABLE);
  return 0;
});

TEST(Exec, HandlersResetIgnoredMaskAndPendingStay) {
  Pipe out = MakePipe();
  const int status = ForkAndRun([&] {
    dup2(out.writer, STDOUT_FILENO);
    signal(SIGUSR1, [](int) {});
    signal(SIGUSR2, SIG_IGN);
    static char memory[64 * 1024];
    const stack_t stack = {memory, 0, sizeof(memory)};
    sigaltstack(&stack, nullptr);
    const ScopedSignalMask mask(SIG_BLOCK, {SIGHUP});
    raise(SIGHUP);
    execl(TestBinary().c_str(), TestBinary().c_str(), "--helper=signals", nullptr);
  });
  EXPECT_THAT(status, ExitsWith(0));
  out.writer.Reset();
  EXPECT_EQ(ReadAll(out.reader), "1 1 1 1 1\n");
}

TEST(Exec, KeepsPidCwdUmaskAndRenamesTheTask) {
  const TempDir dir;
  Pipe out = MakePipe();
  ChildProcess child([&] {
    dup2(out.writer, STDOUT_FILENO);
    chdir(dir.c_str());
    umask(0135);
    execl(TestBinary().c_str(), TestBinary().c_str(), "--helper=identity", nullptr);
  });
  const std::string id = std::to_string(child.pid());
  EXPECT_THAT(child.Wait(), ExitsWith(0));
  out.writer.Reset();
  EXPECT_EQ(ReadAll(out.reader), id + " " + dir.path() + " 135 exec_test\n");
}
const Helper kIdentity("identity", [](int, char**) {
  char cwd[256];
  char name[16];
  prctl(PR_GET_NAME, name);
  printf("%d %s %o %s\n", getpid(), getcwd(cwd, sizeof(cwd)), umask(0), name);
  return 0;
});

TEST(Exec, FromANonLeaderThreadBecomesTheLeader) {
  Pipe out = MakePipe();
  ChildProcess child([&] {
    dup2(out.writer, STDOUT_FILENO);
    std::thread([] {
      execl(TestBinary().c_str(), TestBinary().c_str(), "--helper=tids", nullptr);
    }).join();
  });
  const std::string id = std::to_string(child.pid());
  EXPECT_THAT(child.Wait(), ExitsWith(0));
  out.writer.Reset();
  EXPECT_EQ(ReadAll(out.reader), id + " " + id + "\n");
}
const Helper kTids("tids", [](int, char**) {
  printf("%d %d\n", getpid(), GetTid());
  return 0;
});

TEST(Exec, SharedDescriptorTableIsUnshared) {
  const Fd fd(open("/dev/null", O_RDONLY | O_CLOEXEC));
  const long child = syscall(SYS_clone, CLONE_FILES | SIGCHLD, nullptr, nullptr, nullptr, 0);
  if (child == 0) {
    execl(TestBinary().c_str(), TestBinary().c_str(), "--helper=nothing", nullptr);
    _exit(1);
  }
  int status = -1;
  EXPECT_THAT(waitpid(child, &status, 0), SucceedsWith(child));
  EXPECT_THAT(status, ExitsWith(0));
  EXPECT_THAT(fcntl(fd, F_GETFD), Succeeds()) << "the exec closed its own copy";
}
const Helper kNothing("nothing", [](int, char**) { return 0; });

TEST(Execveat, RunsADescriptorAndARelativePath) {
  const std::string path = SiblingBinary("exec_helper_pie");
  const Fd file(open(path.c_str(), O_RDONLY | O_CLOEXEC));
  const std::string folder = path.substr(0, path.rfind('/'));
  const Fd dir(open(folder.c_str(), O_PATH | O_DIRECTORY));
  const char* const argv[] = {"x", nullptr};
  const char* const env[] = {nullptr};
  EXPECT_THAT(ForkAndRun([&] { syscall(SYS_execveat, int{file}, "", argv, env, AT_EMPTY_PATH); }),
              ExitsWith(42));
  EXPECT_THAT(ForkAndRun([&] { syscall(SYS_execveat, int{dir}, "exec_helper_pie", argv, env, 0); }),
              ExitsWith(42));
}

TEST(Execveat, Errors) {
  const TempDir dir;
  const Fd fd(open(dir.c_str(), O_PATH));
  ASSERT_THAT(symlink(TestBinary().c_str(), dir.File("link").c_str()), Succeeds());
  const char* const argv[] = {"x", nullptr};
  EXPECT_THAT(syscall(SYS_execveat, int{fd}, "link", argv, nullptr, AT_SYMLINK_NOFOLLOW),
              FailsWith(ELOOP));
  EXPECT_THAT(syscall(SYS_execveat, int{fd}, "", argv, nullptr, 0), FailsWith(ENOENT));
  EXPECT_THAT(syscall(SYS_execveat, -1, "x", argv, nullptr, 0), FailsWith(EBADF));
  EXPECT_THAT(syscall(SYS_execveat, int{fd}, "link", argv, nullptr, 0x10), FailsWith(EINVAL));
}

TEST(Execveat, AScriptByCloexecDescriptorCannotBeReopened) {
  const TempDir dir;
  WriteScript(dir.File("s"), "#!" + TestBinary() + "\n");
  const Fd fd(open(dir.File("s").c_str(), O_RDONLY | O_CLOEXEC));
  const char* const argv[] = {"x", nullptr};
  EXPECT_THAT(syscall(SYS_execveat, int{fd}, "", argv, nullptr, AT_EMPTY_PATH), FailsWith(ENOENT));
}

TEST(Exec, AFileOpenForWritingIsBusy) {
  const TempDir dir;
  WriteScript(dir.File("program"), ReadFile(SiblingBinary("exec_helper_pie")));
  const Fd fd(open(dir.File("program").c_str(), O_WRONLY));
  EXPECT_THAT(Exec(dir.File("program")), FailsWith(ETXTBSY));
}

TEST(Exec, ARunningProgramCannotBeWritten) {
  const TempDir dir;
  const std::string program = dir.File("program");
  WriteScript(program, ReadFile(SiblingBinary("exec_test")));
  Pipe ready = MakePipe();
  const pid_t child = fork();
  if (child == 0) {
    dup2(ready.writer, 1);
    execl(program.c_str(), program.c_str(), "--helper=say_and_wait", nullptr);
    _exit(9);
  }
  ready.writer.Reset();
  char byte = 0;
  ASSERT_THAT(read(ready.reader, &byte, 1), SucceedsWith(1));
  EXPECT_THAT(open(program.c_str(), O_WRONLY), FailsWith(ETXTBSY));
  EXPECT_THAT(open(program.c_str(), O_RDWR), FailsWith(ETXTBSY));
  EXPECT_THAT(truncate(program.c_str(), 0), FailsWith(ETXTBSY));
  EXPECT_THAT(kill(child, SIGKILL), Succeeds());
  EXPECT_THAT(waitpid(child, nullptr, 0), SucceedsWith(child));
  const Fd after(open(program.c_str(), O_WRONLY));
  EXPECT_THAT(after, Succeeds());
}
const Helper kSayAndWait("say_and_wait", [](int, char**) {
  write(1, "x", 1);
  for (;;) pause();
  return 0;
});

TEST(Exec, AScriptAndALoaderMayBeWrittenWhileTheyRun) {
  const TempDir dir;
  const std::string script = dir.File("script");
  WriteScript(script, "#!" + TestBinary() + " --helper=say_and_wait\n");
  Pipe ready = MakePipe();
  const pid_t child = fork();
  if (child == 0) {
    dup2(ready.writer, 1);
    execl(script.c_str(), script.c_str(), nullptr);
    _exit(9);
  }
  ready.writer.Reset();
  char byte = 0;
  ASSERT_THAT(read(ready.reader, &byte, 1), SucceedsWith(1));
  const Fd writer(open(script.c_str(), O_WRONLY));
  EXPECT_THAT(writer, Succeeds());
  EXPECT_THAT(kill(child, SIGKILL), Succeeds());
  EXPECT_THAT(waitpid(child, nullptr, 0), SucceedsWith(child));
}

TEST(Exec, ProcSelfExeAndCmdlineAreTheNewProgram) {
  const Outcome outcome = RunHelper("proc_self", {"last"});
  EXPECT_EQ(outcome.output, TestBinary() + " last\n");
}
const Helper kProcSelf("proc_self", [](int, char**) {
  char exe[4096] = {};
  readlink("/proc/self/exe", exe, sizeof(exe) - 1);
  const std::string cmdline = ReadFile("/proc/self/cmdline");
  const size_t last = cmdline.rfind('\0', cmdline.size() - 2);
  printf("%s %s\n", exe, cmdline.c_str() + last + 1);
  return 0;
});

}  // namespace
}  // namespace skep::test
