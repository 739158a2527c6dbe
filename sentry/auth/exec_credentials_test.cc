#include "sentry/auth/exec_credentials.h"

#include <gtest/gtest.h>
#include <linux/capability.h>
#include <linux/securebits.h>

#include <string>
#include <vector>

namespace skep::auth {
namespace {

constexpr CapabilitySet kBind = uint64_t{1} << CAP_NET_BIND_SERVICE;
constexpr CapabilitySet kRaw = uint64_t{1} << CAP_NET_RAW;

Credentials User(uint32_t id) {
  Credentials c;
  c.uid = c.euid = c.suid = c.fsuid = id;
  c.gid = c.egid = c.sgid = c.fsgid = id;
  return c;
}

Credentials Root() {
  Credentials c = User(0);
  c.permitted = c.effective = kAllCapabilities;
  return c;
}

ExecCredentials Exec(const Credentials& old, const ExecFile& file, bool fs_shared = false) {
  Result<ExecCredentials> done = CredentialsForExec(old, file, fs_shared);
  EXPECT_TRUE(done.has_value());
  return done.value_or(ExecCredentials{});
}

std::string Disk(const std::vector<uint32_t>& words) {
  return {reinterpret_cast<const char*>(words.data()), words.size() * sizeof(uint32_t)};
}

TEST(CredentialsForExec, PlainProgramOfAUserGainsNothing) {
  const ExecCredentials exec = Exec(User(1000), {});
  EXPECT_EQ(exec.creds.permitted, 0u);
  EXPECT_FALSE(exec.secure);
  EXPECT_FALSE(exec.clear_personality);
}

TEST(CredentialsForExec, RootHasWhatTheBoundingSetAllows) {
  Credentials root = Root();
  root.bounding &= ~kRaw;
  const ExecCredentials exec = Exec(root, {});
  EXPECT_EQ(exec.creds.permitted, kAllCapabilities & ~kRaw);
  EXPECT_EQ(exec.creds.effective, kAllCapabilities & ~kRaw);
  EXPECT_FALSE(exec.secure);
}

TEST(CredentialsForExec, SetUidRoot) {
  Credentials user = User(1000);
  user.permitted = user.inheritable = user.ambient = kBind;
  const ExecCredentials exec = Exec(user, {.set_uid = 0});
  EXPECT_EQ(exec.creds.euid, 0u);
  EXPECT_EQ(exec.creds.suid, 0u);
  EXPECT_EQ(exec.creds.uid, 1000u);
  EXPECT_EQ(exec.creds.effective, kAllCapabilities);
  EXPECT_EQ(exec.creds.ambient, 0u);
  EXPECT_TRUE(exec.secure);
  EXPECT_TRUE(exec.clear_personality);
}

TEST(CredentialsForExec, SetUidToAnotherUserClearsTheAmbientSet) {
  Credentials user = User(1000);
  user.permitted = user.effective = user.inheritable = user.ambient = kBind;
  const ExecCredentials exec = Exec(user, {.set_uid = 1001});
  EXPECT_EQ(exec.creds.permitted, 0u);
  EXPECT_EQ(exec.creds.ambient, 0u);
  EXPECT_EQ(Exec(user, {}).creds.effective, kBind) << "without set-id they stay";
}

TEST(CredentialsForExec, SharedRootGivesNothing) {
  const ExecCredentials exec = Exec(User(1000), {.set_uid = 0, .set_gid = 0}, true);
  EXPECT_EQ(exec.creds.euid, 1000u);
  EXPECT_EQ(exec.creds.egid, 1000u);
  EXPECT_EQ(exec.creds.permitted, 0u);
  EXPECT_TRUE(exec.secure) << "as Linux: it was asked for";
  EXPECT_TRUE(exec.clear_personality);
}

TEST(CredentialsForExec, NoNewPrivileges) {
  Credentials user = User(1000);
  user.no_new_privs = true;
  const FileCapabilities raw{.permitted = kRaw, .effective = true};
  const ExecCredentials exec = Exec(user, {.set_uid = 0, .capabilities = raw});
  EXPECT_EQ(exec.creds.euid, 1000u);
  EXPECT_EQ(exec.creds.permitted, 0u);
}

TEST(CredentialsForExec, FileCapabilities) {
  Credentials user = User(1000);
  user.permitted = user.inheritable = user.ambient = kBind;
  const FileCapabilities raw{.permitted = kRaw, .inheritable = 0, .effective = true};
  const ExecCredentials exec = Exec(user, {.capabilities = raw});
  EXPECT_EQ(exec.creds.permitted, kRaw);
  EXPECT_EQ(exec.creds.effective, kRaw);
  EXPECT_EQ(exec.creds.ambient, 0u);
  EXPECT_TRUE(exec.secure);
  const FileCapabilities inherited{.permitted = 0, .inheritable = kBind | kRaw};
  EXPECT_EQ(Exec(user, {.capabilities = inherited}).creds.permitted, kBind);
  EXPECT_EQ(Exec(user, {.capabilities = inherited}).creds.effective, 0u);
  user.bounding = 0;
  const auto refused = CredentialsForExec(user, {.capabilities = raw}, false);
  ASSERT_FALSE(refused.has_value());
  EXPECT_EQ(refused.error().code(), EPERM);
}

TEST(CredentialsForExec, SetUidRootWithCapabilitiesHasThoseAlone) {
  const FileCapabilities raw{.permitted = kRaw, .effective = true};
  EXPECT_EQ(Exec(User(1000), {.set_uid = 0, .capabilities = raw}).creds.permitted, kRaw);
  EXPECT_EQ(Exec(Root(), {.set_uid = 0, .capabilities = raw}).creds.permitted, kAllCapabilities);
}

TEST(CredentialsForExec, NoRootSecurebit) {
  Credentials root = Root();
  root.securebits = SECBIT_NOROOT;
  EXPECT_EQ(Exec(root, {}).creds.permitted, 0u);
}

TEST(FileCapabilities, Formats) {
  const uint32_t bind = 1u << CAP_NET_BIND_SERVICE;
  const std::string second = Disk({VFS_CAP_REVISION_2 | VFS_CAP_FLAGS_EFFECTIVE, bind, 0, 1, 2});
  const auto parsed = ParseFileCapabilities(second, Root());
  ASSERT_TRUE(parsed && *parsed);
  EXPECT_EQ((*parsed)->permitted, kBind | uint64_t{1} << 32);
  EXPECT_EQ((*parsed)->inheritable, uint64_t{2} << 32);
  EXPECT_TRUE((*parsed)->effective);
  EXPECT_TRUE(IsFileCapabilities(second));
  const std::string first = Disk({VFS_CAP_REVISION_1, bind, 0});
  EXPECT_TRUE(ParseFileCapabilities(first, Root()).has_value());
  EXPECT_FALSE(IsFileCapabilities(first)) << "read, but no longer written";
  const std::string ours = Disk({VFS_CAP_REVISION_3, bind, 0, 0, 0, 0});
  const std::string theirs = Disk({VFS_CAP_REVISION_3, bind, 0, 0, 0, 1000});
  EXPECT_TRUE(ParseFileCapabilities(ours, Root())->has_value());
  EXPECT_FALSE(ParseFileCapabilities(theirs, Root())->has_value());
  for (const std::string& bad : {std::string(), std::string("abc"), second.substr(1), second + "x",
                                 Disk({0x04000000, 0, 0, 0, 0})}) {
    EXPECT_FALSE(ParseFileCapabilities(bad, Root()).has_value());
    EXPECT_FALSE(IsFileCapabilities(bad));
  }
}

TEST(ChangesProtection, FollowsIdsAndGainedCapabilities) {
  const Credentials user = User(1000);
  EXPECT_FALSE(ChangesProtection(user, user));
  EXPECT_TRUE(ChangesProtection(Root(), user));
  Credentials changed = user;
  changed.groups = {5};
  changed.uid = changed.suid = 7;
  EXPECT_FALSE(ChangesProtection(user, changed)) << "real and saved ids say nothing";
  changed = user;
  changed.fsgid = 7;
  EXPECT_TRUE(ChangesProtection(user, changed));
  changed = user;
  changed.permitted = kBind;
  EXPECT_TRUE(ChangesProtection(user, changed));
  EXPECT_FALSE(ChangesProtection(changed, user)) << "fewer capabilities need no shield";
}

}  // namespace
}  // namespace skep::auth
