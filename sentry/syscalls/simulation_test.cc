// A simulation: processes that do random things to each other under a random schedule, with a clock
// that jumps when all of them sleep. Everything random comes from one seed, which a failure prints.
//
//   SKEP_SEED=N        one run, with this seed
//   SKEP_SECONDS=N     runs with new seeds for so long (default: a few runs)
//
// After each step no lock has two owners and no more tasks exist than were made; in the end every
// process was waited for with the status that it ended with, every token is where it was put, and
// nothing is left. A wake-up that is lost shows as a run that does not end.
#include <sys/eventfd.h>
#include <sys/wait.h>
#include <cstdlib>
#include <map>
#include <random>

#include "sentry/syscalls/abi.h"
#include "sentry/syscalls/test_kernel.h"

namespace skep::syscalls {
namespace {

using FakeContext = TestKernel::FakeContext;
using Args = std::array<uint64_t, 6>;

constexpr uint64_t kHandler = TestKernel::kProgram + 0x800;
constexpr uint64_t kRestorer = TestKernel::kProgram + 0x900;
constexpr uint64_t kSaRestorer = 0x04000000;
constexpr int kMaxActors = 24;  // at one time
constexpr int kMaxForks = 100;  // in one run

class Simulation {
 public:
  explicit Simulation(uint64_t seed) : seed_(seed), random_(seed) {}

  void Run() {
    SetUp();
    kernel_.engine().Simulate([this](size_t n) { return Below(n); },
                              [this](uint64_t deadline) { return Idle(deadline); });
    kernel_.engine().SetScript([this](FakeContext& context) { return Step(context); });
    root_ = &Begin(init_.context(), 0);
    init_.context().set_script([this](FakeContext& context) { return Step(context); });
    init_.Begin(SYS_getpid);
    ASSERT_TRUE(TestKernel::WaitFor([&] { return done_.load(); }))
        << "seed " << seed_ << ": a wake-up was lost; " << steps_ << " steps, " << actors_.size()
        << " actors";
    kernel_.engine().Simulate({}, {});
    Check();
  }

 private:
  // One process. What it has to do is decided step by step.
  struct Actor {
    int left = 0;        // actions before it ends
    int status = 0;      // what it will exit with
    int children = 0;    // forked and not waited for
    bool holds = false;  // the lock
    int holding = 0;     // actions before it lets go
    uint64_t number = 0, rip = 0;
    Args args{};
    bool calling = false;
  };

  size_t Below(size_t n) { return static_cast<size_t>(random_() % n); }

  void SetUp() {
    const uint64_t fds = init_.Allocate(64);
    ASSERT_EQ(init_.Run(SYS_pipe2, {fds, 0}), 0);
    const auto pipe = init_.Get<std::array<int32_t, 2>>(fds);
    reader_ = static_cast<uint64_t>(pipe[0]);
    writer_ = static_cast<uint64_t>(pipe[1]);
    lock_ = static_cast<uint64_t>(init_.Run(SYS_eventfd2, {1, EFD_SEMAPHORE}));
    memory_ = init_.Allocate(3 * kPageSize);
    init_.Put(memory_, timespec{0, 3'000'000});
    init_.Put(memory_ + 64, uint64_t{1});
    init_.Put(memory_ + 128, AbiSigaction{kHandler, SA_RESTART | kSaRestorer, kRestorer, 0});
    ASSERT_EQ(init_.Run(SYS_rt_sigaction, {SIGUSR1, memory_ + 128, 0, 8}), 0);
  }

  Actor& Begin(FakeContext& context, int status) {
    Actor& actor = actors_[&context];
    actor = Actor{};
    actor.left = 10 + static_cast<int>(Below(40));
    actor.status = status;
    return actor;
  }

  // Nobody runs: the clock goes to the next deadline.
  bool Idle(uint64_t deadline) {
    if (deadline == UINT64_MAX || done_) return false;
    sched::Clock& clock = kernel_.kernel().scheduler.clock();
    const uint64_t now = host::MonotonicNs();
    if (deadline > now) clock.ContinueFrom(clock.MonotonicNs() + (deadline - now));
    return true;
  }

  // The guest's next stop, on the worker's thread.
  std::optional<platform::Stop> Step(FakeContext& context) {
    ++steps_;
    auto found = actors_.find(&context);
    if (found == actors_.end() || context.resumes() <= 1) {
      Begin(context, static_cast<int>(Below(100)));  // a child that was just forked
      found = actors_.find(&context);
    }
    Actor& actor = found->second;
    platform::Registers& guest = context.guest();
    if (guest.rip == kHandler) {
      guest.rsp += 8;
      guest.rip = kRestorer;
      return context.Syscall(SYS_rt_sigreturn);
    }
    if (actor.calling && guest.rip == actor.rip) {  // ERESTART*: it stands at the call again
      return context.Syscall(guest.rax, actor.args);
    }
    if (actor.calling) Ended(actor, static_cast<int64_t>(guest.rax));
    actor.calling = false;
    if (&actor == root_ && done_) return std::nullopt;
    return Next(context, actor);
  }

  // What a call has answered.
  void Ended(Actor& actor, int64_t result) {
    switch (actor.number) {
      case SYS_fork:
        if (result > 0) {
          ++actor.children;
        } else {
          --alive_;
        }
        break;
      case SYS_wait4:
        if (result > 0) --actor.children;
        if (result == -ECHILD) actor.children = 0;
        if (result == -ECHILD && &actor == root_) drained_ = true;
        break;
      case SYS_read:
        if (actor.args[0] == lock_ && result == 8) Acquire(actor);
        if (actor.args[0] == reader_) {
          --reading_;
          if (result > 0) ++taken_;
        }
        break;
      case SYS_write:
        if (actor.args[0] == writer_ && result == 1) ++put_;
        break;
      default:
        break;
    }
  }
  void Acquire(Actor& actor) {
    EXPECT_EQ(owner_, nullptr) << "seed " << seed_ << ": two owners";
    owner_ = &actor;
    actor.holds = true;
    actor.holding = static_cast<int>(Below(4));
  }

