// What signalfd reads from: the pending signals of whichever task runs.
#pragma once

#include "sentry/anon/signalfd.h"

namespace skep::kernel {

class KernelSignalSource final : public anon::SignalSource {
 public:
  uint64_t PendingOfCurrent(uint64_t mask) override;
  bool DequeueForCurrent(uint64_t mask, signalfd_siginfo& info) override;
  sched::WaitQueue& Arrivals() override { return arrivals_; }

 private:
  sched::WaitQueue arrivals_;
};

}  // namespace skep::kernel
