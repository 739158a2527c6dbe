#include "runtime/janitor.h"

#include <fcntl.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>
#include <array>
#include <csignal>
#include <cstddef>
#include <span>

#include "base/host_call.h"

namespace skep::runtime {
namespace {

[[noreturn]] void Serve(int life, const std::function<void()>& tidy) {
  (void)setsid();
  (void)prctl(PR_SET_NAME, "skep-janitor");
  // Other janitors' pipes are among what is closed.
  const auto kept = static_cast<unsigned>(life);
  if (kept > 0) (void)host::Call(SYS_close_range, 0, kept - 1, 0);
  (void)host::Call(SYS_close_range, kept + 1, ~0U, 0);
  // Nobody is told what to do by a signal to all of a name or a group.
  sigset_t all;
  sigfillset(&all);
  (void)sigprocmask(SIG_BLOCK, &all, nullptr);
  char byte;
  if (read(life, &byte, 1) == 1) _exit(0);
  tidy();
  _exit(0);
}

}  // namespace

HostResult<Janitor> Janitor::Start(const std::function<void()>& tidy) {
  std::array<int, 2> ends = {-1, -1};
  if (pipe2(ends.data(), O_CLOEXEC) != 0) return HostFail("cannot make a pipe");
  const OwnedFd life(ends[0]);
  Janitor janitor;
  janitor.life_ = OwnedFd(ends[1]);
  const pid_t pid = fork();
  if (pid < 0) return HostFail("cannot fork");
  if (pid == 0) {
    Serve(life.get(), tidy);
  }
  janitor.pid_ = pid;
  janitor.tidy_ = tidy;
  return janitor;
}

void Janitor::Dismiss() {
  const std::byte byte{1};
  if (pid_ > 0) (void)host::Write(life_.get(), std::span(&byte, 1));
  tidy_ = nullptr;
  Finish();
}

void Janitor::LetGo() {
  life_.Reset();
  pid_ = -1;
}

void Janitor::Finish() {
  if (pid_ <= 0) return;
  life_.Reset();
  int status = 0;
  const bool waited = host::WaitPid(std::exchange(pid_, -1), &status, 0).has_value();
  if (tidy_ && waited && WIFSIGNALED(status)) tidy_();
}

}  // namespace skep::runtime
