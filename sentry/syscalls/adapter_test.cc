// From registers to arguments and back.
#include "sentry/syscalls/adapter.h"

#include <gtest/gtest.h>

namespace skep::syscalls {
namespace {

TEST(Adapter, ArgumentsAreWhatTheirRegistersLowHalvesSay) {
  constexpr uint64_t kRubbish = 0xdead'beef'0000'0000;
  EXPECT_EQ(FromRegister<int32_t>::Decode(kRubbish | 0xffff'ffff), -1);
  EXPECT_EQ(FromRegister<uint32_t>::Decode(kRubbish | 7), 7U);
  EXPECT_EQ(FromRegister<int64_t>::Decode(~uint64_t{0}), -1);
  EXPECT_EQ(FromRegister<uint64_t>::Decode(kRubbish | 7), kRubbish | 7);
  EXPECT_EQ(FromRegister<Fd>::Decode(kRubbish | 3).value, 3);
  EXPECT_EQ(FromRegister<OpenFlags>::Decode(kRubbish | 0101).value, 0101U);
  EXPECT_EQ(FromRegister<FileMode>::Decode(kRubbish | 0644).value, 0644U);
  EXPECT_EQ(FromRegister<SignalNumber>::Decode(kRubbish | 9).value, 9);
  EXPECT_EQ(FromRegister<Path>::Decode(kRubbish | 7).addr(), mm::UserAddr{kRubbish | 7});
}

TEST(Adapter, ResultsAreSignExtended) {
  EXPECT_EQ(ToRegister(int32_t{-1}), ~uint64_t{0});
  EXPECT_EQ(ToRegister(Fd{5}), 5U);
  EXPECT_EQ(ToRegister(int64_t{-4095}), static_cast<uint64_t>(-4095));
}

Result<int32_t> Two(Task&, Fd, UserPtr<const char>) { return 0; }
Result<uint64_t> Six(Task&, int32_t, uint32_t, int64_t, uint64_t, UserPtr<void>, SignalNumber) {
  return uint64_t{0};
}

TEST(Adapter, ArityAndFormatsComeFromTheSignature) {
  EXPECT_EQ(Adapter<Two>::kArity, 2U);
  EXPECT_EQ(Adapter<Two>::kFormats[0], &format::Descriptor);
  EXPECT_EQ(Adapter<Two>::kFormats[1], &format::Text);
  EXPECT_EQ(Adapter<Two>::kFormats[2], nullptr);
  EXPECT_EQ(Adapter<Six>::kArity, 6U);
  EXPECT_EQ(Adapter<Six>::kFormats[0], &format::Decimal);
  EXPECT_EQ(Adapter<Six>::kFormats[3], &format::Hex);
  EXPECT_EQ(Adapter<Six>::kFormats[5], &format::Signal);
}

}  // namespace
}  // namespace skep::syscalls
