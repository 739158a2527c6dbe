// Path walks over a tmpfs, against what Linux answers (checked natively with the same tree).
#include <linux/fs.h>
#include <linux/openat2.h>
#include <sys/mount.h>
#include <algorithm>

#include "sentry/fs/test_world.h"

namespace skep::fs {
namespace {

class WalkTest : public ::testing::Test {
 protected:
  void SetUp() override {
    ASSERT_EQ(w.Mkdir("/d"), 0);
    ASSERT_EQ(w.Mkdir("/d/sub"), 0);
    ASSERT_EQ(w.Write("/d/f", "text"), 0);
    ASSERT_EQ(w.Symlink("d", "/ld"), 0);
    ASSERT_EQ(w.Symlink("f", "/d/lf"), 0);
    ASSERT_EQ(w.Symlink("/d/sub/../f", "/abs"), 0);
    ASSERT_EQ(w.Symlink("nowhere", "/dangling"), 0);
    ASSERT_EQ(w.Symlink("loop2", "/loop1"), 0);
    ASSERT_EQ(w.Symlink("loop1", "/loop2"), 0);
  }
  World w;
};

TEST_F(WalkTest, FindsAndRefuses) {
  const struct {
    const char* path;
    int code;
    const char* name;
  } kCases[] = {
      {"/", 0, "/"},
      {"///", 0, "/"},
      {"/d", 0, "/d"},
      {"d", 0, "/d"},
      {"/d/", 0, "/d"},
      {"/d/.", 0, "/d"},
      {"/d/..", 0, "/"},
      {"/../..", 0, "/"},
      {"/d//sub///", 0, "/d/sub"},
      {"/d/f", 0, "/d/f"},
      {"/ld/f", 0, "/d/f"},
      {"/ld/lf", 0, "/d/f"},
      {"/abs", 0, "/d/f"},
      {"/ld/", 0, "/d"},
      {"/d/f/", ENOTDIR, nullptr},
      {"/abs/", ENOTDIR, nullptr},
      {"/d/f/x", ENOTDIR, nullptr},
      {"/d/f/..", ENOTDIR, nullptr},
      {"", ENOENT, nullptr},
      {"/none", ENOENT, nullptr},
      {"/none/x", ENOENT, nullptr},
      {"/none/../d", ENOENT, nullptr},
      {"/dangling", ENOENT, nullptr},
      {"/loop1", ELOOP, nullptr},
      {"/loop1/x", ELOOP, nullptr},
  };
  for (int round = 0; round < 2; round++) {  // cold, then cached
    for (const auto& c : kCases) {
      EXPECT_EQ(Code(w.Find(c.path)), c.code) << c.path;
      if (c.name != nullptr) {
        EXPECT_EQ(w.Name(c.path), c.name) << c.path;
      }
    }
  }
}

TEST_F(WalkTest, FinalLinkIsLeftAloneOnRequest) {
  EXPECT_TRUE(w.FindLink("/ld")->inode()->IsSymlink());
  EXPECT_TRUE(w.FindLink("/ld/")->inode()->IsDir());
  EXPECT_EQ(Code(w.FindLink("/dangling")), 0);
  EXPECT_EQ(Code(w.FindLink("/loop1")), 0);
}

TEST_F(WalkTest, LengthLimits) {
  const std::string name(255, 'n');
  EXPECT_EQ(w.Mkdir("/" + name), 0);
  EXPECT_EQ(w.Mkdir("/" + name + "n"), ENAMETOOLONG);
  EXPECT_EQ(Code(w.Find("/" + name + "n")), ENAMETOOLONG);
  EXPECT_EQ(Code(w.Find("/" + name + "n/x")), ENAMETOOLONG);
  std::string path;
  while (path.size() < 4096) path += "/.";
  EXPECT_EQ(Code(w.Find(path)), ENAMETOOLONG);
  EXPECT_EQ(Code(w.Find(path.substr(0, 4095))), 0);
}

TEST_F(WalkTest, FortyLinksAreFollowed) {
  ASSERT_EQ(w.Symlink("d", "/l0"), 0);
  for (int i = 1; i <= 40; i++) {
    ASSERT_EQ(w.Symlink("l" + std::to_string(i - 1), "/l" + std::to_string(i)), 0);
  }
  EXPECT_EQ(Code(w.Find("/l39")), 0);
  EXPECT_EQ(Code(w.Find("/l40")), ELOOP);
}

TEST_F(WalkTest, SearchPermission) {
  ASSERT_EQ(w.Mkdir("/p", 0700), 0);
  ASSERT_EQ(w.Write("/p/f", "x"), 0);
  w.caller.User(1000, 1000);
  EXPECT_EQ(Code(w.Find("/p")), 0);
  EXPECT_EQ(Code(w.Find("/p/f")), EACCES);
  EXPECT_EQ(Code(w.Find("/p/none")), EACCES);
  EXPECT_EQ(Code(w.Find("/p/.")), EACCES);
  w.caller.Give(CAP_DAC_READ_SEARCH);
  EXPECT_EQ(Code(w.Find("/p/f")), 0);
}

TEST_F(WalkTest, OpenFlags) {
  EXPECT_EQ(w.OpenCode("/d/f", O_RDONLY), 0);
  EXPECT_EQ(w.OpenCode("/d", O_RDONLY), 0);
  EXPECT_EQ(w.OpenCode("/d", O_RDWR), EISDIR);
  EXPECT_EQ(w.OpenCode("/d", O_CREAT), EISDIR);
  EXPECT_EQ(w.OpenCode("/d/new/", O_CREAT | O_WRONLY), EISDIR);
  EXPECT_EQ(w.OpenCode("/d/.", O_CREAT), EISDIR);
  EXPECT_EQ(w.OpenCode("/d/f", O_CREAT | O_EXCL), EEXIST);
  EXPECT_EQ(w.OpenCode("/d", O_CREAT | O_EXCL), EEXIST);
  EXPECT_EQ(w.OpenCode("/dangling", O_CREAT | O_EXCL), EEXIST);
  EXPECT_EQ(w.OpenCode("/d/f", O_DIRECTORY), ENOTDIR);
  EXPECT_EQ(w.OpenCode("/d/f/", O_RDONLY), ENOTDIR);
  EXPECT_EQ(w.OpenCode("/none", O_RDONLY), ENOENT);
  EXPECT_EQ(w.OpenCode("/none/x", O_CREAT), ENOENT);
  EXPECT_EQ(w.OpenCode("/abs", O_NOFOLLOW), ELOOP);
  EXPECT_EQ(w.OpenCode("/abs", O_NOFOLLOW | O_PATH), 0);
  EXPECT_EQ(w.OpenCode("/ld", O_NOFOLLOW | O_DIRECTORY), ENOTDIR);
  EXPECT_EQ(w.OpenCode("/loop1", O_CREAT), ELOOP);
  EXPECT_EQ(w.OpenCode("/d", O_CREAT | O_DIRECTORY), EINVAL);
  EXPECT_EQ(w.OpenCode("/d", O_TMPFILE | O_RDONLY), EINVAL);
  EXPECT_EQ(w.OpenCode("/d/f", O_TMPFILE | O_RDWR), ENOTDIR);
}

TEST_F(WalkTest, CreateThroughDanglingLink) {
  EXPECT_EQ(w.OpenCode("/dangling", O_CREAT | O_WRONLY), 0);
  EXPECT_EQ(w.Name("/nowhere"), "/nowhere");
}

TEST_F(WalkTest, FlagsAsFcntlShowsThem) {
  const Ref<vfs::File> file =
      *w.Open("/d/new", O_CREAT | O_EXCL | O_TRUNC | O_RDWR | O_APPEND | O_CLOEXEC | O_NOCTTY);
  EXPECT_EQ(file->flags(), uint32_t{O_RDWR | O_APPEND | 0100000});
  EXPECT_TRUE(file->opener != nullptr);
}

TEST_F(WalkTest, TemporaryFileGetsAName) {
  const Ref<vfs::File> file = *w.Open("/d", O_TMPFILE | O_RDWR);
  EXPECT_EQ(file->inode()->GetAttributes()->nlink, 0u);
  const std::string name = vfs::NameOf(file->path(), w.context->root());
  EXPECT_TRUE(name.starts_with("/d/#") && name.ends_with(" (deleted)")) << name;
  ASSERT_EQ(Code(w.WriteTo(*file, "later", 0)), 0);
  ASSERT_EQ(Code(w.Walk().Link(file->path(), "/d/named")), 0);
  EXPECT_EQ(w.Read("/d/named"), "later");
  EXPECT_EQ(w.Stat("/d/named")->nlink, 1u);
  const Ref<vfs::File> never = *w.Open("/d", O_TMPFILE | O_RDWR | O_EXCL);
  EXPECT_EQ(Code(w.Walk().Link(never->path(), "/d/named2")), ENOENT);
}

TEST_F(WalkTest, WriteAccessAndExecutionExclude) {
  const Ref<vfs::File> file = *w.Open("/d/f", O_RDONLY);
  ASSERT_EQ(Code(file->inode()->DenyWriteAccess()), 0);
  EXPECT_EQ(w.OpenCode("/d/f", O_WRONLY), ETXTBSY);
  EXPECT_EQ(w.OpenCode("/d/f", O_RDONLY | O_TRUNC), ETXTBSY);
  EXPECT_EQ(w.Read("/d/f"), "text");
  file->inode()->AllowWriteAccess();
  {
    const Ref<vfs::File> writer = *w.Open("/d/f", O_WRONLY);
    EXPECT_EQ(Code(file->inode()->DenyWriteAccess()), ETXTBSY);
  }
  EXPECT_EQ(Code(file->inode()->DenyWriteAccess()), 0);
  file->inode()->AllowWriteAccess();
}

TEST_F(WalkTest, MakingNames) {
  EXPECT_EQ(w.Mkdir("/d"), EEXIST);
  EXPECT_EQ(w.Mkdir("/"), EEXIST);
  EXPECT_EQ(w.Mkdir("/d/."), EEXIST);
  EXPECT_EQ(w.Mkdir("/d/.."), EEXIST);
  EXPECT_EQ(w.Mkdir("/dangling"), EEXIST);
  EXPECT_EQ(w.Mkdir("/none/x"), ENOENT);
  EXPECT_EQ(w.Mkdir("/d/f/x"), ENOTDIR);
  EXPECT_EQ(w.Mkdir("/slash/"), 0);
  EXPECT_EQ(w.Symlink("", "/s"), ENOENT);
  EXPECT_EQ(w.Symlink("x", "/s/"), ENOENT);
  EXPECT_EQ(w.Symlink("x", "/d"), EEXIST);
  EXPECT_EQ(Code(w.Walk().Mknod("/fifo", S_IFIFO | 0600, 0, 0)), 0);
  EXPECT_EQ(Code(w.Walk().Mknod("/dir", S_IFDIR | 0600, 0, 0)), EPERM);
  EXPECT_EQ(Code(w.Walk().Mknod("/bad", S_IFLNK | 0600, 0, 0)), EINVAL);
  EXPECT_EQ(Code(w.Walk().Mknod("/plain", 0600, 0, 0)), 0);
  EXPECT_EQ(w.Stat("/plain")->mode, uint32_t{S_IFREG | 0600});
  EXPECT_EQ(w.OpenCode("/fifo", O_RDONLY), ENXIO);  // nobody opens FIFOs in this world
  w.caller.Take(CAP_MKNOD);
  EXPECT_EQ(Code(w.Walk().Mknod("/null", S_IFCHR | 0600, 1, 3)), EPERM);
}

TEST_F(WalkTest, RemovingNames) {
  EXPECT_EQ(w.Unlink("/none"), ENOENT);
  EXPECT_EQ(w.Unlink("/d"), EISDIR);
  EXPECT_EQ(w.Unlink("/d/."), EISDIR);
  EXPECT_EQ(w.Unlink("/"), EISDIR);
  EXPECT_EQ(w.Unlink("/d/f/"), ENOTDIR);
  EXPECT_EQ(w.Unlink("/d/sub/"), EISDIR);
  EXPECT_EQ(w.Unlink("/ld"), 0);
  EXPECT_EQ(w.Rmdir("/d"), ENOTEMPTY);
  EXPECT_EQ(w.Rmdir("/d/."), EINVAL);
  EXPECT_EQ(w.Rmdir("/d/sub/.."), ENOTEMPTY);
  EXPECT_EQ(w.Rmdir("/"), EBUSY);
  EXPECT_EQ(w.Rmdir("/d/f"), ENOTDIR);
  EXPECT_EQ(w.Rmdir("/none"), ENOENT);
  EXPECT_EQ(w.Rmdir("/d/sub/"), 0);
  EXPECT_EQ(Code(w.Find("/d/sub")), ENOENT);
}

TEST_F(WalkTest, DeadDirectory) {
  const vfs::Path sub = *w.Find("/d/sub");
  ASSERT_EQ(w.Rmdir("/d/sub"), 0);
  w.context->SetCwd(sub);
  EXPECT_EQ(w.OpenCode("x", O_CREAT | O_WRONLY), ENOENT);
  EXPECT_EQ(w.Mkdir("x"), ENOENT);
  EXPECT_EQ(Code(w.Find(".")), 0);
  EXPECT_EQ(vfs::NameOf(sub, w.context->root()), "/d/sub (deleted)");
  EXPECT_EQ(w.Name(".."), "/d");
  EXPECT_EQ(w.List("."), Names{});
}

TEST_F(WalkTest, LinksAndTheirCounts) {
  EXPECT_EQ(w.Link("/d/f", "/d/g"), 0);
  EXPECT_EQ(w.Stat("/d/f")->nlink, 2u);
  EXPECT_EQ(w.Stat("/d/g")->ino, w.Stat("/d/f")->ino);
  EXPECT_EQ(w.Link("/d", "/dd"), EPERM);
  EXPECT_EQ(w.Link("/d/f", "/d/g"), EEXIST);
  EXPECT_EQ(w.Link("/d/f", "/d/h/"), ENOENT);
  const Ref<vfs::File> file = *w.Open("/d/f", O_RDONLY);
  EXPECT_EQ(w.Unlink("/d/f"), 0);
  EXPECT_EQ(w.Unlink("/d/g"), 0);
  EXPECT_EQ(file->inode()->GetAttributes()->nlink, 0u);
  EXPECT_EQ(w.ReadFrom(*file), "text");
  EXPECT_EQ(Code(w.Walk().Link(file->path(), "/again")), ENOENT);
}

TEST_F(WalkTest, HardLinkProtection) {
  ASSERT_EQ(w.Mkdir("/tmp", 01777), 0);
  ASSERT_EQ(w.Chmod("/tmp", 01777), 0);
  ASSERT_EQ(w.Chmod("/d/f", 0666), 0);
  ASSERT_EQ(w.Write("/d/mine", "x"), 0);
  w.caller.User(1000, 1000);
  EXPECT_EQ(w.Link("/d/f", "/tmp/f"), 0);  // could be written
  EXPECT_EQ(w.Link("/d/mine", "/tmp/mine"), EPERM);
}

TEST_F(WalkTest, StickyDirectory) {
  ASSERT_EQ(w.Mkdir("/tmp"), 0);
  ASSERT_EQ(w.Chmod("/tmp", 01777), 0);
  ASSERT_EQ(w.Write("/tmp/root", "x"), 0);
  w.caller.User(1000, 1000);
  ASSERT_EQ(w.Write("/tmp/mine", "x"), 0);
  EXPECT_EQ(w.Unlink("/tmp/root"), EPERM);
  EXPECT_EQ(w.Rename("/tmp/root", "/tmp/x"), EPERM);
  EXPECT_EQ(w.Rename("/tmp/mine", "/tmp/root"), EPERM);
  w.caller.User(1001, 1001);
  EXPECT_EQ(w.Unlink("/tmp/mine"), EPERM);
  w.caller.Give(CAP_FOWNER);
  EXPECT_EQ(w.Unlink("/tmp/mine"), 0);
}

TEST_F(WalkTest, RestrictedResolution) {
  vfs::NameOps walker = w.WalkFrom("/d");
  const auto code = [&](const char* path, uint64_t resolve) {
    return Code(walker.Resolve(path, {.resolve = resolve}));
  };
  EXPECT_EQ(code("f", RESOLVE_BENEATH), 0);
  EXPECT_EQ(code("sub/../f", RESOLVE_BENEATH), 0);
  EXPECT_EQ(code("..", RESOLVE_BENEATH), EXDEV);
  EXPECT_EQ(code("sub/../../d", RESOLVE_BENEATH), EXDEV);
  EXPECT_EQ(code("/d/f", RESOLVE_BENEATH), EXDEV);
  EXPECT_EQ(code("/f", RESOLVE_IN_ROOT), 0);
  EXPECT_EQ(code("../../f", RESOLVE_IN_ROOT), 0);
  EXPECT_EQ(code("lf", RESOLVE_NO_SYMLINKS), ELOOP);
  ASSERT_EQ(w.Symlink("/f", "/d/absolute"), 0);
  EXPECT_EQ(code("absolute", RESOLVE_BENEATH), EXDEV);
  EXPECT_EQ(code("absolute", RESOLVE_IN_ROOT), 0);
  EXPECT_EQ(code("absolute", 0), ENOENT);
}

TEST_F(WalkTest, Chroot) {
  w.context->SetRoot(*w.Find("/d"));
  w.context->SetCwd(*w.Find("/"));
  EXPECT_EQ(w.Name("/f"), "/f");
  EXPECT_EQ(w.Name("/../../f"), "/f");
  EXPECT_EQ(w.Name("/lf"), "/f");
  EXPECT_EQ(Code(w.Find("/d")), ENOENT);
  w.context->SetCwd(w.mounts->root());
  EXPECT_EQ(vfs::NameOf(w.context->cwd(), w.context->root()), "(unreachable)/");
}

TEST_F(WalkTest, MountsAreCrossed) {
  const vfs::Path sub = *w.Find("/d/sub");
  const Ref<TmpFs> other = w.NewTmpFs(7);
  const Ref<vfs::Mount> mount = *w.mounts->Add(sub, other, 0);
  ASSERT_EQ(w.Write("/d/sub/inside", "i"), 0);
  EXPECT_EQ(w.Name("/d/sub/inside"), "/d/sub/inside");
  EXPECT_EQ(w.Name("/d/sub/.."), "/d");
  EXPECT_EQ(w.Stat("/d/sub")->dev_minor, 7u);
  EXPECT_EQ(w.Rmdir("/d/sub"), EBUSY);
  EXPECT_EQ(w.Rename("/d/sub", "/moved"), EBUSY);
  EXPECT_EQ(w.Rename("/d/sub/inside", "/moved"), EXDEV);
  EXPECT_EQ(w.Link("/d/sub/inside", "/linked"), EXDEV);
  EXPECT_EQ(Code(w.Walk().Resolve("/d/sub/inside", {.resolve = RESOLVE_NO_XDEV})), EXDEV);
  mount->SetFlags(MS_RDONLY);
  EXPECT_EQ(w.Write("/d/sub/inside", "j"), EROFS);
  EXPECT_EQ(w.OpenCode("/d/sub/new", O_CREAT | O_WRONLY), EROFS);
  EXPECT_EQ(w.OpenCode("/d/sub/inside", O_CREAT | O_RDONLY), 0);
  EXPECT_EQ(w.Mkdir("/d/sub/x"), EROFS);
  EXPECT_EQ(w.Mkdir("/d/sub/inside"), EEXIST);
  EXPECT_EQ(w.Unlink("/d/sub/inside"), EROFS);
  EXPECT_EQ(w.Chmod("/d/sub/inside", 0600), EROFS);
  mount->SetFlags(0);
  ASSERT_EQ(w.Mkdir("/d/sub/deeper"), 0);
  ASSERT_TRUE(w.mounts->Add(*w.Find("/d/sub/deeper"), w.NewTmpFs(8), 0).has_value());
  const Ref<vfs::File> busy = *w.Open("/d/sub/inside", O_RDONLY);
  EXPECT_EQ(Code(w.mounts->Remove(vfs::Path(mount, mount->root()), 0)), EBUSY);
  EXPECT_EQ(Code(w.mounts->Remove(vfs::Path(mount, mount->root()), MNT_DETACH)), 0);
  EXPECT_EQ(Code(w.Find("/d/sub/inside")), ENOENT);
  EXPECT_EQ(w.ReadFrom(*busy), "i");
  EXPECT_EQ(w.mounts->List().size(), 1u);
}

TEST_F(WalkTest, RenameMatrix) {
  ASSERT_EQ(w.Mkdir("/e"), 0);
  ASSERT_EQ(w.Mkdir("/full"), 0);
  ASSERT_EQ(w.Write("/full/x", "x"), 0);
  ASSERT_EQ(w.Write("/g", "g"), 0);
  const struct {
    const char *from, *to;
    uint32_t flags;
    int code;
  } kCases[] = {
      {"/none", "/x", 0, ENOENT},
      {"/d/f", "/none/x", 0, ENOENT},
      {"/d/f", "/d/f/x", 0, ENOTDIR},
      {"/d/f", "/e", 0, EISDIR},
      {"/e", "/d/f", 0, ENOTDIR},
      {"/e", "/full", 0, ENOTEMPTY},
      {"/d", "/d/sub/x", 0, EINVAL},
      {"/d/sub", "/d", 0, ENOTEMPTY},
      {"/d/f", "/d/new/", 0, ENOTDIR},
      {"/d/f/", "/d/new", 0, ENOTDIR},
      {"/d/.", "/x", 0, EBUSY},
      {"/d", "/x/..", 0, ENOENT},
      {"/d", "/e/..", 0, EBUSY},
      {"/d/f", "/g", RENAME_NOREPLACE, EEXIST},
      {"/d/f", "/.", RENAME_NOREPLACE, EEXIST},
      {"/d/f", "/x", RENAME_EXCHANGE, ENOENT},
      {"/d/f", "/g", RENAME_EXCHANGE | RENAME_NOREPLACE, EINVAL},
      {"/d/f", "/g", 1u << 10, EINVAL},
      {"/d", "/d/sub", RENAME_EXCHANGE, EINVAL},
      {"/d/f", "/d/f", 0, 0},
      {"/d/f", "/g", RENAME_EXCHANGE, 0},
      {"/d/f", "/g", RENAME_EXCHANGE, 0},
      {"/d/sub/", "/d/sub2/", 0, 0},
      {"/d/sub2", "/e", 0, 0},
      {"/d/f", "/g", 0, 0},
      {"/g", "/w", RENAME_WHITEOUT, 0},
  };
  for (const auto& c : kCases) {
    EXPECT_EQ(w.Rename(c.from, c.to, c.flags), c.code) << c.from << " -> " << c.to;
  }
  EXPECT_EQ(w.Read("/w"), "text");
  EXPECT_EQ(w.Stat("/g")->mode & S_IFMT, uint32_t{S_IFCHR});
  EXPECT_EQ(Code(w.Find("/d/sub")), ENOENT);
  EXPECT_EQ(w.Stat("/d")->nlink, 2u);
}

TEST_F(WalkTest, RenameOfHardLinksDoesNothing) {
  ASSERT_EQ(w.Link("/d/f", "/d/g"), 0);
  EXPECT_EQ(w.Rename("/d/f", "/d/g"), 0);
  EXPECT_EQ(w.List("/d"), (Names{"f", "g", "lf", "sub"}));
}

TEST_F(WalkTest, NamesFollowRenames) {
  const Ref<vfs::File> file = *w.Open("/d/f", O_RDONLY);
  ASSERT_EQ(w.Mkdir("/e"), 0);
  ASSERT_EQ(w.Rename("/d", "/e/moved"), 0);
  EXPECT_EQ(vfs::NameOf(file->path(), w.context->root()), "/e/moved/f");
  EXPECT_EQ(w.Read("/e/moved/f"), "text");
  EXPECT_EQ(Code(w.Find("/d")), ENOENT);
  EXPECT_EQ(w.Stat("/e")->nlink, 3u);
  EXPECT_EQ(w.Stat("/")->nlink, 3u);
  ASSERT_EQ(w.Unlink("/e/moved/f"), 0);
  EXPECT_EQ(vfs::NameOf(file->path(), w.context->root()), "/e/moved/f (deleted)");
}

TEST_F(WalkTest, CacheForgetsTheUnused) {
  for (int i = 0; i < 40000; i++) {
    ASSERT_EQ(Code(w.Find("/none" + std::to_string(i))), ENOENT);
  }
  const Ref<vfs::FileSystem> fs = w.mounts->root().mount->fs();
  EXPECT_LT(fs->cache().hashed_count(), 33000u);
  EXPECT_EQ(w.Read("/d/f"), "text");
  fs->cache().DropUnused();
  EXPECT_EQ(fs->cache().hashed_count(), 0u);
  EXPECT_EQ(w.Read("/d/f"), "text");
}

TEST_F(WalkTest, DeepTreesComeAndGo) {
  ASSERT_EQ(w.Mkdir("/e"), 0);
  vfs::Path at = *w.Find("/e");
  for (int i = 0; i < 20000; i++) {
    vfs::NameOps walker(w.caller, *w.context, at);
    ASSERT_EQ(Code(walker.Mkdir("n", 0755)), 0);
    at = *walker.Resolve("n", {});
  }
  at = {};
  w.mounts->root().mount->fs()->cache().DropUnused();
  EXPECT_EQ(Code(w.Find("/e/n/n/n")), 0);
}

}  // namespace
}  // namespace skep::fs
