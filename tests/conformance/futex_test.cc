// futex: wait, wake, bitsets, requeue, wake_op, timeouts and errors.
#include <fcntl.h>
#include <linux/futex.h>
#include <pthread.h>
#include <sys/syscall.h>

#include <atomic>
#include <thread>
#include <vector>

#include "tests/util/matchers.h"
#include "tests/util/process.h"

namespace skep::test {
namespace {

using Word = std::atomic<uint32_t>;

long Futex(void* word, int op, uint32_t value, const void* timeout = nullptr, void* word2 = nullptr,
           uint32_t value3 = 0) {
  return syscall(SYS_futex, word, op, value, timeout, word2, value3);
}
const void* Count(uint64_t count) { return reinterpret_cast<const void*>(count); }

// Threads that wait on a word and say what they got.
class Waiters {
 public:
  Waiters(int count, Word* word, int op = FUTEX_WAIT_PRIVATE, uint32_t bits = 0) {
    for (int i = 0; i < count; ++i) {
      std::atomic<pid_t> tid = 0;
      threads_.emplace_back([&, word, op, bits] {
        tid = GetTid();
        if (Futex(word, op, word->load(), nullptr, nullptr, bits) == 0) ++woken_;
      });
      while (tid == 0) sched_yield();
      WaitUntilBlocked(getpid(), tid);
    }
  }
  ~Waiters() {
    for (std::thread& thread : threads_) thread.join();
  }
  int woken() const { return woken_; }
  bool Becomes(int count) {
    return WaitUntil([&] { return woken_ == count; });
  }

