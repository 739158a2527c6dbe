#include "sentry/vfs/locks.h"

#include <gtest/gtest.h>
#include <array>

#include "sentry/arena/arena_test_environment.h"
#include "sentry/sched/sched_test_util.h"
#include "sentry/vfs/fd_table.h"
#include "sentry/vfs/test_files.h"

namespace skep::vfs {
namespace {

const auto* const kArena = ::testing::AddGlobalTestEnvironment(new arena::ArenaTestEnvironment);

struct TestProcess final : ProcessId {};

RecordLock Lock(LockType type, uint64_t start, uint64_t end) {
  return {.type = type, .start = start, .end = end, .process = {}};
}

class LocksTest : public ::testing::Test {
 protected:
  int Set(const LockOwner& owner, LockType type, uint64_t start, uint64_t end) {
    const Result<void> done = locks.SetRecord(owner, Lock(type, start, end), LockWait::kNo);
    return done ? 0 : done.error().code();
  }
  // "r0-9 w20-29"
  std::string Shape() {
    std::string shape;
    for (const RecordLock& lock : locks.Records()) {
      if (!shape.empty()) shape.push_back(' ');
      shape.push_back(lock.type == LockType::kRead ? 'r' : 'w');
      shape += std::to_string(lock.start);
      shape.push_back('-');
      shape += lock.end == kLockEnd ? "end" : std::to_string(lock.end);
    }
    return shape;
  }

