#include "sentry/sched/host_poller.h"

#include <fmt/format.h>
#include <sys/epoll.h>
#include <sys/syscall.h>
#include <array>
#include <span>

#include "base/check.h"
#include "base/host_call.h"
#include "base/log.h"
#include "sentry/arena/arena.h"
#include "sentry/sched/worker_internal.h"

namespace skep::sched {

// All of it is called with Scheduler::State::watch_lock held.
struct WatchAccess {
  using State = SchedulerAccess::State;

  static void Link(HostWatch& watch, State& s) REQUIRES(s.watch_lock) {
    watch.id_ = s.next_watch_id++;
    watch.next_ = s.watches;
    if (s.watches != nullptr) s.watches->previous_ = &watch;
    s.watches = &watch;
  }

  static void Unlink(HostWatch& watch, State& s) REQUIRES(s.watch_lock) {
    if (watch.next_ != nullptr) watch.next_->previous_ = watch.previous_;
    (watch.previous_ != nullptr ? watch.previous_->next_ : s.watches) = watch.next_;
    if (watch.ready_ == 0) return;
    HostWatch** at = &WorkerAccess::StateOf(*s.workers[Index(watch)]).ready_watches;
    while (*at != &watch) at = &(*at)->next_ready_;
    *at = watch.next_ready_;
  }

  static size_t Index(const HostWatch& watch) { return static_cast<size_t>(watch.worker_); }

  static Result<void> Control(SchedulerHost& host, int op, SchedulerHost::Watch& entry,
                              EventMask events, uint64_t id) {
    epoll_event event{};
    event.events = events | EPOLLONESHOT;
    event.data.u64 = id;
    const int epoll = host.workers[static_cast<size_t>(entry.worker)]->poller.epoll_fd();
    return host::EpollCtl(epoll, op, entry.fd.get(), &event);
  }

  static void SetArmed(SchedulerHost& host, SchedulerHost::Watch& entry, bool armed) {
    if (entry.armed == armed) return;
    entry.armed = armed;
    host.workers[static_cast<size_t>(entry.worker)]->poller.armed.fetch_add(armed ? 1 : -1);
  }

  static void Forget(SchedulerHost& host, HostWatch& watch) {
    auto found = host.watches.find(watch.id_);
    if (found == host.watches.end()) return;
    SetArmed(host, found->second, false);
    // Explicitly: the original descriptor keeps the file, and so its entry, alive.
    (void)Control(host, EPOLL_CTL_DEL, found->second, 0, watch.id_);
    host.watches.erase(found);
  }

  // Makes the host side agree with armed_.
  static void ArmOnHost(SchedulerHost& host, HostWatch& watch) {
    const arena::HostHeapScope scope;
    const WorkerHost* here = ThreadWorker();
    // Something that waits for delivery ties it to the worker that has it.
    if (here != nullptr && watch.ready_ == 0 && watch.worker_ != here->worker.index()) {
      Forget(host, watch);
      watch.worker_ = here->worker.index();
    }
    auto found = host.watches.find(watch.id_);
    int op = EPOLL_CTL_MOD;
    if (found == host.watches.end()) {
      const int original = arena::HostTable::Get().Get(watch.fd_);
      if (original < 0) return;  // not restored yet; the next Arm or Start sees to it
      Result<OwnedFd> fd = host::Dup(original);
      if (!fd) {
        MarkReady(host, watch, watch.armed_);
        return;
      }
      op = EPOLL_CTL_ADD;
      found = host.watches
                  .emplace(watch.id_,
                           SchedulerHost::Watch{&watch, std::move(*fd), watch.worker_, false})
                  .first;
    }
    if (Result<void> done = Control(host, op, found->second, watch.armed_, watch.id_); !done) {
      // EPERM: a regular file, which never has to be waited for. Else nobody may sleep on it for
      // ever.
      if (done.error() != Errno(EPERM)) {
        SKEP_LOG(kWarning, "cannot watch a host descriptor: error {}", done.error().code());
      }
      host.watches.erase(found);
      MarkReady(host, watch, watch.armed_);
      return;
    }
    SetArmed(host, found->second, true);
    if (here == nullptr || here->worker.index() != watch.worker_) {
      WorkerAccess::WakeUp(host.workers[Index(watch)]->worker);
    }
  }

  // `ready` of what is armed came true. Delivery is the system fiber's.
  static void MarkReady(SchedulerHost& host, HostWatch& watch, EventMask ready) {
    const bool all = (ready & (EPOLLERR | EPOLLHUP)) != 0;
    watch.armed_ = all ? 0 : watch.armed_ & ~ready;
    WorkerAccess::State& w = WorkerAccess::StateOf(host.workers[Index(watch)]->worker);
    if (watch.ready_ == 0) {
      watch.next_ready_ = w.ready_watches;
      w.ready_watches = &watch;
    }
    watch.ready_ |= ready;
    w.system->Unpark();
  }

  static void OnHostEvent(SchedulerHost& host, uint64_t id, EventMask ready) {
    auto found = host.watches.find(id);
    if (found == host.watches.end()) return;
    SchedulerHost::Watch& entry = found->second;
    HostWatch& watch = *entry.watch;
    SetArmed(host, entry, false);  // it was one-shot
    MarkReady(host, watch, ready);
    if (watch.armed_ != 0) ArmOnHost(host, watch);
  }

  static void Arm(HostWatch& watch, EventMask events, SchedulerHost* host) {
    watch.armed_ |= events;
    if (host != nullptr) ArmOnHost(*host, watch);
  }

