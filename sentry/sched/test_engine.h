// An engine for sched/'s unit tests: guests that run until the test says so, or not at all.
#pragma once

#include <poll.h>
#include <sys/eventfd.h>
#include <unistd.h>
#include <atomic>
#include <cstdint>
#include <deque>
#include <memory>
#include <mutex>

#include "base/check.h"
#include "base/host_call.h"
#include "platform/platform.h"

namespace skep::sched {

class TestEngine;

class TestSpace final : public platform::AddressSpace {
 public:
  explicit TestSpace(TestEngine& engine) : engine_(engine) {}
  Applied Apply(std::span<const platform::MapOp> ops) override { return {ops.size(), 0}; }
  Result<void> Reset() override { return {}; }
  void Kill() override;
  bool Serves(const platform::Engine& engine) const override;

 private:
  TestEngine& engine_;
};

// Resume: at_once: stops with a SyscallStop; else runs until Finish or Interrupt.
class TestContext final : public platform::Context {
 public:
  TestContext(TestEngine& engine, bool at_once) : engine_(&engine), at_once_(at_once) {}
  const platform::Stop& stop() const override { return stop_; }
  Result<void> Load(platform::LoadXsave) override { return {}; }
  platform::Registers& registers() override { return registers_; }
  std::span<std::byte> xsave() override { return {}; }
  void SetReturn(uint64_t rax) override { registers_.rax = rax; }
  void Resume() override;
  void Interrupt() override;
  Result<void> MoveTo(platform::Engine& engine) override;
  // The guest makes a system call. Any thread; no effect if it is stopped.
  void Finish();
  bool interrupted_stop() const { return std::holds_alternative<platform::Interrupted>(stop_); }

 private:
  void Stop(platform::Stop stop);
  TestEngine* engine_;
  const bool at_once_;
  std::mutex mutex_;
  bool running_ = false;
  bool interrupt_ = false;
  platform::Stop stop_ = platform::Interrupted{};
  platform::Registers registers_{};
};

class TestEngine final : public platform::Engine {
 public:
  TestEngine() : kick_(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) {}

  Result<std::unique_ptr<platform::AddressSpace>> NewAddressSpace() override {
    return std::make_unique<TestSpace>(*this);
  }
  Result<std::unique_ptr<platform::Context>> NewContext(platform::AddressSpace&,
                                                        const platform::Registers&,
                                                        std::span<const std::byte>) override {
    return std::make_unique<TestContext>(*this, true);
  }
  platform::Event Wait(platform::Deadline deadline, platform::HostPoller& poller) override {
    waits.fetch_add(1);
    for (;;) {
      {
        std::lock_guard lock(mutex_);
        if (!events_.empty()) {
          platform::Event event = std::move(events_.front());
          events_.pop_front();
          return event;
        }
      }
      uint64_t count = 0;
      if (read(kick_.get(), &count, sizeof count) == sizeof count) {
        kicks.fetch_add(1);
        std::lock_guard lock(mutex_);
        if (events_.empty()) return platform::Woken{};
        continue;
      }
      timespec left{};
      if (deadline) {
        const uint64_t now = host::MonotonicNs();
        const uint64_t ns = *deadline > now ? *deadline - now : 0;
        left = {static_cast<time_t>(ns / 1'000'000'000), static_cast<long>(ns % 1'000'000'000)};
      }
      pollfd fds[2] = {{kick_.get(), POLLIN, 0}, {poller.epoll_fd(), POLLIN, 0}};
      const int ready = ppoll(fds, poller.watching() ? 2 : 1, deadline ? &left : nullptr, nullptr);
      if (ready == 0 || (ready > 0 && fds[0].revents == 0)) return platform::Woken{};
    }
  }
  void Kick() override {
    const uint64_t one = 1;
    CHECK(write(kick_.get(), &one, sizeof one) == sizeof one);
  }
  void Forget(platform::HostFileId) override {}
  const char* name() const override { return "test"; }
  size_t xsave_size() const override { return 0; }
  bool shares_spaces() const override { return shares; }

  void Add(platform::Event event) {
    {
      std::lock_guard lock(mutex_);
      events_.push_back(std::move(event));
    }
    Kick();
  }

  std::atomic<uint64_t> waits{0}, kicks{0};
  std::atomic<bool> shares{true};

 private:
  OwnedFd kick_;
  std::mutex mutex_;
  std::deque<platform::Event> events_;
};

inline bool TestSpace::Serves(const platform::Engine& engine) const { return &engine == &engine_; }
inline void TestSpace::Kill() { engine_.Add(platform::Died{this, "killed"}); }

inline void TestContext::Stop(platform::Stop stop) {
  stop_ = stop;
  running_ = false;
  engine_->Add(platform::Stopped{this});
}
inline Result<void> TestContext::MoveTo(platform::Engine& engine) {
  std::lock_guard lock(mutex_);
  CHECK(!running_);
  engine_ = static_cast<TestEngine*>(&engine);
  return {};
}
inline void TestContext::Resume() {
  std::lock_guard lock(mutex_);
  CHECK(!running_);
  running_ = true;
  if (interrupt_) {
    interrupt_ = false;
    Stop(platform::Interrupted{});
  } else if (at_once_) {
    Stop(platform::SyscallStop{});
  }
}
inline void TestContext::Interrupt() {
  std::lock_guard lock(mutex_);
  if (running_) {
    Stop(platform::Interrupted{});
  } else {
    interrupt_ = true;
  }
}
inline void TestContext::Finish() {
  std::lock_guard lock(mutex_);
  if (running_) Stop(platform::SyscallStop{});
}

}  // namespace skep::sched
