#include "platform/fake/fake_engine.h"

#include <poll.h>
#include <sys/eventfd.h>
#include <sys/syscall.h>
#include <algorithm>
#include <array>
#include <cerrno>

#include "base/check.h"
#include "base/host_call.h"
#include "base/range.h"

namespace skep::platform::fake {
namespace {

constexpr uint64_t kSyscallSize = 2;
constexpr uint64_t kNsPerSecond = 1'000'000'000;

}  // namespace

FakeEngine::FakeEngine(const EngineOptions& options) : options_(options) {
  Result<OwnedFd> bell = host::CallFd(SYS_eventfd2, 0, EFD_CLOEXEC | EFD_NONBLOCK);
  CHECK(bell.has_value());
  bell_ = std::move(*bell);
}

FakeEngine::~FakeEngine() {
  MutexLock lock(mutex_);
  CHECK(contexts_ == nullptr && spaces_ == nullptr);
}

Result<void> FakeEngine::MayFail() {
  if (new_failures_ == 0 || new_skipped_-- > 0) return {};
  --new_failures_;
  return Fail(new_error_);
}

Result<std::unique_ptr<AddressSpace>> FakeEngine::NewAddressSpace() {
  TRY(MayFail());
  return std::make_unique<FakeSpace>(*this);
}

Result<std::unique_ptr<Context>> FakeEngine::NewContext(AddressSpace& space,
                                                        const Registers& registers,
                                                        std::span<const std::byte> xsave) {
  TRY(MayFail());
  CHECK(space.Serves(*this));
  auto& own = static_cast<FakeSpace&>(space);
  if (own.dead_) return Fail(EIO);
  if (!xsave.empty() && xsave.size() != xsave_size()) return Fail(EINVAL);
  auto context = std::make_unique<FakeContext>(*this, own, registers, xsave);
  context->set_script(script_);
  return context;
}

void FakeEngine::Ring() {
  const uint64_t one = 1;
  (void)host::Write(bell_.get(), std::as_bytes(std::span(&one, 1)));
}

void FakeEngine::Kick() {
  kicked_ = true;
  Ring();
}

void FakeEngine::Forget(HostFileId file) {
  MutexLock lock(mutex_);
  forgotten_.push_back(file);
}

FakeEngine::GuestState FakeEngine::StateOf(const FakeContext* context) {
  MutexLock lock(mutex_);
  for (const FakeContext* each = contexts_; each != nullptr; each = each->next_) {
    if (each != context) continue;
    if (each->space_.dead_) return GuestState::kGone;
    const bool idle = each->state_ == FakeContext::State::kRunning && !each->interrupt_;
    return idle ? GuestState::kIdle : GuestState::kStopped;
  }
  return GuestState::kGone;
}

std::optional<Event> FakeEngine::TakeEvent() {
  MutexLock lock(mutex_);
  for (FakeSpace* space = spaces_; space != nullptr; space = space->next_) {
    if (!space->dead_ || space->announced_) continue;
    space->announced_ = true;
    return Died{space, space->why_};
  }
  for (FakeContext* context = contexts_; context != nullptr; context = context->next_) {
    using State = FakeContext::State;
    if (context->space_.dead_ || context->state_ == State::kStopped) continue;
    if (context->interrupt_.exchange(false)) {
      context->stop_ = Interrupted{};
    } else if (context->state_ == State::kDelivered) {
      context->stop_ = *context->delivered_;
      context->delivered_.reset();
    } else {
      continue;
    }
    context->state_ = State::kStopped;
    context->loaded_ = false;
    return Stopped{context};
  }
  return std::nullopt;
}

std::shared_ptr<const FakeEngine::Simulation> FakeEngine::simulation() {
  MutexLock lock(mutex_);
  return simulation_;
}

// Who runs next of those who were resumed, which is not said of it any more.
FakeContext* FakeEngine::NextResumed(const Simulation* simulation) {
  std::vector<FakeContext*> resumed;
  for (FakeContext* context = contexts_; context != nullptr; context = context->next_) {
    if (context->space_.dead_ || context->state_ != FakeContext::State::kResumed) continue;
    resumed.push_back(context);
  }
  if (resumed.empty()) return nullptr;
  FakeContext* next = *std::ranges::min_element(resumed, {}, &FakeContext::turn_);
  if (simulation != nullptr) next = resumed[simulation->choose(resumed.size())];
  next->state_ = FakeContext::State::kRunning;
  return next;
}

std::optional<Event> FakeEngine::RunGuests() {
  const std::shared_ptr<const Simulation> simulated = simulation();
  for (;;) {
    FakeContext* next = nullptr;
    {
      MutexLock lock(mutex_);
      next = NextResumed(simulated.get());
    }
    if (next == nullptr) return std::nullopt;
    if (!next->script_) continue;
    std::optional<Stop> stop = next->script_(*next);
    if (!stop) continue;
    MutexLock lock(mutex_);
    if (next->state_ != FakeContext::State::kRunning) continue;
    next->stop_ = *stop;
    next->state_ = FakeContext::State::kStopped;
    next->loaded_ = false;
    return Stopped{next};
  }
}

// False: the deadline has passed, or a watched descriptor is ready.
bool FakeEngine::Sleep(Deadline deadline, HostPoller& poller) {
  timespec left = {};
  if (deadline) {
    const uint64_t now = host::MonotonicNs();
    if (now >= *deadline) return false;
    const uint64_t ns = *deadline - now;
    left = {static_cast<time_t>(ns / kNsPerSecond), static_cast<long>(ns % kNsPerSecond)};
  }
  std::array<pollfd, 2> fds = {
      {{bell_.get(), POLLIN, 0}, {poller.watching() ? poller.epoll_fd() : -1, POLLIN, 0}}};
  (void)host::Call(SYS_ppoll, fds.data(), fds.size(), deadline ? &left : nullptr, nullptr, 0);
  if (fds[0].revents != 0) {
    uint64_t rings = 0;
    (void)host::Read(bell_.get(), std::as_writable_bytes(std::span(&rings, 1)));
  }
  return fds[1].revents == 0;
}

Event FakeEngine::Wait(Deadline deadline, HostPoller& poller) {
  ++waits_;
  for (;;) {
    if (std::optional<Event> event = TakeEvent()) return *event;
    if (std::optional<Event> event = RunGuests()) return *event;
    if (kicked_.exchange(false)) return Woken{};
    const std::shared_ptr<const Simulation> simulated = simulation();
    if (simulated != nullptr && simulated->idle(deadline.value_or(UINT64_MAX))) return Woken{};
    if (!Sleep(deadline, poller)) return Woken{};
  }
}

FakeSpace::FakeSpace(FakeEngine& engine) : engine_(engine) {
  MutexLock lock(engine_.mutex_);
  next_ = engine_.spaces_;
  engine_.spaces_ = this;
}

FakeSpace::~FakeSpace() {
  MutexLock lock(engine_.mutex_);
  FakeSpace** link = &engine_.spaces_;
  while (*link != this) link = &(*link)->next_;
  *link = next_;
}

void FakeSpace::Die(std::string why) {
  {
    MutexLock lock(engine_.mutex_);
    if (dead_) return;
    why_ = std::move(why);
    dead_ = true;
  }
  engine_.Ring();
}

std::optional<FakeSpace::Mapping> FakeSpace::Find(uint64_t address) const {
  auto next = mappings_.upper_bound(address);
  if (next == mappings_.begin()) return std::nullopt;
  const auto& [start, mapping] = *std::prev(next);
  if (address - start >= mapping.size) return std::nullopt;
  return mapping;
}

void FakeSpace::SplitAt(uint64_t address) {
  auto next = mappings_.upper_bound(address);
  if (next == mappings_.begin()) return;
  auto& [start, mapping] = *std::prev(next);
  const uint64_t head = address - start;
  if (head == 0 || head >= mapping.size) return;
  const Mapping tail = {mapping.size - head, mapping.prot, mapping.file, mapping.offset + head};
  mapping.size = head;
  mappings_.emplace(address, tail);
}

void FakeSpace::Clear(uint64_t start, uint64_t end) {
  SplitAt(start);
  SplitAt(end);
  mappings_.erase(mappings_.lower_bound(start), mappings_.lower_bound(end));
}

int FakeSpace::Protect(uint64_t start, uint64_t end, uint8_t prot) {
  SplitAt(start);
  SplitAt(end);
  uint64_t covered = start;
  for (auto it = mappings_.lower_bound(start); it != mappings_.end() && it->first < end; ++it) {
    if (it->first != covered) return ENOMEM;  // a hole, as mprotect(2)
    covered += it->second.size;
    it->second.prot = prot;
  }
  return covered == end ? 0 : ENOMEM;
}

int FakeSpace::ApplyOne(const MapOp& op) {
  if (!IsPageAligned(op.start) || !IsPageAligned(op.size) || op.size == 0 ||
      op.size > kGuestAddressEnd || op.start > kGuestAddressEnd - op.size) {
    return EINVAL;
  }
  const uint64_t end = op.start + op.size;
  switch (op.kind) {
    case MapOp::Kind::kMap:
      if (engine_.options_.files != nullptr) {
        if (auto fd = engine_.options_.files->DescriptorOf(op.file); !fd) return fd.error().code();
      }
      Clear(op.start, end);
      mappings_.emplace(op.start, Mapping{op.size, op.prot, op.file, op.offset});
      return 0;
    case MapOp::Kind::kUnmap:
      Clear(op.start, end);
      return 0;
    case MapOp::Kind::kProtect:
      return Protect(op.start, end, op.prot);
  }
  return EINVAL;
}

AddressSpace::Applied FakeSpace::Apply(std::span<const MapOp> ops) {
  MutexLock lock(engine_.mutex_);
  ++apply_calls_;
  size_t done = 0;
  for (const MapOp& op : ops) {
    if (dead_) return {done, EIO};
    if (fail_error_ != 0 && fail_after_-- == 0) return {done, std::exchange(fail_error_, 0)};
    if (const int error = ApplyOne(op); error != 0) return {done, error};
    ++done;
    ++applied_ops_;
    if (op.populate) populated_ += op.size;
  }
  return {done, 0};
}

Result<void> FakeSpace::Reset() {
  MutexLock lock(engine_.mutex_);
  if (dead_) return Fail(EIO);
  mappings_.clear();
  return {};
}

FakeContext::FakeContext(FakeEngine& engine, FakeSpace& space, const Registers& registers,
                         std::span<const std::byte> xsave)
    : engine_(&engine),
      space_(space),
      number_(++engine.contexts_made_),
      registers_(registers),
      xsave_(engine.xsave_size()) {
  std::copy(xsave.begin(), xsave.end(), xsave_.begin());
  Link(engine);
}

FakeContext::~FakeContext() { Unlink(); }

void FakeContext::Link(FakeEngine& engine) {
  MutexLock lock(engine.mutex_);
  next_ = engine.contexts_;
  engine.contexts_ = this;
  engine_ = &engine;
}

void FakeContext::Unlink() {
  FakeEngine& engine = *engine_;
  MutexLock lock(engine.mutex_);
  FakeContext** link = &engine.contexts_;
  while (*link != this) link = &(*link)->next_;
  *link = next_;
}

Stop FakeContext::Syscall(uint64_t number, std::array<uint64_t, 6> args) {
  registers_.rax = number;
  registers_.rdi = args[0];
  registers_.rsi = args[1];
  registers_.rdx = args[2];
  registers_.r10 = args[3];
  registers_.r8 = args[4];
  registers_.r9 = args[5];
  registers_.rip += kSyscallSize;
  registers_.rcx = registers_.rip;
  registers_.r11 = registers_.rflags;
  return SyscallStop{number, args, registers_.rip, false};
}

bool FakeContext::TryDeliver(const Stop& stop) {
  FakeEngine& engine = *engine_;
  {
    MutexLock lock(engine.mutex_);
    if (state_ != State::kRunning && state_ != State::kResumed) return false;
    delivered_ = stop;
    state_ = State::kDelivered;
  }
  engine.Ring();
  return true;
}

Result<void> FakeContext::Load(LoadXsave) {
  if (space_.dead_) return Fail(EIO);
  CHECK(state_ == State::kStopped);
  loaded_ = true;
  return {};
}

Registers& FakeContext::registers() {
  CHECK(loaded_);
  return registers_;
}

void FakeContext::Resume() {
  FakeEngine& engine = *engine_;
  MutexLock lock(engine.mutex_);
  if (space_.dead_) {
    space_.announced_ = false;
    space_.engine_.Ring();
    return;
  }
  CHECK(state_ == State::kStopped);
  loaded_ = false;
  ++resumes_;
  turn_ = ++engine.turns_;
  state_ = State::kResumed;
}

// While it is moved, the engine that is rung may be the old one: the new one sees it when it runs.
void FakeContext::Interrupt() {
  interrupt_ = true;
  engine_.load()->Ring();
}

Result<void> FakeContext::MoveTo(Engine& engine) {
  auto& to = static_cast<FakeEngine&>(engine);
  if (&to == engine_) return {};
  if (!to.shares_spaces()) return Fail(ENOTSUP);
  Unlink();
  Link(to);
  return {};
}

}  // namespace skep::platform::fake
