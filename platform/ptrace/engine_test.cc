// Address spaces, waits, wake-ups and ends.
#include <dirent.h>
#include <fcntl.h>
#include <poll.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>
#include <csignal>
#include <thread>

#include "platform/ptrace/address_space.h"
#include "platform/ptrace/context.h"
#include "platform/ptrace/test_guest.h"
#include "platform/stub/stub.h"

namespace skep::platform::ptrace {
namespace {

constexpr uint64_t kMs = 1'000'000;

size_t CountEntries(const char* path) {
  DIR* dir = opendir(path);
  size_t count = 0;
  while (readdir(dir) != nullptr) ++count;
  closedir(dir);
  return count;
}
bool HasChildren() {
  siginfo_t info;
  return waitid(P_ALL, 0, &info, WEXITED | WSTOPPED | WNOHANG | WNOWAIT | __WALL) == 0;
}
MapOp Map(uint64_t at, uint64_t size, HostFileId file, uint64_t offset = 0) {
  return {MapOp::Kind::kMap, PROT_READ | PROT_WRITE, false, at, size, file, offset};
}

GUEST_CODE(kReadRbx, "1: mov (%rbx), %rax; syscall; jmp 1b");

TEST(PtraceEngine, IsAvailable) {
  EXPECT_EQ(WhyUnavailable(EngineKind::kPtrace), std::nullopt);
  EXPECT_NE(WhyUnavailable(EngineKind::kKvm), std::nullopt);
  EXPECT_FALSE(HostSyscalls(EngineKind::kPtrace).empty());
}

TEST(PtraceEngine, LeavesNothingBehind) {
  const size_t fds = CountEntries("/proc/self/fd");
  const size_t threads = CountEntries("/proc/self/task");
  {
    World world;
    auto space = world.NewSpace(kSyscallLoop);
    auto one = world.NewGuest(*space), two = world.NewGuest(*space), three = world.NewGuest(*space);
    (void)world.Next(*one);
    two->Resume();  // two runs when it is dropped, three never ran
    EXPECT_TRUE(HasChildren());
  }
  EXPECT_FALSE(HasChildren());
  EXPECT_EQ(CountEntries("/proc/self/fd"), fds);
  EXPECT_EQ(CountEntries("/proc/self/task"), threads);
}

TEST(PtraceEngine, StubsHaveNothingOfOurs) {
  World world;
  auto space = world.NewSpace();
  auto guest = world.NewGuest(*space, {.rip = AddressesOfStub().exit});
  (void)world.Next(*guest);
  // Only the stub's own two pages and what the host cannot take away are mapped.
  std::string path = "/proc/self/task/" + std::to_string(gettid()) + "/children";
  const std::string children = *host::ReadWholeFile(path.c_str(), 1 << 16);
  const std::string stub = children.substr(children.find(' ') + 1);
  path = "/proc/" + std::to_string(atoi(stub.c_str()));
  const std::string maps = *host::ReadWholeFile((path + "/maps").c_str(), 1 << 16);
  size_t lines = 0;
  for (size_t at = 0; at < maps.size(); at = maps.find('\n', at) + 1) {
    if (maps.compare(at, 8, "ffffffff") != 0) ++lines;
  }
  EXPECT_EQ(lines, 2u) << maps;
  EXPECT_EQ(CountEntries((path + "/fd").c_str()), 2u + 2u);  // with . and ..
}

TEST(PtraceSpace, BatchesStopAtTheFirstFailure) {
  World world;
  auto space = world.NewSpace();
  const HostFileId file = world.files.NewMemory(1 << 20);
  std::vector<MapOp> ops;
  for (uint64_t i = 0; i < 200; ++i) ops.push_back(Map(0x100'0000 + i * 0x10000, kPageSize, file));
  auto applied = space->Apply(ops);
  EXPECT_EQ(applied.done, 200u);
  EXPECT_EQ(applied.error, 0);
  EXPECT_EQ(world.files.asked, 1);
  ops[70].file = HostFileId{999};  // no such file
  applied = space->Apply(ops);
  EXPECT_EQ(applied.done, 70u);
  EXPECT_EQ(applied.error, EBADF);
  ops[3] = {MapOp::Kind::kProtect, PROT_READ, false, 0x7000'0000'0000, kPageSize, {}, 0};
  applied = space->Apply(ops);
  EXPECT_EQ(applied.done, 3u);
  EXPECT_EQ(applied.error, ENOMEM);
  EXPECT_EQ(space->Apply({}).done, 0u);
}

TEST(PtraceSpace, OnlyGuestAddressesAreMapped) {
  World world;
  auto space = world.NewSpace();
  const HostFileId file = world.files.NewMemory(kPageSize);
  for (const MapOp& op :
       {Map(kGuestAddressEnd, kPageSize, file),
        Map(kGuestAddressEnd - kPageSize, 2 * kPageSize, file), Map(kStubCode, kPageSize, file),
        Map(~uint64_t{kPageSize - 1}, kPageSize, file),
        Map(kPageSize, ~uint64_t{kPageSize - 1}, file), Map(0x10001, kPageSize, file),
        Map(0x10000, 1, file), Map(0x10000, 0, file), Map(0x10000, kPageSize, file, 1)}) {
    EXPECT_EQ(space->Apply({&op, 1}).error, EINVAL) << std::hex << op.start << " " << op.size;
  }
  const MapOp last = Map(kGuestAddressEnd - kPageSize, kPageSize, file);
  EXPECT_EQ(space->Apply({&last, 1}).error, 0);
}

TEST(PtraceSpace, ResetTakesAllMappings) {
  World world;
  auto space = world.NewSpace(kReadRbx);
  Registers start = {};
  start.rbx = kDataAt;
  auto guest = world.NewGuest(*space, start);
  EXPECT_EQ(SyscallOf(world.Next(*guest)).number, 0u);
  ASSERT_TRUE(space->Reset());
  const FaultStop fault = FaultOf(world.Next(*guest));
  EXPECT_EQ(fault.signo, SIGSEGV);
  EXPECT_EQ(fault.address, kCodeAt + 5);
}

TEST(PtraceSpace, MemoryIsSharedBetweenSpaces) {
  World world;
  auto one = world.NewSpace(kReadRbx);
  const HostFileId file = world.files.NewMemory(kPageSize);
  auto two = world.NewSpace(kReadRbx);
  std::vector<std::unique_ptr<Context>> guests;
  for (AddressSpace* space : {one.get(), two.get()}) {
    const MapOp op = Map(0x123'0000, kPageSize, file);
    EXPECT_EQ(space->Apply({&op, 1}).error, 0);
    Registers start = {};
    start.rbx = 0x123'0000;
    guests.push_back(world.NewGuest(*space, start));
  }
  for (uint64_t value : {5u, 6u}) {
    ASSERT_TRUE(host::PWrite(world.files.fd(file), std::as_bytes(std::span(&value, 1)), 0));
    for (auto& guest : guests) EXPECT_EQ(SyscallOf(world.Next(*guest)).number, value);
  }
}

TEST(PtraceEngine, ForgottenFilesAreClosed) {
  World world;
  auto space = world.NewSpace();
  const auto write_end_is_alone = [&](int reader) {
    pollfd fd = {reader, POLLIN, 0};
    return *host::Poll({&fd, 1}, 0) == 1;
  };
  // A pipe cannot be mapped, but the stubs have been given it.
  auto pipe = *host::MakePipe(O_CLOEXEC);
  const int reader = pipe.reader.get();
  const HostFileId file = world.files.Add(std::move(pipe.writer));
  const MapOp op = Map(0x10'0000, kPageSize, file);
  EXPECT_NE(space->Apply({&op, 1}).error, 0);
  close(world.files.fd(file));
  EXPECT_FALSE(write_end_is_alone(reader));
  std::thread([&] { world.engine->Forget(file); }).join();
  (void)world.Wait(host::MonotonicNs() + kMs);
  EXPECT_TRUE(write_end_is_alone(reader));
  world.engine->Forget(file);
  world.engine->Forget(HostFileId{123456});
  EXPECT_EQ(dup2(reader, world.files.fd(file)), world.files.fd(file));  // it is closed once more
}

TEST(PtraceInterrupt, OfAStoppedGuestIsSticky) {
  World world;
  auto space = world.NewSpace(kSyscallLoop);
  auto guest = world.NewGuest(*space);
  (void)world.Next(*guest);
  guest->Interrupt();
  guest->Interrupt();
  guest->SetReturn(5);
  EXPECT_TRUE(std::holds_alternative<Interrupted>(world.Next(*guest)));
  ASSERT_TRUE(guest->Load(LoadXsave::kNo));
  EXPECT_EQ(guest->registers().rax, 5u);
  EXPECT_EQ(SyscallOf(world.Next(*guest)).number, 5u);
}

TEST(PtraceInterrupt, OfARunningGuestTenThousandTimes) {
  World world;
  auto space = world.NewSpace(kSpin);
  auto guest = world.NewGuest(*space);
  for (int i = 0; i < 10'000; ++i) {
    guest->Resume();
    guest->Interrupt();
    ASSERT_TRUE(std::holds_alternative<Interrupted>(world.NextStop(*guest)));
  }
  guest->Resume();
  EXPECT_TRUE(std::holds_alternative<Woken>(world.Wait(host::MonotonicNs() + 5 * kMs)));
}

TEST(PtraceInterrupt, FromAnotherThreadIsDeliveredOnceEach) {
  World world;
  auto space = world.NewSpace(kSyscallLoop);
  auto guest = world.NewGuest(*space);
  constexpr int kTimes = 10'000;
  std::atomic<int> seen = 0;
  std::thread interrupter([&] {
    for (int i = 0; i < kTimes; ++i) {
      guest->Interrupt();
      while (seen.load() <= i) sched_yield();
    }
  });
  uint64_t calls = 0;
  while (seen < kTimes) {
    const Stop stop = world.Next(*guest);
    if (std::holds_alternative<Interrupted>(stop)) {
      ++seen;
    } else {
      // The result of a call is not lost, however it is interrupted.
      ASSERT_EQ(SyscallOf(stop).number, calls & 0xffff);
      guest->SetReturn(++calls & 0xffff);
    }
  }
  interrupter.join();
  for (int i = 0; i < 100; ++i) {
    ASSERT_EQ(SyscallOf(world.Next(*guest)).number, calls & 0xffff);
    guest->SetReturn(++calls & 0xffff);
  }
}

TEST(PtraceWait, KicksAreNeverLost) {
  World world;
  auto space = world.NewSpace(kSpin);
  auto guest = world.NewGuest(*space);
  guest->Resume();
  constexpr int kTimes = 20'000;
  std::atomic<int> seen = 0;
  std::thread kicker([&] {
    for (int i = 0; i < kTimes; ++i) {
      world.engine->Kick();
      while (seen.load() <= i) {
      }
    }
  });
  while (seen < kTimes) {
    ASSERT_TRUE(std::holds_alternative<Woken>(world.Wait()));
    ++seen;
  }
  kicker.join();
  world.engine->Kick();
  EXPECT_TRUE(std::holds_alternative<Woken>(world.Wait()));
  EXPECT_TRUE(std::holds_alternative<Woken>(world.Wait(host::MonotonicNs() + kMs)));
}

TEST(PtraceWait, DeadlinesAreKept) {
  World world;
  auto space = world.NewSpace(kSpin);
  auto guest = world.NewGuest(*space);
  guest->Resume();
  EXPECT_TRUE(std::holds_alternative<Woken>(world.Wait(0)));
  // Later, earlier, later again: the timer that is left behind by one wakes no other.
  for (const uint64_t wait : {20 * kMs, 5 * kMs, 30 * kMs, 1 * kMs, 10 * kMs}) {
    const uint64_t deadline = host::MonotonicNs() + wait;
    world.engine->Kick();
    EXPECT_TRUE(std::holds_alternative<Woken>(world.Wait(deadline)));
    EXPECT_LT(host::MonotonicNs(), deadline);
    EXPECT_TRUE(std::holds_alternative<Woken>(world.Wait(deadline)));
    EXPECT_GE(host::MonotonicNs(), deadline);
  }
}

TEST(PtraceWait, WatchesDescriptors) {
  World world;
  OwnedFd epoll(epoll_create1(EPOLL_CLOEXEC));
  OwnedFd event(eventfd(0, EFD_CLOEXEC));
  epoll_event interest = {.events = EPOLLIN, .data = {}};
  ASSERT_EQ(epoll_ctl(epoll.get(), EPOLL_CTL_ADD, event.get(), &interest), 0);
  world.poller.fd = epoll.get();
  EXPECT_TRUE(std::holds_alternative<Woken>(world.Wait(host::MonotonicNs() + 2 * kMs)));
  for (int i = 0; i < 200; ++i) {
    std::thread writer([&] { eventfd_write(event.get(), 1); });
    EXPECT_TRUE(std::holds_alternative<Woken>(world.Wait()));
    writer.join();
    eventfd_t value;
    eventfd_read(event.get(), &value);
  }
}

TEST(PtraceWait, WakeUpsAreNotStarved) {
  World world;
  auto space = world.NewSpace(kSyscallLoop);
  auto guest = world.NewGuest(*space);
  guest->Resume();
  world.engine->Kick();
  int stops = 0;
  for (;; ++stops) {
    Event event = world.Wait();
    if (std::holds_alternative<Woken>(event)) break;
    std::get<Stopped>(event).context->Resume();
    ASSERT_LT(stops, 100);
  }
  for (stops = 0;; ++stops) {
    Event event = world.Wait(host::MonotonicNs() - 1);
    if (std::holds_alternative<Woken>(event)) break;
    std::get<Stopped>(event).context->Resume();
    ASSERT_LT(stops, 100);
  }
}

TEST(PtraceWait, LetsAComputingGuestGo) {
  cpu_set_t old;
  sched_getaffinity(0, sizeof(old), &old);
  if (CPU_COUNT(&old) < 2) GTEST_SKIP() << "one CPU";
  World world({.cpu = 0});
  auto space = world.NewSpace(kSpin);
  auto guest = world.NewGuest(*space);
  const pid_t tid = static_cast<PtraceContext&>(*guest).tid();
  const auto cpus = [&] {
    cpu_set_t set;
    sched_getaffinity(tid, sizeof(set), &set);
    return CPU_COUNT(&set);
  };
  guest->Resume();
  EXPECT_EQ(cpus(), 1);
  (void)world.Wait(host::MonotonicNs() + 20 * kMs);
  EXPECT_EQ(cpus(), CPU_COUNT(&old));
  guest->Interrupt();
  (void)world.NextStop(*guest);
  EXPECT_EQ(cpus(), 1);
}

TEST(PtraceEngine, NothingOutlivesTheSentry) {
  auto pipe = *host::MakePipe(O_CLOEXEC);
  const pid_t sentry = fork();
  if (sentry == 0) {
    World world;
    auto space = world.NewSpace(kSpin);
    auto guest = world.NewGuest(*space);
    guest->Resume();
    (void)host::Write(pipe.writer.get(), std::as_bytes(std::span("x", 1)));
    for (;;) (void)world.Wait();
  }
  pipe.writer.Reset();
  char byte;
  ASSERT_TRUE(host::Read(pipe.reader.get(), std::as_writable_bytes(std::span(&byte, 1))));
  const std::string path = "/proc/" + std::to_string(sentry) + "/task/" + std::to_string(sentry);
  std::string stubs = *host::ReadWholeFile((path + "/children").c_str(), 1 << 16);
  kill(sentry, SIGKILL);
  int status;
  waitpid(sentry, &status, 0);
  int count = 0;
  for (const char* at = stubs.c_str(); *at != 0; ++count) {
    char* end;
    const auto stub = static_cast<pid_t>(strtol(at, &end, 10));
    at = *end == ' ' ? end + 1 : end;
    // Gone, or a zombie of whoever reaps orphans here.
    for (int i = 0; i < 2000; ++i) {
      const auto stat =
          host::ReadWholeFile(("/proc/" + std::to_string(stub) + "/stat").c_str(), 4096);
      if (!stat || stat->find(") Z ") != std::string::npos) break;
      ASSERT_LT(i, 1999) << stub << " is still there";
      usleep(1000);
    }
  }
  EXPECT_EQ(count, 2);
}

TEST(PtraceWait, SleepsWithoutGuests) {
  World world;
  timespec before, after;
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &before);
  EXPECT_TRUE(std::holds_alternative<Woken>(world.Wait(host::MonotonicNs() + 50 * kMs)));
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &after);
  EXPECT_LT((after.tv_sec - before.tv_sec) * 1'000'000'000 + after.tv_nsec - before.tv_nsec,
            static_cast<long>(5 * kMs));
}

TEST(PtraceDeath, IsReportedAndAnsweredWithEio) {
  World world;
  auto space = world.NewSpace(kSpin);
  auto other = world.NewSpace(kSyscallLoop);
  auto one = world.NewGuest(*space), two = world.NewGuest(*space), alive = world.NewGuest(*other);
  one->Resume();
  EXPECT_GE(space->CpuTimeNs(), 0u);
  space->Kill();
  Event event = world.Wait();
  ASSERT_TRUE(std::holds_alternative<Died>(event));
  EXPECT_EQ(std::get<Died>(event).space, space.get());
  EXPECT_NE(std::get<Died>(event).why.find("signal 9"), std::string::npos);
  EXPECT_EQ(one->Load(LoadXsave::kNo).error(), Errno(EIO));
  EXPECT_EQ(two->Load(LoadXsave::kYes).error(), Errno(EIO));
  const HostFileId file = world.files.NewMemory(kPageSize);
  const MapOp op = Map(0x10'0000, kPageSize, file);
  EXPECT_EQ(space->Apply({&op, 1}).error, EIO);
  EXPECT_FALSE(space->Reset());
  EXPECT_FALSE(world.engine->NewContext(*space, Registers{}, {}));
  one->Interrupt();
  space->Kill();
  two->Resume();  // said once more, for a fiber that waits for its guest
  event = world.Wait();
  ASSERT_TRUE(std::holds_alternative<Died>(event));
  EXPECT_TRUE(std::holds_alternative<SyscallStop>(world.Next(*alive)));
}

TEST(PtraceDeath, OfAParkedStubWhileAnotherGuestRuns) {
  World world;
  auto running_space = world.NewSpace(kSpin);
  auto running = world.NewGuest(*running_space);
  running->Resume();
  for (int i = 0; i < 20; ++i) {
    auto space = world.NewSpace(kSyscallLoop);
    auto parked = world.NewGuest(*space);
    (void)world.Next(*parked);
    std::thread killer;
    if (i % 2 == 0) {
      killer = std::thread([&] { space->Kill(); });
    } else {
      kill(static_cast<PtraceSpace&>(*space).pid(), SIGKILL);  // nobody tells the engine
    }
    for (int waits = 0;; ++waits) {
      const Event event = i % 2 == 0 ? world.Wait() : world.Wait(host::MonotonicNs() + kMs);
      if (std::holds_alternative<Woken>(event) && waits < 100) continue;
      ASSERT_TRUE(std::holds_alternative<Died>(event));
      EXPECT_EQ(std::get<Died>(event).space, space.get());
      break;
    }
    if (killer.joinable()) killer.join();
  }
}

TEST(PtraceDeath, DuringABatch) {
  for (int i = 0; i < 50; ++i) {
    World world;
    auto space = world.NewSpace(kSpin);
    auto one = world.NewGuest(*space), two = world.NewGuest(*space);
    one->Resume();
    const HostFileId file = world.files.NewMemory(kPageSize);
    const MapOp op = Map(0x10'0000, kPageSize, file);
    std::thread killer([&] { space->Kill(); });
    while (space->Apply({&op, 1}).error == 0) {
    }
    killer.join();
    EXPECT_EQ(space->Apply({&op, 1}).error, EIO);
    EXPECT_TRUE(std::holds_alternative<Died>(world.Wait()));
  }
}

TEST(PtraceMany, TwoHundredStubs) {
  World world;
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

TEST(PtraceMany, TwoHundredThreads) {
  World world;
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

TEST(PtraceTwoEngines, AskEachOther) {
  constexpr int kRounds = 3000;
  struct Side {
    std::atomic<AddressSpace*> space = nullptr;
    std::atomic<bool> done = false;
  };
  Side sides[2];
  const auto worker = [&](int own) {
    World world;
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

TEST(PtraceTwoEngines, AThreadWithoutEngineMayAsk) {
  World world;
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

TEST(PtraceCost, OfAGetpid) {
  for (const int cpu : {-1, 0}) {
    cpu_set_t old, set;
    sched_getaffinity(0, sizeof(old), &old);
    CPU_ZERO(&set);
    CPU_SET(0, &set);
    if (cpu >= 0) sched_setaffinity(0, sizeof(set), &set);
    {
      World world({.cpu = cpu});
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
}  // namespace skep::platform::ptrace
