// Resource limits (getrlimit(2)) as a value, and those of a process.
#pragma once

#include <sys/resource.h>
#include <array>
#include <atomic>
#include <cstdint>

#include "sentry/kernel/tasks_lock.h"

namespace skep::kernel {

struct Limits {
  std::array<rlimit, RLIM_NLIMITS> values;
  static Limits Default();
};

// A process's. prlimit(2) changes another process's, under `tasks`; each soft limit is read without
// (Linux: rlimit()).
class ProcessLimits {
 public:
  uint64_t Soft(int resource) const {
    return soft_[static_cast<size_t>(resource)].load(std::memory_order_relaxed);
  }
  rlimit Get(int resource) const REQUIRES(tasks) {
    return {Soft(resource), hard_[static_cast<size_t>(resource)]};
  }
  void Set(int resource, const rlimit& limit) REQUIRES(tasks) {
    soft_[static_cast<size_t>(resource)].store(limit.rlim_cur, std::memory_order_relaxed);
    hard_[static_cast<size_t>(resource)] = limit.rlim_max;
  }
  Limits All() const REQUIRES(tasks) {
    Limits all;
    for (int i = 0; i < RLIM_NLIMITS; ++i) all.values[static_cast<size_t>(i)] = Get(i);
    return all;
  }
  void SetAll(const Limits& all) REQUIRES(tasks) {
    for (int i = 0; i < RLIM_NLIMITS; ++i) Set(i, all.values[static_cast<size_t>(i)]);
  }

 private:
  std::array<std::atomic<rlim_t>, RLIM_NLIMITS> soft_{};
  std::array<rlim_t, RLIM_NLIMITS> hard_ GUARDED_BY(tasks){};
};

}  // namespace skep::kernel
