// For sched/'s unit tests: a started scheduler with fake engines, and guests of theirs.
#pragma once

#include <gtest/gtest.h>
#include <atomic>
#include <ctime>
#include <functional>
#include <memory>
#include <vector>

#include "base/host_call.h"
#include "platform/fake/fake_engine.h"
#include "sentry/arena/arena.h"
#include "sentry/sched/scheduler.h"

namespace skep::sched {

constexpr uint64_t kMs = 1'000'000;

inline bool WaitFor(const std::function<bool()>& condition, uint64_t timeout_ns = 20'000 * kMs) {
  const uint64_t deadline = host::MonotonicNs() + timeout_ns;
  while (!condition()) {
    if (host::MonotonicNs() > deadline) return false;
    const timespec pause = {0, 100'000};
    nanosleep(&pause, nullptr);
  }
  return true;
}

using platform::fake::FakeContext;
using platform::fake::FakeEngine;
using platform::fake::FakeSpace;

// A guest that makes a call whenever it runs (kCalls), or runs until Finish or an interrupt.
class TestGuest {
 public:
  enum class Kind : bool { kComputes, kCalls };
  TestGuest(FakeEngine& engine, FakeSpace& space, Kind kind) : context(engine, space, {}, {}) {
    if (kind == Kind::kComputes) return;
    context.set_script([](FakeContext&) { return platform::Stop(platform::SyscallStop{}); });
  }
  // By a fiber of the engine's worker.
  GuestEnd Run() { return RunGuest(context, context.space()); }
  // It makes a call. Any thread; no effect if it is stopped.
  void Finish() { (void)context.TryDeliver(platform::SyscallStop{}); }
  bool was_interrupted() const {
    return std::holds_alternative<platform::Interrupted>(context.stop());
  }

  FakeContext context;
};

class TestScheduler {
 public:
  explicit TestScheduler(int workers) : engines(static_cast<size_t>(workers)) {
    const arena::ArenaHeapScope arena;
    scheduler_ = new Scheduler(workers);
  }
  ~TestScheduler() {
    if (started_) Stop();
    delete scheduler_;
  }
  void Start() {
    HostResult<void> started =
        scheduler_->Start([this](int index) -> HostResult<std::unique_ptr<platform::Engine>> {
          auto engine = std::make_unique<FakeEngine>();
          engine->set_shares_spaces(true);
          engines[static_cast<size_t>(index)] = engine.get();
          return engine;
        });
    ASSERT_TRUE(started) << started.error().message;
    started_ = true;
  }
  void Stop() {
    scheduler_->Stop();
    started_ = false;
  }
  Scheduler& operator*() { return *scheduler_; }
  Scheduler* operator->() { return scheduler_; }
  Ref<Fiber> Spawn(int worker, std::move_only_function<void()> body) {
    return Fiber::Spawn(scheduler_->worker(worker), std::move(body)).value();
  }
  // Runs `bodies`, one fiber each, on workers in turn, until all are finished.
  void RunAll(std::vector<std::move_only_function<void()>> bodies) {
    std::vector<Ref<Fiber>> fibers;
    int next = 0;
    for (auto& body : bodies)
      fibers.push_back(Spawn(next++ % scheduler_->worker_count(), std::move(body)));
    for (const Ref<Fiber>& fiber : fibers) {
      ASSERT_TRUE(WaitFor([&] { return fiber->finished(); }));
    }
  }
  FakeEngine& engine(int index) { return *engines[static_cast<size_t>(index)]; }

  std::vector<FakeEngine*> engines;

 private:
  Scheduler* scheduler_ = nullptr;
  bool started_ = false;
};

}  // namespace skep::sched
