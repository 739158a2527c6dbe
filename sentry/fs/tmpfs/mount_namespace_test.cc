// Two mount namespaces over the same files: what is mounted in one does not show in the other.
#include "sentry/vfs/mount.h"

#include <linux/capability.h>
#include <sys/mount.h>

#include "sentry/fs/test_world.h"

namespace skep::fs {
namespace {

struct MountNamespaceTest : ::testing::Test {
  World w;
  Ref<TmpFs> sub = w.NewTmpFs(7);
  Ref<vfs::FsContext> copy;

  void SetUp() override {
    EXPECT_EQ(w.Mkdir("/d"), 0);
    EXPECT_EQ(w.Mkdir("/d/sub"), 0);
    EXPECT_EQ(w.Write("/d/file", "old"), 0);
    ASSERT_TRUE(w.mounts->Add(*w.Find("/d/sub"), sub, 0).has_value());
    EXPECT_EQ(w.Write("/d/sub/below", "below"), 0);
    w.context->SetCwd(*w.Find("/d/sub"));
    copy = w.context->CloneMounts(77, {});
  }

  Result<vfs::Path> InCopy(std::string_view path) {
    return vfs::NameOps(w.caller, *copy).Resolve(path, {});
  }
};

TEST_F(MountNamespaceTest, ACopyShowsTheSameFiles) {
  EXPECT_EQ(copy->mounts()->number(), 77u);
  EXPECT_EQ(copy->mounts()->List().size(), 2u);
  EXPECT_EQ(InCopy("/d/file")->dentry, w.Find("/d/file")->dentry);
  EXPECT_EQ(InCopy("/d/sub/below")->dentry, w.Find("/d/sub/below")->dentry);
  EXPECT_NE(InCopy("/d/file")->mount, w.Find("/d/file")->mount);
}

TEST_F(MountNamespaceTest, RootAndWorkingDirectoryMoveIntoTheCopy) {
  EXPECT_EQ(copy->root(), copy->mounts()->root());
  EXPECT_EQ(copy->cwd(), *InCopy("/d/sub"));
  EXPECT_EQ(copy->cwd().dentry, w.context->cwd().dentry);
  EXPECT_NE(copy->cwd().mount, w.context->cwd().mount);
  EXPECT_EQ(w.context->cwd(), *w.Find("/d/sub")) << "the old one stays where it was";
  EXPECT_EQ(*InCopy(".."), *InCopy("/d")) << "up from a mount of the copy, into the copy";
  EXPECT_EQ(copy->umask(), w.context->umask());
}

TEST_F(MountNamespaceTest, ADirectoryOfAnotherNamespaceStaysThere) {
  const auto other = MakeRef<vfs::MountNamespace>(w.NewTmpFs(8));
  w.context->SetCwd(other->root());
  EXPECT_EQ(w.context->CloneMounts(78, {})->cwd(), other->root());
  w.context->SetCwd(w.context->root());
}

TEST_F(MountNamespaceTest, MountsOfOneDoNotShowInTheOther) {
  ASSERT_TRUE(copy->mounts()->Add(*InCopy("/d"), w.NewTmpFs(9), 0).has_value());
  EXPECT_EQ(Code(InCopy("/d/file")), ENOENT) << "the copy sees what it has mounted";
  EXPECT_EQ(w.Read("/d/file"), "old");
  EXPECT_EQ(w.mounts->List().size(), 2u);
  EXPECT_EQ(w.Mkdir("/later"), 0);
  ASSERT_TRUE(w.mounts->Add(*w.Find("/later"), w.NewTmpFs(10), 0).has_value());
  EXPECT_EQ(w.Write("/later/file", "later"), 0);
  EXPECT_EQ(Code(InCopy("/later")), 0) << "the directory is a file of both";
  EXPECT_EQ(Code(InCopy("/later/file")), ENOENT);
}

TEST_F(MountNamespaceTest, UnmountingInOneLeavesTheOther) {
  copy->SetCwd(copy->root());
  vfs::Path mounted = *InCopy("/d/sub");
  EXPECT_EQ(Code(copy->mounts()->Remove(mounted, 0)), 0);
  mounted = {};
  EXPECT_EQ(Code(InCopy("/d/sub/below")), ENOENT);
  EXPECT_EQ(w.Read("/d/sub/below"), "below");
  copy = {};
  w.context->SetCwd(w.context->root());
  EXPECT_EQ(w.Rmdir("/d/sub"), EBUSY) << "it is a mount point still";
  EXPECT_EQ(Code(w.mounts->Remove(*w.Find("/d/sub"), 0)), 0);
  EXPECT_EQ(w.Rmdir("/d/sub"), 0);
}

TEST_F(MountNamespaceTest, AnEndedCopyLetsGoOfItsMountPoints) {
  EXPECT_EQ(w.Mkdir("/point"), 0);
  ASSERT_TRUE(copy->mounts()->Add(*InCopy("/point"), w.NewTmpFs(9), 0).has_value());
  const Ref<vfs::Dentry> point = w.Find("/point")->dentry;
  EXPECT_TRUE(point->IsMountpoint());
  copy = {};
  EXPECT_FALSE(point->IsMountpoint());
}

TEST_F(MountNamespaceTest, FlagsAreTheMountsOwn) {
  InCopy("/d/sub")->mount->SetFlags(MS_RDONLY);
  EXPECT_EQ(w.Write("/d/sub/new", "x"), 0);
  vfs::NameOps in_copy(w.caller, *copy);
  const auto opened = in_copy.Open("/d/sub/new", {.flags = O_WRONLY});
  EXPECT_EQ(Code(opened), EROFS);
}

TEST_F(MountNamespaceTest, ChangesAskForCapabilitiesInItsOwner) {
  const auto first = MakeRef<auth::UserNamespace>(Ref<auth::UserNamespace>(), 0u, 1u);
  const auto below = MakeRef<auth::UserNamespace>(first, 0u, 2u);
  auth::Credentials root;
  root.effective = auth::kAllCapabilities;
  root.user_namespace = first;
  auth::Credentials inside = root;
  inside.user_namespace = below;
  inside.euid = 5;
  const auto own = w.context->CloneMounts(79, below)->mounts();
  EXPECT_TRUE(own->MayChange(inside));
  EXPECT_TRUE(own->MayChange(root));
  EXPECT_TRUE(w.mounts->MayChange(root));
  EXPECT_FALSE(w.mounts->MayChange(inside));
  inside.effective &= ~(uint64_t{1} << CAP_SYS_ADMIN);
  EXPECT_FALSE(own->MayChange(inside));
}

}  // namespace
}  // namespace skep::fs
