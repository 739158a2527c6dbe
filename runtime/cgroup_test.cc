#include "runtime/cgroup.h"

#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/host_call.h"

namespace skep::runtime {
namespace {

constexpr const char* kV1Mounts =
    "31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755\n"
    "34 31 0:31 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n"
    "35 31 0:32 / /sys/fs/cgroup/memory rw shared:7 - cgroup cgroup rw,memory\n"
    "41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw\n";
constexpr const char* kV1Groups = "5:cpu,cpuacct:/a\n4:memory:/slice/box\n0::/u\n";
constexpr const char* kV2Mounts = "29 22 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n";

TEST(FindMemoryHierarchy, VersionOneWinsWhereItHasTheController) {
  const auto found = FindMemoryHierarchy(kV1Mounts, kV1Groups);
  ASSERT_TRUE(found);
  EXPECT_EQ(found->version, MemoryHierarchy::Version::kV1);
  EXPECT_EQ(found->mount, "/sys/fs/cgroup/memory");
  EXPECT_EQ(found->own, "/slice/box");
  EXPECT_EQ(ParentCandidates(*found, ""),
            std::vector<std::string>{"/sys/fs/cgroup/memory/slice/box"});
  EXPECT_EQ(ParentCandidates(*found, "/default/id"),
            std::vector<std::string>{"/sys/fs/cgroup/memory/default/id"});
  EXPECT_EQ(ParentCandidates(*found, "id"),
            std::vector<std::string>{"/sys/fs/cgroup/memory/slice/box/id"});
}

TEST(FindMemoryHierarchy, VersionTwoTriesBesideOurGroupToo) {
  const auto found = FindMemoryHierarchy(kV2Mounts, "0::/user.slice/session\n");
  ASSERT_TRUE(found);
  EXPECT_EQ(found->version, MemoryHierarchy::Version::kV2);
  EXPECT_EQ(
      ParentCandidates(*found, ""),
      (std::vector<std::string>{"/sys/fs/cgroup/user.slice/session", "/sys/fs/cgroup/user.slice"}));
  const auto root = FindMemoryHierarchy(kV2Mounts, "0::/\n");
  EXPECT_EQ(ParentCandidates(*root, ""), std::vector<std::string>{"/sys/fs/cgroup"});
}

TEST(FindMemoryHierarchy, SeesThroughTheRootOfABindMount) {
  const auto found = FindMemoryHierarchy(
      "35 31 0:32 /docker/x /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n",
      "4:memory:/docker/x/y\n");
  ASSERT_TRUE(found);
  EXPECT_EQ(found->own, "/y");
}

TEST(FindMemoryHierarchy, NothingThere) {
  EXPECT_FALSE(FindMemoryHierarchy("", ""));
  EXPECT_FALSE(FindMemoryHierarchy("garbage\n1 2 3 - x\n", "0::/\n"));
  EXPECT_FALSE(FindMemoryHierarchy(kV2Mounts, "garbage"));
}

// Where this host lets us: the limit is there, and the group goes with its owner.
TEST(SandboxCgroup, HoldsTheLimitAndLeavesNothing) {
  std::string path;
  {
    HostResult<SandboxCgroup> group = SandboxCgroup::Make(64 << 20, "");
    if (!group) GTEST_SKIP() << group.error().message;
    path = group->path();
    const auto limit = host::ReadWholeFile((path + "/memory.limit_in_bytes").c_str(), 100);
    const auto max = host::ReadWholeFile((path + "/memory.max").c_str(), 100);
    EXPECT_EQ(limit ? *limit : *max, std::to_string(LimitOfSandbox(64 << 20)) + "\n");
    EXPECT_GT(LimitOfStubs(64 << 20), 64u << 20);
    EXPECT_GT(LimitOfSandbox(64 << 20), LimitOfStubs(64 << 20));
    const auto stubs_limit =
        host::ReadWholeFile((group->stubs_path() + "/memory.limit_in_bytes").c_str(), 100);
    const auto stubs_max = host::ReadWholeFile((group->stubs_path() + "/memory.max").c_str(), 100);
    EXPECT_EQ(stubs_limit ? *stubs_limit : *stubs_max,
              std::to_string(LimitOfStubs(64 << 20)) + "\n");
    EXPECT_TRUE(group->TakeStubs());
    EXPECT_TRUE(group->TakeKernel());
  }
  EXPECT_NE(access(path.c_str(), F_OK), 0);
}

TEST(SandboxCgroup, RemovesWhatADeadMakerLeft) {
  HostResult<SandboxCgroup> group = SandboxCgroup::Make(64 << 20, "");
  if (!group) GTEST_SKIP() << group.error().message;
  const std::string left = group->path().substr(0, group->path().rfind('/')) + "/skep-sandbox-1-1";
  ASSERT_EQ(mkdir(left.c_str(), 0755), 0);
  ASSERT_EQ(mkdir((left + "/stubs").c_str(), 0755), 0);
  const HostResult<SandboxCgroup> second = SandboxCgroup::Make(64 << 20, "");
  ASSERT_TRUE(second);
  EXPECT_NE(access(left.c_str(), F_OK), 0);
  EXPECT_EQ(access(group->path().c_str(), F_OK), 0);
}

}  // namespace
}  // namespace skep::runtime
