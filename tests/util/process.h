// Children, rendezvous between processes and threads, and programs to exec.
#pragma once

#include <gtest/gtest.h>
#include <sys/types.h>

#include <functional>
#include <string>
#include <vector>

#include "tests/util/scoped.h"

namespace skep::test {

// Tests that need a privilege say so with these; the reason is printed.
#define REQUIRE_ROOT() \
  if (::geteuid() != 0) GTEST_SKIP() << "needs uid 0"
#define REQUIRE_CAPABILITY(cap) \
  if (!::skep::test::HasCapability(cap)) GTEST_SKIP() << "needs " #cap
bool HasCapability(int capability);

// Runs body in a forked child and returns its wait status. The child exits with 0, or with 1 if an
// EXPECT in it failed.
int ForkAndRun(const std::function<void()>& body);

// A forked child that is killed and reaped at the end of the scope at the latest.
class ChildProcess {
 public:
  explicit ChildProcess(const std::function<void()>& body);
  ChildProcess(const ChildProcess&) = delete;
  ChildProcess& operator=(const ChildProcess&) = delete;
  ~ChildProcess();

  pid_t pid() const { return pid_; }
  int Wait();  // its status
  void Kill(int signo) const;
  void Forget() { pid_ = -1; }  // somebody else reaps it

 private:
  pid_t pid_;
};

// A gate between processes that share it across fork: one Open lets one Wait through.
class Gate {
 public:
  Gate();
  void Open();
  void Wait();

 private:
  Pipe pipe_;
};

// Asks until it is true; false after the deadline.
bool WaitUntil(const std::function<bool()>& condition, int deadline_ms = 10'000);
// Waits until that thread sleeps in the kernel (state S in its stat file).
void WaitUntilBlocked(pid_t pid, pid_t tid = 0);
// The state letter of /proc/PID/task/TID/stat; '?' if there is none.
char ProcessState(pid_t pid, pid_t tid = 0);

int64_t NowNs(clockid_t clock = CLOCK_MONOTONIC);
pid_t GetTid();

// This program's own absolute path, and helpers compiled into it: `<path> --helper=NAME args…`
// runs the function and exits with what it returns.
const std::string& TestBinary();
std::string SiblingBinary(const std::string& name);
struct Helper {
  using Main = int (*)(int argc, char** argv);
  Helper(const char* name, Main main);
};
// Runs a program with this argv (and environment) and returns its output and status.
struct Outcome {
  int status;
  std::string output;
};
Outcome RunProgram(const std::string& path, const std::vector<std::string>& argv,
                   const std::vector<std::string>& env = {});
Outcome RunHelper(const std::string& name, const std::vector<std::string>& args = {});

}  // namespace skep::test
