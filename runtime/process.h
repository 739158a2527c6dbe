// Child processes of the CLI: this binary again, in new namespaces, that cannot outlive the CLI.
#pragma once

#include <sys/types.h>
#include <csignal>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "base/owned_fd.h"
#include "base/result.h"

namespace skep::runtime {

struct ChildPlan {
  std::vector<std::string> argv;
  uint64_t namespaces = 0;         // CLONE_NEW*, all entered by the one clone3
  std::vector<int> keep;           // inherited descriptors, beside 0, 1 and 2
  sigset_t signals = {};           // the mask to start with
  bool keep_capabilities = false;  // in a user namespace, not as its root: carry them over exec
};

// A child that is killed and reaped at the latest when this object goes.
class Child {
 public:
  // Starts /proc/self/exe. It has a session of its own (keys of the terminal do not reach it), dies
  // with its parent, an empty environment, default signal handlers and nothing open that is not
  // in the plan.
  static HostResult<Child> Start(const ChildPlan& plan);
  Child() = default;
  Child(Child&& other) noexcept
      : pid_(std::exchange(other.pid_, -1)), pidfd_(std::move(other.pidfd_)) {}
  Child& operator=(Child&& other) noexcept {
    std::swap(pid_, other.pid_);
    std::swap(pidfd_, other.pidfd_);
    return *this;
  }
  ~Child() { Kill(); }

  pid_t pid() const { return pid_; }
  int pidfd() const { return pidfd_.get(); }  // readable when it has ended
  // Its wait status; -1 if it was reaped before.
  int Wait();
  void Kill();  // and reaps

 private:
  pid_t pid_ = -1;
  OwnedFd pidfd_;
};

// Whether a process has the capability (CAP_*) in effect.
bool HasCapability(int capability);

}  // namespace skep::runtime
