// futex: wait, wake, bitsets, requeue, wake_op, timeouts and errors.
#include <fcntl.h>
#include <linux/futex.h>
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

}  // namespace
}  // namespace skep::test
