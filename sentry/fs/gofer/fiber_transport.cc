#include "sentry/fs/gofer/fiber_transport.h"

#include <fmt/format.h>
#include <poll.h>
#include <sys/syscall.h>
#include <algorithm>

#include "base/host_call.h"
#include "base/log.h"
#include "sentry/arena/arena.h"
#include "sentry/sched/scheduler.h"

namespace skep::fs {
namespace {

using gofer::CallUnderWay;
using gofer::Lane;

constexpr int kMeasured = 16;  // the gofer's thread follows to this CPU after the first few
constexpr uint64_t kLookMinNs = 10'000;
constexpr uint64_t kLookMaxNs = 100'000;
constexpr uint64_t kPauseNs = 1'000'000;  // until the host is asked again for what it is short of

class Connect final : public gofer::Call {
 public:
  Connect() : Call(gofer::Op::kConnect) {}
  void Write(gofer::Writer&) const override {}
  Result<void> Parse(gofer::Reply& reply) override {
    socket = std::move(reply.file);
    return reply.body.End();
  }
  OwnedFd socket;
};

bool PollIn(int fd, uint64_t ns) {
  pollfd entry = {fd, POLLIN, 0};
  const timespec timeout = {static_cast<time_t>(ns / 1'000'000'000),
                            static_cast<long>(ns % 1'000'000'000)};
  const Result<int64_t> n = host::Call(SYS_ppoll, reinterpret_cast<uint64_t>(&entry), 1,
                                       reinterpret_cast<uint64_t>(&timeout), 0, 0);
  return n && *n > 0;
}

uint64_t Soon() {
  return sched::Fiber::Current().worker().scheduler().clock().MonotonicNs() + kPauseNs;
}

// Host code of a fiber: what it allocates is malloc's again when it goes on.
sched::WakeReason Sleep(sched::Deadline deadline) {
  arena::SetThreadHeap(arena::Heap::kArena);
  const sched::WakeReason reason = sched::Suspend(deadline, sched::Sleep::kKillable);
  arena::SetThreadHeap(arena::Heap::kHost);
  return reason;
}

}  // namespace

FiberTransport::FiberTransport(OwnedFd socket, int workers)
    : connections_(static_cast<size_t>(workers)),
      control_(std::move(socket)),
      hangup_fd_(control_.socket()) {
  Prepare(control_);
}

FiberTransport::~FiberTransport() = default;

void FiberTransport::CloseHere() {
  const auto index = static_cast<size_t>(sched::Fiber::Current().worker().index());
  if (index >= connections_.size()) return;
  Connection& here = connections_[index];
  if (here.watches_for_late) here.watch->Disarm();
  here.watch.reset();
  here.lane.reset();
}

void FiberTransport::Prepare(Lane& lane) {
  lane.on_broken = [this] {
    if (!lost_.exchange(true) && on_lost) on_lost();
  };
  lane.on_settled = [this] {
    settled_at_ns_.store(host::MonotonicNs());
    unsettled_.fetch_sub(1);
  };
}

// All at once: each request wakes threads of the gofer.
void FiberTransport::ConnectAll() {
  if (connected_.load()) return;
  struct Asked {
    Connect connect;
    CallUnderWay call{connect};
    bool sent = false;
  };
  std::vector<std::unique_ptr<Asked>> asked;
  for (size_t i = 0; i < connections_.size(); ++i) {
    asked.push_back(std::make_unique<Asked>());
    asked[i]->sent = control_.Send(asked[i]->call, Lane::Wait::kYes).has_value();
  }
  for (size_t i = 0; i < connections_.size(); ++i) {
    CallUnderWay& call = asked[i]->call;
    while (asked[i]->sent && !call.done) (void)control_.Take(Lane::Wait::kYes);
    OwnedFd& socket = asked[i]->connect.socket;
    if (!socket) {
      SKEP_LOG(kWarning, "a worker has no connection of its own to the gofer: error {}",
               call.outcome ? EMFILE : call.outcome.error().code());
      continue;
    }
    Connection& connection = connections_[i];
    connection.lane = std::make_unique<Lane>(std::move(socket));
    Prepare(*connection.lane);
    connection.watch.emplace(connection.lane->socket(),
                             [this, &connection] { TakeReplies(connection); });
  }
  connected_.store(true);
}

// The connection of the worker that this fiber runs on. Null: this is no fiber.
FiberTransport::Connection* FiberTransport::ConnectionHere() {
  sched::Fiber* fiber = sched::Fiber::CurrentOrNull();
  if (fiber == nullptr || connections_.empty()) return nullptr;
  if (!connected_.load(std::memory_order_acquire)) {
    MutexLock lock(mutex_);
    ConnectAll();
  }
  const auto index = static_cast<size_t>(fiber->worker().index());
  if (index >= connections_.size() || connections_[index].lane == nullptr) return nullptr;
  return &connections_[index];
}

Result<void> FiberTransport::Ask(gofer::Call& call) {
  if (Connection* here = ConnectionHere()) return AskHere(*here, call);
  MutexLock lock(mutex_);
  return AskAsThread(call);
}

Result<void> FiberTransport::AskAsThread(gofer::Call& call) {
  CallUnderWay under_way(call);
  TRY(control_.Send(under_way, Lane::Wait::kYes));
  while (!under_way.done) (void)control_.Take(Lane::Wait::kYes);
  return under_way.outcome;
}

Result<void> FiberTransport::AskHere(Connection& here, gofer::Call& call) {
  CallUnderWay under_way(call);
  const bool measured = here.measured < kMeasured;
  const uint64_t start = measured ? host::MonotonicNs() : 0;
  TRY(Send(here, under_way));
  const uint64_t look_ns = std::clamp(2 * here.round_trip_ns, kLookMinNs, kLookMaxNs);
  if (!LookFor(here, under_way, look_ns)) {
    Park(here, under_way);
  } else if (measured) {
    ++here.measured;
    here.round_trip_ns = std::min(here.round_trip_ns, host::MonotonicNs() - start);
  }
  if (here.watches_for_late && here.parked == 0 && !here.lane->anything_given_up()) {
    here.watch->Disarm();
    here.watches_for_late = false;
  }
  return under_way.outcome;
}

// A socket that is full has hundreds of requests in it that a gofer has not looked at.
Result<void> FiberTransport::Send(Connection& here, CallUnderWay& call) {
  for (;;) {
    const Result<void> sent = here.lane->Send(call, Lane::Wait::kNo);
    if (sent || sent.error() != Errno(EAGAIN)) return sent;
    const sched::HostCallInProgress busy;
    if (Sleep(Soon()) == sched::WakeReason::kInterrupted) return Fail(kKilled);
  }
}

bool FiberTransport::LookFor(Connection& here, const CallUnderWay& call, uint64_t ns) {
  const uint64_t start = host::MonotonicNs();
  for (uint64_t elapsed = 0; elapsed < ns; elapsed = host::MonotonicNs() - start) {
    if (!PollIn(here.lane->socket(), ns - elapsed)) return call.done;
    while (!call.done && here.lane->Take(Lane::Wait::kNo)) {
    }
    if (call.done) return true;
  }
  return false;
}

void FiberTransport::Park(Connection& here, CallUnderWay& call) {
  const sched::HostCallInProgress busy;
  call.waiter = &sched::Fiber::Current();
  call.wake = [](void* fiber) { static_cast<sched::Fiber*>(fiber)->Unpark(); };
  ++here.parked;
  while (!call.done) {
    sched::Deadline deadline;
    if (!here.watch->Arm()) deadline = Soon();
    const sched::WakeReason reason = Sleep(deadline);
    if (deadline) TakeReplies(here);
    if (reason != sched::WakeReason::kInterrupted || call.done) continue;
    GiveUp(here, call);
    break;
  }
  if (--here.parked == 0 && !here.watches_for_late) here.watch->Disarm();
}

void FiberTransport::GiveUp(Connection& here, CallUnderWay& call) {
  if (gofer::IsChange(call.call.op)) unsettled_.fetch_add(1);
  here.lane->GiveUp(call);
  here.watches_for_late = true;
  call.outcome = Fail(kKilled);
}

// On the worker's loop.
void FiberTransport::TakeReplies(Connection& here) {
  while (here.lane->Take(Lane::Wait::kNo)) {
  }
  // Fibers that have their replies count themselves out when they run.
  if (here.parked != 0 || here.lane->anything_given_up()) (void)here.watch->Arm();
}

void FiberTransport::Release(gofer::NodeId node, uint64_t count) {
  if (Connection* here = ConnectionHere()) {
    here->lane->Release(node, count);
    return;
  }
  MutexLock lock(mutex_);
  control_.Release(node, count);
}

void FiberTransport::FlushReleases() {
  if (Connection* here = ConnectionHere()) {
    here->lane->FlushReleases();
    return;
  }
  MutexLock lock(mutex_);
  control_.FlushReleases();
}

}  // namespace skep::fs
