// Janitor: a process that tidies up when its maker has ended, however that came about.
#pragma once

#include <sys/types.h>
#include <functional>
#include <utility>

#include "base/owned_fd.h"
#include "base/result.h"

namespace skep::runtime {

class Janitor {
 public:
  // Forks this (single-threaded) process. In the copy, which belongs to a session of its own and
  // has no descriptor of ours, `tidy` runs once this object or the process that it is in has ended.
  // So start it before making what it is to remove.
  static HostResult<Janitor> Start(const std::function<void()>& tidy);
  Janitor() = default;
  Janitor(Janitor&& other) noexcept { *this = std::move(other); }
  Janitor& operator=(Janitor&& other) noexcept {
    std::swap(pid_, other.pid_);
    std::swap(life_, other.life_);
    std::swap(tidy_, other.tidy_);
    return *this;
  }
  ~Janitor() { Finish(); }

  bool works() const { return pid_ > 0; }
  pid_t pid() const { return pid_; }
  // `tidy` has been run when this returns: in this process, if the janitor was killed.
  void Finish();
  void Dismiss();  // it is not to be run
  // `tidy` runs when all duplicates of this descriptor are closed too.
  int life() const { return life_.get(); }
  void LetGo();  // somebody else has a duplicate: nobody waits for `tidy`

 private:
  pid_t pid_ = -1;
  OwnedFd life_;  // a pipe's end that nobody else has
  std::function<void()> tidy_;
};

}  // namespace skep::runtime
