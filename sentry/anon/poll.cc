#include "sentry/anon/poll.h"

#include <sys/epoll.h>

namespace skep::anon {

size_t PollSet::Look() {
  size_t count = 0;
  for (Entry& entry : entries_) {
    const vfs::EventMask wanted = entry.wanted | EPOLLERR | EPOLLHUP;
    entry.ready = entry.file->Poll(wanted) & wanted;
    count += entry.ready != 0;
  }
  return count;
}

Result<size_t> PollSet::Wait(sched::Deadline deadline) {
  const size_t at_once = Look();
  if (at_once != 0 || deadline == sched::Deadline(0)) return at_once;

  std::deque<sched::FiberWaiter> waiters;
  for (Entry& entry : entries_) {
    if (sched::WaitQueue* queue = entry.file->Waiters(); queue != nullptr) {
      waiters.emplace_back(*queue, entry.wanted | EPOLLERR | EPOLLHUP);
    }
  }
  for (;;) {
    if (const size_t count = Look(); count != 0) return count;
    switch (sched::Suspend(deadline, sched::Sleep::kInterruptible)) {
      case sched::WakeReason::kWoken:
        break;
      case sched::WakeReason::kTimedOut:
        return Look();
      case sched::WakeReason::kInterrupted: {
        const size_t count = Look();
        if (count != 0) return count;
        return Fail(kRestartNoHand);
      }
    }
  }
}

}  // namespace skep::anon
