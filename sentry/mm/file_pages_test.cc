#include "sentry/mm/file_pages.h"

#include <gtest/gtest.h>
#include <csignal>
#include <string>

#include "sentry/mm/mm_test_util.h"

namespace skep::mm {
namespace {

constexpr uint64_t kPage = kPageSize;

class TestBudget final : public FilePages::Budget {
 public:
  Result<void> Charge(uint64_t bytes) override {
    if (used + bytes > limit) return Fail(ENOSPC);
    used += bytes;
    return {};
  }
  void Uncharge(uint64_t bytes) override { used -= bytes; }
  uint64_t used = 0;
  uint64_t limit = ~uint64_t{0} / 2;
};

class FilePagesTest : public MmTest {
 protected:
  Result<size_t> Write(FilePages& file, uint64_t offset, const std::string& text) {
    IoSequence from = IoSequence::FromKernel(std::as_bytes(std::span(text)));
    return file.Write(offset, from);
  }
  std::string Read(FilePages& file, uint64_t offset, size_t size) {
    std::string text(size, '?');
    IoSequence to = IoSequence::FromKernel(std::as_writable_bytes(std::span(text)));
    text.resize(file.Read(offset, to).value());
    return text;
  }
};

TEST_F(FilePagesTest, ReadsWhatWasWritten) {
  auto file = MakeRef<FilePages>(*memory);
  EXPECT_EQ(Read(*file, 0, 10), "");
  EXPECT_EQ(Write(*file, 0, "hello").value(), 5u);
  EXPECT_EQ(Write(*file, kPage - 2, "across").value(), 6u);
  EXPECT_EQ(file->size(), kPage + 4);
  EXPECT_EQ(file->BytesUsed(), 2 * kPage);
  EXPECT_EQ(Read(*file, 0, 6), std::string("hello\0", 6));
  EXPECT_EQ(Read(*file, kPage - 3, 100), std::string("\0across", 7));
  const std::string big(5 << 20, 'x');
  EXPECT_EQ(Write(*file, (3 << 20) + 7, big).value(), big.size());
  EXPECT_EQ(Read(*file, (3 << 20) + 7, big.size()), big);
  EXPECT_EQ(Read(*file, (3 << 20) + 5, 4), std::string("\0\0xx", 4));
}

TEST_F(FilePagesTest, SparseFilesTakeNothing) {
  auto file = MakeRef<FilePages>(*memory);
  ASSERT_TRUE(file->Truncate(uint64_t{1} << 40));
  EXPECT_EQ(Read(*file, uint64_t{1} << 39, 3), std::string(3, '\0'));
  ASSERT_TRUE(Write(*file, uint64_t{1} << 38, "x"));
  EXPECT_EQ(memory->UsedBytes(), kPage);
  EXPECT_EQ(file->SeekData(5).value(), uint64_t{1} << 38);
  EXPECT_EQ(file->SeekHole(0).value(), 0u);
  EXPECT_EQ(file->SeekHole(uint64_t{1} << 38).value(), (uint64_t{1} << 38) + kPage);
  EXPECT_EQ(Code(file->SeekData((uint64_t{1} << 38) + kPage)), ENXIO);
  EXPECT_EQ(Code(file->SeekHole(uint64_t{1} << 40)), ENXIO);
}

TEST_F(FilePagesTest, TruncateZeroesAndFrees) {
  TestBudget budget;
  auto file = MakeRef<FilePages>(*memory, &budget);
  ASSERT_TRUE(Write(*file, 0, std::string(10 * kPage, 'a')));
  EXPECT_EQ(budget.used, 10 * kPage);
  ASSERT_TRUE(file->Truncate(2 * kPage + 5));
  EXPECT_EQ(budget.used, 3 * kPage);
  EXPECT_EQ(memory->UsedBytes(), 3 * kPage);
  ASSERT_TRUE(file->Truncate(4 * kPage));
  EXPECT_EQ(Read(*file, 2 * kPage + 4, 3), std::string("a\0\0", 3));
  EXPECT_EQ(Read(*file, 3 * kPage, 2), std::string("\0\0", 2));
  ASSERT_TRUE(file->PunchHole({kPage - 1, 2 * kPage + 1}));
  EXPECT_EQ(budget.used, 2 * kPage);
  EXPECT_EQ(Read(*file, kPage - 2, 2), std::string("a\0", 2));
  EXPECT_EQ(Read(*file, 2 * kPage, 2), std::string("\0a", 2));
  budget.limit = 3 * kPage;
  EXPECT_EQ(Write(*file, 8 * kPage, std::string(kPage, 'b')).value(), kPage);
  EXPECT_EQ(Code(Write(*file, 9 * kPage, "c")), ENOSPC);
  EXPECT_EQ(Code(file->Allocate({9 * kPage, 10 * kPage}, true)), ENOSPC);
  budget.limit = 4 * kPage;
  ASSERT_TRUE(file->Allocate({20 * kPage, 20 * kPage + 1}, false));
  EXPECT_EQ(file->size(), 20 * kPage + 1);
  EXPECT_EQ(file->SeekData(10 * kPage).value(), 20 * kPage);
  EXPECT_EQ(Read(*file, 20 * kPage, 9), std::string(1, '\0'));
  file = {};
  EXPECT_EQ(budget.used, 0u);
}

TEST_F(FilePagesTest, MappingsSeeTheFile) {
  auto file = MakeRef<FilePages>(*memory);
  ASSERT_TRUE(file->Truncate(100 * kPage));
  const auto a = NewSpace();
  const auto b = NewSpace();
  const uint64_t at = Map(*a, 100 * kPage, PROT_READ | PROT_WRITE, MAP_SHARED, 0, file);
  EXPECT_EQ(SpaceOf(*a).applied_ops(), 1u);
  const uint64_t copy = Map(*b, 100 * kPage, PROT_READ | PROT_WRITE, MAP_PRIVATE, 0, file);
  EXPECT_EQ(file->BytesUsed(), 0u);
  Store(*a, at + 50 * kPage, 0x41);
  EXPECT_EQ(file->BytesUsed(), kPage);
  EXPECT_EQ(Read(*file, 50 * kPage, 1), "A");
  EXPECT_EQ(Load(*b, copy + 50 * kPage), 0x41u);
  Store(*b, copy + 51 * kPage, 7);
  EXPECT_EQ(Load(*a, at + 51 * kPage), 0u);
  EXPECT_TRUE(file->HasWritableMapping());
  ASSERT_TRUE(file->Truncate(50 * kPage + 10));
  EXPECT_EQ(Try(*a, at + 51 * kPage, false).code, BUS_ADRERR);
  EXPECT_EQ(Try(*b, copy + 51 * kPage, false).code, BUS_ADRERR);
  EXPECT_EQ(Load(*a, at + 50 * kPage), 0x41u);
  Store(*a, at + 50 * kPage + 800, 0x42);  // behind the end, in its page
  ASSERT_TRUE(file->Truncate(60 * kPage));
  EXPECT_EQ(Load(*a, at + 50 * kPage + 800), 0u);
  EXPECT_EQ(Load(*b, copy + 51 * kPage), 0u);
  ASSERT_TRUE(a->Munmap(at, 100 * kPage));
  EXPECT_FALSE(file->HasWritableMapping());
}

TEST_F(FilePagesTest, ReadsIntoItsOwnMapping) {
  auto file = MakeRef<FilePages>(*memory);
  ASSERT_TRUE(Write(*file, 0, "self"));
  const auto mm = NewSpace();
  const uint64_t at = Map(*mm, kPage, PROT_READ | PROT_WRITE, MAP_SHARED, 0, file);
  IoSequence to = IoSequence::FromBuffer(*mm, UserAddr{at + 100}, 4).value();
  EXPECT_EQ(file->Read(0, to).value(), 4u);
  EXPECT_EQ(mm->CopyInString(UserPtr<const char>(at + 100), 100).value(), "self");
  ASSERT_TRUE(file->Truncate(200));  // what was behind the end is gone
  EXPECT_EQ(mm->CopyInString(UserPtr<const char>(at + 100), 100).value(), "");
  IoSequence again = IoSequence::FromBuffer(*mm, UserAddr{at + 100}, 4).value();
  EXPECT_EQ(file->Read(0, again).value(), 4u);
  EXPECT_EQ(mm->CopyInString(UserPtr<const char>(at + 100), 100).value(), "self");
}

TEST_F(FilePagesTest, FaultsMakeTransfersShort) {
  auto file = MakeRef<FilePages>(*memory);
  const auto mm = NewSpace();
  const uint64_t at = Map(*mm, kPage);
  IoSequence from = IoSequence::FromBuffer(*mm, UserAddr{at + kPage - 10}, 20).value();
  EXPECT_EQ(file->Write(0, from).value(), 10u);
  EXPECT_EQ(file->size(), 10u);
  IoSequence bad = IoSequence::FromBuffer(*mm, UserAddr{at + kPage}, 20).value();
  EXPECT_EQ(Code(file->Write(0, bad)), EFAULT);
}

}  // namespace
}  // namespace skep::mm
