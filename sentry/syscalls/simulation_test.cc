// A simulation: processes that do random things to each other and to files under a random schedule,
// with a clock that jumps when all of them sleep and a gofer that answers late and in any order;
// some of them are killed while they wait for it. Everything random comes from one seed, which a
// failure prints.
//
//   SKEP_SEED=N        one run, with this seed
//   SKEP_SECONDS=N     runs with new seeds for so long (default: a few runs)
//
// After each step no lock has two owners and no call has an answer that it cannot have; in the end
// every process was waited for, every token is where it was put, every handle of the gofer was
// given back, what it donated is closed, and nothing is left. A wake-up that is lost shows as a run
// that does not end.
#include <fcntl.h>
#include <sys/eventfd.h>
#include <sys/wait.h>
#include <cstdlib>
#include <map>
#include <random>

#include "sentry/fs/gofer/test_simulated_gofer.h"
#include "sentry/syscalls/abi.h"
#include "sentry/syscalls/test_kernel.h"
#include "sentry/vfs/name_ops.h"

namespace skep::syscalls {
namespace {

using FakeContext = TestKernel::FakeContext;
using Args = std::array<uint64_t, 6>;

constexpr uint64_t kHandler = TestKernel::kProgram + 0x800;
constexpr uint64_t kRestorer = TestKernel::kProgram + 0x900;
constexpr uint64_t kSaRestorer = 0x04000000;
constexpr int kMaxActors = 24;  // at one time
constexpr int kMaxForks = 100;  // in one run
constexpr size_t kNames = 6;    // files on the gofer
constexpr size_t kNameSize = 16;
constexpr uint64_t kIsVictim = 1;  // in rbx, which a child inherits

// What a simulation has done, for the test that all of it happens.
struct Tally {
  uint64_t killed = 0;    // victims
  uint64_t answered = 0;  // by the gofer
  bool gave_up = false;   // a change whose asker was killed was heard of later
};

class Simulation {
 public:
  explicit Simulation(uint64_t seed) : seed_(seed), random_(seed) {}

  void Run() {
    SetUp();
    kernel_.engine().Simulate(std::make_shared<const TestKernel::FakeEngine::Simulation>(
        [this](size_t n) { return Below(n); },
        [this](uint64_t deadline) { return Idle(deadline); }));
    kernel_.engine().SetScript([this](FakeContext& context) { return Step(context); });
    root_ = &Begin(init_.context());
    init_.context().set_script([this](FakeContext& context) { return Step(context); });
    init_.Begin(SYS_getpid);
    ASSERT_TRUE(TestKernel::WaitFor([&] { return done_.load(); }))
        << "seed " << seed_ << ": a wake-up was lost; " << steps_ << " steps, " << actors_.size()
        << " actors, " << gofer_.answered() << " answers";
    kernel_.engine().Simulate(nullptr);
    Check();
    tally_.answered = gofer_.answered();
    tally_.gave_up = gofer_.was_given_up();
    RemoveGofer();
  }
  const Tally& tally() const { return tally_; }

 private:
  // One process. What it has to do is decided step by step.
  struct Actor {
    int left = 0;                 // actions before it ends
    bool is_victim = false;       // somebody may kill it: it uses files only
    int children = 0;             // forked and not waited for
    std::vector<int> victims;     // of those
    std::vector<uint64_t> files;  // open
    bool holds = false;           // the lock
    int holding = 0;              // actions before it lets go
    bool forks_victim = false;
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
    for (size_t i = 0; i < kNames; ++i) {
      const std::string name = "/gofer/" + std::to_string(i);
      init_.PutBytes(NameAt(i), std::as_bytes(std::span(name.c_str(), name.size() + 1)));
    }
    MountGofer();
  }
  uint64_t NameAt(size_t i) const { return memory_ + kPageSize + i * kNameSize; }
  uint64_t AnyName() { return NameAt(Below(kNames)); }

