#include "runsc-cli/parse.h"

#include <gtest/gtest.h>

namespace skep::cli {
namespace {

TEST(ParseSize, TakesBytesAndUnits) {
  EXPECT_EQ(ParseSize("0").value_or(9), 0U);
  EXPECT_EQ(ParseSize("4096").value_or(0), 4096U);
  EXPECT_EQ(ParseSize("64k").value_or(0), 65536U);
  EXPECT_EQ(ParseSize("64KiB").value_or(0), 65536U);
  EXPECT_EQ(ParseSize("2gb").value_or(0), 2ULL << 30);
  EXPECT_EQ(ParseSize("1T").value_or(0), 1ULL << 40);
}

TEST(ParseSize, RefusesTheRest) {
  for (const char* text : {"", "k", "-1", "1.5g", "1 g", "1x", "1kk", "18446744073709551616",
                           "17179869184g", "0x10", "1m2"}) {
    EXPECT_FALSE(ParseSize(text)) << text;
  }
}

TEST(ParseVolume, HostGuestAndMode) {
  const auto volume = ParseVolume("data:/srv//data/:ro");
  ASSERT_TRUE(volume);
  EXPECT_EQ(volume->host, "data");
  EXPECT_EQ(volume->guest, "/srv/data");
  EXPECT_TRUE(volume->read_only);
  EXPECT_FALSE(ParseVolume("/a:/b")->read_only);
  for (const char* text : {"/a", "/a:b", ":/b", "/a:/", "/a:/b:rx", "/a:/b/../c", "/a:/b:ro:x"}) {
    EXPECT_FALSE(ParseVolume(text)) << text;
  }
}

TEST(ParseDuration, UnitsAndLimits) {
  EXPECT_EQ(ParseDuration("--x", "500ms").value_or(0), 500'000'000U);
  EXPECT_EQ(ParseDuration("--x", "7").value_or(0), 7'000'000'000U);
  EXPECT_EQ(ParseDuration("--x", "2h").value_or(0), 7'200'000'000'000U);
  EXPECT_TRUE(ParseDuration("--x", "2562047h")) << "292 years";
  for (const char* text :
       {"", "0", "-1", "1x", "s", "2562048h", "5124095h", "99999999999999999999"}) {
    EXPECT_FALSE(ParseDuration("--x", text)) << text;
  }
}

TEST(CleanAbsolutePath, CollapsesAndRefuses) {
  EXPECT_EQ(CleanAbsolutePath("//a/./b/").value_or(""), "/a/b");
  EXPECT_EQ(CleanAbsolutePath("/").value_or(""), "/");
  EXPECT_FALSE(CleanAbsolutePath("a"));
  EXPECT_FALSE(CleanAbsolutePath("/a/.."));
  EXPECT_FALSE(CleanAbsolutePath(""));
}

}  // namespace
}  // namespace skep::cli
