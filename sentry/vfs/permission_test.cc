#include "sentry/vfs/permission.h"

#include <gtest/gtest.h>
#include <linux/posix_acl.h>

#include <string>

namespace skep::vfs {
namespace {

struct Entry {
  uint16_t tag, permissions;
  uint32_t id;
};

std::string Acl(std::initializer_list<Entry> entries) {
  std::string value("\2\0\0\0", 4);
  for (const Entry& e : entries) value.append(reinterpret_cast<const char*>(&e), sizeof e);
  return value;
}

auth::Credentials User(uint32_t uid, uint32_t gid) {
  auth::Credentials creds;
  creds.fsuid = uid;
  creds.fsgid = gid;
  return creds;
}

Attributes File(uint32_t mode) {
  Attributes attributes;
  attributes.mode = S_IFREG | mode;
  attributes.uid = 1;
  attributes.gid = 2;
  return attributes;
}

int Code(const Result<void>& result) { return result ? 0 : result.error().code(); }

constexpr uint32_t kNone = UINT32_MAX;
constexpr uint32_t kNamed = 10, kNamedGroup = 20;

TEST(AclPermission, AsLinuxHasIt) {
  const std::string acl = Acl({{ACL_USER_OBJ, 6, kNone},
                               {ACL_USER, 6, kNamed},
                               {ACL_USER, 0, kNamed + 1},
                               {ACL_GROUP_OBJ, 0, kNone},
                               {ACL_GROUP, 4, kNamedGroup},
                               {ACL_MASK, 6, kNone},
                               {ACL_OTHER, 4, kNone}});
  const Attributes file = File(0664);
  const auto may = [&](const auth::Credentials& creds, int mask) {
    return Code(AclPermission(acl, file, creds, mask));
  };
  EXPECT_EQ(may(User(kNamed, 99), kMayRead | kMayWrite), 0);
  EXPECT_EQ(may(User(kNamed, 99), kMayExec), EACCES);
  EXPECT_EQ(may(User(kNamed + 1, 99), kMayRead), EACCES) << "named, so not one of the others";
  EXPECT_EQ(may(User(99, 2), kMayRead), EACCES) << "the mode's group bits are the mask";
  EXPECT_EQ(may(User(99, kNamedGroup), kMayRead), 0);
  EXPECT_EQ(may(User(99, kNamedGroup), kMayWrite), EACCES);
  EXPECT_EQ(may(User(99, 99), kMayRead), 0);
  EXPECT_EQ(may(User(99, 99), kMayWrite), EACCES);
  EXPECT_EQ(Code(AclPermission(acl, File(0604), User(kNamed, 99), kMayRead)), EACCES)
      << "chmod took the mask away";
  auth::Credentials both = User(99, 2);
  both.groups = {kNamedGroup};
  EXPECT_EQ(may(both, kMayRead), 0) << "one group that may is enough";
  for (const std::string& bad : {std::string("x"), acl.substr(1), acl + "x"}) {
    EXPECT_EQ(Code(AclPermission(bad, file, User(kNamed, 99), kMayRead)), EACCES);
  }
}

TEST(MayHaveAcl, NotForTheOwnerNorWithoutMask) {
  EXPECT_FALSE(MayHaveAcl(File(0664), User(1, 99)));
  EXPECT_FALSE(MayHaveAcl(File(0604), User(99, 99)));
  EXPECT_TRUE(MayHaveAcl(File(0664), User(99, 99)));
}

TEST(UnmappedIds, BelongToNobody) {
  Attributes file = File(0640);
  file.uid = file.gid = kUnmappedId;
  const auth::Credentials nobody = User(auth::kOverflowId, auth::kOverflowId);
  EXPECT_EQ(Code(GenericPermission(file, nobody, kMayRead)), EACCES);
  EXPECT_FALSE(IsOwnerOrCapable(file, nobody));
  Attributes sticky = File(01777);
  sticky.mode = S_IFDIR | 01777;
  sticky.uid = kUnmappedId;
  EXPECT_TRUE(StickyForbids(sticky, file, nobody));
  EXPECT_EQ(nobody.ShownUser(file.uid), auth::kOverflowId);
}

}  // namespace
}  // namespace skep::vfs
