// Address spaces, waits, wake-ups and ends.
#include <dirent.h>
#include <fcntl.h>
#include <poll.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/stat.h>
#include <unistd.h>
#include <csignal>
#include <thread>

#include "base/filter_row.h"
#include "platform/notify/address_space.h"
#include "platform/notify/context.h"
#include "platform/ptrace/address_space.h"
#include "platform/ptrace/context.h"
#include "platform/stub/stub.h"
#include "platform/tests/test_guest.h"

namespace skep::platform {
namespace {

ENGINE_TEST(EngineItself);
ENGINE_TEST(EngineSpace);
ENGINE_TEST(EngineInterrupt);
ENGINE_TEST(EngineWait);
ENGINE_TEST(EngineDeath);

size_t CountEntries(const char* path) {
  DIR* dir = opendir(path);
  size_t count = 0;
  while (readdir(dir) != nullptr) ++count;
  closedir(dir);
  return count;
}
// How many descriptors of process `pid` are of the file that `fd` is of.
size_t CountDescriptors(pid_t pid, int fd) {
  const struct stat wanted = *host::Stat(fd);
  const std::string path = "/proc/" + std::to_string(pid) + "/fd/";
  DIR* dir = opendir(path.c_str());
  size_t count = 0;
  while (const dirent* entry = readdir(dir)) {
    struct stat found;
    if (stat((path + entry->d_name).c_str(), &found) != 0) continue;
    if (found.st_dev == wanted.st_dev && found.st_ino == wanted.st_ino) ++count;
  }
  closedir(dir);
  return count;
}
bool HasChildren() {
  siginfo_t info;
  return waitid(P_ALL, 0, &info, WEXITED | WSTOPPED | WNOHANG | WNOWAIT | __WALL) == 0;
}
pid_t TidOf(Context& guest) {
  auto* of_notify = dynamic_cast<notify::NotifyContext*>(&guest);
  return of_notify != nullptr ? of_notify->thread().tid
                              : dynamic_cast<ptrace::PtraceContext&>(guest).tid();
}
pid_t PidOf(AddressSpace& space) {
  auto* of_notify = dynamic_cast<notify::NotifySpace*>(&space);
  return of_notify != nullptr ? of_notify->stub().pid()
                              : dynamic_cast<ptrace::PtraceSpace&>(space).pid();
}

GUEST_CODE(kReadRbx, "1: mov (%rbx), %rax; syscall; jmp 1b");

TEST_P(EngineItself, IsAvailable) {
  EXPECT_EQ(InfoOf(GetParam()).WhyUnavailable(), std::nullopt);
  EXPECT_NE(InfoOf(EngineKind::kKvm).WhyUnavailable(), std::nullopt);
  EXPECT_FALSE(InfoOf(GetParam()).HostSyscalls().empty());
  EXPECT_EQ(FindEngine(InfoOf(GetParam()).name), &InfoOf(GetParam()));
  EXPECT_EQ(FindEngine("auto"), nullptr);
  EXPECT_FALSE(MakeEngineGroup(EngineKind::kKvm, {}));
}

TEST_P(EngineItself, LeavesNothingBehind) {
  const size_t fds = CountEntries("/proc/self/fd");
  const size_t threads = CountEntries("/proc/self/task");
  {
    World world(GetParam());
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

TEST_P(EngineItself, StubsHaveNothingOfOurs) {
  World world(GetParam());
  auto space = world.NewSpace();
  auto guest = world.NewGuest(*space);
  (void)world.Next(*guest);
  // Only the stub's own pages and what the host cannot take away are mapped.
  const std::string path = "/proc/" + std::to_string(PidOf(*space));
  const std::string maps = *host::ReadWholeFile((path + "/maps").c_str(), 1 << 16);
  size_t lines = 0;
  for (size_t at = 0; at < maps.size(); at = maps.find('\n', at) + 1) {
    if (maps.compare(at, 8, "ffffffff") == 0) continue;
    ++lines;
    EXPECT_NE(maps.substr(at, 200).find("/memfd:skep-stubs"), std::string::npos) << maps;
  }
  // The code and the commands; notify: constants and a stack as well.
  EXPECT_EQ(lines, GetParam() == EngineKind::kPtrace ? 2u : 4u) << maps;
  EXPECT_EQ(CountEntries((path + "/fd").c_str()), 2u + 2u);  // with . and ..
}

TEST_P(EngineSpace, BatchesStopAtTheFirstFailure) {
  World world(GetParam());
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

TEST_P(EngineSpace, OnlyGuestAddressesAreMapped) {
  World world(GetParam());
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

TEST_P(EngineSpace, ResetTakesAllMappings) {
  World world(GetParam());
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

TEST_P(EngineSpace, MemoryIsSharedBetweenSpaces) {
  World world(GetParam());
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

TEST_P(EngineItself, StubsAreGivenAFileOnce) {
  World world(GetParam());
  auto one = world.NewSpace(kReadRbx);
  auto two = world.NewSpace();
  const HostFileId file = world.files.NewMemory(4 * kPageSize);
  const uint64_t value = 42;
  ASSERT_TRUE(host::PWrite(world.files.fd(file), std::as_bytes(std::span(&value, 1)), kPageSize));
  const auto held = [&] {
    const size_t count = CountDescriptors(PidOf(*one), world.files.fd(file));
    EXPECT_EQ(CountDescriptors(PidOf(*two), world.files.fd(file)), count);
    return count;
  };
  EXPECT_EQ(held(), 0u);
  const MapOp here = Map(0x10'0000, 2 * kPageSize, file);
  const MapOp there = Map(0x20'0000, kPageSize, file, 3 * kPageSize);
  EXPECT_EQ(one->Apply({&here, 1}).error, 0);
  EXPECT_EQ(held(), 1u);
  EXPECT_EQ(one->Apply({&there, 1}).error, 0);
  EXPECT_EQ(two->Apply({&here, 1}).error, 0);
  EXPECT_EQ(held(), 1u);
  const MapOp gone = {MapOp::Kind::kUnmap, 0, false, there.start, there.size, {}, 0};
  EXPECT_EQ(one->Apply({&gone, 1}).error, 0);
  EXPECT_EQ(two->Reset(), Result<void>());
  EXPECT_EQ(held(), 1u);  // until the sentry forgets it
  world.engine->Forget(file);
  (void)world.Wait(host::MonotonicNs() + kMs);
  EXPECT_EQ(held(), 0u);
  Registers start = {};
  start.rbx = here.start + kPageSize;
  auto guest = world.NewGuest(*one, start);
  EXPECT_EQ(SyscallOf(world.Next(*guest)).number, value);  // still mapped
}

TEST_P(EngineItself, ForgottenFilesAreClosed) {
  World world(GetParam());
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

TEST_P(EngineInterrupt, OfAStoppedGuestIsSticky) {
  World world(GetParam());
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

TEST_P(EngineInterrupt, OfARunningGuestTenThousandTimes) {
  World world(GetParam());
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

TEST_P(EngineInterrupt, FromAnotherThreadIsDeliveredOnceEach) {
  World world(GetParam());
  auto space = world.NewSpace(kSyscallLoop);
  auto guest = world.NewGuest(*space, {.rax = 0x10000});
  constexpr int kTimes = 10'000;
  std::atomic<int> seen = 0;
  std::thread interrupter([&] {
    for (int i = 0; i < kTimes; ++i) {
      guest->Interrupt();
      while (seen.load() <= i) sched_yield();
    }
  });
  // No number that the host knows: it takes uretprobe (335) and uprobe (336) past every filter.
  uint64_t calls = 0;
  const auto number = [&calls] { return 0x10000 + (calls & 0xffff); };
  while (seen < kTimes) {
    const Stop stop = world.Next(*guest);
    if (std::holds_alternative<Interrupted>(stop)) {
      ++seen;
    } else {
      // The result of a call is not lost, however it is interrupted.
      ASSERT_EQ(SyscallOf(stop).number, number());
      ++calls;
      guest->SetReturn(number());
    }
  }
  interrupter.join();
  for (int i = 0; i < 100; ++i) {
    ASSERT_EQ(SyscallOf(world.Next(*guest)).number, number());
    ++calls;
    guest->SetReturn(number());
  }
}

TEST_P(EngineWait, KicksAreNeverLost) {
  World world(GetParam());
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

TEST_P(EngineWait, DeadlinesAreKept) {
  World world(GetParam());
  auto space = world.NewSpace(kSpin);
  auto guest = world.NewGuest(*space);
  guest->Resume();
  EXPECT_TRUE(std::holds_alternative<Woken>(world.Wait(0)));
  // Later, earlier, later again: the timer that is left behind by one wakes no other.
  for (const uint64_t wait : {20 * kMs, 5 * kMs, 30 * kMs, 1 * kMs, 10 * kMs}) {
    const uint64_t deadline = host::MonotonicNs() + wait;
    world.engine->Kick();
    EXPECT_TRUE(std::holds_alternative<Woken>(world.Wait(deadline)));
    EXPECT_TRUE(std::holds_alternative<Woken>(world.Wait(deadline)));
    EXPECT_GE(host::MonotonicNs(), deadline);
  }
}

TEST_P(EngineWait, WatchesDescriptors) {
  World world(GetParam());
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

TEST_P(EngineWait, WakeUpsAreNotStarved) {
  World world(GetParam());
  auto space = world.NewSpace(kSyscallLoop);
  auto guest = world.NewGuest(*space);
  guest->Resume();
  world.engine->Kick();
  // On a busy host many stops may come first.
  const uint64_t patience = host::MonotonicNs() + 20'000 * kMs;
  const auto is_woken = [&](Deadline deadline) {
    while (host::MonotonicNs() < patience) {
      const Event event = world.Wait(deadline);
      if (std::holds_alternative<Woken>(event)) return true;
      std::get<Stopped>(event).context->Resume();
    }
    return false;
  };
  EXPECT_TRUE(is_woken(std::nullopt));
  EXPECT_TRUE(is_woken(host::MonotonicNs() - 1));
}

TEST_P(EngineWait, LetsAComputingGuestGo) {
  cpu_set_t old;
  sched_getaffinity(0, sizeof(old), &old);
  if (CPU_COUNT(&old) < 2) GTEST_SKIP() << "one CPU";
  World world(GetParam(), {.cpu = 0});
  auto space = world.NewSpace(kSpin);
  auto guest = world.NewGuest(*space);
  const pid_t tid = TidOf(*guest);
  const auto cpus = [&] {
    cpu_set_t set;
    sched_getaffinity(tid, sizeof(set), &set);
    return CPU_COUNT(&set);
  };
  guest->Resume();
  EXPECT_EQ(cpus(), 1);
  const uint64_t patience = host::MonotonicNs() + 20'000 * kMs;
  while (cpus() != CPU_COUNT(&old) && host::MonotonicNs() < patience) {
    (void)world.Wait(host::MonotonicNs() + 20 * kMs);
  }
  EXPECT_EQ(cpus(), CPU_COUNT(&old));
  guest->Interrupt();
  (void)world.NextStop(*guest);
  EXPECT_EQ(cpus(), 1);
}

TEST_P(EngineItself, NothingOutlivesTheSentry) {
  auto pipe = *host::MakePipe(O_CLOEXEC);
  const pid_t sentry = fork();
  if (sentry == 0) {
    World world(GetParam());
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

TEST_P(EngineWait, SleepsWithoutGuests) {
  World world(GetParam());
  timespec before, after;
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &before);
  EXPECT_TRUE(std::holds_alternative<Woken>(world.Wait(host::MonotonicNs() + 50 * kMs)));
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &after);
  EXPECT_LT((after.tv_sec - before.tv_sec) * 1'000'000'000 + after.tv_nsec - before.tv_nsec,
            static_cast<long>(5 * kMs));
}

TEST_P(EngineDeath, IsReportedAndAnsweredWithEio) {
  World world(GetParam());
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

TEST_P(EngineDeath, OfAParkedStubWhileAnotherGuestRuns) {
  World world(GetParam());
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
      kill(PidOf(*space), SIGKILL);  // nobody tells the engine
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

TEST_P(EngineDeath, DuringABatch) {
  for (int i = 0; i < 50; ++i) {
    World world(GetParam());
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

}  // namespace
}  // namespace skep::platform
