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

TEST_F(StateTest, IsThereUntilItIsRemoved) {
  {
    auto directory = StateDirectory::Make(root_, "box");
    ASSERT_TRUE(directory) << directory.error().message;
    ASSERT_TRUE(directory->Write({"box", "running", "/b", "now", 7, std::nullopt}));
    EXPECT_FALSE(std::filesystem::exists(root_ + "/box/state.json.new"));
    const auto second = StateDirectory::Make(root_, "box");
    ASSERT_FALSE(second);
    EXPECT_NE(second.error().message.find("exists already"), std::string::npos);
  }
  auto directory = StateDirectory::Open(root_, "box");
  ASSERT_TRUE(directory);
  const auto state = directory->Read();
  ASSERT_TRUE(state);
  EXPECT_EQ(state->pid, 7);
  EXPECT_FALSE(state->exit_code);
  ASSERT_TRUE(directory->Write({"box", "stopped", "/b", "now", 7, 137}));
  EXPECT_EQ(directory->Read()->exit_code, 137);
  EXPECT_EQ(StateDirectory::List(root_), std::vector<std::string>{"box"});
  EXPECT_TRUE(directory->Remove());
  EXPECT_TRUE(std::filesystem::is_empty(root_));
  EXPECT_FALSE(StateDirectory::Open(root_, "box"));
}

TEST_F(StateTest, LocksBelongToWhoIsAtWork) {
  auto maker = StateDirectory::Make(root_, "box");
  ASSERT_TRUE(maker);
  auto other = StateDirectory::Open(root_, "box");
  ASSERT_TRUE(other);
  EXPECT_TRUE(other->IsLocked());
  maker->Unlock();
  EXPECT_FALSE(other->IsLocked());
}

TEST_F(StateTest, ABrokenOneCanBeRemoved) {
  std::filesystem::create_directories(root_ + "/box");
  std::ofstream(root_ + "/box/state.json") << "{\"id\": 3";
  auto directory = StateDirectory::Open(root_, "box");
  ASSERT_TRUE(directory);
  EXPECT_FALSE(directory->Read());
  EXPECT_FALSE(directory->Connect());
  EXPECT_TRUE(directory->Remove());
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
