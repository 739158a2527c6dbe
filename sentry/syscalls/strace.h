// --strace: every system call of the sandbox, one line each, as strace(1) writes them: thread,
// seconds since the sandbox started, the call with its arguments by name, its result.
#pragma once

#include <csignal>
#include <string>
#include <vector>

#include "sentry/arena/host_table.h"
#include "sentry/kernel/kernel.h"
#include "sentry/syscalls/adapter.h"

namespace skep::syscalls {

// In the arena; its descriptor is in the HostTable. Lines go out with one write(2) each.
class Strace final : public kernel::StraceSink {
 public:
  explicit Strace(arena::HostFd fd) : fd_(fd) {}

  // Calls that do not return, or replace the program, are written at their start.
  void Enter(Task& task, uint64_t number, const RawArgs& args) override;
  void Leave(Task& task, uint64_t number, const RawArgs& args,
             const Result<uint64_t>& result) override;
  void Started(Task& init, const std::string& path, const std::vector<std::string>& argv) override;
  void Signal(Task& task, const siginfo_t& info) override;
  void Exited(Task& task) override;

 private:
  void Write(std::string line);
  arena::HostFd fd_;
};

}  // namespace skep::syscalls
