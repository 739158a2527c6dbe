// What hostile guests share. They run inside a sandbox only: outside they would harm the machine.
//
// An attack runs in a child (Attack), and the test says how it must end: NoEscape(),
// KilledBy(signal), ExitsWith(0). Inside the child each result is judged where it appears:
// Escaped() ends it with a status that no matcher accepts. A family of attacks has a canary, a test
// in which its judge must fire.
#pragma once

#include <gtest/gtest.h>
#include <sys/syscall.h>

#include <cstdarg>
#include <cstdint>
#include <cstdlib>
#include <string>

#include "tests/util/matchers.h"
#include "tests/util/process.h"

namespace skep::test {

// Refuses to run unless run_in_sandbox --hostile started it.
class SandboxOnly : public ::testing::Environment {
 public:
  void SetUp() override {
    if (::getenv("SKEP_HOSTILE") != nullptr) return;
    std::fprintf(stderr, "hostile tests run inside a sandbox only (run_in_sandbox --hostile)\n");
    std::_Exit(2);
  }
};
inline const ::testing::Environment* const kSandboxOnly =
    ::testing::AddGlobalTestEnvironment(new SandboxOnly);

// The sandbox still does its everyday work: memory, pipes, files, children.
inline void ExpectAlive() {
  const Mapping memory(16 * kPageSize);
  memory.data()[5 * kPageSize] = 1;
  const Pipe pipe = MakePipe();
  EXPECT_THAT(write(pipe.writer, "alive", 5), SucceedsWith(5));
  char buffer[8];
  EXPECT_THAT(read(pipe.reader, buffer, 8), SucceedsWith(5));
  const TempDir dir;
  WriteFile(dir.File("f"), "text");
  EXPECT_EQ(ReadFile(dir.File("f")), "text");
  EXPECT_THAT(ForkAndRun([] { _exit(7); }), ExitsWith(7));
}

// The attacker saw something that only the host could have done or said.
constexpr int kEscapedStatus = 99;
[[noreturn]] __attribute__((format(printf, 1, 2))) inline void Escaped(const char* text, ...) {
  va_list list;
  va_start(list, text);
  std::printf("ESCAPE: ");
  std::vprintf(text, list);
  va_end(list);
  std::printf("\n");
  std::fflush(stdout);
  _exit(kEscapedStatus);
}

// The attacker ended well or died of a signal, and none of its judges fired.
MATCHER(NoEscape, "is the wait status of an attacker that got nowhere") {
  if (WIFEXITED(arg)) *result_listener << "exited with " << WEXITSTATUS(arg);
  if (WIFSIGNALED(arg)) *result_listener << "killed by signal " << WTERMSIG(arg);
  return WIFSIGNALED(arg) || (WIFEXITED(arg) && WEXITSTATUS(arg) == 0);
}
// The canary's: a judge fired.
inline auto IsEscape() { return ExitsWith(kEscapedStatus); }

// Runs body in a child that may die of anything but must end within the deadline; its wait status,
// which the caller must judge: 0 after body returned, 1 if an EXPECT in it failed.
[[nodiscard]] inline int Attack(const std::function<void()>& body, int deadline_ms = 5'000) {
  ChildProcess child(body);
  int status = -1;
  const bool ended =
      WaitUntil([&] { return waitpid(child.pid(), &status, WNOHANG) == child.pid(); }, deadline_ms);
  if (ended) {
    child.Forget();
  } else {
    ADD_FAILURE() << "the attacker neither finished nor died";
  }
  return status;
}

}  // namespace skep::test
