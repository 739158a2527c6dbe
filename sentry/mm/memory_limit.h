// MemoryLimit: how much memory a sandbox may take (Linux: a memory cgroup).
//
// Pages of the memory file and the kernel's heap count, whoever touched them. Guests touch fresh
// pages without asking anybody, so the limit is held from two sides: the sentry asks before it
// takes memory itself, and kernel/oom.h looks at what guests have taken and kills one if need be.
// Three levels keep these apart:
//
//   limit       what was asked for; hosts with control groups hold the stubs to it besides
//   kill_above  a little less: above it a process dies
//   fill_to     a little less again: files in memory grow up to here, so that a shell that wants to
//               remove them still has memory to run in
//
// Bytes throughout. Locks: none; Set comes before the first guest.
#pragma once

#include <atomic>
#include <cstdint>

#include "base/result.h"

namespace skep::mm {

class MemoryFile;

// Frees memory of guests: kernel/'s OOM killer.
class Reliever {
 public:
  // The calling fiber is about to take memory that is not there. Returns when some may have come
  // free. kKilled: its own process dies for it. ENOMEM: nothing can be freed. May sleep: no Mutex
  // may be held.
  virtual Result<void> Relieve() = 0;

 protected:
  ~Reliever() = default;
};

class MemoryLimit {
 public:
  // Copies into guest memory ask once for so many bytes.
  static constexpr uint64_t kCopyStep = 1 << 20;

  explicit MemoryLimit(MemoryFile& memory) : memory_(memory) {}
  // 0: none. `reliever` outlives every guest.
  void Set(uint64_t limit, Reliever* reliever);

  bool set() const { return limit_ != 0; }
  uint64_t limit() const { return limit_; }
  uint64_t kill_above() const { return limit_ - Reserve(); }
  uint64_t fill_to() const { return limit_ - 2 * Reserve(); }

  uint64_t Used() const;
  // What guests may take before one dies; without a limit: as much as there are addresses. Kept
  // pages never take more than half of it.
  uint64_t Room() const;
  // A file in memory is to grow. ENOSPC.
  Result<void> CheckFill(uint64_t bytes) const;
  // Files with names (tmpfs, the overlay's upper layer) are to have so much more, or have less now.
  // They outlive the processes that filled them, so ending processes cannot free them: together
  // they leave a share of the limit to processes. ENOSPC.
  Result<void> ClaimForFiles(uint64_t bytes);
  void ReleaseFromFiles(uint64_t bytes) { file_bytes_ -= bytes; }
  uint64_t MostForFiles() const;
  // Guest memory is to be touched on a guest's behalf. Kills for it. EFAULT (nothing could be
  // freed), kKilled. May sleep.
  Result<void> MakeRoom(uint64_t bytes) const;
  // How many pages that nobody uses the memory file may keep, in bytes, when `freed` bytes that
  // count now will not any more. The host counts those, too: they are given back as room shrinks.
  uint64_t KeepAtMost(uint64_t freed) const;

 private:
  uint64_t Reserve() const;

  MemoryFile& memory_;
  uint64_t limit_ = 0;
  std::atomic<uint64_t> file_bytes_{0};
  Reliever* reliever_ = nullptr;
};

}  // namespace skep::mm
