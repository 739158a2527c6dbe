// The proof of the arena: fibers that sleep in a wait queue, on a deadline, on a SleepLock and
// behind a HostWatch are frozen into a file, and run to the right end in another process.
#include <fcntl.h>
#include <spawn.h>
#include <sys/epoll.h>
#include <sys/wait.h>
#include <map>
#include <string>

#include "sentry/sched/host_poller.h"
#include "sentry/sched/sched_test_util.h"
#include "sentry/sched/sleep_lock.h"
#include "sentry/sched/timer.h"
#include "sentry/sched/wait_queue.h"

namespace skep::sched {
namespace {

constexpr uint64_t kHour = 3'600'000 * kMs;

TEST(Quiesce, UnderLoad) {
  TestScheduler s(2);
  s.Start();
  std::atomic<bool> over{false}, hold{false};
  std::atomic<uint64_t> steps{0};
  WaitQueue gate;
  std::vector<Ref<Fiber>> fibers;
  // Stand-ins for tasks: they run guests, sleep, offload, and stop when they are asked to.
  for (int i = 0; i < 20; ++i) {
    fibers.push_back(s.Spawn(i % 2, [&, i] {
      FakeSpace space(s.engine(i % 2));
      TestGuest guest(s.engine(i % 2), space,
                      i % 4 < 2 ? TestGuest::Kind::kCalls : TestGuest::Kind::kComputes);
      while (!over) {
        ++steps;
        (void)guest.Run();
        if (i % 5 == 0) Offload([] {});
        if (i % 3 == 0) Suspend(s->clock().MonotonicNs() + 50'000, Sleep::kInterruptible);
        Fiber::Current().ClearInterrupt();  // then look whether it was for this
        WaitUntil(gate, kAllEvents, std::nullopt, Sleep::kUninterruptible, [&] { return !hold; });
      }
    }));
  }
  for (int round = 0; round < 100; ++round) {
    hold = true;
    for (const Ref<Fiber>& fiber : fibers) fiber->Interrupt();
    ASSERT_TRUE(s->Quiesce(10'000 * kMs));
    const uint64_t before = steps;
    std::vector<int> order;
    s->OnEachWorker([&](Worker& worker) { order.push_back(worker.index()); });
    EXPECT_EQ(order, (std::vector<int>{0, 1}));
    EXPECT_EQ(s->worker(0).Load() + s->worker(1).Load(), 0);
    EXPECT_EQ(steps, before);
    s->Thaw();
    hold = false;
    gate.Wake();
    if (round % 10 == 0) {
      ASSERT_TRUE(WaitFor([&] { return steps > before; }));
    }
  }
  over = true;
  for (const Ref<Fiber>& fiber : fibers) {
    fiber->Kill();
    ASSERT_TRUE(WaitFor([&] { return fiber->finished(); }));
  }
}

TEST(Quiesce, GivesUpAtItsDeadline) {
  TestScheduler s(2);
  s.Start();
  FakeSpace space(s.engine(0));
  TestGuest guest(s.engine(0), space, TestGuest::Kind::kComputes);
  Ref<Fiber> fiber = s.Spawn(0, [&] { (void)guest.Run(); });
  EXPECT_FALSE(s->Quiesce(30 * kMs));
  guest.Finish();
  ASSERT_TRUE(WaitFor([&] { return fiber->finished(); }));
  ASSERT_TRUE(s->Quiesce(10'000 * kMs));
  s->Thaw();
}

TEST(Quiesce, TimersWaitForThaw) {
  TestScheduler s(1);
  s.Start();
  std::atomic<int> fired{0};
  Timer timer(*s, [&] { ++fired; });
  timer.Arm(s->clock().MonotonicNs() + kHour);
  ASSERT_TRUE(s->Quiesce(10'000 * kMs));
  s->clock().ContinueFrom(s->clock().MonotonicNs() + 2 * kHour);
  const timespec pause = {0, 40'000'000};
  nanosleep(&pause, nullptr);
  EXPECT_EQ(fired, 0);
  s->Thaw();
  ASSERT_TRUE(WaitFor([&] { return fired == 1; }));
}

#ifndef SKEP_NO_ARENA
// A call that leaves a pointer of the host's deep in the stack.
[[gnu::noinline]] void Dirty(void* pointer) {
  void* volatile words[256];
  for (auto& word : words) word = pointer;
}
[[gnu::noinline]] void SleepAboveDirt(WaitQueue& queue, const std::atomic<bool>& open) {
  char hole[3800];  // nobody writes it
  asm volatile("" : : "r"(hole) : "memory");
  WaitUntil(queue, kAllEvents, std::nullopt, Sleep::kUninterruptible, [&] { return open.load(); });
  asm volatile("" : : "r"(hole) : "memory");
}

TEST(Scan, ScrubbedStacksHoldNoStaleWords) {
  TestScheduler s(1);
  s.Start();
  WaitQueue queue;
  std::atomic<bool> open{false}, scrub{false};
  void* host = malloc(64);
  for (const bool scrubbed : {true, false}) {
    scrub = scrubbed;
    open = false;
    Ref<Fiber> fiber = s.Spawn(0, [&queue, &open, host, scrubbed] {
      Dirty(host);
      if (scrubbed) ScrubStack();
      SleepAboveDirt(queue, open);
    });
    ASSERT_TRUE(WaitFor([&] { return !queue.empty(); }));
    ASSERT_TRUE(s->Quiesce(10'000 * kMs));
    static uintptr_t looked_for;
    static size_t found;
    looked_for = reinterpret_cast<uintptr_t>(host);
    found = 0;
    arena::ScanForHostPointers([](uintptr_t where, uintptr_t value) {
      found += value == looked_for && where >= arena::kStacksBase;
      return true;
    });
    EXPECT_EQ(found == 0, scrubbed) << found;
    s->Thaw();
    open = true;
    queue.Wake();
    ASSERT_TRUE(WaitFor([&] { return fiber->finished(); }));
  }
  free(host);
}

struct World {
  Scheduler* scheduler;
  WaitQueue queue;
  bool open = false;
  SleepLock lock{LockRank::kInodeIo};
  std::atomic<bool> is_held{false};
  arena::HostFd pipe;
  std::unique_ptr<HostWatch> watch;
  WaitQueue pipe_queue;
  std::unique_ptr<Timer> timer;
  uint32_t highest_number = 0;
  uint64_t ready_at = 0, frozen_at = 0;

  Mutex mutex{LockRank::kKernel};
  std::map<std::string, std::string> results;
  std::atomic<size_t> done{0};
  std::vector<Ref<Fiber>> fibers;

  void Report(std::string who, std::string what) {
    {
      MutexLock hold(mutex);
      results[std::move(who)] = std::move(what);
    }
    ++done;
  }
  size_t CountOf(const std::string& who) {
    MutexLock hold(mutex);
    return results.count(who);
  }
};

constexpr size_t kResults = 8;

// A frame with a canary, floating point and heap objects across a suspension.
void SleepInQueue(World& w, int i) {
  char text[64];
  snprintf(text, sizeof text, "sleeper %d", i);
  std::string copy(200, static_cast<char>('a' + i));
  const double half = i * 0.5;
  WaitUntil(w.queue, EPOLLIN, std::nullopt, Sleep::kInterruptible, [&] { return w.open; });
  w.Report(text, copy.substr(0, 3) + std::to_string(half));
}

void Populate(World& w) {
  Scheduler& s = *w.scheduler;
  const auto spawn = [&](int worker, std::move_only_function<void()> body) {
    w.fibers.push_back(Fiber::Spawn(s.worker(worker), std::move(body)).value());
  };
  for (int i = 0; i < 3; ++i) {
    spawn(i % 2, [&w, i] { SleepInQueue(w, i); });
  }
  spawn(0, [&w] {
    const uint64_t start = w.scheduler->clock().MonotonicNs();
    const WakeReason reason = Suspend(start + kHour, Sleep::kUninterruptible);
    const uint64_t slept = w.scheduler->clock().MonotonicNs() - start;
    const bool right = reason == WakeReason::kTimedOut && slept >= kHour;
    w.Report("deadline", right ? "right" : std::to_string(slept));
  });
  spawn(1, [&w] {
    SleepLockHold hold(w.lock);
    w.is_held = true;
    WaitUntil(w.queue, EPOLLIN, std::nullopt, Sleep::kInterruptible, [&] { return w.open; });
    w.Report("holder", "held");
  });
  spawn(0, [&w] {
    while (!w.is_held) Yield();
    SleepLockHold hold(w.lock);
    w.Report("contender", std::to_string(w.CountOf("holder")));
  });
  spawn(1, [&w] {
    char byte = 0;
    WaitUntil(w.pipe_queue, EPOLLIN, std::nullopt, Sleep::kUninterruptible, [&] {
      const auto to = std::as_writable_bytes(std::span(&byte, 1));
      if (host::Read(arena::HostTable::Get().Get(w.pipe), to)) return true;
      w.watch->Arm(EPOLLIN);
      return false;
    });
    w.Report("pipe", std::string(1, byte));
  });
  w.timer = std::make_unique<Timer>(s, [&w] { w.Report("timer", "fired"); });
  w.timer->Arm(s.clock().MonotonicNs() + kHour);
}

// All deadlines of the world come.
void LetTimePass(Scheduler& s) {
  ASSERT_TRUE(s.Quiesce(10'000 * kMs));
  s.clock().ContinueFrom(s.clock().MonotonicNs() + 2 * kHour);
  s.Thaw();
}

uintptr_t first_hit[2];

void FreezeWorld(int fd) {
  World* world = nullptr;
  {
    const arena::ArenaHeapScope arena;
    world = new World;
    world->scheduler = new Scheduler(2);
  }
  World& w = *world;
  Scheduler& s = *w.scheduler;
  arena::SetRoot(&w);
  ASSERT_TRUE(s.Start([](int) { return std::make_unique<FakeEngine>(); }));
  host::PipePair pipe = host::MakePipe(O_NONBLOCK).value();
  w.pipe = arena::HostTable::Get().Add(std::move(pipe.reader));
  {
    const arena::ArenaHeapScope arena;
    w.watch = std::make_unique<HostWatch>(s, w.pipe, w.pipe_queue);
    Populate(w);
  }
  const timespec pause = {0, 50'000'000};
  nanosleep(&pause, nullptr);
  w.ready_at = s.clock().MonotonicNs();
  ASSERT_TRUE(s.Quiesce(10'000 * kMs));
  EXPECT_EQ(w.done, 0U);
  const auto report = [](uintptr_t where, uintptr_t value) {
    if (first_hit[0] == 0) first_hit[0] = where, first_hit[1] = value;
    return true;
  };
  EXPECT_EQ(arena::ScanForHostPointers(report), 0U)
      << std::hex << first_hit[0] << " holds " << first_hit[1];
  w.highest_number = arena::HostTable::Get().HighestNumber();
  w.frozen_at = s.clock().MonotonicNs();
  const uint64_t start = host::MonotonicNs();
  HostResult<uint64_t> size = arena::Freeze(fd, 4096);
  ASSERT_TRUE(size) << size.error().message;
  printf("froze %lu KiB in %lu us\n", *size / 1024, (host::MonotonicNs() - start) / 1000);
  s.Thaw();
  // The source goes on, too: this is a fork.
  {
    const arena::ArenaHeapScope arena;
    w.open = true;
  }
  w.queue.Wake(EPOLLIN);
  ASSERT_TRUE(host::Write(pipe.writer.get(), std::as_bytes(std::span("s", 1))));
  LetTimePass(s);
  ASSERT_TRUE(WaitFor([&] { return w.done == kResults; }));
  EXPECT_EQ(w.results["pipe"], "s");
  s.Stop();
}

// In the process that FreezeWorld's image is given to.
TEST(ArenaImage, DISABLED_Resume) {
  const char* path = getenv("SKEP_TEST_IMAGE");
  ASSERT_NE(path, nullptr);
  const OwnedFd fd = host::Open(path, O_RDONLY).value();
  const uint64_t start = host::MonotonicNs();
  HostResult<void> attached = arena::Attach(fd.get(), 4096);
  ASSERT_TRUE(attached) << attached.error().message;
  const uint64_t attached_at = host::MonotonicNs();
  World& w = *static_cast<World*>(arena::Root());
  arena::HostTable::Get().ResetNumbers(w.highest_number);
  host::PipePair pipe = host::MakePipe(O_NONBLOCK).value();
  arena::HostTable::Get().Restore(w.pipe, std::move(pipe.reader));
  Scheduler& s = *w.scheduler;
  ASSERT_TRUE(s.Start([](int) { return std::make_unique<FakeEngine>(); }));
  // Virtual time stood still while the image lay in its file.
  const uint64_t now = s.clock().MonotonicNs();
  EXPECT_GE(now, w.ready_at);
  EXPECT_LE(now, w.frozen_at + host::MonotonicNs() - start);
  EXPECT_EQ(w.done, 0U);
  {
    const arena::ArenaHeapScope arena;
    w.open = true;
  }
  w.queue.Wake(EPOLLIN);
  ASSERT_TRUE(host::Write(pipe.writer.get(), std::as_bytes(std::span("r", 1))));
  ASSERT_TRUE(WaitFor([&] { return w.done >= 5; }));
  LetTimePass(s);
  printf("attached in %lu us, all that was ready had run %lu us later\n",
         (attached_at - start) / 1000, (host::MonotonicNs() - attached_at) / 1000);
  ASSERT_TRUE(WaitFor([&] { return w.done == kResults; }));
  const std::map<std::string, std::string> expected = {{"sleeper 0", "aaa0.000000"},
                                                       {"sleeper 1", "bbb0.500000"},
                                                       {"sleeper 2", "ccc1.000000"},
                                                       {"deadline", "right"},
                                                       {"holder", "held"},
                                                       {"contender", "1"},
                                                       {"pipe", "r"},
                                                       {"timer", "fired"}};
  EXPECT_EQ(w.results, expected);
  for (const Ref<Fiber>& fiber : w.fibers) {
    ASSERT_TRUE(WaitFor([&] { return fiber->finished(); }));
  }
  // The kernel lives on: new fibers, new stacks, memory freed and allocated.
  {
    const arena::ArenaHeapScope arena;
    w.fibers.clear();
    w.results.clear();
    w.open = false;
    w.done = 0;
    w.is_held = false;
    Populate(w);
    w.open = true;
  }
  w.queue.Wake(EPOLLIN);
  ASSERT_TRUE(host::Write(pipe.writer.get(), std::as_bytes(std::span("t", 1))));
  LetTimePass(s);
  ASSERT_TRUE(WaitFor([&] { return w.done == kResults; }));
  EXPECT_EQ(w.results["pipe"], "t");
  s.Stop();
}

TEST(ArenaImage, DISABLED_Refused) {
  const OwnedFd fd = host::Open(getenv("SKEP_TEST_IMAGE"), O_RDONLY).value();
  HostResult<void> attached = arena::Attach(fd.get(), 4096);
  ASSERT_FALSE(attached);
  EXPECT_NE(attached.error().message.find("another build"), std::string::npos);
  attached = arena::Attach(fd.get(), 0);
  ASSERT_FALSE(attached);
  EXPECT_NE(attached.error().message.find("not an image"), std::string::npos);
}

int RunAgain(const char* path, const char* test) {
  const std::string variable = std::string("SKEP_TEST_IMAGE=") + path;
  std::vector<std::string> words = {"/proc/self/exe", std::string("--gtest_filter=") + test,
                                    "--gtest_also_run_disabled_tests", "--gtest_brief=1"};
  std::vector<char*> argv;
  for (std::string& word : words) argv.push_back(word.data());
  argv.push_back(nullptr);
  char* envp[] = {const_cast<char*>(variable.c_str()), nullptr};
  fflush(stdout);
  pid_t pid = -1;
  EXPECT_EQ(posix_spawn(&pid, "/proc/self/exe", nullptr, nullptr, argv.data(), envp), 0);
  int status = -1;
  EXPECT_EQ(waitpid(pid, &status, 0), pid);
  return status;
}

TEST(ArenaImage, FibersGoOnInAnotherProcess) {
  const std::string path = testing::TempDir() + "skep_arena_image." + std::to_string(getpid());
  const OwnedFd fd = host::Open(path.c_str(), O_RDWR | O_CREAT | O_TRUNC, 0600).value();
  FreezeWorld(fd.get());
  if (!HasFatalFailure()) {
    for (int i = 0; i < 3; ++i) EXPECT_EQ(RunAgain(path.c_str(), "ArenaImage.DISABLED_Resume"), 0);
  }
  // An image of another build is refused.
  const char wrong = 'x';
  ASSERT_TRUE(host::PWrite(fd.get(), std::as_bytes(std::span(&wrong, 1)), 4096 + 8));
  EXPECT_EQ(RunAgain(path.c_str(), "ArenaImage.DISABLED_Refused"), 0);
  unlink(path.c_str());
}
#endif  // SKEP_NO_ARENA

}  // namespace
}  // namespace skep::sched
