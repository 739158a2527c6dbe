// Child processes: this binary again, in namespaces of its own, that cannot outlive its maker.
#pragma once

#include <sys/types.h>
#include <array>
#include <csignal>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "base/owned_fd.h"
#include "base/result.h"

namespace skep::runtime {

// `count` ids from `inside` on, as a user namespace sees them, are those from `outside` on of the
// namespace that we are in.
struct IdMap {
  uint32_t inside = 0, outside = 0, count = 0;
};

struct ChildPlan {
  std::vector<std::string> argv;
  uint64_t namespaces = 0;  // CLONE_NEW*, all entered by the one clone3
  // With CLONE_NEWUSER: which ids there are. It starts with every capability in that namespace.
  std::vector<IdMap> uids, gids;
  // For a maker without CAP_SETGID: the child keeps its supplementary groups for ever.
  bool deny_setgroups = false;
  std::vector<int> keep;  // inherited descriptors, beside 0, 1 and 2
  // What becomes 0, 1 and 2: each itself, one above 2, or -1 for /dev/null.
  std::array<int, 3> stdio = {0, 1, 2};
  sigset_t signals = {};         // the mask to start with
  bool outlives_parent = false;  // else it is killed with its parent
  int cgroup = -1;               // a cgroup.procs to be in from the start; -1: ours
};

// A child that is killed and reaped at the latest when this object goes.
class Child {
 public:
  // Starts /proc/self/exe. It has a session of its own (keys of the terminal do not reach it), dies
  // with its parent, an empty environment, default signal handlers, no core files and nothing open
  // that is not in the plan. Nothing of the calling process changes.
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
  void Kill();                 // and reaps
  void LetGo() { pid_ = -1; }  // it goes on, and whoever inherits it reaps it

 private:
  HostResult<void> Admit(const ChildPlan& plan, int go);

  pid_t pid_ = -1;
  OwnedFd pidfd_;
};

}  // namespace skep::runtime
