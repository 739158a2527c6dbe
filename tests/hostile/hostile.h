// What hostile guests share. They run inside a sandbox only: outside they would harm the machine.
#pragma once

#include <gtest/gtest.h>
#include <sys/syscall.h>

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

// Runs body in a child that may die of anything but must end; its wait status. A child that hangs
// is killed after the deadline, and the test fails unless hanging is allowed.
inline int Attack(const std::function<void()>& body, int deadline_ms = 5'000) {
  ChildProcess child([&] {
    body();
    _exit(0);
  });
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
