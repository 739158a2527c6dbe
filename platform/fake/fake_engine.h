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

#include "base/check.h"
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
  struct Simulation {
    std::function<size_t(size_t n)> choose;
    std::function<bool(uint64_t deadline)> idle;
  };
  // Any thread. Null: none; the one before may still be called once.
  void Simulate(std::shared_ptr<const Simulation> simulation) {
    MutexLock lock(mutex_);
    simulation_ = std::move(simulation);
  }
  // After `skip` more, the next `count` makings of a space or context fail.
  void FailNew(int error, int count = 1, int skip = 0) {
    new_error_ = error;
    new_failures_ = count;
    new_skipped_ = skip;
  }
  // Address spaces of it may have contexts of other fake engines, and contexts may be moved.
  void set_shares_spaces(bool on) { shares_spaces_ = on; }
  // How often Wait was called.
  uint64_t waits() const { return waits_; }
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
  bool shares_spaces() const override { return shares_spaces_; }

 private:
  friend class FakeContext;
  friend class FakeSpace;
  std::shared_ptr<const Simulation> simulation();
  FakeContext* NextResumed(const Simulation* simulation) REQUIRES(mutex_);
  bool Sleep(Deadline deadline, HostPoller& poller);
  std::optional<Event> TakeEvent();
  std::optional<Event> RunGuests();
  Result<void> MayFail();
  void Ring();

  const EngineOptions options_;
  Script script_;
  int new_error_ = 0, new_failures_ = 0, new_skipped_ = 0;
  std::vector<HostFileId> forgotten_;
  OwnedFd bell_;  // an eventfd that ends the wait
  std::atomic<bool> kicked_ = false;
  std::atomic<bool> shares_spaces_ = false;
  std::atomic<uint64_t> waits_ = 0;
  Mutex mutex_{LockRank::kLeaf};
  std::shared_ptr<const Simulation> simulation_ GUARDED_BY(mutex_);
  uint64_t turns_ GUARDED_BY(mutex_) = 0;  // given so far
  std::atomic<uint64_t> contexts_made_ = 0;
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
  uint64_t populated() const { return populated_; }  // bytes that were to be
  bool dead() const { return dead_; }
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
  int Protect(uint64_t start, uint64_t end, uint8_t prot);
  int ApplyOne(const MapOp& op);

  FakeEngine& engine_;
  FakeSpace* next_ = nullptr;
  std::map<uint64_t, Mapping> mappings_;
  size_t applied_ops_ = 0, apply_calls_ = 0;
  uint64_t populated_ = 0;
  size_t fail_after_ = 0;
  int fail_error_ = 0;
  std::atomic<bool> dead_ = false;
  std::atomic<bool> announced_ = false;
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
  // No other context of its engine has or had this one.
  uint64_t number() const { return number_; }
  // How often it was resumed.
  uint64_t resumes() const { return resumes_; }
  // The guest makes this call now: for scripts. Sets its registers as a syscall instruction does.
  Stop Syscall(uint64_t number, std::array<uint64_t, 6> args = {});
  // Any thread: the stop of a guest that runs and has nothing to say.
  void Deliver(const Stop& stop) { CHECK(TryDeliver(stop)); }
  // False: it does not run.
  bool TryDeliver(const Stop& stop);

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

  void Link(FakeEngine& engine);
  void Unlink();

  std::atomic<FakeEngine*> engine_;
  FakeSpace& space_;
  const uint64_t number_;
  Script script_;
  Stop stop_ = Interrupted{};
  std::atomic<bool> interrupt_ = false;
  // Guarded by the engine's mutex:
  FakeContext* next_ = nullptr;
  State state_ = State::kStopped;
  uint64_t turn_ = 0;  // those who were resumed first run first
  std::optional<Stop> delivered_;
  bool loaded_ = true;
  uint64_t resumes_ = 0;
  Registers registers_;
  std::vector<std::byte> xsave_;
};

}  // namespace skep::platform::fake
