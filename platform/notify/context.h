// A guest thread: a host thread of its stub that waits for us in one of two places. After a system
// call it waits in that call's notification, and its registers are its own. After anything else
// (exceptions, interrupts, calls that need registers) it waits in the signal handler's
// notification, and its registers are in the signal frame.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "platform/common/stop_queue.h"
#include "platform/notify/frame.h"
#include "platform/notify/stub.h"
#include "platform/platform.h"

namespace skep::platform::notify {

class NotifyEngine;
class NotifySpace;

class NotifyContext final : public Context {
 public:
  NotifyContext(NotifyEngine& engine, NotifySpace& space, std::unique_ptr<GuestThread> thread,
                const Registers& registers, std::span<const std::byte> xsave);
  ~NotifyContext() override;

  const Stop& stop() const override { return stop_; }
  Result<void> Load(LoadXsave xsave) override;
  Registers& registers() override;
  std::span<std::byte> xsave() override;
  void SetReturn(uint64_t rax) override;
  void Resume() override;
  void Interrupt() override;
  Result<void> MoveTo(Engine& engine) override;

  // The rest is the engine's, on the worker's thread.
  // A notification of the thread. True: there is a new stop(); false: it runs on, or is dead.
  bool OnCall(const seccomp_notif& call);
  NotifySpace& space() { return space_; }
  GuestThread& thread() { return *thread_; }
  bool running() const { return (state_.load() & kRunning) != 0; }
  uint64_t watch() const { return watch_; }

  // It was interrupted and has not stopped since.
  bool owes_stop() const { return state_.load() == (kRunning | kInterrupt); }

  // Its engine's.
  StopLink<NotifyContext> stop_link;
  std::optional<uint64_t> watched_from_ns;  // its stub's CPU time when it was first seen to owe it

 private:
  enum State : uint32_t { kRunning = 1, kInterrupt = 2 };

  bool Stopped(Stop stop);
  bool OnEvent();
  Result<void> BringIntoEvent();
  void CommitRegisters();
  bool CommitXsave();
  void Answer();
  bool StopForGood();

  NotifyEngine* engine_;
  NotifySpace& space_;
  std::unique_ptr<GuestThread> thread_;
  Stop stop_ = Interrupted{};
  std::atomic<uint32_t> state_ = 0;
  uint64_t watch_ = 0;  // its engine's

  // What is known of the stopped thread.
  bool loaded_ = true;
  bool xsave_loaded_ = false;
  bool xsave_touched_ = false;      // xsave() was handed out since the stop
  std::optional<uint64_t> return_;  // in a call's notification: its result
  Frame frame_;                     // in an event: a copy
  Registers registers_;
  std::vector<std::byte> xsave_;
};

}  // namespace skep::platform::notify
