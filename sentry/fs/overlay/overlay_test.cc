// OverlayFs over a read-only gofer tree, as a sandbox's root is.
#include <linux/fs.h>
#include <sys/stat.h>
#include <algorithm>
#include <map>

#include "sentry/fs/gofer/test_gofer.h"
#include "sentry/fs/overlay/overlay_fs.h"
#include "sentry/fs/test_world.h"

namespace skep::fs {
namespace {

class OverlayTest : public ::testing::Test {
 protected:
  OverlayTest() : gofer(true) {}
  void SetUp() override {
    gofer.tree.Mkdir("etc/sub");
    gofer.tree.Mkdir("empty");
    gofer.tree.Write("etc/passwd", "root");
    gofer.tree.Write("etc/sub/deep", "deep");
    gofer.tree.Write("top", "top");
    gofer.tree.Symlink("etc/passwd", "link");
    ASSERT_EQ(link(gofer.tree.At("top").c_str(), gofer.tree.At("top2").c_str()), 0);
    Ref<GoferFs> lower = gofer.Mount();
    world = std::make_unique<World>([&](mm::MemoryFile& memory) -> Ref<vfs::FileSystem> {
      Ref<TmpFs> upper = MakeRef<TmpFs>(memory, TmpFsOptions{.dev_minor = 4});
      return *OverlayFs::Make(5, lower, upper);
    });
  }
  void TearDown() override {
    world.reset();
    // Whatever was done, the lower tree is as it was.
    EXPECT_EQ(gofer.tree.Read("etc/passwd"), "root");
    EXPECT_EQ(gofer.tree.Read("etc/sub/deep"), "deep");
    EXPECT_EQ(gofer.tree.Read("top"), "top");
    EXPECT_EQ(access(gofer.tree.At("empty").c_str(), F_OK), 0);
  }

