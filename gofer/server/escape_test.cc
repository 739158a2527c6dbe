// What a hostile client tries: to leave its tree, to open what it must not, to change what is
// read-only, to see the host. Races are made by a thread that changes the tree meanwhile.
#include <sched.h>
#include <sys/mount.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <atomic>

#include "gofer/server/test_tree.h"

namespace skep::gofer {
namespace {

constexpr const char kSecret[] = "secret of the host";

// A tree with a secret beside it that no request may reach.
class Prison : public TempTree {
 public:
  Prison() {
    Mkdir("root/dir");
    Mkdir("outside");
    Write("outside/file", kSecret);
    Write("root/dir/file", "inside");
  }
  std::string Root() const { return At("root"); }
};

TEST(GoferEscape, NamesThatAreNoNames) {
  Prison prison;
  Service service(ConfigFor(prison.Root()));
  Client& client = service.client();
  const NodeId root = service.root();
  const std::string long_name(256, 'x');
  for (const std::string_view name :
       {std::string_view(".."), std::string_view("."), std::string_view(""),
        std::string_view("../outside"), std::string_view("dir/file"), std::string_view("/"),
        std::string_view("/etc"), std::string_view("a\0b", 3)}) {
    const std::string_view names[] = {name};
    EXPECT_EQ(ErrorOf(client.Walk(root, names)), EINVAL) << name;
    EXPECT_EQ(ErrorOf(client.Create(root, name, {0600}, O_RDWR)), EINVAL) << name;
    EXPECT_EQ(ErrorOf(client.Mkdir(root, name, {0700})), EINVAL) << name;
    EXPECT_EQ(ErrorOf(client.Symlink(root, name, "x", {0700})), EINVAL) << name;
    EXPECT_EQ(ErrorOf(client.Link(service.Node("dir/file"), root, name)), EINVAL) << name;
    EXPECT_EQ(ErrorOf(client.Unlink(root, name)), EINVAL) << name;
    EXPECT_EQ(ErrorOf(client.Rmdir(root, name)), EINVAL) << name;
    EXPECT_EQ(ErrorOf(client.Rename(root, "dir", root, name, 0)), EINVAL) << name;
    EXPECT_EQ(ErrorOf(client.Rename(root, name, root, "dir", 0)), EINVAL) << name;
  }
  const std::string_view too_long[] = {long_name};
  EXPECT_EQ(ErrorOf(client.Walk(root, too_long)), ENAMETOOLONG);
}

TEST(GoferEscape, SymlinksAreOnlyText) {
  Prison prison;
  prison.Symlink("/", "root/absolute");
  prison.Symlink("../outside", "root/relative");
  prison.Symlink("dir", "root/harmless");
  prison.Symlink("/proc/self/root", "root/magic");
  Service service(ConfigFor(prison.Root()));
  for (const char* name : {"absolute", "relative", "harmless", "magic"}) {
    const auto walked = service.Walk(std::string(name) + "/file");
    ASSERT_TRUE(walked);
    EXPECT_EQ(walked->stop, WalkStop::kSymlink);
    ASSERT_EQ(walked->nodes.size(), 1U);
    const NodeId link = walked->nodes[0].node;
    const std::string_view file[] = {"file"};
    EXPECT_EQ(service.client().Walk(link, file)->error, ENOTDIR);
    EXPECT_EQ(ErrorOf(service.client().Open(link, O_RDONLY)), ELOOP);
    EXPECT_EQ(ErrorOf(service.client().Readdir(link, 0, true)), ENOTDIR);
    EXPECT_EQ(ErrorOf(service.client().Create(link, "x", {0600}, O_RDWR)), ENOTDIR);
    SetAttrRequest change;
    change.node = link;
    change.mask = kSetSize;
    EXPECT_EQ(ErrorOf(service.client().SetAttr(change)), EINVAL);
  }
  EXPECT_FALSE(std::filesystem::exists(prison.At("outside/x")));
}

// A directory and a symlink to the outside change places as fast as they can.
TEST(GoferEscape, DirectorySwappedWithASymlinkDuringWalks) {
  Prison prison;
  prison.Symlink("../outside", "root/link");
  ServerConfig config = ConfigFor(prison.Root());
  Service service(std::move(config));
  Client& client = service.client();
  std::atomic<bool> stop = false;
  std::thread swapper([&] {
    const std::string a = prison.At("root/dir");
    const std::string b = prison.At("root/link");
    while (!stop) renameat2(AT_FDCWD, a.c_str(), AT_FDCWD, b.c_str(), RENAME_EXCHANGE);
  });
  const NodeId root = service.root();
  int inside = 0;
  int links = 0;
  for (int i = 0; i < 20'000; ++i) {
    const std::string_view names[] = {i % 2 == 0 ? "dir" : "link", "file"};
    const auto walked = client.Walk(root, names);
    ASSERT_TRUE(walked);
    if (walked->nodes.size() == 2) {
      const auto opened = client.Open(walked->nodes[1].node, O_RDONLY);
      if (opened) {
        ASSERT_EQ(ReadAll(opened->file), "inside");
        ++inside;
      }
    } else {
      ++links;
    }
    for (const NodeRecord& node : walked->nodes) client.Release(node.node);
  }
  stop = true;
  swapper.join();
  EXPECT_GT(inside, 0);
  EXPECT_GT(links, 0);
}

// The same with a file and a symlink, between the walk and the open.
TEST(GoferEscape, FileSwappedWithASymlinkBeforeOpen) {
  Prison prison;
  prison.Symlink("../../outside/file", "root/dir/link");
  Service service(ConfigFor(prison.Root()));
  Client& client = service.client();
  std::atomic<bool> stop = false;
  std::thread swapper([&] {
    const std::string a = prison.At("root/dir/file");
    const std::string b = prison.At("root/dir/link");
    while (!stop) renameat2(AT_FDCWD, a.c_str(), AT_FDCWD, b.c_str(), RENAME_EXCHANGE);
  });
  const NodeId dir = service.Node("dir");
  int inside = 0;
  for (int i = 0; i < 20'000; ++i) {
    const std::string_view names[] = {"file"};
    const auto walked = client.Walk(dir, names);
    ASSERT_TRUE(walked);
    if (walked->nodes.empty()) continue;
    const NodeId node = walked->nodes[0].node;
    const auto opened = client.Open(node, O_RDWR);
    if (opened) {
      ASSERT_EQ(ReadAll(opened->file), "inside");
      ++inside;
    }
    client.Release(node);
  }
  stop = true;
  swapper.join();
  EXPECT_GT(inside, 0);
  EXPECT_EQ(prison.Read("outside/file"), kSecret);
}

TEST(GoferEscape, HandleDoesNotBecomeAnotherFile) {
  Prison prison;
  Service service(ConfigFor(prison.Root()));
  const NodeId file = service.Node("dir/file");
  std::filesystem::rename(prison.At("root/dir/file"), prison.At("moved"));
  prison.Write("root/dir/file", "another");
  EXPECT_EQ(ErrorOf(service.client().Open(file, O_RDONLY)), ESTALE);
  EXPECT_EQ(ErrorOf(service.client().GetAttr(file)), ESTALE);
  EXPECT_NE(service.Node("dir/file"), file);
}

TEST(GoferEscape, HostMovesADirectoryBelowItsChild) {
  Prison prison;
  prison.Mkdir("root/a/b/c");
  Service service(ConfigFor(prison.Root()));
  const NodeId a = service.Node("a");
  const NodeId c = service.Node("a/b/c");
  std::filesystem::rename(prison.At("root/a/b"), prison.At("root/b"));
  std::filesystem::rename(prison.At("root/a"), prison.At("root/b/c/a"));
  const std::string_view names[] = {"a"};
  const auto walked = service.client().Walk(c, names);
  ASSERT_TRUE(walked);
  ASSERT_EQ(walked->nodes.size(), 1U);
  EXPECT_EQ(walked->nodes[0].node, a);
  (void)service.client().PathOf(a);  // ends
  EXPECT_EQ(service.client().PathOf(service.Node("b/c/a"))->path, "b/c/a");
}

TEST(GoferEscape, DeviceNodesAreNeverOpened) {
  Prison prison;
  if (mknod(prison.At("root/null").c_str(), S_IFCHR | 0666, makedev(1, 3)) != 0) {
    GTEST_SKIP() << "no CAP_MKNOD here";
  }
  Service service(ConfigFor(prison.Root()));
  const NodeId node = service.Node("null");
  EXPECT_NE(node, NodeId::kNone);
  EXPECT_EQ(service.client().GetAttr(node)->rdev_minor, 3U);
  EXPECT_EQ(ErrorOf(service.client().Open(node, O_RDONLY)), EACCES);
  EXPECT_EQ(ErrorOf(service.client().Open(node, O_RDWR)), EACCES);
  EXPECT_EQ(ErrorOf(service.client().Fsync(node, false)), EINVAL);
}

TEST(GoferEscape, ReadOnlyAttachPointsStayAsTheyAre) {
  Prison prison;
  Service service(ConfigFor(prison.Root(), true));
  Client& client = service.client();
  const NodeId root = service.root();
  const NodeId file = service.Node("dir/file");
  EXPECT_EQ(ErrorOf(client.Open(file, O_RDWR)), EROFS);
  EXPECT_EQ(ErrorOf(client.Open(file, O_WRONLY)), EROFS);
  EXPECT_EQ(ErrorOf(client.Open(file, O_RDONLY | O_TRUNC)), EROFS);
  EXPECT_EQ(ErrorOf(client.Create(root, "x", {0600}, O_RDWR)), EROFS);
  EXPECT_EQ(ErrorOf(client.Mkdir(root, "x", {0700})), EROFS);
  EXPECT_EQ(ErrorOf(client.Mknod(root, "x", {S_IFREG | 0600})), EROFS);
  EXPECT_EQ(ErrorOf(client.Symlink(root, "x", "y", {0777})), EROFS);
  EXPECT_EQ(ErrorOf(client.Link(file, root, "x")), EROFS);
  EXPECT_EQ(ErrorOf(client.Unlink(service.Node("dir"), "file")), EROFS);
  EXPECT_EQ(ErrorOf(client.Rmdir(root, "dir")), EROFS);
  EXPECT_EQ(ErrorOf(client.Rename(root, "dir", root, "x", 0)), EROFS);
  for (const uint32_t mask : {kSetMode, kSetUid, kSetSize, kSetMtimeNow}) {
    SetAttrRequest change;
    change.node = file;
    change.mask = mask;
    EXPECT_EQ(ErrorOf(client.SetAttr(change)), EROFS);
  }
  const std::byte value[1] = {};
  EXPECT_EQ(ErrorOf(client.SetXattr(file, "user.x", value, 0)), EROFS);
  EXPECT_EQ(ErrorOf(client.RemoveXattr(file, "user.x")), EROFS);
  EXPECT_EQ(prison.Read("root/dir/file"), "inside");
  EXPECT_TRUE(client.Open(file, O_RDONLY));
}

TEST(GoferEscape, AttachPointsDoNotMix) {
  Prison prison;
  ServerConfig config = ConfigFor(prison.Root());
  config.attach_points.push_back({PathFd(prison.At("outside")), true});
  Service service(std::move(config));
  Client& client = service.client();
  const NodeId second = service.root(1);
  EXPECT_EQ(second, NodeId{2});
  EXPECT_EQ(ErrorOf(client.Link(service.Node("file", 1), service.root(), "x")), EXDEV);
  EXPECT_EQ(ErrorOf(client.Rename(service.root(), "dir", second, "x", 0)), EXDEV);
  EXPECT_EQ(ErrorOf(client.Create(second, "x", {0600}, O_RDWR)), EROFS);
}

TEST(GoferEscape, HostViewsAreEmpty) {
  ServerConfig config = ConfigFor("/", true);
  config.hidden = {{0, "dev"}, {0, "etc/none"}};
  Service service(std::move(config));
  Client& client = service.client();
  for (const char* name : {"proc", "sys", "dev"}) {
    const NodeId node = service.Node(name);
    ASSERT_NE(node, NodeId::kNone) << name;
    EXPECT_TRUE(S_ISDIR(client.GetAttr(node)->mode));
    const auto page = client.Readdir(node, 0, true);
    ASSERT_TRUE(page);
    EXPECT_TRUE(page->entries.empty() && page->at_end) << name;
    for (const char* below : {"1", "self", "kernel", "null", "shm"}) {
      const std::string_view names[] = {below};
      EXPECT_EQ(client.Walk(node, names)->error, ENOENT) << name << "/" << below;
    }
  }
  EXPECT_EQ(service.Walk("proc/self/root/etc")->error, ENOENT);
  const auto page = client.Readdir(service.root(), 0, true);
  for (const DirEntry& entry : page->entries) {
    if (entry.name != "proc") continue;
    EXPECT_TRUE(client.Readdir(entry.node.node, 0, false)->entries.empty());
  }
  EXPECT_NE(service.Node("etc/passwd"), NodeId::kNone);
}

TEST(GoferEscape, HiddenDirectoriesCannotBeMoved) {
  Prison prison;
  prison.Mkdir("root/hidden/x");
  ServerConfig config = ConfigFor(prison.Root());
  config.hidden = {{0, "hidden"}};
  Service service(std::move(config));
  Client& client = service.client();
  const NodeId root = service.root();
  EXPECT_EQ(service.Walk("hidden/x")->error, ENOENT);
  EXPECT_EQ(ErrorOf(client.Rename(root, "hidden", root, "seen", 0)), EBUSY);
  EXPECT_EQ(ErrorOf(client.Rename(root, "dir", root, "hidden", RENAME_EXCHANGE)), EBUSY);
  EXPECT_EQ(ErrorOf(client.Rmdir(root, "hidden")), EBUSY);
  EXPECT_EQ(ErrorOf(client.Mkdir(service.Node("hidden"), "x", {0700})), EROFS);
}

TEST(GoferEscape, MountsInsideTheTreeAreCrossed) {
  const NodeId none = NodeId::kNone;
  Prison prison;
  if (mount("none", prison.At("root/dir").c_str(), "tmpfs", 0, "size=64k") != 0) {
    GTEST_SKIP() << "no mounts here";
  }
  prison.Write("root/dir/mounted", "x");
  {
    Service service(ConfigFor(prison.Root()));
    EXPECT_NE(service.Node("dir/mounted"), none);
    EXPECT_EQ(service.Node("dir/file"), none);
    EXPECT_EQ(
        ErrorOf(service.client().Rename(service.Node("dir"), "mounted", service.root(), "x", 0)),
        EXDEV);
  }
  umount2(prison.At("root/dir").c_str(), MNT_DETACH);
}

}  // namespace
}  // namespace skep::gofer
