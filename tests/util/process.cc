#include "tests/util/process.h"

#include <fcntl.h>
#include <linux/capability.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include <time.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>

namespace skep::test {
namespace {

struct HelperEntry {
  const char* name;
  Helper::Main main;
};

std::vector<HelperEntry>& Helpers() {
  static std::vector<HelperEntry> helpers;
  return helpers;
}

std::string& BinaryPath() {
  static std::string path;
  return path;
}

void PauseMs(int64_t ms) {
  const timespec pause = {ms / 1000, ms % 1000 * 1'000'000};
  ::nanosleep(&pause, nullptr);
}

std::vector<char*> Pointers(const std::vector<std::string>& words) {
  std::vector<char*> pointers;
  for (const std::string& word : words) pointers.push_back(const_cast<char*>(word.c_str()));
  pointers.push_back(nullptr);
  return pointers;
}

}  // namespace

bool HasCapability(int capability) {
  __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
  __user_cap_data_struct data[2] = {};
  if (::syscall(SYS_capget, &header, data) != 0) return false;
  return (data[capability / 32].effective >> (capability % 32) & 1) != 0;
}

namespace {

// How many failures this process has seen in the current test. A child begins with its parent's.
int FailuresSoFar() {
  const ::testing::TestInfo* test = ::testing::UnitTest::GetInstance()->current_test_info();
  if (test == nullptr) return 0;
  int failures = 0;
  for (int i = 0; i < test->result()->total_part_count(); ++i) {
    if (test->result()->GetTestPartResult(i).failed()) ++failures;
  }
  return failures;
}

}  // namespace

ChildProcess::ChildProcess(const std::function<void()>& body) {
  const int before = FailuresSoFar();
  std::fflush(nullptr);
  pid_ = ::fork();
  if (pid_ == 0) {
    body();
    std::fflush(nullptr);
    ::_exit(FailuresSoFar() > before ? 1 : 0);
  }
  if (pid_ < 0) ADD_FAILURE() << "fork: errno " << errno;
}

ChildProcess::~ChildProcess() {
  if (pid_ <= 0) return;
  ::kill(pid_, SIGKILL);
  ::waitpid(pid_, nullptr, 0);
}

int ChildProcess::Wait() {
  int status = -1;
  pid_t waited = -1;
  do {
    waited = ::waitpid(pid_, &status, 0);
  } while (waited < 0 && errno == EINTR);
  if (waited != pid_) ADD_FAILURE() << "waitpid(" << pid_ << ") = " << waited << ", " << errno;
  pid_ = -1;
  return status;
}

void ChildProcess::Kill(int signo) const {
  if (::kill(pid_, signo) != 0) ADD_FAILURE() << "kill: errno " << errno;
}

int ForkAndRun(const std::function<void()>& body) { return ChildProcess(body).Wait(); }

Gate::Gate() : pipe_(MakePipe(O_CLOEXEC)) {}

void Gate::Open() {
  if (::write(pipe_.writer, "g", 1) != 1) ADD_FAILURE() << "gate: errno " << errno;
}

void Gate::Wait() {
  char byte;
  ssize_t n = 0;
  do {
    n = ::read(pipe_.reader, &byte, 1);
  } while (n < 0 && errno == EINTR);
  if (n != 1) ADD_FAILURE() << "gate: read returned " << n;
}

bool WaitUntil(const std::function<bool()>& condition, int deadline_ms) {
  const int64_t deadline = NowNs() + int64_t{deadline_ms} * 1'000'000;
  while (!condition()) {
    if (NowNs() > deadline) return false;
    PauseMs(1);
  }
  return true;
}

char ProcessState(pid_t pid, pid_t tid) {
  const std::string id = std::to_string(pid);
  const std::string path =
      tid == 0 ? "/proc/" + id + "/stat" : "/proc/" + id + "/task/" + std::to_string(tid) + "/stat";
  const std::string text = ReadFile(path);
  const size_t end_of_name = text.rfind(')');
  return end_of_name == std::string::npos || end_of_name + 2 >= text.size() ? '?'
                                                                            : text[end_of_name + 2];
}

void WaitUntilBlocked(pid_t pid, pid_t tid) {
  if (ProcessState(pid, tid) == '?') {
    std::printf("note: no /proc/%d stat file here: a pause takes its place\n", pid);
    PauseMs(50);
    return;
  }
  if (!WaitUntil([=] { return ProcessState(pid, tid) == 'S'; })) {
    ADD_FAILURE() << pid << "/" << tid << " is not asleep: " << ProcessState(pid, tid);
  }
}

int64_t NowNs(clockid_t clock) {
  timespec now = {};
  ::clock_gettime(clock, &now);
  return int64_t{now.tv_sec} * 1'000'000'000 + now.tv_nsec;
}

pid_t GetTid() { return static_cast<pid_t>(::syscall(SYS_gettid)); }

const std::string& TestBinary() { return BinaryPath(); }

std::string SiblingBinary(const std::string& name) {
  return TestBinary().substr(0, TestBinary().rfind('/') + 1) + name;
}

Helper::Helper(const char* name, Main main) { Helpers().push_back({name, main}); }

Outcome RunProgram(const std::string& path, const std::vector<std::string>& argv,
                   const std::vector<std::string>& env) {
  Pipe out = MakePipe();
  ChildProcess child([&] {
    ::dup2(out.writer, STDOUT_FILENO);
    out.reader.Reset();
    out.writer.Reset();
    ::execve(path.c_str(), Pointers(argv).data(), Pointers(env).data());
    ::_exit(127);
  });
  out.writer.Reset();
  Outcome outcome;
  outcome.output = ReadAll(out.reader);
  outcome.status = child.Wait();
  return outcome;
}

Outcome RunHelper(const std::string& name, const std::vector<std::string>& args) {
  std::vector<std::string> argv = {TestBinary(), "--helper=" + name};
  argv.insert(argv.end(), args.begin(), args.end());
  return RunProgram(TestBinary(), argv);
}

// The main of every test program.
int TestMain(int argc, char** argv) {
  constexpr char kHelper[] = "--helper=";
  if (argc > 1 && std::strncmp(argv[1], kHelper, sizeof(kHelper) - 1) == 0) {
    BinaryPath() = argv[0];
    for (const HelperEntry& helper : Helpers()) {
      if (std::strcmp(helper.name, argv[1] + sizeof(kHelper) - 1) == 0) {
        return helper.main(argc - 2, argv + 2);
      }
    }
    return 126;
  }
  // A test that should have failed to execute us did not: do not run the whole program again.
  if (std::strchr(argv[0], '/') == nullptr) return 125;
  BinaryPath() = argv[0];
  if (argv[0][0] != '/') {
    char cwd[4096];
    if (::getcwd(cwd, sizeof(cwd)) != nullptr) BinaryPath() = std::string(cwd) + "/" + argv[0];
  }
  ::testing::InitGoogleTest(&argc, argv);
  return RUN_ALL_TESTS();
}

}  // namespace skep::test

int main(int argc, char** argv) { return skep::test::TestMain(argc, argv); }