 private:
  std::atomic<int> woken_ = 0;
  std::vector<std::thread> threads_;
};

TEST(Futex, WaitOnAnotherValueIsEagain) {
  Word word = 1;
  EXPECT_THAT(Futex(&word, FUTEX_WAIT, 2), FailsWith(EAGAIN));
  EXPECT_THAT(Futex(&word, FUTEX_WAIT_PRIVATE, 2), FailsWith(EAGAIN));
}

TEST(Futex, WakeWithoutWaitersIsZero) {
  Word word = 0;
  EXPECT_THAT(Futex(&word, FUTEX_WAKE, 1), SucceedsWith(0));
}

TEST(Futex, WakeWakesThatMany) {
  Word word = 0;
  Waiters waiters(3, &word);
  EXPECT_THAT(Futex(&word, FUTEX_WAKE_PRIVATE, 2), SucceedsWith(2));
  EXPECT_TRUE(waiters.Becomes(2));
  EXPECT_THAT(Futex(&word, FUTEX_WAKE_PRIVATE, INT32_MAX), SucceedsWith(1));
}

TEST(Futex, RelativeTimeout) {
  Word word = 0;
  const timespec timeout = {0, 20'000'000};
  const int64_t start = NowNs();
  EXPECT_THAT(Futex(&word, FUTEX_WAIT, 0, &timeout), FailsWith(ETIMEDOUT));
  EXPECT_GE(NowNs() - start, 20'000'000);
}

TEST(Futex, AbsoluteTimeoutOnEitherClock) {
  Word word = 0;
  for (const int flag : {0, FUTEX_CLOCK_REALTIME}) {
    const clockid_t clock = flag == 0 ? CLOCK_MONOTONIC : CLOCK_REALTIME;
    const int64_t until = NowNs(clock) + 10'000'000;
    const timespec timeout = {until / 1'000'000'000, until % 1'000'000'000};
    EXPECT_THAT(Futex(&word, FUTEX_WAIT_BITSET | flag, 0, &timeout, nullptr, ~0u),
                FailsWith(ETIMEDOUT));
    EXPECT_GE(NowNs(clock), until);
  }
}

TEST(Futex, BadTimeouts) {
  Word word = 0;
  const timespec too_many_ns = {0, 1'000'000'000};
  const timespec negative = {-1, 0};
  EXPECT_THAT(Futex(&word, FUTEX_WAIT, 0, &too_many_ns), FailsWith(EINVAL));
  EXPECT_THAT(Futex(&word, FUTEX_WAIT, 0, &negative), FailsWith(EINVAL));
  EXPECT_THAT(Futex(&word, FUTEX_WAIT, 0, kBadAddress), FailsWith(EFAULT));
}

TEST(Futex, BadAddresses) {
  Word words[2] = {};
  EXPECT_THAT(Futex(reinterpret_cast<char*>(words) + 1, FUTEX_WAIT, 0), FailsWith(EINVAL));
  EXPECT_THAT(Futex(reinterpret_cast<char*>(words) + 2, FUTEX_WAKE, 1), FailsWith(EINVAL));
  EXPECT_THAT(Futex(kBadAddress, FUTEX_WAIT, 0), FailsWith(EFAULT));
  EXPECT_THAT(Futex(words, 99, 0), FailsWith(ENOSYS));
}

TEST(Futex, BitsetMustNotBeEmpty) {
  Word word = 0;
  EXPECT_THAT(Futex(&word, FUTEX_WAIT_BITSET, 0, nullptr, nullptr, 0), FailsWith(EINVAL));
  EXPECT_THAT(Futex(&word, FUTEX_WAKE_BITSET, 1, nullptr, nullptr, 0), FailsWith(EINVAL));
}

TEST(Futex, BitsetWakesOnlyMatchingWaiters) {
  Word word = 0;
  Waiters waiters(1, &word, FUTEX_WAIT_BITSET_PRIVATE, 0x4);
  EXPECT_THAT(Futex(&word, FUTEX_WAKE_BITSET_PRIVATE, 1, nullptr, nullptr, 0x3), SucceedsWith(0));
  EXPECT_THAT(Futex(&word, FUTEX_WAKE_BITSET_PRIVATE, 1, nullptr, nullptr, 0x6), SucceedsWith(1));
}

TEST(Futex, RequeueMovesTheRest) {
  Word first = 0;
  Word second = 0;
  Waiters waiters(4, &first);
  EXPECT_THAT(Futex(&first, FUTEX_REQUEUE_PRIVATE, 1, Count(2), &second), SucceedsWith(3));
  EXPECT_THAT(Futex(&second, FUTEX_WAKE_PRIVATE, 10), SucceedsWith(2));
  EXPECT_THAT(Futex(&first, FUTEX_WAKE_PRIVATE, 10), SucceedsWith(1));
}

TEST(Futex, CmpRequeueChecksTheValue) {
  Word first = 5;
  Word second = 0;
  Waiters waiters(2, &first);
  EXPECT_THAT(Futex(&first, FUTEX_CMP_REQUEUE_PRIVATE, 1, Count(1), &second, 6), FailsWith(EAGAIN));
  EXPECT_THAT(Futex(&first, FUTEX_CMP_REQUEUE_PRIVATE, 0, Count(9), &second, 5), SucceedsWith(2));
  EXPECT_EQ(waiters.woken(), 0);
  EXPECT_THAT(Futex(&second, FUTEX_WAKE_PRIVATE, 10), SucceedsWith(2));
}

TEST(Futex, RequeueToItselfMovesNobodyAway) {
  Word word = 0;
  Waiters waiters(2, &word);
  EXPECT_THAT(Futex(&word, FUTEX_REQUEUE_PRIVATE, 0, Count(2), &word), SucceedsWith(2));
  EXPECT_THAT(Futex(&word, FUTEX_WAKE_PRIVATE, 10), SucceedsWith(2));
}

TEST(Futex, WakeOpChangesTheWordAndWakesBoth) {
  Word first = 0;
  Word second = 4;
  Waiters on_first(1, &first);
  Waiters on_second(1, &second);
  const uint32_t op = FUTEX_OP(FUTEX_OP_ADD, 3, FUTEX_OP_CMP_EQ, 4);
  EXPECT_THAT(Futex(&first, FUTEX_WAKE_OP_PRIVATE, 1, Count(1), &second, op), SucceedsWith(2));
  EXPECT_EQ(second, 7u);
}

TEST(Futex, WakeOpOperationsAndComparisons) {
  Word first = 0;
  Word second = 6;
  const auto apply = [&](uint32_t op) {
    EXPECT_THAT(Futex(&first, FUTEX_WAKE_OP_PRIVATE, 1, Count(1), &second, op), SucceedsWith(0));
    return second.load();
  };
  EXPECT_EQ(apply(FUTEX_OP(FUTEX_OP_SET, 6, FUTEX_OP_CMP_GT, 100)), 6u);
  EXPECT_EQ(apply(FUTEX_OP(FUTEX_OP_OR, 1, FUTEX_OP_CMP_NE, 0)), 7u);
  EXPECT_EQ(apply(FUTEX_OP(FUTEX_OP_ANDN, 2, FUTEX_OP_CMP_LT, 0)), 5u);
  EXPECT_EQ(apply(FUTEX_OP(FUTEX_OP_XOR, 4, FUTEX_OP_CMP_LE, 0)), 1u);
  EXPECT_EQ(apply(FUTEX_OP(FUTEX_OP_ADD, 0xfff, FUTEX_OP_CMP_GE, 0)), 0u) << "-1, sign extended";
  EXPECT_EQ(apply(FUTEX_OP(FUTEX_OP_SET | FUTEX_OP_OPARG_SHIFT, 5, FUTEX_OP_CMP_EQ, 0)), 32u);
}

TEST(Futex, WakeOpBadOperationIsEnosys) {
  Word words[2] = {};
  EXPECT_THAT(Futex(&words[0], FUTEX_WAKE_OP, 1, Count(1), &words[1], 0x7000'0000),
              FailsWith(ENOSYS));
}

TEST(Futex, SharedAcrossProcessesAtDifferentAddresses) {
  const Mapping shared(kPageSize, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS);
  auto* word = shared.as<Word>();
  ChildProcess child([&] {
    void* moved = mremap(shared.data(), 0, kPageSize, MREMAP_MAYMOVE);
    ASSERT_THAT(moved, Succeeds());
    EXPECT_THAT(Futex(moved, FUTEX_WAIT, 0), SucceedsWith(0));
  });
  WaitUntilBlocked(child.pid());
  EXPECT_TRUE(WaitUntil([&] { return Futex(word, FUTEX_WAKE, 1) == 1; }));
  EXPECT_THAT(child.Wait(), ExitsWith(0));
}

TEST(Futex, PrivateMemoryIsNotSharedAcrossFork) {
  static Word word = 0;
  ChildProcess child([] {
    const timespec timeout = {0, 50'000'000};
    EXPECT_THAT(Futex(&word, FUTEX_WAIT, 0, &timeout), FailsWith(ETIMEDOUT));
  });
  EXPECT_THAT(Futex(&word, FUTEX_WAKE, 1), SucceedsWith(0));
  EXPECT_THAT(child.Wait(), ExitsWith(0));
}

TEST(Futex, InFileMappingsKeyedByTheFile) {
  const TempDir dir;
  WriteFile(dir.File("f"), std::string(kPageSize, '\0'));
  const Fd fd(open(dir.File("f").c_str(), O_RDWR));
  const Mapping a(kPageSize, PROT_READ | PROT_WRITE, MAP_SHARED, fd);
  const Mapping b(kPageSize, PROT_READ | PROT_WRITE, MAP_SHARED, fd);
  Waiters waiters(1, a.as<Word>(), FUTEX_WAIT);
  EXPECT_THAT(Futex(b.data(), FUTEX_WAKE, 1), SucceedsWith(1));
}

TEST(Futex, ASignalInterruptsWaitWithoutRestartFlag) {
  static Word word = 0;
  const ScopedSignalHandler handler(SIGUSR1, [](int) {});
  std::thread sender([self = pthread_self(), tid = GetTid()] {
    WaitUntilBlocked(getpid(), tid);
    pthread_kill(self, SIGUSR1);
  });
  EXPECT_THAT(Futex(&word, FUTEX_WAIT, 0), FailsWith(EINTR));
  sender.join();
}

TEST(Futex, ASignalRestartsWaitWithRestartFlag) {
  static Word word = 0;
  static volatile sig_atomic_t handled = 0;
  const ScopedSignalHandler handler(SIGUSR1, [](int) { handled = 1; }, SA_RESTART);
  std::thread sender([self = pthread_self(), tid = GetTid()] {
    WaitUntilBlocked(getpid(), tid);
    pthread_kill(self, SIGUSR1);
    while (handled == 0) sched_yield();
    WaitUntilBlocked(getpid(), tid);
    Futex(&word, FUTEX_WAKE, 1);
  });
  EXPECT_THAT(Futex(&word, FUTEX_WAIT, 0), SucceedsWith(0));
  sender.join();
}

TEST(Futex, PriorityInheritanceLocksExcludeAndHandOver) {
  Word word = 0;
  EXPECT_THAT(Futex(&word, FUTEX_LOCK_PI_PRIVATE, 0), Succeeds());
  EXPECT_EQ(word & FUTEX_TID_MASK, static_cast<uint32_t>(GetTid()));
  EXPECT_THAT(Futex(&word, FUTEX_LOCK_PI_PRIVATE, 0), FailsWith(EDEADLK));
  std::thread([&] {
    EXPECT_THAT(Futex(&word, FUTEX_TRYLOCK_PI_PRIVATE, 0), FailsWith(EAGAIN));
    EXPECT_THAT(Futex(&word, FUTEX_UNLOCK_PI_PRIVATE, 0), FailsWith(EPERM));
  }).join();
  EXPECT_THAT(Futex(&word, FUTEX_UNLOCK_PI_PRIVATE, 0), Succeeds());
  EXPECT_EQ(word & FUTEX_TID_MASK, 0u);
}

timespec In(int64_t ms, clockid_t clock) {
  const int64_t at = NowNs(clock) + ms * 1'000'000;
  return {at / 1'000'000'000, at % 1'000'000'000};
}

TEST(PiFutex, ExcludesThreads) {
  Word word = 0;
  int inside = 0, total = 0;
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([&] {
      const auto tid = static_cast<uint32_t>(GetTid());
      for (int turn = 0; turn < 200; ++turn) {
        uint32_t free = 0;
        if (!word.compare_exchange_strong(free, tid)) {
          ASSERT_THAT(Futex(&word, FUTEX_LOCK_PI_PRIVATE, 0), Succeeds());
        }
        ASSERT_EQ(++inside, 1);
        if (turn % 10 == 0) sched_yield();
        ++total;
        --inside;
        uint32_t mine = tid;
        if (!word.compare_exchange_strong(mine, 0)) {
          ASSERT_THAT(Futex(&word, FUTEX_UNLOCK_PI_PRIVATE, 0), Succeeds());
        }
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(total, 800);
}

TEST(PiFutex, HandsOverToTheWaiter) {
  Word word = 0;
  ASSERT_THAT(Futex(&word, FUTEX_LOCK_PI_PRIVATE, 0), Succeeds());
  std::atomic<pid_t> waiter = 0;
  std::atomic<bool> done = false;
  std::thread thread([&] {
    waiter = GetTid();
    EXPECT_THAT(Futex(&word, FUTEX_LOCK_PI_PRIVATE, 0), Succeeds());
    EXPECT_EQ(word & FUTEX_TID_MASK, static_cast<uint32_t>(GetTid()));
    while (!done) sched_yield();
    EXPECT_THAT(Futex(&word, FUTEX_UNLOCK_PI_PRIVATE, 0), Succeeds());
  });
  while (waiter == 0) sched_yield();
  WaitUntilBlocked(getpid(), waiter);
  EXPECT_EQ(word.load(), static_cast<uint32_t>(GetTid()) | FUTEX_WAITERS);
  EXPECT_THAT(Futex(&word, FUTEX_UNLOCK_PI_PRIVATE, 0), Succeeds());
  EXPECT_EQ(word & FUTEX_TID_MASK, static_cast<uint32_t>(waiter)) << "at once, not by a race";
  EXPECT_THAT(Futex(&word, FUTEX_TRYLOCK_PI_PRIVATE, 0), FailsWith(EAGAIN));
  done = true;
  thread.join();
  EXPECT_EQ(word.load(), 0u);
}

TEST(PiFutex, TimesOut) {
  Word word = 0;
  ASSERT_THAT(Futex(&word, FUTEX_LOCK_PI_PRIVATE, 0), Succeeds());
  std::thread([&] {
    const timespec soon = In(30, CLOCK_REALTIME);
    EXPECT_THAT(Futex(&word, FUTEX_LOCK_PI_PRIVATE, 0, &soon), FailsWith(ETIMEDOUT));
    const timespec soon2 = In(30, CLOCK_MONOTONIC);
    EXPECT_THAT(Futex(&word, FUTEX_LOCK_PI2_PRIVATE, 0, &soon2), FailsWith(ETIMEDOUT));
  }).join();
  EXPECT_THAT(Futex(&word, FUTEX_UNLOCK_PI_PRIVATE, 0), Succeeds());
  EXPECT_EQ(word.load(), 0u);
}

TEST(PiFutex, Errors) {
  Word word = 0x3ffffffe;
  EXPECT_THAT(Futex(&word, FUTEX_LOCK_PI_PRIVATE, 0), FailsWith(ESRCH));
  EXPECT_THAT(Futex(&word, FUTEX_UNLOCK_PI_PRIVATE, 0), FailsWith(EPERM));
  EXPECT_THAT(Futex(kBadAddress, FUTEX_LOCK_PI_PRIVATE, 0), FailsWith(EFAULT));
  EXPECT_THAT(Futex(reinterpret_cast<char*>(&word) + 1, FUTEX_LOCK_PI_PRIVATE, 0),
              FailsWith(EINVAL));
  EXPECT_THAT(Futex(&word, FUTEX_UNLOCK_PI_PRIVATE | FUTEX_CLOCK_REALTIME, 0), FailsWith(ENOSYS));
}

TEST(PiFutex, ACycleIsADeadlock) {
  Word a = 0;
  Word b = 0;
  ASSERT_THAT(Futex(&a, FUTEX_LOCK_PI_PRIVATE, 0), Succeeds());
  std::atomic<pid_t> other = 0;
  std::thread thread([&] {
    EXPECT_THAT(Futex(&b, FUTEX_LOCK_PI_PRIVATE, 0), Succeeds());
    other = GetTid();
    EXPECT_THAT(Futex(&a, FUTEX_LOCK_PI_PRIVATE, 0), Succeeds());
    EXPECT_THAT(Futex(&a, FUTEX_UNLOCK_PI_PRIVATE, 0), Succeeds());
    EXPECT_THAT(Futex(&b, FUTEX_UNLOCK_PI_PRIVATE, 0), Succeeds());
  });
  while (other == 0) sched_yield();
  WaitUntilBlocked(getpid(), other);
  EXPECT_THAT(Futex(&b, FUTEX_LOCK_PI_PRIVATE, 0), FailsWith(EDEADLK));
  EXPECT_THAT(Futex(&a, FUTEX_UNLOCK_PI_PRIVATE, 0), Succeeds());
  thread.join();
}

TEST(PiFutex, AnOwnersDeathIsPassedOn) {
  Word word = 0;
  std::atomic<bool> locked = false;
  std::atomic<bool> die = false;
  std::thread owner([&] {
    EXPECT_THAT(Futex(&word, FUTEX_LOCK_PI_PRIVATE, 0), Succeeds());
    locked = true;
    while (!die) sched_yield();
  });
  while (!locked) sched_yield();
  std::atomic<pid_t> waiting = 0;
  std::thread waiter([&] {
    waiting = GetTid();
    EXPECT_THAT(Futex(&word, FUTEX_LOCK_PI_PRIVATE, 0), Succeeds());
    EXPECT_EQ(word & FUTEX_TID_MASK, static_cast<uint32_t>(GetTid()));
    EXPECT_NE(word & FUTEX_OWNER_DIED, 0u);
    EXPECT_THAT(Futex(&word, FUTEX_UNLOCK_PI_PRIVATE, 0), Succeeds());
  });
  while (waiting == 0) sched_yield();
  WaitUntilBlocked(getpid(), waiting);
  die = true;
  owner.join();
  waiter.join();
}

TEST(PiFutex, RobustMutexesOfTheLibraryWork) {
  pthread_mutexattr_t attributes;
  pthread_mutexattr_init(&attributes);
  pthread_mutexattr_setprotocol(&attributes, PTHREAD_PRIO_INHERIT);
  pthread_mutexattr_setrobust(&attributes, PTHREAD_MUTEX_ROBUST);
  pthread_mutex_t mutex;
  ASSERT_EQ(pthread_mutex_init(&mutex, &attributes), 0);
  std::thread([&] { EXPECT_EQ(pthread_mutex_lock(&mutex), 0); }).join();
  EXPECT_EQ(pthread_mutex_lock(&mutex), EOWNERDEAD);
  EXPECT_EQ(pthread_mutex_consistent(&mutex), 0);
  EXPECT_EQ(pthread_mutex_unlock(&mutex), 0);
  pthread_mutex_destroy(&mutex);
}

TEST(PiFutex, ASignalRestartsTheWait) {
  Word word = 0;
  ASSERT_THAT(Futex(&word, FUTEX_LOCK_PI_PRIVATE, 0), Succeeds());
  static std::atomic<int> handled = 0;
  handled = 0;
  const ScopedSignalHandler handler(SIGUSR1, [](int) { ++handled; });
  std::atomic<pid_t> waiting = 0;
  std::thread waiter([&] {
    waiting = GetTid();
    EXPECT_THAT(Futex(&word, FUTEX_LOCK_PI_PRIVATE, 0), Succeeds());
    EXPECT_THAT(Futex(&word, FUTEX_UNLOCK_PI_PRIVATE, 0), Succeeds());
  });
  while (waiting == 0) sched_yield();
  WaitUntilBlocked(getpid(), waiting);
  pthread_kill(waiter.native_handle(), SIGUSR1);
  EXPECT_TRUE(WaitUntil([&] { return handled == 1; }));
  WaitUntilBlocked(getpid(), waiting);
  EXPECT_THAT(Futex(&word, FUTEX_UNLOCK_PI_PRIVATE, 0), Succeeds());
  waiter.join();
}

TEST(PiFutex, RequeueMovesWaitersToTheLock) {
  Word condition = 0;
  Word lock = 0;
  ASSERT_THAT(Futex(&lock, FUTEX_LOCK_PI_PRIVATE, 0), Succeeds());
  std::atomic<int> through = 0;
  std::vector<std::thread> threads;
  for (int i = 0; i < 3; ++i) {
    std::atomic<pid_t> tid = 0;
    threads.emplace_back([&] {
      tid = GetTid();
      EXPECT_THAT(Futex(&condition, FUTEX_WAIT_REQUEUE_PI_PRIVATE, 0, nullptr, &lock), Succeeds());
      EXPECT_EQ(lock & FUTEX_TID_MASK, static_cast<uint32_t>(GetTid()));
      ++through;
      EXPECT_THAT(Futex(&lock, FUTEX_UNLOCK_PI_PRIVATE, 0), Succeeds());
    });
    while (tid == 0) sched_yield();
    WaitUntilBlocked(getpid(), tid);
  }
  EXPECT_THAT(Futex(&condition, FUTEX_CMP_REQUEUE_PI_PRIVATE, 1, Count(10), &lock, 1),
              FailsWith(EAGAIN));
  EXPECT_THAT(Futex(&condition, FUTEX_CMP_REQUEUE_PI_PRIVATE, 2, Count(10), &lock, 0),
              FailsWith(EINVAL));
  EXPECT_THAT(Futex(&condition, FUTEX_CMP_REQUEUE_PI_PRIVATE, 1, Count(10), &lock, 0),
              SucceedsWith(3));
  EXPECT_EQ(through, 0) << "the lock is ours";
  EXPECT_THAT(Futex(&lock, FUTEX_UNLOCK_PI_PRIVATE, 0), Succeeds());
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(through, 3);
}

TEST(PiFutex, WaitRequeueTimesOutAndChecksItsArguments) {
  Word condition = 5;
  Word lock = 0;
  const timespec soon = In(20, CLOCK_MONOTONIC);
  EXPECT_THAT(Futex(&condition, FUTEX_WAIT_REQUEUE_PI_PRIVATE, 5, &soon, &lock),
              FailsWith(ETIMEDOUT));
  EXPECT_THAT(Futex(&condition, FUTEX_WAIT_REQUEUE_PI_PRIVATE, 4, &soon, &lock), FailsWith(EAGAIN));
  EXPECT_THAT(Futex(&condition, FUTEX_WAIT_REQUEUE_PI_PRIVATE, 5, &soon, &condition),
              FailsWith(EINVAL));
  EXPECT_THAT(Futex(&condition, FUTEX_CMP_REQUEUE_PI_PRIVATE, 1, Count(1), &condition, 5),
              FailsWith(EINVAL));
}

}  // namespace
}  // namespace skep::test
