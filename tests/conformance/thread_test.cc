// Threads: ids, shared and private state, exit of one and of all.
#include <fcntl.h>
#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#include <array>
#include <atomic>
#include <thread>
#include <vector>

#include "tests/util/matchers.h"
#include "tests/util/process.h"

namespace skep::test {
namespace {

constexpr uint64_t kThreadFlags =
    CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD | CLONE_SYSVSEM;

TEST(Thread, HasItsOwnTidAndTheSharedPid) {
  pid_t pid = 0;
  pid_t tid = 0;
  std::thread([&] {
    pid = getpid();
    tid = GetTid();
  }).join();
  EXPECT_EQ(pid, getpid());
  EXPECT_NE(tid, getpid());
  EXPECT_GT(tid, 0);
}

TEST(Thread, ManyRunAtOnce) {
  std::atomic<int> sum = 0;
  std::vector<std::thread> threads;
  for (int i = 0; i < 32; ++i) {
    threads.emplace_back([&, i] {
      for (int j = 0; j < 100; ++j) sched_yield();
      sum += i;
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(sum, 31 * 32 / 2);
}

TEST(Thread, MutexesAndConditionVariablesWork) {
  pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
  pthread_cond_t changed = PTHREAD_COND_INITIALIZER;
  int turn = 0;
  const auto play = [&](int me) {
    for (int round = 0; round < 200; ++round) {
      pthread_mutex_lock(&mutex);
      while (turn % 2 != me) pthread_cond_wait(&changed, &mutex);
      ++turn;
      pthread_cond_signal(&changed);
      pthread_mutex_unlock(&mutex);
    }
  };
  std::thread other(play, 1);
  play(0);
  other.join();
  EXPECT_EQ(turn, 400);
}

TEST(Thread, ThreadLocalsAreApart) {
  static thread_local int local = 1;
  int seen = 0;
  std::thread([&] {
    seen = local;
    local = 5;
  }).join();
  EXPECT_EQ(seen, 1);
  EXPECT_EQ(local, 1);
}

TEST(Thread, SharesDescriptorsAndCwd) {
  EXPECT_THAT(ForkAndRun([] {
                int fd = -1;
                std::thread([&] {
                  fd = open("/dev/null", O_RDONLY);
                  chdir("/");
                }).join();
                EXPECT_THAT(fcntl(fd, F_GETFD), Succeeds());
                char cwd[16];
                EXPECT_NE(getcwd(cwd, sizeof(cwd)), nullptr);
                EXPECT_STREQ(cwd, "/");
              }),
              ExitsWith(0));
}

TEST(Thread, UnshareFilesGivesAnOwnTable) {
  const Fd fd(open("/dev/null", O_RDONLY));
  std::thread([&] {
    ASSERT_THAT(unshare(CLONE_FILES), Succeeds());
    EXPECT_THAT(close(fd), Succeeds());
  }).join();
  EXPECT_THAT(fcntl(fd, F_GETFD), Succeeds());
}

TEST(Thread, UnshareFsGivesAnOwnUmask) {
  const ScopedUmask mask(022);
  std::thread([&] {
    ASSERT_THAT(unshare(CLONE_FS), Succeeds());
    umask(077);
  }).join();
  EXPECT_EQ(umask(022), 022u);
}

TEST(Thread, MaskIsPerThreadAndInherited) {
  const ScopedSignalMask mask(SIG_BLOCK, {SIGUSR2});
  bool inherited = false;
  std::thread([&] {
    sigset_t set;
    pthread_sigmask(SIG_BLOCK, nullptr, &set);
    inherited = sigismember(&set, SIGUSR2);
    const sigset_t more = SignalSet({SIGHUP});
    pthread_sigmask(SIG_BLOCK, &more, nullptr);
  }).join();
  EXPECT_TRUE(inherited);
  sigset_t set;
  pthread_sigmask(SIG_BLOCK, nullptr, &set);
  EXPECT_FALSE(sigismember(&set, SIGHUP));
}

TEST(Thread, ChildCleartidWakesAFutex) {
  static std::atomic<uint32_t> word;
  word = 1;
  std::thread([] {
    syscall(SYS_set_tid_address, &word);
    syscall(SYS_exit, 0);
  }).detach();
  while (word != 0) syscall(SYS_futex, &word, FUTEX_WAIT, 1, nullptr, nullptr, 0);
  EXPECT_EQ(word, 0u);
}

TEST(Thread, LeaderMayExitBeforeTheOthers) {
  EXPECT_THAT(ForkAndRun([] {
                static const pid_t leader = GetTid();
                std::thread([] {
                  const bool zombie = WaitUntil([] { return ProcessState(leader) == 'Z'; });
                  _exit(zombie ? 11 : 12);
                }).detach();
                syscall(SYS_exit, 3);
              }),
              ExitsWith(11));
}

TEST(Thread, TheLastThreadsExitCodeIsTheProcesss) {
  EXPECT_THAT(ForkAndRun([] {
                static const pid_t leader = GetTid();
                std::thread([] {
                  WaitUntil([] { return ProcessState(leader) == 'Z'; });
                  syscall(SYS_exit, 9);
                }).detach();
                syscall(SYS_exit, 3);
              }),
              ExitsWith(9));
}

TEST(Thread, ExitGroupEndsBlockedAndRunningThreads) {
  EXPECT_THAT(ForkAndRun([] {
                static Pipe pipe = MakePipe();
                std::atomic<bool> spinning = false;
                std::thread([] {
                  char byte;
                  read(pipe.reader, &byte, 1);
                }).detach();
                std::thread([&] {
                  spinning = true;
                  for (;;) asm volatile("" ::: "memory");
                }).detach();
                while (!spinning) sched_yield();
                _exit(7);
              }),
              ExitsWith(7));
}

TEST(Thread, ExitGroupFromANonLeader) {
  EXPECT_THAT(ForkAndRun([] {
                std::thread([] { syscall(SYS_exit_group, 8); }).detach();
                for (;;) pause();
              }),
              ExitsWith(8));
}

TEST(Thread, AFatalSignalEndsAllThreads) {
  EXPECT_THAT(ForkAndRun([] {
                std::thread([] { syscall(SYS_tgkill, getpid(), GetTid(), SIGTERM); }).detach();
                for (;;) pause();
              }),
              KilledBy(SIGTERM));
}

TEST(Thread, ForkFromAThreadCopiesOnlyThatThread) {
  EXPECT_THAT(ForkAndRun([] {
                std::atomic<bool> stop = false;
                std::thread other([&] {
                  while (!stop) sched_yield();
                });
                std::thread([] {
                  const pid_t self = GetTid();
                  const pid_t child = fork();
                  if (child == 0) {
                    const bool alone = getpid() == GetTid() && getppid() != self &&
                                       !Exists("/proc/self/task/" + std::to_string(self));
                    _exit(alone ? 0 : 1);
                  }
                  int status = -1;
                  EXPECT_THAT(waitpid(child, &status, 0), SucceedsWith(child));
                  EXPECT_THAT(status, ExitsWith(0));
                }).join();
                stop = true;
                other.join();
              }),
              ExitsWith(0));
}

TEST(Thread, ExecFromANonLeaderEndsTheOthers) {
  EXPECT_THAT(ForkAndRun([] {
                std::thread([] {
                  execl(TestBinary().c_str(), TestBinary().c_str(), "--helper=exit_5", nullptr);
                }).detach();
                for (;;) sched_yield();
              }),
              ExitsWith(5));
}
const Helper kExit5("exit_5", [](int, char**) { return 5; });

TEST(Tgkill, ReachesOneThread) {
  static std::atomic<pid_t> handled;
  handled = 0;
  const ScopedSignalHandler handler(SIGUSR1, [](int) { handled = GetTid(); });
  std::atomic<pid_t> tid = 0;
  std::atomic<bool> stop = false;
  std::thread thread([&] {
    tid = GetTid();
    while (!stop) sched_yield();
  });
  while (tid == 0) sched_yield();
  EXPECT_THAT(syscall(SYS_tgkill, getpid(), tid.load(), SIGUSR1), Succeeds());
  EXPECT_TRUE(WaitUntil([&] { return handled == tid; }));
  stop = true;
  thread.join();
}

TEST(Tgkill, Errors) {
  EXPECT_THAT(syscall(SYS_tgkill, getpid(), 0x7ffffff, 0), FailsWith(ESRCH));
  EXPECT_THAT(syscall(SYS_tgkill, getppid(), GetTid(), 0), FailsWith(ESRCH));
  EXPECT_THAT(syscall(SYS_tgkill, 0, GetTid(), 0), FailsWith(EINVAL));
  EXPECT_THAT(syscall(SYS_tgkill, getpid(), 0, 0), FailsWith(EINVAL));
  EXPECT_THAT(syscall(SYS_tgkill, getpid(), GetTid(), 65), FailsWith(EINVAL));
  EXPECT_THAT(syscall(SYS_tkill, 0x7ffffff, 0), FailsWith(ESRCH));
  EXPECT_THAT(syscall(SYS_tgkill, getpid(), GetTid(), 0), Succeeds());
}

TEST(RawThread, ClonesWithTlsAndTids) {
  static std::atomic<uint32_t> cleared;
  static std::atomic<int> seen_fs_ok;
  static int parent_tid;
  static uint64_t tls[8];
  static char stack[64 * 1024] __attribute__((aligned(16)));
  cleared = 1;
  tls[0] = reinterpret_cast<uint64_t>(tls);
  tls[5] = 0x1234;  // where the stack protector looks
  const int tid = clone(
      [](void*) __attribute__((no_stack_protector)) {
        uint64_t value = 0;
        asm volatile("mov %%fs:40, %0" : "=r"(value));
        seen_fs_ok = value == 0x1234 ? 1 : 2;
        asm volatile("syscall" ::"a"(SYS_exit), "D"(0) : "rcx", "r11", "memory");
        return 0;
      },
      stack + sizeof(stack),
      kThreadFlags | CLONE_SETTLS | CLONE_PARENT_SETTID | CLONE_CHILD_CLEARTID, nullptr,
      &parent_tid, tls, &cleared);
  ASSERT_THAT(tid, Succeeds());
  EXPECT_EQ(parent_tid, tid);
  while (cleared != 0) syscall(SYS_futex, &cleared, FUTEX_WAIT, 1, nullptr, nullptr, 0);
  EXPECT_EQ(seen_fs_ok, 1);
}

TEST(RobustList, GetAndSetCheckTheSize) {
  void* head = nullptr;
  size_t length = 0;
  EXPECT_THAT(syscall(SYS_get_robust_list, 0, &head, &length), Succeeds());
  EXPECT_EQ(length, 24u);
  EXPECT_THAT(syscall(SYS_set_robust_list, head, 25), FailsWith(EINVAL));
  EXPECT_THAT(syscall(SYS_set_robust_list, head, 24), Succeeds());
  EXPECT_THAT(syscall(SYS_get_robust_list, 0x7ffffff, &head, &length), FailsWith(ESRCH));
}

TEST(RobustList, ADeadOwnerIsReported) {
  pthread_mutexattr_t attributes;
  pthread_mutexattr_init(&attributes);
  pthread_mutexattr_setrobust(&attributes, PTHREAD_MUTEX_ROBUST);
  pthread_mutex_t mutex;
  pthread_mutex_init(&mutex, &attributes);
  std::thread([&] { pthread_mutex_lock(&mutex); }).join();
  EXPECT_EQ(pthread_mutex_lock(&mutex), EOWNERDEAD);
  EXPECT_EQ(pthread_mutex_consistent(&mutex), 0);
  EXPECT_EQ(pthread_mutex_unlock(&mutex), 0);
  EXPECT_EQ(pthread_mutex_lock(&mutex), 0);
  pthread_mutex_unlock(&mutex);
}

TEST(RobustList, AcrossProcessesAWaiterIsWoken) {
  const Mapping shared(kPageSize, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS);
  auto* mutex = shared.as<pthread_mutex_t>();
  pthread_mutexattr_t attributes;
  pthread_mutexattr_init(&attributes);
  pthread_mutexattr_setrobust(&attributes, PTHREAD_MUTEX_ROBUST);
  pthread_mutexattr_setpshared(&attributes, PTHREAD_PROCESS_SHARED);
  pthread_mutex_init(mutex, &attributes);
  Gate locked;
  ChildProcess owner([&] {
    pthread_mutex_lock(mutex);
    locked.Open();
    for (;;) pause();
  });
  locked.Wait();
  std::thread killer([&, tid = GetTid()] {
    WaitUntilBlocked(getpid(), tid);
    owner.Kill(SIGKILL);
  });
  EXPECT_EQ(pthread_mutex_lock(mutex), EOWNERDEAD);
  killer.join();
}

}  // namespace
}  // namespace skep::test
