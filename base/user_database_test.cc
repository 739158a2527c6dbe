// Users by number and by name.
#include "base/user_database.h"

#include <gtest/gtest.h>

namespace skep {
namespace {

const UserDatabase kDatabase = {
    "root:x:0:0:root:/root:/bin/sh\nann:x:1000:100::/home/ann:/bin/sh\n",
    "users:x:100:\nwheel:x:10:bob,ann\nbroken\n"};

TEST(ParseUser, NumbersAndNames) {
  const auto ann = ParseUser("ann", &kDatabase);
  ASSERT_TRUE(ann);
  EXPECT_EQ(ann->uid, 1000U);
  EXPECT_EQ(ann->gid, 100U);
  EXPECT_EQ(ann->groups, (std::vector<uint32_t>{100, 10}));
  EXPECT_EQ(ParseUser("1000", &kDatabase)->gid, 100U);
  EXPECT_EQ(ParseUser("7", &kDatabase)->gid, 7U);
  EXPECT_EQ(ParseUser("ann:wheel", &kDatabase)->gid, 10U);
  EXPECT_EQ(ParseUser("5:6", nullptr)->gid, 6U);
  EXPECT_EQ(ParseUser("5:6", nullptr)->groups, std::vector<uint32_t>{6});
}

TEST(ParseUser, RefusesWhatItCannotKnow) {
  EXPECT_FALSE(ParseUser("bob", &kDatabase));
  EXPECT_FALSE(ParseUser("ann:staff", &kDatabase));
  EXPECT_FALSE(ParseUser("ann", nullptr));
  EXPECT_FALSE(ParseUser("", &kDatabase));
  EXPECT_FALSE(ParseUser("4294967295", nullptr));
  EXPECT_FALSE(ParseUser("1:", nullptr));
}

TEST(ParseUser, TakesWhateverAGuestWrites) {
  for (const char* line : {"ann", "ann:", "ann:x:", "ann:x:1", ":x:1:2", "ann:x:-1:2", "ann:x:1:",
                           "ann:x:99999999999999999999:1", "\n\n::::\nann:x:1:2:3:4:5:6"}) {
    const UserDatabase database = {line, line};
    const auto user = ParseUser("ann:ann", &database);
    EXPECT_EQ(user.has_value(), std::string(line).ends_with(":6")) << line;
  }
  const UserDatabase zeros = {std::string(1000, '\0'), std::string(1000, ':')};
  EXPECT_FALSE(ParseUser("ann", &zeros));
  std::string many = "ann:x:1:2:\n";
  for (int i = 0; i < 70000; ++i) many += "g:x:" + std::to_string(i) + ":ann\n";
  const UserDatabase crowd = {"ann:x:1:2\n", many};
  EXPECT_EQ(ParseUser("ann", &crowd)->groups.size(), 65536U);  // NGROUPS_MAX
}

}  // namespace
}  // namespace skep
