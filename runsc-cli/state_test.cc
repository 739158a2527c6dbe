#include "runsc-cli/state.h"

#include <gtest/gtest.h>
#include <cstdlib>
#include <filesystem>
#include <fstream>

#include "runsc-cli/report.h"

namespace skep::cli {
namespace {

class StateTest : public testing::Test {
 protected:
  StateTest() {
    char name[] = "/tmp/skep-state-XXXXXX";
    top_ = mkdtemp(name);
    root_ = top_ + "/a/b";
  }
  ~StateTest() override { std::filesystem::remove_all(top_); }

  std::string top_, root_;
};

TEST_F(StateTest, IsThereWhileTheContainerIs) {
  {
    auto directory = StateDirectory::Make(root_, "box");
    ASSERT_TRUE(directory) << directory.error().message;
    ASSERT_TRUE(directory->Write({"box", "running", "/b", "now", 7}));
    std::ifstream file(root_ + "/box/state.json");
    const std::string text(std::istreambuf_iterator<char>(file), {});
    EXPECT_NE(text.find("\"pid\": 7"), std::string::npos) << text;
    EXPECT_FALSE(std::filesystem::exists(root_ + "/box/state.json.new"));
    const auto second = StateDirectory::Make(root_, "box");
    ASSERT_FALSE(second);
    EXPECT_NE(second.error().message.find("exists already"), std::string::npos);
    EXPECT_TRUE(StateDirectory::Make(root_, "other"));
  }
  EXPECT_TRUE(std::filesystem::is_empty(root_));
}

TEST_F(StateTest, TakesOverWhatADeadCliLeft) {
  std::filesystem::create_directories(root_ + "/box");
  std::ofstream(root_ + "/box/state.json") << "{}";
  EXPECT_TRUE(StateDirectory::Make(root_, "box"));
  EXPECT_TRUE(std::filesystem::is_empty(root_));
}

TEST(CheckId, WhatRuncAllows) {
  for (const char* id : {"a", "A-b_c.d+1", "..."}) EXPECT_TRUE(CheckId(id)) << id;
  for (const char* id : {"", ".", "..", "a/b", "a b", "\xc3\xa9"}) EXPECT_FALSE(CheckId(id)) << id;
}

TEST(JsonQuote, EscapesAndRepairs) {
  EXPECT_EQ(JsonQuote("a\"\\\n\x01z"), "\"a\\\"\\\\\\u000a\\u0001z\"");
  EXPECT_EQ(JsonQuote("\xc3\xa9"), "\"\xc3\xa9\"");
  EXPECT_EQ(JsonQuote("\xff\xc3"), "\"\xef\xbf\xbd\xef\xbf\xbd\"");
}

}  // namespace
}  // namespace skep::cli