  void MountGofer() {
    Ref<fs::GoferFs> tree;
    {
      const arena::ArenaHeapScope arena;
      tree = gofer_.Mount();
    }
    kernel_.OnFiber([&] {
      kernel::Task& task = kernel_.init().task();
      vfs::NameOps walker(task, *task.fs);
      ASSERT_TRUE(walker.Mkdir("/gofer", 0755));
      const vfs::Path point = walker.Resolve("/gofer", {}).value();
      ASSERT_TRUE(task.fs->mounts()->Add(point, std::move(tree), 0));
    });
  }
  void RemoveGofer() {
    kernel_.OnFiber([&] {
      kernel::Task& task = kernel_.init().task();
      vfs::NameOps walker(task, *task.fs);
      const vfs::Path mounted = walker.Resolve("/gofer", {}).value();
      ASSERT_TRUE(task.fs->mounts()->Remove(mounted, 0)) << "somebody uses it";
    });
    kernel_.OnFiber([&] { gofer_.Remove(); });
    gofer_.Check();
  }

  Actor& Begin(FakeContext& context) {
    Actor& actor = actors_[context.number()];
    actor = Actor{};
    actor.left = 10 + static_cast<int>(Below(40));
    actor.is_victim = context.guest().rbx == kIsVictim;
    context.guest().rbx = 0;
    return actor;
  }

  // Nobody runs: the gofer answers something, or the clock goes to the next deadline.
  bool Idle(uint64_t deadline) {
    const size_t asked = gofer_.Collect();
    if (asked != 0 && (deadline == UINT64_MAX || Below(3) != 0)) {
      gofer_.Answer(Below(asked));
      return true;
    }
    if (deadline == UINT64_MAX || done_) return false;
    sched::Clock& clock = kernel_.kernel().scheduler.clock();
    const uint64_t now = host::MonotonicNs();
    if (deadline > now) clock.ContinueFrom(clock.MonotonicNs() + (deadline - now));
    return true;
  }

