// Many stubs and threads, several engines, and what things cost.
#include <sched.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <thread>

#include "platform/engine_group.h"
#include "platform/tests/test_guest.h"

namespace skep::platform {
namespace {

ENGINE_TEST(EngineMany);
ENGINE_TEST(EngineTwoEngines);
ENGINE_TEST(EngineCost);

TEST_P(EngineMany, TwoHundredStubs) {
  World world(GetParam());
  std::vector<std::unique_ptr<AddressSpace>> spaces;
  std::vector<std::unique_ptr<Context>> guests;
  const uint64_t start = host::MonotonicNs();
  for (int i = 0; i < 200; ++i) {
    spaces.push_back(world.NewSpace(kSyscallLoop));
    guests.push_back(world.NewGuest(*spaces.back()));
  }
  const uint64_t made = host::MonotonicNs();
  for (auto& guest : guests) guest->Resume();
  for (size_t i = 0; i < guests.size(); ++i) {
    EXPECT_TRUE(std::holds_alternative<Stopped>(world.Wait()));
  }
  printf("a stub with a guest: %.1f us\n", static_cast<double>(made - start) / 200e3);
}

TEST_P(EngineMany, TwoHundredThreads) {
  World world(GetParam());
  auto space = world.NewSpace(kSyscallLoop);
  std::vector<std::unique_ptr<Context>> guests;
  const uint64_t start = host::MonotonicNs();
  for (int i = 0; i < 200; ++i) guests.push_back(world.NewGuest(*space));
  const uint64_t made = host::MonotonicNs();
  for (int round = 0; round < 20; ++round) {
    for (auto& guest : guests) guest->Resume();
    for (size_t i = 0; i < guests.size(); ++i) {
      EXPECT_TRUE(std::holds_alternative<Stopped>(world.Wait()));
    }
  }
  const uint64_t ran = host::MonotonicNs();
  printf("a guest thread: %.1f us; a round trip of one of 200: %.2f us\n",
         static_cast<double>(made - start) / 200e3, static_cast<double>(ran - made) / 4000e3);
  // Threads come and go.
  for (int i = 0; i < 1000; ++i) {
    auto guest = world.NewGuest(*space);
    EXPECT_TRUE(std::holds_alternative<SyscallStop>(world.Next(*guest)));
  }
}

TEST(NotifyMany, AThousandThreads) {
  World world(EngineKind::kNotify);
  auto space = world.NewSpace(kSyscallLoop);
  std::vector<std::unique_ptr<Context>> guests;
  for (int i = 0; i < 1000; ++i) guests.push_back(world.NewGuest(*space, {.rax = 3}));
  for (int round = 0; round < 3; ++round) {
    for (auto& guest : guests) {
      guest->SetReturn(3);
      guest->Resume();
    }
    for (size_t i = 0; i < guests.size(); ++i) {
      EXPECT_TRUE(std::holds_alternative<Stopped>(world.Wait()));
    }
  }
}

TEST(NotifyMany, AThousandProcesses) {
  World world(EngineKind::kNotify);
  std::vector<std::unique_ptr<AddressSpace>> spaces;
  std::vector<std::unique_ptr<Context>> guests;
  for (int i = 0; i < 1000; ++i) {
    spaces.push_back(world.NewSpace(kSyscallLoop));
    guests.push_back(world.NewGuest(*spaces.back()));
    guests.back()->Resume();
  }
  for (size_t i = 0; i < guests.size(); ++i) {
    EXPECT_TRUE(std::holds_alternative<Stopped>(world.Wait()));
  }
}

// Each has listeners. What cannot be made is refused; what there is goes on.
TEST(NotifyMany, AtTheDescriptorLimit) {
  World world(EngineKind::kNotify);
  auto space = world.NewSpace(kSyscallLoop);
  std::vector<std::unique_ptr<Context>> guests;
  guests.push_back(world.NewGuest(*space, {.rax = 3}));
  rlimit before;
  ASSERT_EQ(getrlimit(RLIMIT_NOFILE, &before), 0);
  const rlimit few = {static_cast<rlim_t>(host::Dup(0)->get()) + 30, before.rlim_max};
  ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &few), 0);
  Result<std::unique_ptr<Context>> guest = Fail(EIO);
  while ((guest = world.engine->NewContext(*space, {.rax = 3, .rip = kCodeAt}, {}))) {
    guests.push_back(std::move(*guest));
    ASSERT_LT(guests.size(), 100u);
  }
  EXPECT_EQ(guest.error(), Errno(EAGAIN));
  guests.resize(guests.size() / 2);  // their threads are kept, and so are the listeners
  std::vector<std::unique_ptr<AddressSpace>> others;
  Result<std::unique_ptr<AddressSpace>> other = Fail(EIO);
  while ((other = world.engine->NewAddressSpace())) {
    others.push_back(std::move(*other));
    ASSERT_LT(others.size(), 100u);
  }
  EXPECT_EQ(other.error(), Errno(EAGAIN));
  for (auto& one : guests) {
    EXPECT_EQ(SyscallOf(world.Next(*one)).number, 3u);
  }
  ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &before), 0);
  for (int i = 0; i < 40; ++i) guests.push_back(world.NewGuest(*space, {.rax = 3}));
  EXPECT_TRUE(world.engine->NewAddressSpace());
  for (auto& one : guests) one->SetReturn(3);
  EXPECT_EQ(SyscallOf(world.Next(*guests.back())).number, 3u);
}