  TestGofer gofer;
  std::unique_ptr<World> world;
};

TEST_F(OverlayTest, ShowsTheLowerTree) {
  World& w = *world;
  EXPECT_EQ(w.Read("/etc/passwd"), "root");
  EXPECT_EQ(w.Read("/link"), "root");
  EXPECT_EQ(w.List("/"), (Names{"empty", "etc", "link", "top", "top2"}));
  EXPECT_EQ(w.Stat("/etc/passwd")->dev_minor, 5u);
  struct stat host{};
  ASSERT_EQ(stat(gofer.tree.At("etc/passwd").c_str(), &host), 0);
  EXPECT_EQ(w.Stat("/etc/passwd")->ino, host.st_ino);
}

// As guests see a root: what the gofer is asked for once it is asked for no more.
TEST_F(OverlayTest, OneMessageForAWalkOrAListing) {
  World& w = *world;
  int before = gofer.Messages();
  const auto sent = [&] { return gofer.Messages() - std::exchange(before, gofer.Messages()); };
  EXPECT_EQ(w.Read("/etc/sub/deep"), "deep");
  EXPECT_EQ(sent(), 1);
  EXPECT_EQ(w.List("/etc"), (Names{"passwd", "sub"}));
  EXPECT_EQ(sent(), 1);
  EXPECT_EQ(w.Stat("/etc/passwd")->size, 4u);
  EXPECT_EQ(sent(), 1);  // a listing brings no attributes
  EXPECT_EQ(w.Stat("/etc/passwd")->size, 4u);
  EXPECT_EQ(Code(w.Find("/etc/none")), ENOENT);
  EXPECT_EQ(w.List("/etc"), (Names{"passwd", "sub"}));
  EXPECT_EQ(w.Read("/etc/sub/deep"), "deep");
  EXPECT_EQ(sent(), 0);
}

TEST_F(OverlayTest, CachedLookupsAskNobody) {
  World& w = *world;
  EXPECT_EQ(w.Read("/etc/sub/deep"), "deep");
  EXPECT_EQ(Code(w.Find("/etc/none")), ENOENT);
  const int before = gofer.Messages();
  for (int i = 0; i < 5; i++) {
    EXPECT_EQ(w.Read("/etc/sub/deep"), "deep");
    EXPECT_EQ(Code(w.Find("/etc/none")), ENOENT);
    EXPECT_EQ(Code(w.Stat("/etc/sub")), 0);
  }
  EXPECT_EQ(gofer.Messages(), before);
}

TEST_F(OverlayTest, AColdWalkIsOneMessage) {
  const int before = gofer.Messages();
  EXPECT_EQ(Code(world->Stat("/etc/sub/deep")), 0);
  EXPECT_EQ(gofer.Messages(), before + 1);
}

TEST_F(OverlayTest, WritingCopiesUp) {
  World& w = *world;
  const vfs::Attributes before = *w.Stat("/etc/passwd");
  const Ref<vfs::File> reader = *w.Open("/etc/passwd", O_RDONLY);
  const Ref<vfs::File> writer = *w.Open("/etc/passwd", O_RDWR);
  EXPECT_EQ(w.ReadFrom(*writer), "root");
  ASSERT_EQ(*w.WriteTo(*writer, "xyz", 4), 3u);
  EXPECT_EQ(w.Read("/etc/passwd"), "rootxyz");
  EXPECT_EQ(w.ReadFrom(*reader), "rootxyz");  // opened before the copy
  const vfs::Attributes after = *w.Stat("/etc/passwd");
  EXPECT_EQ(after.ino, before.ino);
  EXPECT_EQ(after.dev_minor, before.dev_minor);
  EXPECT_EQ(after.mode, before.mode);
  EXPECT_EQ(after.nlink, 1u);
  EXPECT_EQ(after.size, 7u);
  w.mounts->root().mount->fs()->cache().DropUnused();
  EXPECT_EQ(w.Stat("/etc/passwd")->ino, before.ino);
  EXPECT_EQ(w.List("/etc"), (Names{"passwd", "sub"}));
}

TEST_F(OverlayTest, CopyUpKeepsTimes) {
  World& w = *world;
  const vfs::Attributes before = *w.Stat("/etc/sub/deep");
  const vfs::Attributes directory = *w.Stat("/etc/sub");
  ASSERT_EQ(w.Chmod("/etc/sub/deep", 0600), 0);
  EXPECT_EQ(w.Stat("/etc/sub/deep")->mtime, before.mtime);
  EXPECT_EQ(w.Stat("/etc/sub/deep")->mode, uint32_t{S_IFREG | 0600});
  EXPECT_EQ(w.Stat("/etc/sub")->mtime, directory.mtime);
  EXPECT_EQ(w.Stat("/etc/sub")->ino, directory.ino);
  EXPECT_EQ(w.Read("/etc/sub/deep"), "deep");
}

TEST_F(OverlayTest, TruncatingOpen) {
  World& w = *world;
  ASSERT_EQ(w.Write("/etc/passwd", "n", O_TRUNC), 0);
  EXPECT_EQ(w.Read("/etc/passwd"), "n");
  EXPECT_EQ(Code(w.Walk().Truncate(*w.Find("/etc/sub/deep"), 2)), 0);
  EXPECT_EQ(w.Read("/etc/sub/deep"), "de");
}

TEST_F(OverlayTest, WhiteoutsHideLowerNames) {
  World& w = *world;
  const Ref<vfs::File> open = *w.Open("/etc/passwd", O_RDONLY);
  ASSERT_EQ(w.Unlink("/etc/passwd"), 0);
  EXPECT_EQ(Code(w.Find("/etc/passwd")), ENOENT);
  EXPECT_EQ(w.List("/etc"), Names{"sub"});
  EXPECT_EQ(w.ReadFrom(*open), "root");
  EXPECT_EQ(open->inode()->GetAttributes()->nlink, 0u);
  EXPECT_EQ(w.Unlink("/etc/passwd"), ENOENT);
  w.mounts->root().mount->fs()->cache().DropUnused();
  EXPECT_EQ(Code(w.Find("/etc/passwd")), ENOENT);
  ASSERT_EQ(w.Write("/etc/passwd", "new"), 0);
  EXPECT_EQ(w.Read("/etc/passwd"), "new");
  EXPECT_EQ(w.List("/etc"), (Names{"passwd", "sub"}));
  EXPECT_EQ(w.Read("/link"), "new");
}

TEST_F(OverlayTest, DirectoriesGoAndComeBackOpaque) {
  World& w = *world;
  EXPECT_EQ(w.Rmdir("/etc"), ENOTEMPTY);
  ASSERT_EQ(w.Unlink("/etc/sub/deep"), 0);
  ASSERT_EQ(w.Rmdir("/etc/sub"), 0);
  ASSERT_EQ(w.Unlink("/etc/passwd"), 0);
  ASSERT_EQ(w.Rmdir("/etc"), 0);
  EXPECT_EQ(Code(w.Find("/etc")), ENOENT);
  ASSERT_EQ(w.Mkdir("/etc"), 0);
  EXPECT_EQ(w.List("/etc"), Names{});
  EXPECT_EQ(Code(w.Find("/etc/passwd")), ENOENT);
  w.mounts->root().mount->fs()->cache().DropUnused();
  EXPECT_EQ(w.List("/etc"), Names{});
  EXPECT_EQ(Code(w.Find("/etc/sub")), ENOENT);
  ASSERT_EQ(w.Write("/etc/passwd", "p"), 0);
  EXPECT_EQ(w.List("/etc"), Names{"passwd"});
  EXPECT_EQ(w.Rmdir("/empty"), 0);
  EXPECT_EQ(w.List("/"), (Names{"etc", "link", "top", "top2"}));
}

TEST_F(OverlayTest, NewFilesInLowerDirectories) {
  World& w = *world;
  ASSERT_EQ(w.Write("/etc/sub/made", "m"), 0);
  ASSERT_EQ(w.Mkdir("/etc/dir"), 0);
  ASSERT_EQ(w.Symlink("x", "/etc/s"), 0);
  ASSERT_EQ(Code(w.Walk().Mknod("/etc/fifo", S_IFIFO | 0600, 0, 0)), 0);
  EXPECT_EQ(w.List("/etc"), (Names{"dir", "fifo", "passwd", "s", "sub"}));
  EXPECT_EQ(w.List("/etc/sub"), (Names{"deep", "made"}));
  w.mounts->root().mount->fs()->cache().DropUnused();
  EXPECT_EQ(w.Read("/etc/sub/made"), "m");
  EXPECT_EQ(w.Stat("/etc/dir")->nlink, 2u);
  EXPECT_EQ(w.Stat("/etc")->nlink, 1u);
}

TEST_F(OverlayTest, Renames) {
  World& w = *world;
  const uint64_t ino = w.Stat("/etc/passwd")->ino;
  EXPECT_EQ(w.Rename("/etc", "/etc2"), EXDEV);
  EXPECT_EQ(w.Rename("/etc/sub", "/sub"), EXDEV);
  ASSERT_EQ(w.Rename("/etc/passwd", "/etc/sub/shadow"), 0);
  EXPECT_EQ(w.Read("/etc/sub/shadow"), "root");
  EXPECT_EQ(w.Stat("/etc/sub/shadow")->ino, ino);
  EXPECT_EQ(w.List("/etc"), Names{"sub"});
  ASSERT_EQ(w.Rename("/etc/sub/shadow", "/etc/sub/deep"), 0);
  EXPECT_EQ(w.List("/etc/sub"), Names{"deep"});
  EXPECT_EQ(w.Read("/etc/sub/deep"), "root");
  w.mounts->root().mount->fs()->cache().DropUnused();
  EXPECT_EQ(w.List("/etc/sub"), Names{"deep"});
  EXPECT_EQ(w.Read("/etc/sub/deep"), "root");
  // Directories without a lower half move; what they cover stays covered.
  ASSERT_EQ(w.Mkdir("/new"), 0);
  ASSERT_EQ(w.Write("/new/f", "f"), 0);
  EXPECT_EQ(w.Rename("/new", "/etc"), ENOTEMPTY);
  ASSERT_EQ(w.Rename("/new", "/empty"), 0);
  EXPECT_EQ(w.List("/empty"), Names{"f"});
  ASSERT_EQ(w.Rename("/empty", "/other"), 0);
  EXPECT_EQ(Code(w.Find("/empty")), ENOENT);
  EXPECT_EQ(w.Read("/other/f"), "f");
  EXPECT_EQ(w.Rename("/top", "/etc/sub/deep", RENAME_EXCHANGE), 0);
  EXPECT_EQ(w.Read("/top"), "root");
  EXPECT_EQ(w.Read("/etc/sub/deep"), "top");
  EXPECT_EQ(w.Rename("/top", "/x", RENAME_WHITEOUT), EINVAL);
}

TEST_F(OverlayTest, HardLinksStayLinked) {
  World& w = *world;
  EXPECT_EQ(w.Stat("/top")->nlink, 2u);
  ASSERT_EQ(w.Write("/top", "one", O_TRUNC), 0);
  EXPECT_EQ(w.Read("/top2"), "one");
  EXPECT_EQ(w.Stat("/top2")->ino, w.Stat("/top")->ino);
  ASSERT_EQ(w.Link("/top", "/top3"), 0);
  EXPECT_EQ(w.Stat("/top3")->nlink, 3u);
  ASSERT_EQ(w.Unlink("/top"), 0);
  w.mounts->root().mount->fs()->cache().DropUnused();
  EXPECT_EQ(w.Read("/top2"), "one");
  EXPECT_EQ(w.Stat("/top2")->nlink, 2u);
  ASSERT_EQ(w.Rename("/top2", "/etc/moved"), 0);
  EXPECT_EQ(w.Read("/etc/moved"), "one");
  EXPECT_EQ(w.Read("/top3"), "one");
  EXPECT_EQ(Code(w.Find("/top2")), ENOENT);
  EXPECT_EQ(w.Link("/link", "/link2"), 0);  // symlinks, too
  EXPECT_EQ(w.Read("/link2"), "root");
}

TEST_F(OverlayTest, NumbersAgreeBetweenListingAndStat) {
  World& w = *world;
  ASSERT_EQ(w.Write("/etc/passwd", "changed", 0), 0);
  ASSERT_EQ(w.Write("/etc/new", "x"), 0);
  ASSERT_EQ(w.Write("/etc/sub/x", "x"), 0);
  const Ref<vfs::File> file = *w.Open("/etc", O_RDONLY);
  std::map<std::string, uint64_t> listed;
  ASSERT_TRUE(file->ReadDir(w.caller, 0,
                            [&](const vfs::DirEntry& entry) {
                              listed[std::string(entry.name)] = entry.ino;
                              return true;
                            })
                  .has_value());
  EXPECT_EQ(listed["."], w.Stat("/etc")->ino);
  EXPECT_EQ(listed[".."], w.Stat("/")->ino);
  for (const char* name : {"passwd", "new", "sub"}) {
    EXPECT_EQ(listed[name], w.Stat(std::string("/etc/") + name)->ino) << name;
  }
}

TEST_F(OverlayTest, TemporaryFilesAndXattrs) {
  World& w = *world;
  {
    const Ref<vfs::File> file = *w.Open("/etc", O_TMPFILE | O_RDWR);
    ASSERT_EQ(Code(w.WriteTo(*file, "t", 0)), 0);
    ASSERT_EQ(Code(w.Walk().Link(file->path(), "/etc/named")), 0);
  }
  EXPECT_EQ(w.Read("/etc/named"), "t");
  const vfs::Path passwd = *w.Find("/etc/passwd");
  EXPECT_EQ(Code(w.Walk().SetXattr(passwd, "trusted.overlay.opaque", "y", 0)), EPERM);
  EXPECT_EQ(Code(w.Walk().SetXattr(passwd, "user.a", "1", 0)), 0);
  EXPECT_EQ(*w.Walk().GetXattr(passwd, "user.a"), "1");
  EXPECT_EQ(*w.Walk().ListXattrs(passwd), Names{"user.a"});
}

TEST_F(OverlayTest, ListingsNoticeTheCopyUp) {
  World& w = *world;
  const Ref<vfs::File> file = *w.Open("/etc", O_RDONLY);
  const auto count = [&] {
    int n = 0;
    const Result<uint64_t> end = file->ReadDir(w.caller, 0, [&](const vfs::DirEntry&) {
      n++;
      return true;
    });
    EXPECT_TRUE(end.has_value());
    return n;
  };
  EXPECT_EQ(count(), 4);
  ASSERT_EQ(w.Write("/etc/new", "x"), 0);
  EXPECT_EQ(count(), 5);
  ASSERT_EQ(w.Unlink("/etc/passwd"), 0);
  EXPECT_EQ(count(), 4);
}

}  // namespace
}  // namespace skep::fs