  // The guest's next stop, on the worker's thread.
  std::optional<platform::Stop> Step(FakeContext& context) {
    ++steps_;
    if (const size_t asked = gofer_.Collect(); asked != 0 && Below(4) == 0) {
      gofer_.Answer(Below(asked));
    }
    auto found = actors_.find(context.number());
    Actor& actor = found != actors_.end() ? found->second : Begin(context);  // just forked
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
        EXPECT_GT(result, 0) << "seed " << seed_;
        ++actor.children;
        if (actor.forks_victim) actor.victims.push_back(static_cast<int>(result));
        break;
      case SYS_kill:
        if (actor.args[1] == SIGKILL && result == 0) ++tally_.killed;
        break;
      case SYS_open:
        if (result >= 0) actor.files.push_back(static_cast<uint64_t>(result));
        CheckFileCall(actor, result);
        break;
      case SYS_stat:
      case SYS_mkdir:
      case SYS_rmdir:
      case SYS_rename:
      case SYS_unlink:
      case SYS_truncate:
        CheckFileCall(actor, result);
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
  // The gofer does what it is asked: other errors say that an answer was another call's.
  void CheckFileCall(const Actor& actor, int64_t result) {
    switch (-result) {
      case ENOENT:
      case EEXIST:
      case ENOTDIR:
      case EISDIR:
      case ENOTEMPTY:
      case ESTALE:
        break;
      default:
        EXPECT_GE(result, 0) << "seed " << seed_ << ": call " << actor.number;
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
    if (!actor.files.empty()) return Close(context, actor);
    const bool waits = &actor == root_ ? !drained_ : actor.children > 0;
    if (waits) return Call(context, actor, SYS_wait4, {~uint64_t{0}, 0, 0, 0});
    if (&actor == root_) {
      // What was asked by those who were killed.
      if (const size_t asked = gofer_.Collect(); asked != 0) gofer_.Answer(Below(asked));
      if (gofer_.Collect() != 0 || !gofer_.settled()) return Call(context, actor, SYS_getpid);
      done_ = true;
      return std::nullopt;
    }
    if (!actor.is_victim) --alive_;
    actors_.erase(context.number());
    return context.Syscall(SYS_exit_group, {0});
  }
  std::optional<platform::Stop> Close(FakeContext& context, Actor& actor) {
    const uint64_t file = actor.files.back();
    actor.files.pop_back();
    return Call(context, actor, SYS_close, {file});
  }

  std::optional<platform::Stop> Random(FakeContext& context, Actor& actor) {
    if (actor.is_victim) return UseFiles(context, actor);
    switch (Below(11)) {
      case 0:
        return Fork(context, actor);
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
      case 8:
        if (actor.victims.empty()) break;
        return Kill(context, actor);
      case 9:
        if (actor.holds) break;
        return UseFiles(context, actor);
      default:
        break;
    }
    return Call(context, actor, SYS_getpid);
  }

  std::optional<platform::Stop> Fork(FakeContext& context, Actor& actor) {
    if (alive_ >= kMaxActors || forks_ >= kMaxForks || actor.holds) {
      return Call(context, actor, SYS_getpid);
    }
    ++forks_;
    actor.forks_victim = Below(2) == 0;
    if (!actor.forks_victim) ++alive_;
    context.guest().rbx = actor.forks_victim ? kIsVictim : 0;
    return Call(context, actor, SYS_fork);
  }
  std::optional<platform::Stop> Kill(FakeContext& context, Actor& actor) {
    const auto victim = static_cast<uint64_t>(actor.victims.back());
    actor.victims.pop_back();
    return Call(context, actor, SYS_kill, {victim, SIGKILL});
  }
  std::optional<platform::Stop> UseFiles(FakeContext& context, Actor& actor) {
    const uint64_t out = memory_ + 2 * kPageSize;
    switch (Below(9)) {
      case 0:
      case 1:
        if (actor.files.size() >= 3) break;
        return Call(context, actor, SYS_open, {AnyName(), O_RDWR | (Below(2) * O_CREAT), 0644});
      case 2:
        return Call(context, actor, SYS_stat, {AnyName(), out});
      case 3:
        return Call(context, actor, SYS_mkdir, {AnyName(), 0755});
      case 4:
        return Call(context, actor, SYS_rmdir, {AnyName()});
      case 5:
        return Call(context, actor, SYS_rename, {AnyName(), AnyName()});
      case 6:
        return Call(context, actor, SYS_unlink, {AnyName()});
      case 7:
        return Call(context, actor, SYS_truncate, {AnyName(), Below(9000)});
      default:
        break;
    }
    if (!actor.files.empty()) return Close(context, actor);
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
  fs::SimulatedGofer gofer_{kernel_.kernel().scheduler};
  TestKernel::Guest init_ = kernel_.init();
  std::map<uint64_t, Actor> actors_;  // by the number of their context; also those killed
  Actor* root_ = nullptr;
  const Actor* owner_ = nullptr;
  int alive_ = 1, forks_ = 0;
  int put_ = 0, taken_ = 0, reading_ = 0;
  uint64_t reader_ = 0, writer_ = 0, lock_ = 0, memory_ = 0;
  uint64_t steps_ = 0;
  Tally tally_;
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
  Tally total;
  for (int run = 0; run < 8 || host::MonotonicNs() < end; ++run) {
    const uint64_t seed = uint64_t{entropy()} << 32 | entropy() | 1;
    Simulation simulation(seed);
    simulation.Run();
    if (HasFailure()) {
      printf("SKEP_SEED=%#lx repeats it\n", seed);
      return;
    }
    total.killed += simulation.tally().killed;
    total.answered += simulation.tally().answered;
    total.gave_up |= simulation.tally().gave_up;
  }
  // It is a simulation of what it says.
  EXPECT_GT(total.killed, 0U);
  EXPECT_GT(total.answered, 100U);
  EXPECT_TRUE(total.gave_up) << "no change was given up";
}

}  // namespace
}  // namespace skep::syscalls
