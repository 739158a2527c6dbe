#include "sentry/vfs/fd_table.h"

#include <gtest/gtest.h>

#include "sentry/vfs/test_files.h"

namespace skep::vfs {
namespace {

constexpr uint64_t kLimit = 64;

class FdTableTest : public ::testing::Test {
 protected:
  int Add(CloseOnExec cloexec = CloseOnExec::kNo, int least = 0) {
    return table->Reserve(kLimit, least).value().Commit(fs->NewFile(), cloexec);
  }
  Ref<PlainFs> fs = MakeRef<PlainFs>();
  Ref<FdTable> table = MakeRef<FdTable>();
};

TEST_F(FdTableTest, LowestFreeNumberFirst) {
  for (int i = 0; i < 5; i++) EXPECT_EQ(Add(), i);
  EXPECT_TRUE(table->Remove(1).has_value());
  EXPECT_TRUE(table->Remove(3).has_value());
  EXPECT_EQ(Add(CloseOnExec::kNo, 2), 3);
  EXPECT_EQ(Add(), 1);
  EXPECT_EQ(Add(), 5);
  EXPECT_EQ(Add(CloseOnExec::kNo, 10), 10);
  EXPECT_EQ(Add(), 6);
  EXPECT_EQ(table->Numbers(), (std::vector<int>{0, 1, 2, 3, 4, 5, 6, 10}));
}

TEST_F(FdTableTest, ReservedNumbersAreNotOpen) {
  {
    FdReservation reserved = table->Reserve(kLimit).value();
    EXPECT_EQ(reserved.fd(), 0);
    EXPECT_EQ(table->Get(0).error(), Errno(EBADF));
    EXPECT_EQ(table->Remove(0).error(), Errno(EBADF));
    EXPECT_EQ(table->Replace(0, fs->NewFile(), CloseOnExec::kNo, kLimit).error(), Errno(EBUSY));
    EXPECT_EQ(Add(), 1);
  }
  EXPECT_EQ(Add(), 0);
}

TEST_F(FdTableTest, Limit) {
  for (uint64_t i = 0; i < kLimit; i++) Add();
  EXPECT_EQ(table->Reserve(kLimit).error(), Errno(EMFILE));
  EXPECT_EQ(
      table->Replace(static_cast<int>(kLimit), fs->NewFile(), CloseOnExec::kNo, kLimit).error(),
      Errno(EBADF));
  EXPECT_TRUE(table->Remove(7).has_value());
  EXPECT_EQ(Add(), 7);
}

TEST_F(FdTableTest, ReplaceGivesBackWhatWasThere) {
  const Ref<File> first = fs->NewFile(), second = fs->NewFile();
  EXPECT_FALSE(*table->Replace(5, first, CloseOnExec::kYes, kLimit));
  EXPECT_TRUE(*table->GetCloexec(5));
  EXPECT_EQ(*table->Replace(5, second, CloseOnExec::kNo, kLimit), first);
  EXPECT_FALSE(*table->GetCloexec(5));
  EXPECT_EQ(*table->Get(5), second);
  EXPECT_EQ(table->Replace(-1, second, CloseOnExec::kNo, kLimit).error(), Errno(EBADF));
  EXPECT_EQ(Add(), 0);
}

TEST_F(FdTableTest, PathDescriptorsAreNotFiles) {
  const int fd = table->Reserve(kLimit).value().Commit(fs->NewFile(O_PATH), CloseOnExec::kNo);
  EXPECT_EQ(table->Get(fd).error(), Errno(EBADF));
  EXPECT_TRUE(table->GetIncludingPath(fd).has_value());
}

TEST_F(FdTableTest, CloneAndExec) {
  Add();
  Add(CloseOnExec::kYes);
  Add(CloseOnExec::kYes);
  FdReservation reserved = table->Reserve(kLimit).value();
  const Ref<FdTable> child = table->Clone();
  EXPECT_EQ(child->Numbers(), (std::vector<int>{0, 1, 2}));
  EXPECT_EQ(*child->Get(1), *table->Get(1));
  EXPECT_EQ(child->Reserve(kLimit).value().fd(), 3);
  EXPECT_EQ(child->RemoveIf([](int, bool cloexec) { return cloexec; }).size(), 2u);
  EXPECT_EQ(child->Numbers(), std::vector<int>{0});
  EXPECT_EQ(table->Numbers(), (std::vector<int>{0, 1, 2}));
  table->SetCloexecRange(0, ~0u);
  EXPECT_TRUE(*table->GetCloexec(0));
  EXPECT_EQ(child->Reserve(kLimit).value().fd(), 1);
}

TEST_F(FdTableTest, TheLastHoldGetsTheTable) {
  FdTableHold one(table);
  FdTableHold two = one;
  EXPECT_TRUE(one.shared());
  const Ref<FdTable> passing = one.ref();  // as somebody who only looks has
  EXPECT_FALSE(one.Release());
  EXPECT_FALSE(one);
  EXPECT_FALSE(two.shared());
  FdTableHold three = std::move(two);
  EXPECT_FALSE(three.shared());
  two = FdTableHold(MakeRef<FdTable>());
  EXPECT_EQ(three.Release().get(), table.get());
  EXPECT_FALSE(three.Release());
}

TEST_F(FdTableTest, FilesDieOutsideTheTable) {
  const int fd = Add();
  Ref<File> file = *table->Remove(fd);
  EXPECT_EQ(file->RefCount(), 1u);
}

}  // namespace
}  // namespace skep::vfs
