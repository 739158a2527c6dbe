// Programs at the edges of what execve takes.
#include <fcntl.h>
#include <sys/mount.h>
#include <unistd.h>

#include "tests/util/elf_cases.h"
#include "tests/util/matchers.h"
#include "tests/util/process.h"

namespace skep::test {
namespace {

// How a child ends that executes a file: by an errno of execve, or as the program does.
std::string TextOf(const ElfOutcome& outcome) {
  if (outcome.error != 0) return std::string("refused: ") + strerrorname_np(outcome.error);
  const int signo = outcome.killed + outcome.faults;
  if (signo != 0) return std::string("dies of ") + sigabbrev_np(signo);
  return "runs";
}

std::string Execute(const std::string& path) {
  const Pipe pipe = MakePipe(O_CLOEXEC);
  ChildProcess child([&] {
    char* const argv[] = {const_cast<char*>("x"), nullptr};
    execve(path.c_str(), argv, argv + 1);
    const int error = errno;
    (void)write(pipe.writer, &error, sizeof error);
  });
  const int status = child.Wait();
  int error = 0;
  if (fcntl(pipe.reader, F_SETFL, O_NONBLOCK) == 0 &&
      read(pipe.reader, &error, sizeof error) == sizeof error) {
    return TextOf({.error = error});
  }
  if (WIFSIGNALED(status)) return TextOf({.killed = WTERMSIG(status)});
  return WEXITSTATUS(status) == kElfExitCode ? TextOf({}) : "exits otherwise";
}

TEST(Elf, EveryEdge) {
  const TempDir dir;
  const ScopedRlimit no_core(RLIMIT_CORE, 0);
  const std::string program = dir.File("program"), interpreter = dir.File("interpreter");
  for (const ElfCase& each : ElfCases(interpreter)) {
    unlink(interpreter.c_str());
    WriteFile(program, each.program, 0755);
    if (!each.interpreter.empty()) WriteFile(interpreter, each.interpreter, 0755);
    EXPECT_EQ(Execute(program), TextOf(each.outcome)) << each.name;
    unlink(program.c_str());
  }
}

// Without the right to execute, whoever asks.
TEST(Elf, Permissions) {
  const TempDir dir;
  const std::string program = dir.File("program"), interpreter = dir.File("interpreter");
  WriteFile(program, ElfBuilder().Build(), 0644);
  EXPECT_EQ(Execute(program), "refused: EACCES");
  ElfBuilder with_interpreter;
  with_interpreter.Interpreter(interpreter);
  WriteFile(interpreter, ElfBuilder(ET_DYN).Build(), 0644);
  const std::string dynamic = dir.File("dynamic"), script = dir.File("script");
  WriteFile(dynamic, with_interpreter.Build(), 0755);
  EXPECT_EQ(Execute(dynamic), "refused: EACCES");
  WriteFile(script, "#!" + interpreter + "\n", 0755);
  EXPECT_EQ(Execute(script), "refused: EACCES");
  ASSERT_EQ(chmod(interpreter.c_str(), 0111), 0);
  EXPECT_EQ(Execute(dynamic), "runs");
}

TEST(Elf, BusyInterpreters) {
  const TempDir dir;
  const std::string program = dir.File("program"), interpreter = dir.File("interpreter");
  ElfBuilder elf;
  elf.Interpreter(interpreter);
  WriteFile(program, elf.Build(), 0755);
  WriteFile(interpreter, ElfBuilder(ET_DYN).Build(), 0755);
  const std::string script = dir.File("script");
  WriteFile(script, "#!" + program + "\n", 0755);
  {
    const Fd writer(open(interpreter.c_str(), O_WRONLY));
    EXPECT_EQ(Execute(program), "refused: ETXTBSY");
    EXPECT_EQ(Execute(script), "refused: ETXTBSY");
  }
  EXPECT_EQ(Execute(script), "runs");
}

}  // namespace
}  // namespace skep::test
