#include "base/json_depth.h"

#include <gtest/gtest.h>
#include <string>

namespace skep {
namespace {

TEST(JsonDepth, CountsOpenBrackets) {
  EXPECT_TRUE(JsonNestsAtMost("", 0));
  EXPECT_TRUE(JsonNestsAtMost("[]", 1));
  EXPECT_FALSE(JsonNestsAtMost("[]", 0));
  EXPECT_TRUE(JsonNestsAtMost(R"({"a": [1, {"b": []}], "c": [[], []]})", 4));
  EXPECT_FALSE(JsonNestsAtMost(R"({"a": [1, {"b": []}], "c": [[], []]})", 3));
  EXPECT_FALSE(JsonNestsAtMost(std::string(3'000'000, '['), kJsonDepthMax));
}

TEST(JsonDepth, BracketsInStringsAreText) {
  EXPECT_TRUE(JsonNestsAtMost(R"(["[[[[", "\"[[[["])", 1));
  EXPECT_FALSE(JsonNestsAtMost(R"(["\\", [[]]])", 2));
}

}  // namespace
}  // namespace skep