  std::optional<platform::Stop> Call(FakeContext& context, Actor& actor, uint64_t number,
                                     Args args = {}) {
    actor.number = number;
    actor.args = args;
    actor.rip = context.guest().rip;
    actor.calling = true;
    return context.Syscall(number, args);
  }

  std::optional<platform::Stop> Next(FakeContext& context, Actor& actor) {
    if (actor.holds && actor.holding-- == 0) {
      actor.holds = false;
      owner_ = nullptr;
      return Call(context, actor, SYS_write, {lock_, memory_ + 64, 8});
    }
    if (actor.left-- > 0 || actor.holds) return Random(context, actor);
    const bool waits = &actor == root_ ? !drained_ : actor.children > 0;
    if (waits) return Call(context, actor, SYS_wait4, {~uint64_t{0}, 0, 0, 0});
    if (&actor == root_) {
      done_ = true;
      return std::nullopt;
    }
    const auto status = static_cast<uint64_t>(actor.status);
    actors_.erase(&context);
    --alive_;
    return context.Syscall(SYS_exit_group, {status});
  }

  std::optional<platform::Stop> Random(FakeContext& context, Actor& actor) {
    switch (Below(9)) {
      case 0:
        if (alive_ >= kMaxActors || forks_ >= kMaxForks || actor.holds) break;
        ++alive_;
        ++forks_;
        return Call(context, actor, SYS_fork);
      case 1:
        if (actor.children == 0) break;
        return Call(context, actor, SYS_wait4,
                    {~uint64_t{0}, 0, actor.holds || Below(2) == 0 ? uint64_t{WNOHANG} : 0, 0});
      case 2:
        return Call(context, actor, SYS_nanosleep, {memory_, 0});
      case 3:
        return Call(context, actor, SYS_write, {writer_, memory_, 1});
      case 4:
        // Only as many readers as there are bytes, so that nobody waits for ever.
        if (put_ - taken_ - reading_ <= 0) break;
        ++reading_;
        return Call(context, actor, SYS_read, {reader_, memory_ + 256, 1});
      case 5:
        if (actor.holds) break;
        return Call(context, actor, SYS_read, {lock_, memory_ + 512, 8});
      case 6:
        return Call(context, actor, SYS_kill, {0, SIGUSR1});
      case 7:
        return Call(context, actor, SYS_sched_yield);
      default:
        break;
    }
    return Call(context, actor, SYS_getpid);
  }

  void Check() {
    EXPECT_EQ(owner_, nullptr) << "seed " << seed_;
    EXPECT_EQ(alive_, 1) << "seed " << seed_;
    EXPECT_EQ(root_->children, 0) << "seed " << seed_;
    init_.Renew();
    init_.context().set_script({});
    init_.Begin(SYS_getpid);
    const uint64_t out = init_.Allocate(8);
    EXPECT_EQ(init_.Run(SYS_wait4, {~uint64_t{0}, 0, WNOHANG, 0}), -ECHILD) << "seed " << seed_;
    ASSERT_EQ(init_.Run(SYS_ioctl, {reader_, 0x541b /* FIONREAD */, out}), 0);
    EXPECT_EQ(init_.Get<int32_t>(out), put_ - taken_) << "seed " << seed_ << ": bytes were lost";
    ASSERT_EQ(init_.Run(SYS_read, {lock_, out, 8}), 8) << "seed " << seed_;
    kernel::TasksLock lock(kernel_.kernel());
    EXPECT_EQ(kernel_.kernel().task_count(), 1U) << "seed " << seed_;
    EXPECT_EQ(kernel_.kernel().pid_namespace->size(), 1U) << "seed " << seed_;
  }

  const uint64_t seed_;
  std::mt19937_64 random_;
  TestKernel kernel_;
  TestKernel::Guest init_ = kernel_.init();
  std::map<const FakeContext*, Actor> actors_;
  Actor* root_ = nullptr;
  const Actor* owner_ = nullptr;
  int alive_ = 1, forks_ = 0;
  int put_ = 0, taken_ = 0, reading_ = 0;
  uint64_t reader_ = 0, writer_ = 0, lock_ = 0, memory_ = 0;
  uint64_t steps_ = 0;
  bool drained_ = false;  // root_ has no children any more
  std::atomic<bool> done_{false};
};

uint64_t FromEnvironment(const char* name, uint64_t otherwise) {
  const char* text = getenv(name);
  return text == nullptr ? otherwise : strtoull(text, nullptr, 0);
}

TEST(Simulation, RandomProcessesUnderARandomSchedule) {
  if (const uint64_t seed = FromEnvironment("SKEP_SEED", 0); seed != 0) {
    Simulation(seed).Run();
    return;
  }
  const uint64_t seconds = FromEnvironment("SKEP_SECONDS", 0);
  const uint64_t end = host::MonotonicNs() + seconds * 1'000'000'000;
  std::random_device entropy;
  for (int run = 0; run < 8 || host::MonotonicNs() < end; ++run) {
    const uint64_t seed = uint64_t{entropy()} << 32 | entropy() | 1;
    Simulation simulation(seed);
    simulation.Run();
    if (HasFailure()) {
      printf("SKEP_SEED=%#lx repeats it\n", seed);
      return;
    }
  }
}

}  // namespace
}  // namespace skep::syscalls