  static bool IsArmed(const HostWatch& watch) { return watch.armed_ != 0; }
  static HostWatch* Next(const HostWatch& watch) { return watch.next_; }

  static bool DeliverOne(WorkerAccess::State& w) {
    HostWatch* watch = w.ready_watches;
    if (watch == nullptr) return false;
    w.ready_watches = watch->next_ready_;
    const EventMask ready = watch->ready_;
    watch->ready_ = 0;
    watch->queue_.Wake(ready);
    return true;
  }
};

HostWatch::HostWatch(Scheduler& scheduler, arena::HostFd fd, WaitQueue& queue)
    : scheduler_(scheduler), fd_(fd), queue_(queue) {
  SchedulerAccess::State& s = SchedulerAccess::StateOf(scheduler_);
  MutexLock lock(s.watch_lock);
  WatchAccess::Link(*this, s);
}

HostWatch::~HostWatch() {
  const arena::HostHeapScope host;
  SchedulerAccess::State& s = SchedulerAccess::StateOf(scheduler_);
  MutexLock lock(s.watch_lock);
  if (SchedulerHost* running = RunningHost()) WatchAccess::Forget(*running, *this);
  WatchAccess::Unlink(*this, s);
}

void HostWatch::Arm(EventMask events) {
  MutexLock lock(SchedulerAccess::StateOf(scheduler_).watch_lock);
  WatchAccess::Arm(*this, events, RunningHost());
}

// In an epoll entry's data: a LoopWatch's address, with this bit; HostWatches are numbered from 1.
constexpr uint64_t kLoopWatchBit = uint64_t{1} << 63;

struct LoopWatchAccess {
  static Result<int64_t> Control(WorkerHost& host, int op, LoopWatch& watch) {
    epoll_event event{};
    event.events = EPOLLIN | EPOLLONESHOT;
    event.data.u64 = reinterpret_cast<uint64_t>(&watch) | kLoopWatchBit;
    return host::Call(SYS_epoll_ctl, static_cast<uint64_t>(host.poller.epoll_fd()),
                      static_cast<uint64_t>(op), static_cast<uint64_t>(watch.fd_),
                      reinterpret_cast<uint64_t>(&event));
  }

  static void SetArmed(WorkerHost& host, LoopWatch& watch, bool armed) {
    if (watch.armed_ == armed) return;
    watch.armed_ = armed;
    host.poller.armed.fetch_add(armed ? 1 : -1);
  }

  static void OnEvent(WorkerHost& host, uint64_t data) {
    // SAFETY: a LoopWatch takes its entry out before it goes, on this very thread or after it.
    auto& watch = *reinterpret_cast<LoopWatch*>(data & ~kLoopWatchBit);
    if (!watch.armed_) return;
    SetArmed(host, watch, false);
    watch.ready_();
  }
};

LoopWatch::~LoopWatch() {
  WorkerHost* host = ThreadWorker();
  if (!registered_ || host == nullptr) return;
  (void)LoopWatchAccess::Control(*host, EPOLL_CTL_DEL, *this);
  LoopWatchAccess::SetArmed(*host, *this, false);
}

bool LoopWatch::Arm() {
  WorkerHost& host = *ThreadWorker();
  if (armed_) return true;
  const int op = registered_ ? EPOLL_CTL_MOD : EPOLL_CTL_ADD;
  if (Result<int64_t> done = LoopWatchAccess::Control(host, op, *this); !done) {
    SKEP_LOG(kWarning, "cannot watch a host descriptor: error {}", done.error().code());
    return false;
  }
  registered_ = true;
  LoopWatchAccess::SetArmed(host, *this, true);
  return true;
}

// The entry stays as it is: an event that comes all the same is nobody's.
void LoopWatch::Disarm() { LoopWatchAccess::SetArmed(*ThreadWorker(), *this, false); }

HostCallInProgress::HostCallInProgress() { RunningHost()->host_calls.fetch_add(1); }
HostCallInProgress::~HostCallInProgress() { RunningHost()->host_calls.fetch_sub(1); }

void CollectWatches(WorkerHost& host) {
  std::array<epoll_event, 16> events;
  Result<int64_t> count =
      host::Call(SYS_epoll_wait, host.poller.epoll_fd(), events.data(), events.size(), 0);
  if (!count || *count == 0) return;
  const std::span<epoll_event> ready = std::span(events).first(static_cast<size_t>(*count));
  for (const epoll_event& event : ready) {
    if ((event.data.u64 & kLoopWatchBit) != 0) LoopWatchAccess::OnEvent(host, event.data.u64);
  }
  MutexLock lock(WorkerAccess::SchedulerStateOf(host.worker).watch_lock);
  for (const epoll_event& event : ready) {
    if ((event.data.u64 & kLoopWatchBit) != 0) continue;
    WatchAccess::OnHostEvent(host.scheduler, event.data.u64, event.events);
  }
}

bool DeliverWatches(Worker& worker) {
  MutexLock lock(WorkerAccess::SchedulerStateOf(worker).watch_lock);
  return WatchAccess::DeliverOne(WorkerAccess::StateOf(worker));
}

void ArmAllWatches(SchedulerHost& host) {
  SchedulerAccess::State& s = SchedulerAccess::StateOf(host.scheduler);
  MutexLock lock(s.watch_lock);
  for (HostWatch* w = s.watches; w != nullptr; w = WatchAccess::Next(*w)) {
    if (WatchAccess::IsArmed(*w)) WatchAccess::ArmOnHost(host, *w);
  }
}

}  // namespace skep::sched
