// Guests that ask for too much of everything: they get an errno or die; the sandbox goes on.
#include <fcntl.h>
#include <gtest/gtest-spi.h>
#include <poll.h>
#include <sched.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/timerfd.h>
#include <time.h>

#include <atomic>
#include <cstring>
#include <thread>

#include "tests/hostile/hostile.h"

namespace skep::test {
namespace {

constexpr int kLongMs = 60'000;

void BecomeNobody() {
  if (geteuid() == 0 && setresuid(54'321, 54'321, 54'321) != 0) ADD_FAILURE() << errno;
}

// --- canaries: the looks at the sandbox's health notice when it is not well
// -------------------------

TEST(ExhaustionCanary, ASandboxThatDoesNotWorkIsNoticed) {
  const auto expect_sick = [](const std::function<void()>& harm) {
    EXPECT_THAT(Attack([&] {
                  harm();
                  ExpectAlive();
                }),
                testing::Not(ExitsWith(0)));
  };
  expect_sick([] {
    const rlimit none = {0, 0};
    setrlimit(RLIMIT_NOFILE, &none);
  });
  expect_sick([] {
    const rlimit none = {0, 0};
    setrlimit(RLIMIT_AS, &none);
  });
  expect_sick(
      [] { signal(SIGPIPE, SIG_DFL), chroot("/nowhere"), setenv("TEST_TMPDIR", "/none", 1); });
}

TEST(ExhaustionCanary, AnAttackerThatHangsIsNoticed) {
  int status = 0;
  EXPECT_NONFATAL_FAILURE(status = Attack([] { pause(); }, 200),
                          "the attacker neither finished nor died");
  EXPECT_THAT(status, testing::Not(NoEscape()));
}

TEST(Exhaustion, ForkBombStopsAtItsLimit) {
  const int status = Attack(
      [] {
        BecomeNobody();
        const rlimit limit = {64, 64};
        ASSERT_THAT(setrlimit(RLIMIT_NPROC, &limit), Succeeds());
        setpgid(0, 0);
        int made = 0;
        for (int i = 0; i < 500; ++i) {
          const pid_t child = fork();
          if (child == 0) {
            for (;;) {
              if (fork() < 0) pause();
            }
          }
          if (child > 0) ++made;
        }
        if (made >= 64) _exit(3);
        signal(SIGTERM, SIG_IGN);
        kill(0, SIGKILL);
      },
      kLongMs);
  EXPECT_THAT(status, KilledBy(SIGKILL));
  ExpectAlive();
}

TEST(Exhaustion, ThreadsStopAtTheLimit) {
  const int status = Attack(
      [] {
        BecomeNobody();
        const rlimit limit = {100, 100};
        ASSERT_THAT(setrlimit(RLIMIT_NPROC, &limit), Succeeds());
        int made = 0;
        for (; made < 1'000; ++made) {
          pthread_t thread;
          if (pthread_create(
                  &thread, nullptr, [](void*) -> void* { return pause(), nullptr; }, nullptr) !=
              0) {
            break;
          }
        }
        _exit(made < 100 ? 0 : 1);
      },
      kLongMs);
  EXPECT_THAT(status, ExitsWith(0));
  ExpectAlive();
}

// As many as an honest program may have: each does its work and its end is right.
TEST(Exhaustion, AThousandProcessesAtOnce) {
  const int status = Attack(
      [] {
        int gate[2];
        if (pipe(gate) != 0) _exit(2);
        std::vector<pid_t> children;
        for (int i = 0; i < 1'000; ++i) {
          const pid_t child = fork();
          if (child < 0) _exit(3);
          if (child == 0) {
            char byte;
            close(gate[1]);
            _exit(read(gate[0], &byte, 1) == 0 ? i % 100 : 101);
          }
          children.push_back(child);
        }
        close(gate[1]);
        for (int i = 0; i < 1'000; ++i) {
          int ended = 0;
          const pid_t child = children[static_cast<size_t>(i)];
          if (waitpid(child, &ended, 0) != child || ended != (i % 100) << 8) _exit(4);
        }
        _exit(0);
      },
      kLongMs);
  EXPECT_THAT(status, ExitsWith(0));
  ExpectAlive();
}

TEST(Exhaustion, AThousandThreadsAtOnce) {
  const int status = Attack(
      [] {
        std::atomic<bool> go = false;
        std::atomic<int> sum = 0;
        std::vector<std::thread> threads;
        for (int i = 0; i < 1'000; ++i) {
          threads.emplace_back([&go, &sum, i] {
            go.wait(false);
            sum += i;
          });
        }
        go = true;
        go.notify_all();
        for (std::thread& thread : threads) thread.join();
        _exit(sum == 999 * 1'000 / 2 ? 0 : 1);
      },
      kLongMs);
  EXPECT_THAT(status, ExitsWith(0));
  ExpectAlive();
}

TEST(Exhaustion, DescriptorsOfEveryKind) {
  const std::function<int()> makers[] = {[] { return open("/dev/null", O_RDONLY); },
                                         [] { return eventfd(0, 0); },
                                         [] { return epoll_create1(0); },
                                         [] { return timerfd_create(CLOCK_MONOTONIC, 0); },
                                         [] { return socket(AF_UNIX, SOCK_STREAM, 0); },
                                         [] { return memfd_create("x", 0); },
                                         [] {
                                           int fds[2];
                                           return pipe(fds);
                                         }};
  for (const auto& make : makers) {
    const int status = Attack(
        [&] {
          const rlimit limit = {4'096, 4'096};
          setrlimit(RLIMIT_NOFILE, &limit);
          while (make() >= 0) {
          }
          _exit(errno == EMFILE || errno == ENFILE ? 0 : 1);
        },
        kLongMs);
    EXPECT_THAT(status, ExitsWith(0));
  }
  ExpectAlive();
}

TEST(Exhaustion, MappingsUpToTheLimit) {
  const int status = Attack(
      [] {
        int made = 0;
        for (; made < 100'000; ++made) {
          const int prot = made % 2 == 0 ? PROT_READ : PROT_READ | PROT_WRITE;
          if (mmap(nullptr, kPageSize, prot, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) == MAP_FAILED) {
            break;
          }
        }
        _exit(made > 10'000 ? 0 : 1);
      },
      kLongMs);
  EXPECT_THAT(status, ExitsWith(0));
  ExpectAlive();
}

TEST(Exhaustion, PipesFullOfDataAreBounded) {
  const int status = Attack(
      [] {
        BecomeNobody();
        const std::string block(65'536, 'x');
        for (int i = 0; i < 2'000; ++i) {
          int fds[2];
          if (pipe2(fds, O_NONBLOCK) != 0) break;
          fcntl(fds[1], F_SETPIPE_SZ, 1 << 20);
          while (write(fds[1], block.data(), block.size()) > 0) {
          }
        }
      },
      kLongMs);
  EXPECT_THAT(status, testing::AnyOf(ExitsWith(0), KilledBy(SIGKILL)));
  ExpectAlive();
}

TEST(Exhaustion, SignalsQueuedToOneself) {
  const int status = Attack(
      [] {
        BecomeNobody();
        const ScopedSignalMask mask(SIG_BLOCK, {SIGRTMIN});
        int sent = 0;
        while (sent < 2'000'000 && sigqueue(getpid(), SIGRTMIN, sigval{}) == 0) ++sent;
        _exit(sent < 2'000'000 && errno == EAGAIN ? 0 : 1);
      },
      kLongMs);
  EXPECT_THAT(status, ExitsWith(0));
  ExpectAlive();
}

// Every signal, all the time, from several processes, to one that computes and makes calls: it
// takes them all and its registers stay its own.
TEST(Exhaustion, SignalFloods) {
  static std::atomic<int> taken{0};
  const int status = Attack(
      [] {
        std::vector<char> stack(64 << 10);
        const stack_t alternate = {.ss_sp = stack.data(), .ss_flags = 0, .ss_size = stack.size()};
        if (sigaltstack(&alternate, nullptr) != 0) _exit(1);
        struct sigaction action = {};
        action.sa_handler = [](int) { ++taken; };
        action.sa_flags = SA_ONSTACK | SA_RESTART;
        sigfillset(&action.sa_mask);
        sigset_t caught;  // but SIGKILL, SIGSTOP and those that libc keeps for itself
        sigemptyset(&caught);
        for (int signo = 1; signo < NSIG; ++signo) {
          if (sigaction(signo, &action, nullptr) == 0) sigaddset(&caught, signo);
        }
        const pid_t victim = getpid();
        std::vector<pid_t> flooders;
        for (int i = 0; i < 4; ++i) {
          flooders.push_back(fork());
          if (flooders.back() != 0) continue;
          for (int signo = i;; signo = (signo + 1) % NSIG) {
            usleep(1000);  // or the victim would do nothing but take signals, natively too
            const bool is_caught = sigismember(&caught, signo) == 1;
            if (is_caught && kill(victim, signo) != 0) _exit(0);
          }
        }
        double sum = 0, expected = 0;
        for (int i = 0; i < 2000 || taken < 2000; ++i) {
          sum += i * 0.5;
          if (getpid() != victim) _exit(2);
          expected = 0.25 * i * (i + 1);
        }
        for (const pid_t flooder : flooders) kill(flooder, SIGKILL);
        _exit(sum == expected ? 0 : 3);
      },
      kLongMs);
  EXPECT_THAT(status, ExitsWith(0));
  ExpectAlive();
}

TEST(Exhaustion, TimersOfOneProcess) {
  const int status = Attack(
      [] {
        BecomeNobody();
        int made = 0;
        int timer = 0;
        while (made < 300'000 && syscall(SYS_timer_create, CLOCK_MONOTONIC, nullptr, &timer) == 0) {
          ++made;
        }
        _exit(made < 300'000 && errno == EAGAIN ? 0 : 1);
      },
      kLongMs);
  EXPECT_THAT(status, ExitsWith(0));
  ExpectAlive();
}

// Timers of a nanosecond, as many as there may be, whose signals are blocked, ignored or handled:
// others are served as ever.
TEST(Exhaustion, TimersOfOneNanosecond) {
  enum Kind { kBlocked, kIgnored, kHandled };
  for (const Kind kind : {kBlocked, kIgnored, kHandled}) {
    const Pipe ready = MakePipe();
    ChildProcess attacker([&] {
      sigset_t all;
      sigfillset(&all);
      if (kind == kBlocked) sigprocmask(SIG_BLOCK, &all, nullptr);
      signal(SIGUSR1, kind == kIgnored ? SIG_IGN : [](int) {});
      const rlimit limit = {20'000, 20'000};
      setrlimit(RLIMIT_NOFILE, &limit);
      const itimerspec fast = {{0, 1}, {0, 1}};
      const itimerval fast_real = {{0, 1}, {0, 1}};
      if (kind == kIgnored) signal(SIGALRM, SIG_IGN);
      if (kind != kHandled) setitimer(ITIMER_REAL, &fast_real, nullptr);
      for (int i = 0; i < 16'000; ++i) {
        const int fd = timerfd_create(CLOCK_MONOTONIC, 0);
        if (fd < 0) break;
        timerfd_settime(fd, 0, &fast, nullptr);
      }
      sigevent event = {};
      event.sigev_notify = SIGEV_SIGNAL;
      event.sigev_signo = SIGUSR1;
      int timer = 0;
      for (int i = 0; i < 4'096; ++i) {
        if (syscall(SYS_timer_create, CLOCK_MONOTONIC, &event, &timer) != 0) break;
        syscall(SYS_timer_settime, timer, 0, &fast, nullptr);
        if (i == 0 && write(ready.writer, "x", 1) != 1) _exit(1);
      }
      for (;;) pause();
    });
    char byte;
    EXPECT_THAT(read(ready.reader, &byte, 1), SucceedsWith(1));
    const int64_t began = NowNs(CLOCK_MONOTONIC);
    for (int i = 0; i < 1'000; ++i) {
      EXPECT_THAT(write(ready.writer, "x", 1), SucceedsWith(1));
      EXPECT_THAT(read(ready.reader, &byte, 1), SucceedsWith(1));
      if (i % 50 == 0) usleep(1000);
    }
    EXPECT_LT(NowNs(CLOCK_MONOTONIC) - began, int64_t{kLongMs} * 1'000'000) << "kind " << kind;
  }
  ExpectAlive();
}

// Linux has no limit on the locks of a file (RLIMIT_LOCKS is obsolete): all are taken, and each
// keeps others out of its byte and no other.
TEST(Exhaustion, ThousandsOfLocksOnOneFile) {
  const TempDir dir;
  WriteFile(dir.File("f"), "");
  constexpr off_t kLocks = 25'000;
  const auto lock = [](int fd, off_t byte) {
    struct flock range = {F_WRLCK, SEEK_SET, byte, 1, 0};
    return fcntl(fd, F_SETLK, &range);
  };
  EXPECT_THAT(Attack(
                  [&] {
                    const Fd fd(open(dir.File("f").c_str(), O_RDWR));
                    for (off_t i = 0; i < kLocks; ++i) ASSERT_THAT(lock(fd, 2 * i), Succeeds());
                    EXPECT_THAT(ForkAndRun([&] {
                                  for (off_t i = 0; i < kLocks; i += 97) {
                                    EXPECT_THAT(lock(fd, 2 * i), FailsWith(EAGAIN)) << i;
                                    EXPECT_THAT(lock(fd, 2 * i + 1), Succeeds()) << i;
                                  }
                                }),
                                ExitsWith(0));
                  },
                  kLongMs),
              ExitsWith(0));
  const Fd fd(open(dir.File("f").c_str(), O_RDWR));
  EXPECT_THAT(lock(fd, 0), Succeeds()) << "its owner has ended";
  ExpectAlive();
}

TEST(Exhaustion, DirectoriesNestedDeeply) {
  const TempDir dir;
  const int status = Attack(
      [&] {
        ASSERT_THAT(chdir(dir.c_str()), Succeeds());
        int depth = 0;
        for (; depth < 3'000; ++depth) {
          if (mkdir("d", 0755) != 0 || chdir("d") != 0) break;
        }
        char cwd[4096];
        const long length = syscall(SYS_getcwd, cwd, sizeof(cwd));
        EXPECT_TRUE(length == -1 && (errno == ERANGE || errno == ENAMETOOLONG)) << errno;
        for (; depth > 0; --depth) {
          if (chdir("..") != 0 || rmdir("d") != 0) _exit(1);
        }
      },
      kLongMs);
  EXPECT_THAT(status, ExitsWith(0));
  ExpectAlive();
}

// All of them end: a process that was lost in the race would stay in the group.
TEST(Exhaustion, ForksRaceWithExitsAndKills) {
  const Mapping shared(kPageSize, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS);
  struct Seen {
    pid_t group;
    int made, reaped;
  }& seen = *shared.as<Seen>();
  const int status = Attack(
      [&] {
        setpgid(0, 0);
        seen.group = getpid();
        for (int i = 0; i < 300; ++i) {
          const pid_t child = fork();
          if (child == 0) {
            std::thread([] {
              for (;;) getppid();
            }).detach();
            if (i % 3 == 0) _exit(0);
            if (i % 3 == 1) raise(SIGSEGV);
            for (;;) sched_yield();
          }
          if (child > 0) ++seen.made;
          if (child > 0 && i % 3 == 2) kill(child, SIGKILL);
          while (waitpid(-1, nullptr, WNOHANG) > 0) ++seen.reaped;
        }
        while (waitpid(-1, nullptr, 0) > 0) ++seen.reaped;
        kill(0, SIGKILL);
      },
      kLongMs);
  EXPECT_THAT(status, KilledBy(SIGKILL));
  EXPECT_EQ(seen.made, 300);
  EXPECT_EQ(seen.reaped, 300);
  EXPECT_TRUE(WaitUntil([&] { return kill(-seen.group, 0) != 0 && errno == ESRCH; }));
  ExpectAlive();
}

TEST(Exhaustion, ExecsRaceWithOtherThreads) {
  for (int i = 0; i < 30; ++i) {
    const int status = Attack([] {
      for (int t = 0; t < 4; ++t) {
        std::thread([t] {
          if (t == 2) {
            execl(TestBinary().c_str(), TestBinary().c_str(), "--helper=exit_0", nullptr);
          }
          for (;;) {
            void* page = mmap(nullptr, kPageSize, PROT_READ | PROT_WRITE,
                              MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
            if (page != MAP_FAILED) munmap(page, kPageSize);
          }
        }).detach();
      }
      for (;;) sched_yield();
    });
    EXPECT_THAT(status, ExitsWith(0));
  }
  ExpectAlive();
}
const Helper kExit0("exit_0", [](int, char**) { return 0; });

TEST(Exhaustion, HugeArgumentsAndCounts) {
  EXPECT_THAT(poll(nullptr, ~nfds_t{0}, 0), FailsWith(EINVAL));
  timeval now = {};
  EXPECT_THAT(syscall(SYS_select, INT32_MAX, nullptr, nullptr, nullptr, &now), SucceedsWith(0));
  char byte;
  EXPECT_THAT(syscall(SYS_getdents64, 0, &byte, ~0U), testing::Ne(0));
  const Mapping page(2 * kPageSize);
  munmap(page.page(1), kPageSize);
  EXPECT_THAT(syscall(SYS_getrandom, page.page(1) - 8, 1ULL << 40, 0), SucceedsWith(8));
  EXPECT_THAT(syscall(SYS_setgroups, INT32_MAX, &byte), testing::Eq(-1));
  EXPECT_THAT(syscall(SYS_sched_getaffinity, 0, ~0U, &byte), testing::Eq(-1));
  EXPECT_THAT(mmap(nullptr, ~size_t{0} & ~0xfffULL, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0),
              FailsWith(ENOMEM));
  ExpectAlive();
}

// Run with `skep do --memory`: the limit kills the hog (or refuses it), not the sandbox.
TEST(MemoryHog, DiesAlone) {
  const int status = Attack(
      [] {
        for (;;) {
          void* block =
              mmap(nullptr, 64 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
          if (block == MAP_FAILED) _exit(12);
          memset(block, 'h', 64 << 20);
        }
      },
      kLongMs);
  EXPECT_THAT(status, testing::AnyOf(ExitsWith(12), KilledBy(SIGKILL)));
  ExpectAlive();
}

TEST(MemoryHog, FilesInMemoryCountToo) {
  const TempDir dir;
  const int status = Attack(
      [&] {
        const std::string block(1 << 20, 'h');
        const Fd fd(open(dir.File("f").c_str(), O_WRONLY | O_CREAT, 0600));
        for (int i = 0; i < 4'096; ++i) {
          if (write(fd, block.data(), block.size()) < 0) _exit(12);
        }
        _exit(13);
      },
      kLongMs);
  EXPECT_THAT(status, testing::AnyOf(ExitsWith(12), KilledBy(SIGKILL)));
  unlink(dir.File("f").c_str());
  ExpectAlive();
}

}  // namespace
}  // namespace skep::test