  Ref<PlainFs> fs = MakeRef<PlainFs>();
  Ref<FdTable> a_table = MakeRef<FdTable>();
  Ref<FdTable> b_table = a_table->Clone();
  LockOwner a{*a_table}, b{*b_table};
  FileLocks locks;
};

TEST_F(LocksTest, RangesSplitAndJoin) {
  EXPECT_EQ(Set(a, LockType::kWrite, 0, 99), 0);
  EXPECT_EQ(Set(a, LockType::kUnlock, 40, 59), 0);
  EXPECT_EQ(Shape(), "w0-39 w60-99");
  EXPECT_EQ(Set(a, LockType::kRead, 30, 69), 0);
  EXPECT_EQ(Shape(), "w0-29 r30-69 w70-99");
  EXPECT_EQ(Set(a, LockType::kWrite, 30, 69), 0);
  EXPECT_EQ(Shape(), "w0-99");
  EXPECT_EQ(Set(a, LockType::kWrite, 100, kLockEnd), 0);
  EXPECT_EQ(Shape(), "w0-end");
  EXPECT_EQ(Set(a, LockType::kUnlock, 0, kLockEnd), 0);
  EXPECT_EQ(Shape(), "");
}

TEST_F(LocksTest, ConflictsBetweenOwners) {
  EXPECT_EQ(Set(a, LockType::kRead, 0, 9), 0);
  EXPECT_EQ(Set(b, LockType::kRead, 5, 15), 0);
  EXPECT_EQ(Set(b, LockType::kWrite, 5, 15), EAGAIN);
  const auto process = MakeRef<TestProcess>();
  RecordLock held = Lock(LockType::kWrite, 10, 15);
  held.process = process;
  ASSERT_TRUE(locks.SetRecord(b, held, LockWait::kNo).has_value());
  const std::optional<RecordLock> found = locks.TestRecord(a, Lock(LockType::kRead, 0, 100));
  ASSERT_TRUE(found.has_value());
  EXPECT_EQ(found->start, 10u);
  EXPECT_EQ(found->process.get(), process.get());
  EXPECT_FALSE(locks.TestRecord(b, Lock(LockType::kRead, 0, 100)).has_value());
  locks.ReleaseRecords(b.key());
  EXPECT_EQ(Shape(), "r0-9");
}

TEST_F(LocksTest, OpenFileLocksBelongToTheFile) {
  const Ref<File> one = fs->NewFile();
  const Ref<File> two = fs->FileOf(one->path().dentry->inode());
  const LockOwner first(*one), second(*two);
  EXPECT_EQ(Set(first, LockType::kWrite, 0, 9), 0);
  EXPECT_EQ(Set(second, LockType::kRead, 0, 9), EAGAIN);
  EXPECT_EQ(Set(a, LockType::kRead, 0, 9), EAGAIN);  // against POSIX locks, too
  locks.ReleaseFile(*one);
  EXPECT_EQ(Set(second, LockType::kRead, 0, 9), 0);
}

TEST_F(LocksTest, Flock) {
  const Ref<File> one = fs->NewFile(), two = fs->NewFile();
  const auto set = [&](const Ref<File>& file, LockType type) {
    const Result<void> done = locks.SetFlock(*file, type, LockWait::kNo);
    return done ? 0 : done.error().code();
  };
  EXPECT_EQ(set(one, LockType::kRead), 0);
  EXPECT_EQ(set(two, LockType::kRead), 0);
  EXPECT_EQ(set(one, LockType::kWrite), EAGAIN);  // and the read lock is lost, as flock(2) says
  EXPECT_EQ(set(two, LockType::kWrite), 0);
  EXPECT_EQ(set(one, LockType::kRead), EAGAIN);
  EXPECT_EQ(set(two, LockType::kUnlock), 0);
  EXPECT_EQ(set(one, LockType::kRead), 0);
}

TEST_F(LocksTest, AClosedFileGivesItsLocksBack) {
  Ref<File> one = fs->NewFile();
  const Ref<File> two = fs->FileOf(one->path().dentry->inode());
  FileLocks& shared = one->inode()->locks();
  ASSERT_TRUE(shared.SetFlock(*one, LockType::kWrite, LockWait::kNo).has_value());
  EXPECT_FALSE(shared.SetFlock(*two, LockType::kWrite, LockWait::kNo).has_value());
  one = {};
  EXPECT_TRUE(shared.SetFlock(*two, LockType::kWrite, LockWait::kNo).has_value());
}

TEST_F(LocksTest, WaitersGoOnAndDeadlocksAreSeen) {
  sched::TestScheduler scheduler(2);
  FileLocks other;
  std::atomic<bool> a_has{false}, b_waits{false};
  int a_code = -1;
  bool b_got = false;
  std::vector<std::move_only_function<void()>> bodies;
  bodies.push_back([&] {
    ASSERT_TRUE(locks.SetRecord(a, Lock(LockType::kWrite, 0, 9), LockWait::kNo).has_value());
    a_has = true;
    while (!b_waits) sched::Yield();
    // b holds `other` and waits for `locks`.
    Result<void> done = {};
    do {
      done = other.SetRecord(a, Lock(LockType::kWrite, 0, 9), LockWait::kNo);
      sched::Yield();
    } while (done.has_value());
    for (int i = 0; i < 1000; i++) sched::Yield();
    done = other.SetRecord(a, Lock(LockType::kWrite, 0, 9), LockWait::kYes);
    a_code = done ? 0 : done.error().code();
    locks.ReleaseRecords(a.key());
  });
  bodies.push_back([&] {
    ASSERT_TRUE(other.SetRecord(b, Lock(LockType::kWrite, 0, 9), LockWait::kNo).has_value());
    while (!a_has) sched::Yield();
    b_waits = true;
    b_got = locks.SetRecord(b, Lock(LockType::kWrite, 5, 5), LockWait::kYes).has_value();
    other.ReleaseRecords(b.key());
  });
  scheduler.Start();
  scheduler.RunAll(std::move(bodies));
  // The one that closes the circle gets EDEADLK; the other one goes on.
  EXPECT_EQ(a_code, b_got ? EDEADLK : 0);
}

// Against a model that keeps the lock of each owner and byte.
TEST_F(LocksTest, RandomLocksAgreeWithAModel) {
  constexpr uint64_t kBytes = 24;
  constexpr size_t kOwners = 3;
  const Ref<File> file = fs->NewFile();
  const LockOwner owners[kOwners] = {a, b, LockOwner(*file)};
  std::array<std::array<LockType, kBytes>, kOwners> model;
  for (auto& bytes : model) bytes.fill(LockType::kUnlock);
  uint64_t seed = 1;
  const auto random = [&](uint64_t below) {
    seed = seed * 6364136223846793005 + 1442695040888963407;
    return (seed >> 33) % below;
  };
  for (int i = 0; i < 20'000; ++i) {
    const size_t who = random(kOwners);
    const auto type = static_cast<LockType>(random(3));
    const uint64_t start = random(kBytes), end = start + random(kBytes - start);
    int expected = 0;
    for (size_t other = 0; other < kOwners; ++other) {
      for (uint64_t at = start; at <= end && other != who; ++at) {
        const LockType held = model[other][at];
        if (type == LockType::kUnlock || held == LockType::kUnlock) continue;
        if (type == LockType::kWrite || held == LockType::kWrite) expected = EAGAIN;
      }
    }
    ASSERT_EQ(Set(owners[who], type, start, end), expected) << i;
    if (expected != 0) continue;
    for (uint64_t at = start; at <= end; ++at) model[who][at] = type;
    size_t runs = 0;
    for (const auto& bytes : model) {
      for (size_t at = 0; at < kBytes; ++at) {
        const bool begins = at == 0 || bytes[at - 1] != bytes[at];
        runs += bytes[at] != LockType::kUnlock && begins ? 1 : 0;
      }
    }
    ASSERT_EQ(locks.Records().size(), runs) << i;
  }
  locks.ReleaseRecords(owners[2].key());
  locks.ReleaseRecords(a_table.get());
  locks.ReleaseRecords(b_table.get());
  EXPECT_EQ(Shape(), "");
}

TEST_F(LocksTest, TensOfThousandsOfLocks) {
  constexpr uint64_t kLocks = 25'000;
  std::vector<Ref<File>> files;
  for (uint64_t i = 0; i < kLocks; ++i) {
    ASSERT_EQ(Set(a, LockType::kWrite, 4 * i, 4 * i), 0);
    files.push_back(fs->NewFile());
    ASSERT_EQ(Set(LockOwner(*files.back()), LockType::kRead, 4 * i + 2, 4 * i + 2), 0);
    ASSERT_EQ(Set(b, LockType::kWrite, 4 * i + 2, 4 * i + 2), EAGAIN);
  }
  for (uint64_t i = 0; i < kLocks; ++i) {
    ASSERT_EQ(Set(b, LockType::kWrite, 4 * i + 3, 4 * i + 3), i + 2 * kLocks < 65'536 ? 0 : ENOLCK);
  }
  for (const Ref<File>& file : files) locks.ReleaseFile(*file);
  EXPECT_EQ(Set(b, LockType::kWrite, 1, 2), 0);
}

}  // namespace
}  // namespace skep::vfs
