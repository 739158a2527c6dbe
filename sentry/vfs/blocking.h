// The one way in which calls sleep until a file is ready.
#pragma once

#include <sys/epoll.h>

#include "base/result.h"
#include "sentry/sched/wait_queue.h"
#include "sentry/vfs/file.h"

namespace skep::vfs {

enum class Exclusive : bool { kNo, kYes };

// What a call that goes in this direction wakes up for.
constexpr EventMask EventsFor(Direction direction) {
  return direction == Direction::kRead ? EventMask{EPOLLIN | EPOLLRDHUP | EPOLLERR | EPOLLHUP}
                                       : EventMask{EPOLLOUT | EPOLLERR | EPOLLHUP};
}

template <class T>
bool WouldBlock(const Result<T>& result) {
  return !result && result.error().code() == EAGAIN;
}

// Repeats `attempt` until it answers anything but EAGAIN, sleeping on `queue` between tries, as
// `policy` says. It is tried once more after the sleep was ended otherwise: what came in the same
// moment is not lost. `exclusive`: of those that sleep like this a wake-up is for one.
template <class Attempt>
auto BlockOn(sched::WaitQueue& queue, EventMask events, const WaitPolicy& policy, Attempt attempt,
             Exclusive exclusive = Exclusive::kNo) -> decltype(attempt()) {
  sched::FiberWaiter waiter(queue, events, exclusive == Exclusive::kYes);
  for (;;) {
    waiter.ForgetWake();
    auto result = attempt();
    if (!WouldBlock(result)) return result;
    const sched::WakeReason reason = sched::Suspend(policy.deadline, sched::Sleep::kInterruptible);
    if (reason == sched::WakeReason::kWoken) continue;
    result = attempt();
    if (!WouldBlock(result)) return result;
    return Fail(reason == sched::WakeReason::kTimedOut ? policy.at_deadline : policy.interrupted);
  }
}

// The same for a read or write of a file, with the file's policy. `nonblocking` (O_NONBLOCK,
// RWF_NOWAIT, MSG_DONTWAIT): EAGAIN is the answer.
template <class Attempt>
auto BlockOn(File& file, Direction direction, bool nonblocking, Attempt attempt)
    -> decltype(attempt()) {
  auto result = attempt();
  if (nonblocking || !WouldBlock(result)) return result;
  sched::WaitQueue* queue = file.Waiters();
  if (queue == nullptr) return result;
  const EventMask events = EventsFor(direction);
  return BlockOn(*queue, events, file.wait_policy(direction), [&] {
    (void)file.Poll(events);  // a host descriptor's watch is armed by that
    return attempt();
  });
}

}  // namespace skep::vfs
