// An engine without guests, for unit tests of what is above: a test scripts each context's stops,
// and address spaces record what was mapped.
//
// A context's script runs on the worker's thread inside Wait, each time the context was resumed; it
// sees what the sentry answered in guest(). Interrupt, Deliver, Kill and Kick may be called from
// any thread.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/mutex.h"
#include "base/owned_fd.h"
#include "platform/platform.h"

namespace skep::platform::fake {

class FakeContext;
class FakeSpace;

// The next stop; nullopt: the guest runs until Interrupt or Deliver.
using Script = std::function<std::optional<Stop>(FakeContext&)>;

class FakeEngine final : public Engine {
 public:
  explicit FakeEngine(const EngineOptions& options = {});
  ~FakeEngine() override;

  // The script of contexts that are made from now on. Without one they run until interrupted.
  void SetScript(Script script) { script_ = std::move(script); }
  // For simulations. `choose`: which of n guests that were resumed runs next. `idle`: no guest has
  // anything to say before the host's clock reaches `deadline` (UINT64_MAX: never); true: look
  // again instead of waiting. Both are called on the worker's thread, inside Wait.
  void Simulate(std::function<size_t(size_t n)> choose,
                std::function<bool(uint64_t deadline)> idle) {
    choose_ = std::move(choose);
    idle_ = std::move(idle);
  }
  // After `skip` more, the next `count` makings of a space or context fail.
  void FailNew(int error, int count = 1, int skip = 0) {
    new_error_ = error;
    new_failures_ = count;
    new_skipped_ = skip;
  }
  const std::vector<HostFileId>& forgotten() const { return forgotten_; }
  // Any thread, any pointer: kIdle is a guest that runs and has nothing to say, so that Deliver
  // reaches it; kGone has been destroyed, or its space is dead.
  enum class GuestState : uint8_t { kGone, kStopped, kIdle };
  GuestState StateOf(const FakeContext* context);

  Result<std::unique_ptr<AddressSpace>> NewAddressSpace() override;
  Result<std::unique_ptr<Context>> NewContext(AddressSpace& space, const Registers& registers,
                                              std::span<const std::byte> xsave) override;
  Event Wait(Deadline deadline, HostPoller& poller) override;
  void Kick() override;
  void Forget(HostFileId file) override;
  const char* name() const override { return "fake"; }
  size_t xsave_size() const override { return 832; }  // with AVX

 private:
  friend class FakeContext;
  friend class FakeSpace;
  std::optional<Event> TakeEvent();
  std::optional<Event> RunGuests();
  Result<void> MayFail();
  void Ring();

  const EngineOptions options_;
  std::function<size_t(size_t n)> choose_;
  std::function<bool(uint64_t deadline)> idle_;
  Script script_;
  int new_error_ = 0, new_failures_ = 0, new_skipped_ = 0;
  std::vector<HostFileId> forgotten_;
  OwnedFd bell_;  // an eventfd that ends the wait
  std::atomic<bool> kicked_ = false;
  Mutex mutex_{LockRank::kLeaf};
  FakeContext* contexts_ GUARDED_BY(mutex_) = nullptr;  // all, newest first
  FakeSpace* spaces_ GUARDED_BY(mutex_) = nullptr;
};

class FakeSpace final : public AddressSpace {
 public:
  struct Mapping {
    uint64_t size;
    uint8_t prot;
    HostFileId file;
    uint64_t offset;
    friend bool operator==(const Mapping&, const Mapping&) = default;
  };

  explicit FakeSpace(FakeEngine& engine);
  ~FakeSpace() override;

  // By start address, disjoint; neighbours are not merged.
  const std::map<uint64_t, Mapping>& mappings() const { return mappings_; }
  // The mapping at `address`, if any.
  std::optional<Mapping> Find(uint64_t address) const;
  size_t applied_ops() const { return applied_ops_; }
  size_t apply_calls() const { return apply_calls_; }
  // After `ops` more operations, one fails.
  void FailAfter(size_t ops, int error) {
    fail_after_ = ops;
    fail_error_ = error;
  }
  // Died comes from Wait.
  void Die(std::string why);

  Applied Apply(std::span<const MapOp> ops) override;
  Result<void> Reset() override;
  void Kill() override { Die("killed"); }
  bool Serves(const Engine& engine) const override {
    return &engine == static_cast<const void*>(&engine_);
  }
  FakeEngine& engine() { return engine_; }
  uint64_t CpuTimeNs() const override { return cpu_time_ns; }

  uint64_t cpu_time_ns = 0;

 private:
  friend class FakeEngine;
  friend class FakeContext;
  void Clear(uint64_t start, uint64_t end);
  void SplitAt(uint64_t address);
  int ApplyOne(const MapOp& op);

  FakeEngine& engine_;
  FakeSpace* next_ = nullptr;
  std::map<uint64_t, Mapping> mappings_;
  size_t applied_ops_ = 0, apply_calls_ = 0;
  size_t fail_after_ = 0;
  int fail_error_ = 0;
  std::atomic<bool> dead_ = false;
  bool announced_ = false;
  std::string why_;
};

class FakeContext final : public Context {
 public:
  FakeContext(FakeEngine& engine, FakeSpace& space, const Registers& registers,
              std::span<const std::byte> xsave);
  ~FakeContext() override;

  // What the guest's registers are, whether the sentry has loaded them or not.
  Registers& guest() { return registers_; }
  FakeSpace& space() { return space_; }
  void set_script(Script script) { script_ = std::move(script); }
  // How often it was resumed.
  uint64_t resumes() const { return resumes_; }
  // The guest makes this call now: for scripts. Sets its registers as a syscall instruction does.
  Stop Syscall(uint64_t number, std::array<uint64_t, 6> args = {});
  // Any thread: the stop of a guest that runs and has nothing to say.
  void Deliver(const Stop& stop);

  const Stop& stop() const override { return stop_; }
  Result<void> Load(LoadXsave xsave) override;
  Registers& registers() override;
  std::span<std::byte> xsave() override { return xsave_; }
  void SetReturn(uint64_t rax) override { registers_.rax = rax; }
  void Resume() override;
  void Interrupt() override;
  Result<void> MoveTo(Engine& engine) override;

 private:
  friend class FakeEngine;
  enum class State : uint8_t { kStopped, kResumed, kRunning, kDelivered };

  FakeEngine& engine_;
  FakeSpace& space_;
  FakeContext* next_ = nullptr;
  Script script_;
  Stop stop_ = Interrupted{};
  State state_ = State::kStopped;  // guarded by the engine's mutex
  bool interrupt_ = false;         // the same
  std::optional<Stop> delivered_;  // the same
  bool loaded_ = true;
  uint64_t resumes_ = 0;
  Registers registers_;
  std::vector<std::byte> xsave_;
};

}  // namespace skep::platform::fake
