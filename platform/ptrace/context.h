// A guest thread: a host thread of its stub that runs under PTRACE_SYSEMU only.
#pragma once

#include <sys/types.h>
#include <atomic>
#include <cstdint>
#include <vector>

#include "platform/common/stop_queue.h"
#include "platform/platform.h"

namespace skep::platform::ptrace {

class PtraceEngine;
class PtraceSpace;

class PtraceContext final : public Context {
 public:
  PtraceContext(PtraceEngine& engine, PtraceSpace& space, pid_t tid, const Registers& registers);
  ~PtraceContext() override;

  const Stop& stop() const override { return stop_; }
  Result<void> Load(LoadXsave xsave) override;
  Registers& registers() override;
  std::span<std::byte> xsave() override;
  void SetReturn(uint64_t rax) override;
  void Resume() override;
  void Interrupt() override;
  Result<void> MoveTo(Engine& engine) override;

  // The rest is the engine's.
  Result<void> SetFirstXsave(std::span<const std::byte> xsave);
  // A wait status of a stopped thread. True: there is a new stop(); false: it runs on.
  bool OnHostStop(int status);
  PtraceSpace& space() { return space_; }
  pid_t tid() const { return tid_; }
  bool running() const { return (state_.load() & kRunning) != 0; }

  StopLink<PtraceContext> stop_link;

 private:
  enum State : uint32_t { kRunning = 1, kInterrupt = 2 };

  void Stopped(Stop stop);
  bool OnSyscall();
  bool OnSignal(int signo);
  bool RunOn();
  Result<void> WriteBack();
  Result<void> WriteRegisters();
  Result<void> WriteReturn(uint64_t rax);

  PtraceEngine& engine_;
  PtraceSpace& space_;
  const pid_t tid_;
  Stop stop_ = Interrupted{};
  std::atomic<uint32_t> state_ = 0;

  // What is known of the stopped thread.
  bool loaded_ = false;
  bool xsave_loaded_ = false;
  bool xsave_touched_ = false;  // xsave() was handed out since the stop
  bool return_set_ = false;     // only while not loaded
  uint64_t return_ = 0;
  uint64_t code_segment_;
  Registers registers_;
  Registers host_registers_ = {};  // what the host has
  bool host_registers_known_ = false;
  std::vector<std::byte> xsave_;
  std::vector<std::byte> host_xsave_;
};

}  // namespace skep::platform::ptrace
