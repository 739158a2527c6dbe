// Descriptors that share an open file description, and where a guest sees a file of the host.
#include "runtime/stdio.h"

#include <fcntl.h>
#include <gtest/gtest.h>

#include "base/host_call.h"

namespace skep::runtime {
namespace {

TEST(DescribeStdio, TellsDescriptionsFromFiles) {
  const OwnedFd file = host::MemfdCreate("test", 1).value();
  const OwnedFd same = host::Dup(file.get()).value();
  const std::string path = "/proc/self/fd/" + std::to_string(file.get());
  const OwnedFd again = host::Open(path.c_str(), O_RDWR | O_CLOEXEC).value();
  boot::ProcessConfig config;
  DescribeStdio({file.get(), same.get(), again.get()}, config);
  EXPECT_EQ(config.stdio_description_of[1], 0);
  EXPECT_EQ(config.stdio_description_of[2], 2);
  EXPECT_EQ(config.stdio_inode_of[1], 0);
  EXPECT_EQ(config.stdio_inode_of[2], 0);
  DescribeStdio({-1, again.get(), file.get()}, config);
  EXPECT_EQ(config.stdio_description_of[2], 2);
  EXPECT_EQ(config.stdio_inode_of[2], 1);
}

TEST(DescribeStdio, NamesDevices) {
  const OwnedFd null = host::Open("/dev/null", O_RDWR | O_CLOEXEC).value();
  boot::ProcessConfig config;
  DescribeStdio({null.get(), -1, -1}, config);
  EXPECT_EQ(config.stdio_names, (std::vector<std::string>{"/dev/null", "", ""}));
}

TEST(GuestPathOf, FollowsTheTopmostMount) {
  std::vector<boot::MountConfig> mounts(4);
  mounts[0].destination = "/";
  mounts[1].destination = "/dev/shm";
  mounts[2].destination = "/src";
  mounts[3].destination = "/src/lib";
  const std::vector<std::string> sources = {"/", "", "/home/me/work", "/opt/lib"};
  EXPECT_EQ(GuestPathOf("/tmp/log", mounts, sources), "/tmp/log");
  EXPECT_EQ(GuestPathOf("/dev/shm/log", mounts, sources), "");
  EXPECT_EQ(GuestPathOf("/home/me/work/log", mounts, sources), "/src/log");
  EXPECT_EQ(GuestPathOf("/opt/lib/log", mounts, sources), "/src/lib/log");
  EXPECT_EQ(GuestPathOf("/home/me/work/lib/log", mounts, sources), "/home/me/work/lib/log");
  const std::vector<std::string> small = {"/srv/root", "", "", ""};
  EXPECT_EQ(GuestPathOf("/tmp/log", mounts, small), "");
  EXPECT_EQ(GuestPathOf("/srv/rootlog", mounts, small), "");
  EXPECT_EQ(GuestPathOf("/srv/root/log", mounts, small), "/log");
}

}  // namespace
}  // namespace skep::runtime
