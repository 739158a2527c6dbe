#include <gtest/gtest.h>
#include <string>

#include "sentry/syscalls/families.h"

namespace skep::syscalls {
namespace {

TEST(Table, NoTwoRowsHaveOneNumber) {
  std::array<const char*, kSyscallCount> names{};
  for (const std::span<const Row>* family : kFamilies) {
    ASSERT_FALSE(family->empty());
    for (const Row& row : *family) {
      EXPECT_EQ(names[row.number], nullptr)
          << row.number << " is " << names[row.number] << " and " << row.syscall.name;
      names[row.number] = row.syscall.name;
      EXPECT_STREQ(kSyscalls[row.number].name, row.syscall.name);
    }
  }
}

// Linux 6.6, the version that uname names: 0 to 334 and 424 to 452 are taken, the rest is free.
TEST(Table, EveryNumberOfLinuxHasARow) {
  for (size_t number = 0; number < kSyscallCount; ++number) {
    const bool taken = number <= SYS_rseq || (number >= SYS_pidfd_send_signal && number <= 452);
    EXPECT_EQ(kSyscalls[number].name != nullptr, taken) << number;
  }
}

TEST(Table, RowsSayWhatTheyDo) {
  for (const Syscall& call : kSyscalls) {
    if (call.name == nullptr) continue;
    EXPECT_EQ(call.handler == nullptr, call.support == Support::kNone) << call.name;
    EXPECT_EQ(call.refusal != 0, call.support == Support::kNone) << call.name;
    EXPECT_LE(call.arity, 6U) << call.name;
    EXPECT_TRUE(call.support != Support::kPartial || call.note[0] != 0) << call.name;
    if (call.handler == nullptr) continue;
    for (size_t i = 0; i < call.arity; ++i) EXPECT_NE(call.formats[i], nullptr) << call.name;
  }
}

TEST(Table, KnownNumbers) {  // as arch/x86/entry/syscalls/syscall_64.tbl has them
  EXPECT_STREQ(kSyscalls[0].name, "read");
  EXPECT_STREQ(kSyscalls[59].name, "execve");
  EXPECT_STREQ(kSyscalls[202].name, "futex");
  EXPECT_STREQ(kSyscalls[257].name, "openat");
  EXPECT_STREQ(kSyscalls[334].name, "rseq");
  EXPECT_STREQ(kSyscalls[437].name, "openat2");
  EXPECT_STREQ(kSyscalls[451].name, "cachestat");
  EXPECT_STREQ(kSyscalls[452].name, "fchmodat2");
}

}  // namespace
}  // namespace skep::syscalls
