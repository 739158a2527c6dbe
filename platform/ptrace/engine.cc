#include "platform/ptrace/engine.h"

#include <fmt/format.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <csignal>
#include <cstring>

#include "base/check.h"
#include "base/host_call.h"
#include "platform/ptrace/address_space.h"
#include "platform/ptrace/calls.h"
#include "platform/ptrace/context.h"
#include "platform/ptrace/engine_internal.h"
#include "platform/ptrace/registers.h"

namespace skep::platform::ptrace {
namespace {

constexpr int kEventStop = 128;  // PTRACE_EVENT_STOP
constexpr uint32_t kMaxWaitsForOne = 64;
// All stops are fetched at least so often: the host names the same ones first each time.
constexpr uint64_t kReapEveryNs = 100'000;

// The engine of a host thread. Not kernel state: it names the thread that calls.
thread_local RequestQueue* queue_of_thread = nullptr;  // tidy: allow(thread_local) see above

std::string WhyDied(int status) {
  if (WIFSIGNALED(status)) {
    const int signo = WTERMSIG(status);
    return fmt::format("the stub process was killed by signal {}{}", signo,
                       signo == SIGKILL ? " (by Kill, or the host ran out of memory)" : "");
  }
  return fmt::format("the stub process ended unasked, wait status {:#x}", status);
}

// Ptrace stops need not be announced to us by SIGCHLD: we wait for them.
HostResult<void> QuietChildren() {
  struct sigaction action = {};
  action.sa_handler = SIG_DFL;
  action.sa_flags = SA_NOCLDSTOP;
  if (sigaction(SIGCHLD, &action, nullptr) != 0) return HostFail("sigaction of SIGCHLD");
  return {};
}

}  // namespace

// Not inlined: the address of a thread-local must not be kept across a fiber's suspension.
[[gnu::noinline]] RequestQueue* QueueOfThread() { return queue_of_thread; }

HostResult<std::unique_ptr<Engine>> PtraceEngine::Make(const EngineOptions& options) {
  std::unique_ptr<PtraceEngine> engine(new PtraceEngine(options));
  TRY(engine->Start());
  return engine;
}

HostResult<void> PtraceEngine::Start() {
  CHECK(queue_of_thread == nullptr);
  worker_ = pthread_self();
  TRY(QuietChildren());
  TRY(memory_.Create());
  TRY(files_.Create());
  Result<host::SocketPair> sockets = host::MakeSocketPair(SOCK_DGRAM);
  if (!sockets) return HostFail("socketpair", sockets.error().code());
  socket_ = std::move(sockets->a);
  template_ = TRY(SpawnTemplate(memory_, sockets->b.get(), socket_.get(), options_));
  tracees_[template_] = {};
  std::vector<std::byte> area(kXsaveMax);
  Result<size_t> size = GetXsave(template_, area);
  if (!size) return HostFail("PTRACE_GETREGSET of NT_X86_XSTATE", size.error().code());
  xsave_size_ = *size;
  TRY(waker_.Start());
  TRY(poll_thread_.Start());
  queue_of_thread = &requests_;
  return {};
}

PtraceEngine::~PtraceEngine() {
  CHECK(contexts_ == 0 && spaces_ == 0);
  if (queue_of_thread == &requests_) queue_of_thread = nullptr;
  if (template_ == 0) return;
  (void)host::Kill(template_, SIGKILL);
  while (!tracees_.empty() && ReapOne(true)) {
  }
}

void PtraceEngine::Forget(HostFileId file) {
  if (files_.Forget(file)) waker_.Wake(kForget);
}

void PtraceEngine::PushReady(PtraceContext& context) { stops_.Push(context); }

void PtraceEngine::AnnounceAgain(PtraceSpace& space) { stops_.Announce(space); }

void PtraceEngine::NoteRunning(PtraceContext& context) { stops_.Ran(context, context.tid()); }

void PtraceEngine::NoteNotRunning(PtraceContext& context) { stops_.Stopped(context); }

void PtraceEngine::ExpectDeath() {
  deaths_expected_.fetch_add(1);
  waker_.Wake(kDeath);
}

// The host looks through all our children when we wait for any; not if we wait for one. The others
// can only die, which is noticed a little later then.
pid_t PtraceEngine::WhomToWaitFor() {
  PtraceContext* const only = stops_.OnlyRunning();
  if (only == nullptr || deaths_expected_.load() != 0 || ++waits_for_one_ >= kMaxWaitsForOne) {
    waits_for_one_ = 0;
    return -1;
  }
  return only->tid();
}

void PtraceEngine::MarkDead(PtraceSpace& space, int status) {
  if (!space.MarkDead(status)) return;
  if (space.ForgetKill()) deaths_expected_.fetch_sub(1);
  // In case only one of its threads has ended: kill the rest.
  (void)host::Kill(space.pid(), SIGKILL);
  AnnounceAgain(space);
}

Event PtraceEngine::Died(PtraceSpace& space) {
  return platform::Died{&space, WhyDied(space.death_status())};
}

std::optional<Event> PtraceEngine::NextStop() {
  const auto next = stops_.Pop();
  if (next.stopped != nullptr) return platform::Stopped{next.stopped};
  if (next.dead == nullptr) return std::nullopt;
  return Died(*next.dead);
}

void PtraceEngine::HandleExit(pid_t tid, int status) {
  const auto found = tracees_.find(tid);
  if (found == tracees_.end()) {
    lost_tracee_ = tid;
    return;
  }
  const Tracee tracee = found->second;
  tracees_.erase(found);
  if (tid == template_) template_ = 0;
  if (tracee.context != nullptr) {
    NoteNotRunning(*tracee.context);
    MarkDead(tracee.context->space(), status);
  }
  if (tracee.space != nullptr) MarkDead(*tracee.space, status);
}

void PtraceEngine::HandleStatus(pid_t tid, int status) {
  if (!WIFSTOPPED(status)) return HandleExit(tid, status);
  const auto found = tracees_.find(tid);
  PtraceContext* const context = found == tracees_.end() ? nullptr : found->second.context;
  if (context != nullptr) {
    if (context->OnHostStop(status)) PushReady(*context);
  } else if (status >> 16 == kEventStop) {
    new_tracee_ = tid;
  } else if (found != tracees_.end() && found->second.is_ending) {
    (void)Continue(tid);  // on its way to exit: no signal is for it
  }
}

// False: nothing changed (or, if it may block: a reason to wake up, or there are no children).
bool PtraceEngine::ReapOne(bool block) {
  int status = 0;
  const Result<pid_t> tid =
      host::WaitPid(-1, &status, __WALL | __WNOTHREAD | (block ? 0 : WNOHANG));
  if (!tid || *tid == 0) return false;
  HandleStatus(*tid, status);
  return true;
}

// The host looks for stops in an order of its own, so that two guests which stop all the time would
// hide the stop of a third for ever: what there is goes into our queue before any of it is served.
void PtraceEngine::ReapAll(uint64_t now) {
  while (ReapOne(false)) {
  }
  reaped_at_ = now;
}

// A descriptor that cannot be closed now (the template is gone) dies with the stubs.
void PtraceEngine::CloseForgotten() {
  while (template_ != 0) {
    size_t count = 0;
    while (count < kMaxBatch) {
      const std::optional<int> fd = files_.TakeForgotten();
      if (!fd) break;
      memory_.commands(0).calls[count++] = {SYS_close, {static_cast<uint64_t>(*fd)}};
    }
    if (count == 0) return;
    (void)RunBatch(template_, 0, count);
  }
}

// Sees to what is the engine's own; what is left is for the worker.
uint32_t PtraceEngine::TakeReasons() {
  if (waker_.reasons() == 0) return 0;
  requests_.Serve();
  if (waker_.Take(kForget) != 0) CloseForgotten();
  if (waker_.Take(kTimer) != 0) stops_.OnTimer(waker_, host::MonotonicNs());
  waker_.Take(kAnswer | kDeath);
  return waker_.reasons() & (kKicked | kPolled);
}

Event PtraceEngine::Wait(Deadline deadline, HostPoller& poller) {
  CHECK(pthread_self() == worker_);
  for (;;) {
    uint32_t reasons = TakeReasons();
    if (stops_.empty() && (reasons != 0 || deadline || stops_.SeveralRun())) {
      const uint64_t now = host::MonotonicNs();
      const bool passed = deadline && now >= *deadline;
      if (reasons != 0 || passed || (stops_.SeveralRun() && now - reaped_at_ > kReapEveryNs)) {
        ReapAll(now);
        reasons = waker_.reasons() & (kKicked | kPolled);
      }
    }
    const bool due = reasons != 0 || HasPassed(deadline);
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
    stops_.SetTimer(waker_, deadline, host::MonotonicNs);
    if (poller.watching()) poll_thread_.Arm(poller.epoll_fd());
    int status = 0;
    const pid_t whom = WhomToWaitFor();
    const Result<int64_t> tid =
        waker_.CallUnlessWoken(SYS_wait4, static_cast<uint64_t>(whom),
                               reinterpret_cast<uint64_t>(&status), __WALL | __WNOTHREAD);
    if (tid) {
      HandleStatus(static_cast<pid_t>(*tid), status);
    } else if (tid.error() == Errno(ECHILD) && whom == -1) {
      waker_.SleepWhile(0);
    }
  }
}

}  // namespace skep::platform::ptrace
