#include "sentry/ipc/futex.h"

#include <linux/futex.h>

#include "sentry/vfs/test_caller.h"

namespace skep::ipc {
namespace {

using vfs::CodeOf;

const auto* const kEnvironment =
    ::testing::AddGlobalTestEnvironment(new arena::ArenaTestEnvironment);

// Words of this process; addresses are our own.
class TestWords final : public GuestWords {
 public:
  Result<FutexKey> KeyOf(mm::UserAddr address, bool) override {
    if (Raw(address) % 4 != 0) return Fail(EINVAL);
    if (Raw(address) < vfs::TestMemory::kBadEnd) return Fail(EFAULT);
    return FutexKey{7, Raw(address), false};
  }
  Result<uint32_t> Load(mm::UserAddr address) override { return At(address).load(); }
  Result<uint32_t> FetchModify(mm::UserAddr address,
                               const std::function<uint32_t(uint32_t)>& change) override {
    uint32_t old = At(address).load();
    while (!At(address).compare_exchange_weak(old, change(old))) {
    }
    return old;
  }
  Result<bool> CompareExchange(mm::UserAddr address, uint32_t& expected,
                               uint32_t desired) override {
    return At(address).compare_exchange_strong(expected, desired);
  }

 private:
  static std::atomic<uint32_t>& At(mm::UserAddr address) {
    return *reinterpret_cast<std::atomic<uint32_t>*>(Raw(address));
  }
};

mm::UserAddr AddressOf(const void* p) { return mm::UserAddr{reinterpret_cast<uint64_t>(p)}; }

struct FutexTest : ::testing::Test {
  FutexTable table;
  TestWords words;
  std::atomic<uint32_t> a{0}, b{0};
  FutexAt At(std::atomic<uint32_t>& word) { return {words, AddressOf(&word), true}; }
  Result<void> Wait(std::atomic<uint32_t>& word, uint32_t expected,
                    sched::Deadline deadline = std::nullopt) {
    return table.Wait(At(word), expected, ~0U, deadline);
  }
};

TEST_F(FutexTest, ErrorsInOrder) {
  vfs::OnFiber([this] {
    EXPECT_EQ(CodeOf(table.Wait(At(a), 0, 0, std::nullopt)), EINVAL);
    EXPECT_EQ(CodeOf(Wait(a, 1)), EAGAIN);
    EXPECT_EQ(CodeOf(table.Wake({words, mm::UserAddr{3}, true}, 1, ~0U)), EINVAL);
    EXPECT_EQ(CodeOf(table.Wake({words, mm::UserAddr{8}, true}, 1, ~0U)), EFAULT);
    EXPECT_EQ(table.Wake(At(a), 1, ~0U).value(), 0);
    EXPECT_EQ(CodeOf(Wait(a, 0, 1)), ETIMEDOUT);
  });
}

TEST_F(FutexTest, PingPong) {
  for (const int workers : {1, 2}) {
    constexpr uint32_t kRounds = 2000;
    a = 0;
    const auto play = [this](uint32_t mine) {
      for (uint32_t i = mine; i < kRounds; i += 2) {
        while (a.load() != i) {
          const int code = CodeOf(Wait(a, a.load() == i ? i + 1 : a.load()));
          EXPECT_TRUE(code == 0 || code == EAGAIN) << code;
        }
        a.store(i + 1);
        EXPECT_TRUE(table.Wake(At(a), 1, ~0U));
      }
    };
    vfs::OnFibersOf(workers, [&] { play(0); }, [&] { play(1); });
    EXPECT_EQ(a, kRounds);
  }
}

TEST_F(FutexTest, WakeByBitsetAndRequeue) {
  int woken_low = 0, woken_high = 0;
  vfs::OnFibersOf(
      1, [&] { woken_low += CodeOf(table.Wait(At(a), 0, 1, std::nullopt)) == 0; },
      [&] { woken_high += CodeOf(table.Wait(At(a), 0, 2, std::nullopt)) == 0; },
      [&] {
        sched::Yield();
        EXPECT_EQ(table.Wake(At(a), 9, 4).value(), 0);
        EXPECT_EQ(table.Wake(At(a), 9, 2).value(), 1);
        const uint32_t other = 5;
        EXPECT_EQ(CodeOf(table.Requeue(At(a), At(b), 0, 9, &other)), EAGAIN);
        EXPECT_EQ(CodeOf(table.Requeue(At(a), At(b), -1, 9, nullptr)), EINVAL);
        EXPECT_EQ(table.Requeue(At(a), At(b), 0, 9, nullptr).value(), 1);
        EXPECT_EQ(table.Wake(At(a), 9, ~0U).value(), 0);
        EXPECT_EQ(table.Wake(At(b), 9, 1).value(), 1);
      });
  EXPECT_EQ(woken_low, 1);
  EXPECT_EQ(woken_high, 1);
}

TEST_F(FutexTest, WakeOpChangesTheWordAndWakesBoth) {
  b = 7;
  vfs::OnFibersOf(
      1, [&] { EXPECT_TRUE(Wait(a, 0)); }, [&] { EXPECT_TRUE(Wait(b, 7)); },
      [&] {
        sched::Yield();
        sched::Yield();
        // b += 3; the second is woken if it was > 6.
        const uint32_t op = FUTEX_OP(FUTEX_OP_ADD, 3, FUTEX_OP_CMP_GT, 6);
        EXPECT_EQ(table.WakeOp(At(a), At(b), 1, 1, op).value(), 2);
        EXPECT_EQ(b, 10U);
        EXPECT_EQ(CodeOf(table.WakeOp(At(a), At(b), 1, 1, 0x70000000)), ENOSYS);
      });
}

TEST_F(FutexTest, InterruptedWaitRestarts) {
  sched::TestScheduler s(1);
  s.Start();
  int code = 0, timed = 0;
  Ref<sched::Fiber> fiber = s.Spawn(0, [&] {
    code = CodeOf(Wait(a, 0));
    timed = CodeOf(Wait(a, 0, ~uint64_t{0} / 4));
  });
  fiber->Interrupt();
  ASSERT_TRUE(sched::WaitFor([&] { return fiber->finished(); }));
  EXPECT_EQ(code, kRestartSys);
  EXPECT_EQ(timed, kRestartBlock);
}

TEST_F(FutexTest, RobustListOfADeadThread) {
  struct Entry {
    Entry* next;
    std::atomic<uint32_t> word;
  };
  struct Head {
    Entry* first;
    int64_t offset;
    Entry* pending;
  };
  Entry second{nullptr, {}}, first{&second, {}}, foreign{nullptr, {}};
  Head head{&first, offsetof(Entry, word), nullptr};
  second.next = &foreign;
  foreign.next = reinterpret_cast<Entry*>(&head);
  first.word = 42;
  second.word = 42 | FUTEX_WAITERS;
  foreign.word = 43;
  vfs::OnFibersOf(
      1, [&] { EXPECT_TRUE(Wait(second.word, 42 | FUTEX_WAITERS)); },
      [&] {
        vfs::TestMemory memory;
        ExitRobustList(table, memory, words, AddressOf(&head), 42);
      });
  EXPECT_EQ(first.word, static_cast<uint32_t>(FUTEX_OWNER_DIED));
  EXPECT_EQ(second.word, FUTEX_OWNER_DIED | FUTEX_WAITERS);
  EXPECT_EQ(foreign.word, 43U);
}

TEST_F(FutexTest, RobustListThatNeverEnds) {
  vfs::OnFiber([this] {
    uint64_t loop[3] = {0, 0, 0};
    uint64_t head[3] = {reinterpret_cast<uint64_t>(loop), 16, 0};
    loop[0] = reinterpret_cast<uint64_t>(loop);
    vfs::TestMemory memory;
    ExitRobustList(table, memory, words, AddressOf(head), 42);
    ExitRobustList(table, memory, words, mm::UserAddr{8}, 42);
  });
}

}  // namespace
}  // namespace skep::ipc
