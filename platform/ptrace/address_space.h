// A stub process: the guest address space is its page tables. Its first thread is the manager,
// which is stopped except while it runs a batch.
#pragma once

#include <sys/types.h>
#include <atomic>
#include <cstdint>

#include "platform/common/stop_queue.h"
#include "platform/platform.h"

namespace skep::platform::ptrace {

class PtraceEngine;

class PtraceSpace final : public AddressSpace {
 public:
  PtraceSpace(PtraceEngine& engine, pid_t pid, uint32_t slot)
      : engine_(engine), pid_(pid), slot_(slot) {}
  ~PtraceSpace() override;

  Applied Apply(std::span<const MapOp> ops) override;
  Result<void> Reset() override;
  void Kill() override;
  bool Serves(const Engine& engine) const override;
  uint64_t CpuTimeNs() const override;

  // The rest is the engine's.
  PtraceEngine& engine() { return engine_; }
  pid_t pid() const { return pid_; }
  uint32_t slot() const { return slot_; }
  bool dead() const { return dead_.load(std::memory_order_acquire); }
  int death_status() const { return death_status_; }
  // True the first time.
  bool MarkDead(int wait_status) {
    if (dead_.exchange(true)) return false;
    death_status_ = wait_status;
    return true;
  }

  // True if Kill was called and its death is still awaited.
  bool ForgetKill() { return kill_awaited_.exchange(false); }

  DeathLink<PtraceSpace> death_link;  // its engine's

 private:
  PtraceEngine& engine_;
  const pid_t pid_;
  const uint32_t slot_;
  std::atomic<bool> dead_ = false;
  std::atomic<bool> kill_awaited_ = false;
  int death_status_ = 0;
};

}  // namespace skep::platform::ptrace
