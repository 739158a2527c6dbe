#include "gofer/server/unmapped_ids.h"

#include <gtest/gtest.h>

namespace skep::gofer {
namespace {

TEST(ReadIdMap, TellsWhatTheOverflowIdMeans) {
  constexpr uint32_t kOverflow = 65534;
  EXPECT_EQ(ReadIdMap("         0          0 4294967295\n", kOverflow), Overflow::kMapped);
  EXPECT_EQ(ReadIdMap("         0       1000          1\n", kOverflow), Overflow::kUnmapped);
  EXPECT_EQ(ReadIdMap("0 1000 1\n1 100000 65536\n", kOverflow), Overflow::kEither);
  EXPECT_EQ(ReadIdMap("65534 65534 1\n", kOverflow), Overflow::kEither);
  EXPECT_EQ(ReadIdMap("0 0 65534\n", kOverflow), Overflow::kUnmapped) << "65533 is the last";
  EXPECT_EQ(ReadIdMap("", kOverflow), Overflow::kUnmapped) << "no map was written yet";
  EXPECT_EQ(ReadIdMap("0 1000", kOverflow), Overflow::kUnmapped);
}

}  // namespace
}  // namespace skep::gofer
