#include "platform/notify/engine.h"

#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <array>
#include <csignal>

#include "base/check.h"
#include "base/host_call.h"
#include "platform/notify/address_space.h"
#include "platform/notify/context.h"

namespace skep::platform::notify {
namespace {

constexpr uint32_t kMaxWaitsForOne = 64;
constexpr uint64_t kWatchEveryNs = 20'000'000;
constexpr size_t kMaxEvents = 16;
constexpr uint64_t kPollerEvent = 0;  // no watch has this number

// A listener for each guest thread.
void RaiseDescriptorLimit() {
  rlimit limit;
  if (getrlimit(RLIMIT_NOFILE, &limit) != 0) return;
  limit.rlim_cur = limit.rlim_max;
  (void)setrlimit(RLIMIT_NOFILE, &limit);  // the engine works without, for fewer threads
}

}  // namespace

HostResult<std::unique_ptr<Engine>> NotifyEngine::Make(const EngineOptions& options,
                                                       std::shared_ptr<Stubs> stubs) {
  std::unique_ptr<NotifyEngine> engine(new NotifyEngine(options, std::move(stubs)));
  TRY(engine->Start());
  return engine;
}

HostResult<void> NotifyEngine::Start() {
  worker_ = pthread_self();
  RaiseDescriptorLimit();
  Result<OwnedFd> epoll = host::EpollCreate();
  if (!epoll) return HostFail("epoll_create1", epoll.error().code());
  epoll_ = std::move(*epoll);
  return waker_.Start();
}

NotifyEngine::~NotifyEngine() { CHECK(contexts_ == 0 && spaces_ == 0); }

void NotifyEngine::Forget(HostFileId file) {
  if (stubs_->Forget(file)) waker_.Wake(kForget);
}

Result<std::unique_ptr<AddressSpace>> NotifyEngine::NewAddressSpace() {
  std::unique_ptr<Stub> stub = TRY(stubs_->NewStub(options_.cpu));
  auto space = std::make_unique<NotifySpace>(*this, std::move(stub));
  ++spaces_;
  return space;
}

Result<std::unique_ptr<Context>> NotifyEngine::NewContext(AddressSpace& any_space,
                                                          const Registers& registers,
                                                          std::span<const std::byte> xsave) {
  auto& space = static_cast<NotifySpace&>(any_space);
  if (space.dead()) return Fail(EIO);
  const XsaveLayout& layout = space.stub().stubs().xsave();
  if (xsave.empty()) {
    xsave = layout.initial();
  } else if (!layout.IsValid(xsave)) {
    return Fail(EINVAL);
  }
  Result<std::unique_ptr<GuestThread>> thread =
      space.stub().stubs().NewThread(space.stub(), options_.cpu);
  if (!thread) {
    if (thread.error() == Errno(EIO)) space.Ended();
    return std::unexpected(thread.error());
  }
  ++contexts_;
  return std::make_unique<NotifyContext>(*this, space, *std::move(thread), registers, xsave);
}

uint64_t NotifyEngine::Watch(Source source, int listener) {
  MutexLock lock(watch_mutex_);
  const uint64_t watch = next_watch_++;
  sources_[watch] = source;
  // A manager's listener is watched for hang-up only.
  epoll_event event = {};
  event.events = EPOLLET | (source.context != nullptr ? uint32_t{EPOLLIN} : 0u);
  event.data.u64 = watch;
  CHECK(host::EpollCtl(epoll_.get(), EPOLL_CTL_ADD, listener, &event));
  return watch;
}

void NotifyEngine::Unwatch(uint64_t watch, int listener) {
  (void)host::EpollCtl(epoll_.get(), EPOLL_CTL_DEL, listener, nullptr);
  MutexLock lock(watch_mutex_);
  sources_.erase(watch);
}

void NotifyEngine::Adopt(const GuestThread& thread) {
  if (options_.cpu < 0) return;
  cpu_set_t cpu;
  CPU_ZERO(&cpu);
  CPU_SET(static_cast<size_t>(options_.cpu), &cpu);
  (void)host::SetAffinity(thread.tid, cpu);
}

void NotifyEngine::Drop(NotifySpace& space, std::unique_ptr<Stub> stub) {
  Unwatch(space.watch(), stub->manager.fd());
  stops_.Remove(space);
  stubs_->Retire(std::move(stub));
  --spaces_;
}

void NotifyEngine::Drop(NotifyContext& context) {
  stops_.Remove(context);
  --contexts_;
}

void NotifyEngine::PushReady(NotifyContext& context) { stops_.Push(context); }

void NotifyEngine::Announce(NotifySpace& space) {
  NotifyEngine& home = space.engine();
  if (home.stops_.Announce(space) && pthread_self() != home.worker_) home.waker_.Wake(kDeath);
}

void NotifyEngine::NoteRunning(NotifyContext& context) {
  context.space().stub().running.fetch_add(1, std::memory_order_relaxed);
  stops_.Ran(context, context.thread().tid);
}

void NotifyEngine::NoteNotRunning(NotifyContext& context) {
  if (!context.stop_link.is_running) return;
  context.space().stub().running.fetch_sub(1, std::memory_order_relaxed);
  context.watched_from_ns.reset();
  stops_.Stopped(context);
}

void NotifyEngine::WatchInterrupts() {
  if (!watch_wanted_.exchange(true)) waker_.Wake(kOwed);
}

// A guest can make itself a signal frame that blocks the interrupt, and compute for ever. The host
// does not tell what a single thread of another process has used: of the process's time each of
// its threads that run may have had an equal share.
void NotifyEngine::LookAtInterrupts(uint64_t now) {
  if (next_watch_at_ == 0 ? !watch_wanted_.load() : now < next_watch_at_) return;
  watch_wanted_ = false;  // before the look: what is interrupted after it asks again
  bool owed = false;
  for (NotifyContext* context = stops_.first_running(); context != nullptr;
       context = context->stop_link.next_running) {
    Stub& stub = context->space().stub();
    if (!context->owes_stop() || stub.dead()) continue;
    const uint64_t used = stub.CpuTimeNs();
    if (!context->watched_from_ns) context->watched_from_ns = used;
    if (stub.HasHadShare(used - *context->watched_from_ns) &&
        context->thread().listener.WaitForCall(0) == Listener::Received::kNothing) {
      context->space().Tampered("a guest thread does not take interrupts");
    } else {
      owed = true;
    }
  }
  next_watch_at_ = owed ? now + kWatchEveryNs : 0;
  if (owed) watch_wanted_ = true;
}

std::optional<Event> NotifyEngine::NextStop() {
  const auto next = stops_.Pop();
  if (next.stopped != nullptr) return platform::Stopped{next.stopped};
  if (next.dead == nullptr) return std::nullopt;
  return platform::Died{next.dead, next.dead->stub().WhyDead()};
}

// With one running guest, the engine receives from its listener directly, which is cheaper than
// epoll. Stopped guests can only die meanwhile; the next full poll notices.
NotifyContext* NotifyEngine::OnlyOneRunning(const HostPoller& poller) {
  NotifyContext* const only = stops_.OnlyRunning();
  if (only == nullptr || poller.watching() || !ReceiveEndsWithThread() ||
      ++waits_for_one_ >= kMaxWaitsForOne) {
    waits_for_one_ = 0;
    return nullptr;
  }
  return only;
}

void NotifyEngine::ReceiveFrom(NotifyContext& context) {
  seccomp_notif call;
  switch (context.thread().listener.ReceiveUnlessWoken(waker_, call)) {
    case Listener::Received::kCall:
      if (context.OnCall(call)) PushReady(context);
      break;
    case Listener::Received::kGone:
      context.space().Ended();
      break;
    case Listener::Received::kNothing:
      break;
  }
}

void NotifyEngine::OnReady(uint64_t watch) {
  MutexLock lock(watch_mutex_);
  const auto found = sources_.find(watch);
  if (found == sources_.end()) return;
  const Source source = found->second;
  if (source.context == nullptr) return source.space->Ended();
  if (source.space->dead() || !source.context->running()) return;
  seccomp_notif call;
  switch (source.context->thread().listener.Receive(call)) {
    case Listener::Received::kCall:
      if (source.context->OnCall(call)) PushReady(*source.context);
      break;
    case Listener::Received::kGone:
      source.space->Ended();
      break;
    case Listener::Received::kNothing:
      break;
  }
}

void NotifyEngine::LookAtAll(bool block, HostPoller& poller) {
  if (poller.watching() && !poller_armed_) {
    epoll_event event = {.events = EPOLLIN | EPOLLONESHOT, .data = {.u64 = kPollerEvent}};
    const int operation = polled_fd_ == poller.epoll_fd() ? EPOLL_CTL_MOD : EPOLL_CTL_ADD;
    polled_fd_ = poller.epoll_fd();
    poller_armed_ = host::EpollCtl(epoll_.get(), operation, polled_fd_, &event).has_value();
  }
  std::array<epoll_event, kMaxEvents> events;
  const auto epoll = static_cast<uint64_t>(epoll_.get());
  // SAFETY: `events` outlives the call.
  const auto at = reinterpret_cast<uint64_t>(events.data());
  const Result<int64_t> count =
      block ? waker_.CallUnlessWoken(SYS_epoll_pwait, epoll, at, events.size(), ~uint64_t{0}, 0, 8)
            : host::Call(SYS_epoll_pwait, epoll_.get(), events.data(), events.size(), 0);
  if (!count) return;
  for (int64_t i = 0; i < *count; ++i) {
    const uint64_t watch = events[static_cast<size_t>(i)].data.u64;
    if (watch == kPollerEvent) {
      poller_armed_ = false;
      waker_.Wake(kPolled);
    } else {
      OnReady(watch);
    }
  }
}

void NotifyEngine::SetTimer(Deadline deadline) {
  if (next_watch_at_ != 0 && (!deadline || next_watch_at_ < *deadline)) deadline = next_watch_at_;
  stops_.SetTimer(waker_, deadline, host::MonotonicNs);
}

// Sees to what is the engine's own; what is left is for the worker.
uint32_t NotifyEngine::TakeReasons() {
  const uint32_t reasons = waker_.reasons();
  if (reasons == 0) return 0;
  if (waker_.Take(kForget) != 0) stubs_->CloseForgotten();
  if ((waker_.Take(kTimer | kOwed)) != 0) {
    const uint64_t now = host::MonotonicNs();
    if ((reasons & kTimer) != 0) stops_.OnTimer(waker_, now);
    LookAtInterrupts(now);
  }
  waker_.Take(kDeath);
  return waker_.reasons() & (kKicked | kPolled);
}

Event NotifyEngine::Wait(Deadline deadline, HostPoller& poller) {
  CHECK(pthread_self() == worker_);
  for (;;) {
    bool due = TakeReasons() != 0 || HasPassed(deadline);
    if (due && stops_.empty()) {
      LookAtAll(false, poller);
      due = waker_.reasons() != 0 || HasPassed(deadline);
    }
    // Stops first, but not for ever.
    if (!due) stops_.NoneDue();
    if (!due || !stops_.IsLate(host::MonotonicNs())) {
      if (std::optional<Event> event = NextStop()) return *std::move(event);
    }
    if (due) {
      stops_.NoneDue();
      waker_.Take(kKicked | kPolled);
      return Woken{};
    }
    SetTimer(deadline);
    if (NotifyContext* only = OnlyOneRunning(poller)) {
      ReceiveFrom(*only);
    } else {
      LookAtAll(true, poller);
    }
  }
}

}  // namespace skep::platform::notify