TEST(NotifyMany, ProcessesComeAndGo) {
  World world(EngineKind::kNotify);
  const HostFileId text = world.files.NewMemory(kPageSize);
  ASSERT_TRUE(host::PWrite(world.files.fd(text), std::as_bytes(std::span(kSyscallLoop)), 0));
  const MapOp op = {MapOp::Kind::kMap, PROT_READ | PROT_EXEC, false, kCodeAt, kPageSize, text, 0};
  const uint64_t start = host::MonotonicNs();
  constexpr int kTimes = 2000;
  for (int i = 0; i < kTimes; ++i) {
    auto space = world.NewSpace();
    ASSERT_EQ(space->Apply({&op, 1}).error, 0);
    auto guest = world.NewGuest(*space, {.rax = 9});
    ASSERT_EQ(SyscallOf(world.Next(*guest)).number, 9u);
  }
  printf("a process that comes and goes: %.1f us\n",
         static_cast<double>(host::MonotonicNs() - start) / (kTimes * 1e3));
}

TEST_P(EngineTwoEngines, AskEachOther) {
  constexpr int kRounds = 3000;
  struct Side {
    std::atomic<AddressSpace*> space = nullptr;
    std::atomic<bool> done = false;
  };
  Side sides[2];
  const auto worker = [&](int own) {
    World world(GetParam());
    const HostFileId file = world.files.NewMemory(kPageSize);
    auto space = world.NewSpace(kSyscallLoop);
    auto guest = world.NewGuest(*space);
    Side& other = sides[1 - own];
    sides[own].space = space.get();
    while (other.space == nullptr) sched_yield();
    for (int i = 0; i < kRounds; ++i) {
      const MapOp ops[] = {{MapOp::Kind::kUnmap, 0, false, 0x10'0000, kPageSize, {}, 0},
                           {MapOp::Kind::kUnmap, 0, false, 0x20'0000, kPageSize, {}, 0}};
      const auto applied = other.space.load()->Apply(ops);
      ASSERT_EQ(applied.done, 2u);
      if (i % 8 == 0) (void)world.Next(*guest);
    }
    (void)file;
    sides[own].done = true;
    while (!other.done) (void)world.Wait(host::MonotonicNs() + kMs);
  };
  std::thread one(worker, 0), two(worker, 1);
  one.join();
  two.join();
}

// A guest of one engine goes on with another, at every stop, from one thread to the next and back.
TEST(NotifyTwoEngines, AGuestMoves) {
  World one(EngineKind::kNotify);
  auto space = one.NewSpace(kSyscallLoop);
  auto guest = one.NewGuest(*space, {.rax = 1});
  std::atomic<int> turn = 0;
  constexpr int kTurns = 200;
  const auto play = [&](World& world, World& other, int own) {
    for (int i = own; i < kTurns; i += 2) {
      while (turn != i) sched_yield();
      const auto number = static_cast<uint64_t>(i + 1);
      EXPECT_EQ(SyscallOf(world.Next(*guest)).number, number);
      if (i % 3 == 0) {
        ASSERT_TRUE(guest->Load(LoadXsave::kNo));
      }
      if (i % 5 == 0) guest->Interrupt();
      guest->SetReturn(number + 1);
      if (i % 5 == 0) {
        EXPECT_TRUE(std::holds_alternative<Interrupted>(world.Next(*guest)));
      }
      ASSERT_TRUE(guest->MoveTo(*other.engine));
      turn = i + 1;
    }
    while (turn < kTurns) (void)world.Wait(host::MonotonicNs() + kMs);
  };
  std::atomic<World*> two_world = nullptr;
  std::atomic<bool> over = false;
  std::thread second([&] {
    World two(EngineKind::kNotify);
    two_world = &two;
    play(two, one, 1);
    while (!over) (void)two.Wait(host::MonotonicNs() + kMs);
  });
  while (two_world == nullptr) sched_yield();
  play(one, *two_world.load(), 0);
  guest.reset();
  over = true;
  second.join();
}

// Threads of one process on two engines, all at once.
TEST(NotifyTwoEngines, ShareASpace) {
  World one(EngineKind::kNotify);
  auto space = one.NewSpace(kSyscallLoop);
  const HostFileId file = one.files.NewMemory(kPageSize);
  constexpr int kGuests = 8, kRounds = 500;
  const auto play = [&](World& world) {
    std::vector<std::unique_ptr<Context>> guests;
    for (int i = 0; i < kGuests; ++i) guests.push_back(world.NewGuest(*space, {.rax = 5}));
    for (auto& guest : guests) guest->Resume();
    for (int i = 0; i < kRounds; ++i) {
      Event event = world.Wait();
      ASSERT_TRUE(std::holds_alternative<Stopped>(event));
      Context& guest = *std::get<Stopped>(event).context;
      EXPECT_EQ(SyscallOf(guest.stop()).number, 5u);
      const MapOp op = Map(0x10'0000 + static_cast<uint64_t>(i) * kPageSize, kPageSize, file);
      ASSERT_EQ(space->Apply({&op, 1}).error, 0);
      if (i % 7 == 0) {
        ASSERT_TRUE(guest.Load(LoadXsave::kYes));
      }
      guest.SetReturn(5);
      guest.Resume();
    }
  };
  std::thread second([&] {
    World two(EngineKind::kNotify);
    play(two);
  });
  play(one);
  second.join();
}

// Two workers' processes come and go, and each gets stubs and threads that were the other's.
TEST_P(EngineTwoEngines, OfOneGroup) {
  TestFiles files;
  const HostFileId text = files.NewMemory(kPageSize);
  ASSERT_TRUE(host::PWrite(files.fd(text), std::as_bytes(std::span(kSyscallLoop)), 0));
  auto group = MakeEngineGroup(GetParam(), {.files = &files});
  ASSERT_TRUE(group) << group.error().message;
  std::atomic<AddressSpace*> shared = nullptr;
  std::atomic<int> ended = 0;
  const auto worker = [&](int index) {
    auto engine = (*group)->MakeEngine(index, -1);
    ASSERT_TRUE(engine) << engine.error().message;
    TestPoller poller;
    const auto run = [&](AddressSpace& space, uint64_t number) {
      auto guest = (*engine)->NewContext(space, {.rax = number, .rip = kCodeAt}, {});
      ASSERT_TRUE(guest);
      for (uint64_t i = number; i < number + 3; ++i) {
        (*guest)->Resume();
        ASSERT_TRUE(std::holds_alternative<Stopped>((*engine)->Wait(std::nullopt, poller)));
        EXPECT_EQ(SyscallOf((*guest)->stop()).number, i);
        // Registers are the guest's own, not what the thread's last guest left.
        ASSERT_TRUE((*guest)->Load(LoadXsave::kNo));
        EXPECT_EQ((*guest)->registers().r12, i == number ? 0u : number);
        (*guest)->registers().r12 = number;
        (*guest)->SetReturn(i + 1);
      }
    };
    for (int i = 0; i < 300; ++i) {
      auto space = (*engine)->NewAddressSpace();
      ASSERT_TRUE(space);
      const MapOp op = {
          MapOp::Kind::kMap, PROT_READ | PROT_EXEC, false, kCodeAt, kPageSize, text, 0};
      ASSERT_EQ((*space)->Apply({&op, 1}).error, 0);
      run(**space, static_cast<uint64_t>(100 * (index + 1)));
      if (index == 0 && i == 150 && (*engine)->shares_spaces()) {
        shared = space->get();
        while (shared != nullptr) (void)(*engine)->Wait(host::MonotonicNs() + kMs, poller);
      } else if (AddressSpace* theirs = shared; index == 1 && theirs != nullptr) {
        for (int n = 0; n < 20; ++n) run(*theirs, 40);
        shared = nullptr;
      }
    }
    if (index == 1 && (*engine)->shares_spaces()) {
      AddressSpace* theirs;
      while ((theirs = shared) == nullptr && ended == 0) sched_yield();
      if (theirs != nullptr) run(*theirs, 40);
      shared = nullptr;
    }
    ++ended;
    while (ended < 2) (void)(*engine)->Wait(host::MonotonicNs() + kMs, poller);
  };
  std::thread one(worker, 0), two(worker, 1);
  one.join();
  two.join();
}

TEST_P(EngineTwoEngines, AThreadWithoutEngineMayAsk) {
  World world(GetParam());
  auto space = world.NewSpace(kSyscallLoop);
  auto guest = world.NewGuest(*space);
  std::atomic<bool> done = false;
  std::thread asker([&] {
    for (int i = 0; i < 100; ++i) EXPECT_TRUE(space->Reset());
    guest.reset();
    space.reset();
    done = true;
    world.engine->Kick();
  });
  while (!done) (void)world.Wait();
  asker.join();
  EXPECT_EQ(space, nullptr);
}

TEST_P(EngineCost, OfAGetpid) {
  for (const int cpu : {-1, 0}) {
    cpu_set_t old, set;
    sched_getaffinity(0, sizeof(old), &old);
    CPU_ZERO(&set);
    CPU_SET(0, &set);
    if (cpu >= 0) sched_setaffinity(0, sizeof(set), &set);
    {
      World world(GetParam(), {.cpu = cpu});
      auto space = world.NewSpace(kSyscallLoop);
      auto guest = world.NewGuest(*space, {.rax = SYS_getpid});
      constexpr int kTimes = 50'000;
      const uint64_t start = host::MonotonicNs();
      for (int i = 0; i < kTimes; ++i) {
        ASSERT_TRUE(std::holds_alternative<SyscallStop>(world.Next(*guest)));
        guest->SetReturn(SYS_getpid);
      }
      const uint64_t end = host::MonotonicNs();
      const HostFileId file = world.files.NewMemory(kPageSize);
      const MapOp op = Map(0x10'0000, kPageSize, file);
      for (int i = 0; i < kTimes / 10; ++i) EXPECT_EQ(space->Apply({&op, 1}).error, 0);
      const uint64_t mapped = host::MonotonicNs();
      printf("%s: %.0f ns per getpid, %.0f ns per mapping\n", cpu < 0 ? "not pinned" : "pinned",
             static_cast<double>(end - start) / kTimes,
             static_cast<double>(mapped - end) / (kTimes / 10));
    }
    sched_setaffinity(0, sizeof(old), &old);
  }
}

}  // namespace
}  // namespace skep::platform
