// A guest address space: a stub's page tables.
#pragma once

#include <atomic>
#include <memory>
#include <string>

#include "platform/common/stop_queue.h"
#include "platform/notify/stub.h"
#include "platform/platform.h"

namespace skep::platform::notify {

class NotifyEngine;

class NotifySpace final : public AddressSpace {
 public:
  NotifySpace(NotifyEngine& engine, std::unique_ptr<Stub> stub);
  ~NotifySpace() override;

  Applied Apply(std::span<const MapOp> ops) override;
  Result<void> Reset() override;
  void Kill() override;
  bool Serves(const Engine& engine) const override;
  uint64_t CpuTimeNs() const override;

  // The rest is the engine's. Any thread.
  NotifyEngine& engine() { return engine_; }  // that made it
  Stub& stub() { return *stub_; }
  bool dead() const { return stub_->dead(); }
  // It did what no guest can do by honest means.
  void Tampered(const char* how);
  void Ended();

  DeathLink<NotifySpace> death_link;  // its engine's

  uint64_t watch() const { return watch_; }

 private:
  Result<void> Encode(const MapOp& op, StubCall& call) REQUIRES(stub_->mutex);

  NotifyEngine& engine_;
  std::unique_ptr<Stub> stub_;
  uint64_t watch_ = 0;      // its engine's, of the manager
  uint64_t cpu_start_ = 0;  // what the stub had used for others
};

}  // namespace skep::platform::notify
