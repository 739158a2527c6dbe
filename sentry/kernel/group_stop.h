// GroupStop: whether a process is stopped, and what of that its parent has still to be told (Linux:
// SIGNAL_STOP_STOPPED, SIGNAL_CLD_*, group_stop_count of struct signal_struct).
//
// It begins with a stop signal's default action, is complete when all threads sleep, and ends by
// SIGCONT or with the process.
#pragma once

#include <utility>

#include "sentry/kernel/tasks_lock.h"
#include "sentry/sched/wait_queue.h"

namespace skep::kernel {

class GroupStop {
 public:
  bool under_way() const REQUIRES(tasks) { return signal_ != 0; }
  bool complete() const REQUIRES(tasks) { return complete_; }
  int signal() const REQUIRES(tasks) { return signal_; }  // 0: not under way

  void Begin(int signo) REQUIRES(tasks) {
    signal_ = signo;
    continue_unreported_ = false;
  }
  // All threads sleep. False: that was known.
  bool Complete() REQUIRES(tasks) {
    if (std::exchange(complete_, true)) return false;
    stop_unreported_ = true;
    return true;
  }
  // By SIGCONT. True: it was complete, and the parent hears of it.
  bool Continue() REQUIRES(tasks) {
    continue_unreported_ = continue_unreported_ || complete_;
    stop_unreported_ = false;
    return End();
  }
  // The process ends. True: it was complete.
  bool End() REQUIRES(tasks) {
    signal_ = 0;
    sleepers_.WakeAll();
    return std::exchange(complete_, false);
  }

  // For wait4: whether there is a stop or a continuation to report; it is taken unless `keep`.
  bool ReportStop(bool keep) REQUIRES(tasks) {
    const bool reports = complete_ && stop_unreported_;
    if (reports) stop_unreported_ = keep;
    return reports;
  }
  bool ReportContinue(bool keep) REQUIRES(tasks) {
    return std::exchange(continue_unreported_, continue_unreported_ && keep);
  }

  // Threads that have stopped sleep here.
  sched::WaitQueue& sleepers() { return sleepers_; }

 private:
  int signal_ GUARDED_BY(tasks) = 0;
  bool complete_ GUARDED_BY(tasks) = false;
  bool stop_unreported_ GUARDED_BY(tasks) = false, continue_unreported_ GUARDED_BY(tasks) = false;
  sched::WaitQueue sleepers_;
};

}  // namespace skep::kernel
