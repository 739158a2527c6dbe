// Directories and names: mkdir, rmdir, rename, link, symlink, unlink, getdents, cwd and chroot.
#include <dirent.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <linux/fs.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>

#include <algorithm>
#include <cstring>
#include <set>

#include "tests/util/matchers.h"
#include "tests/util/process.h"

namespace skep::test {
namespace {

class Names : public testing::Test {
 protected:
  std::string In(const std::string& name) const { return dir_.File(name); }
  void File(const std::string& name, const std::string& text = "") { WriteFile(In(name), text); }
  int Mkdir(const std::string& name, mode_t mode = 0755) { return mkdir(In(name).c_str(), mode); }
  int Rename(const std::string& from, const std::string& to) {
    return rename(In(from).c_str(), In(to).c_str());
  }
  long Rename2(const std::string& from, const std::string& to, unsigned flags) {
    return syscall(SYS_renameat2, AT_FDCWD, In(from).c_str(), AT_FDCWD, In(to).c_str(), flags);
  }
  int Link(const std::string& from, const std::string& to) {
    return link(In(from).c_str(), In(to).c_str());
  }
  int Unlink(const std::string& name) { return unlink(In(name).c_str()); }
  int Rmdir(const std::string& name) { return rmdir(In(name).c_str()); }
  struct stat Of(const std::string& name) {
    struct stat st = {};
    EXPECT_THAT(lstat(In(name).c_str(), &st), Succeeds());
    return st;
  }
  std::set<std::string> List(const std::string& name = ".") {
    std::set<std::string> names;
    DIR* stream = opendir(In(name).c_str());
    while (const dirent* entry = readdir(stream)) names.insert(entry->d_name);
    closedir(stream);
    return names;
  }
  TempDir dir_;
};

TEST_F(Names, MkdirAppliesTheUmaskAndCountsLinks) {
  const ScopedUmask mask(022);
  EXPECT_THAT(Mkdir("a", 01777), Succeeds());
  EXPECT_EQ(Of("a").st_mode, S_IFDIR | 01755u);
  EXPECT_EQ(Of("a").st_nlink, 2u);
  EXPECT_THAT(Mkdir("a/b"), Succeeds());
  EXPECT_EQ(Of("a").st_nlink, 3u);
}

TEST_F(Names, MkdirErrors) {
  File("file");
  EXPECT_THAT(Mkdir("file"), FailsWith(EEXIST));
  EXPECT_THAT(Mkdir("."), FailsWith(EEXIST));
  EXPECT_THAT(Mkdir("file/x"), FailsWith(ENOTDIR));
  EXPECT_THAT(Mkdir("none/x"), FailsWith(ENOENT));
  EXPECT_THAT(mkdir("", 0700), FailsWith(ENOENT));
  EXPECT_THAT(mkdir("/", 0700), FailsWith(EEXIST));
  EXPECT_THAT(Mkdir("trailing/"), Succeeds());
  symlink("nowhere", In("dangling").c_str());
  EXPECT_THAT(Mkdir("dangling"), FailsWith(EEXIST));
}

TEST_F(Names, RmdirErrors) {
  Mkdir("a");
  Mkdir("a/b");
  File("file");
  EXPECT_THAT(Rmdir("a"), FailsWith(ENOTEMPTY));
  EXPECT_THAT(Rmdir("file"), FailsWith(ENOTDIR));
  EXPECT_THAT(Rmdir("none"), FailsWith(ENOENT));
  EXPECT_THAT(Rmdir("a/."), FailsWith(EINVAL));
  EXPECT_THAT(Rmdir("a/b/.."), FailsWith(ENOTEMPTY));
  EXPECT_THAT(rmdir("/"), FailsWith(EBUSY));
  EXPECT_THAT(Rmdir("a/b"), Succeeds());
  EXPECT_THAT(Rmdir("a/"), Succeeds());
}

TEST_F(Names, UnlinkErrors) {
  Mkdir("a");
  File("file");
  EXPECT_THAT(Unlink("a"), FailsWith(EISDIR));
  EXPECT_THAT(Unlink("none"), FailsWith(ENOENT));
  EXPECT_THAT(Unlink("file/"), FailsWith(ENOTDIR));
  EXPECT_THAT(unlinkat(AT_FDCWD, In("file").c_str(), AT_REMOVEDIR), FailsWith(ENOTDIR));
  EXPECT_THAT(unlinkat(AT_FDCWD, In("a").c_str(), 0x40), FailsWith(EINVAL));
  EXPECT_THAT(unlinkat(AT_FDCWD, In("a").c_str(), AT_REMOVEDIR), Succeeds());
  EXPECT_THAT(Unlink("file"), Succeeds());
}

TEST_F(Names, UnlinkOfALinkLeavesItsTarget) {
  File("file", "kept");
  symlink("file", In("link").c_str());
  EXPECT_THAT(Unlink("link"), Succeeds());
  EXPECT_EQ(ReadFile(In("file")), "kept");
}

TEST_F(Names, RenameReplacesAFile) {
  File("a", "A");
  File("b", "B");
  const Fd old(open(In("b").c_str(), O_RDONLY));
  EXPECT_THAT(Rename("a", "b"), Succeeds());
  EXPECT_FALSE(Exists(In("a")));
  EXPECT_EQ(ReadFile(In("b")), "A");
  EXPECT_EQ(ReadAll(old), "B");
}

TEST_F(Names, RenameOfTwoNamesOfOneFileDoesNothing) {
  File("a");
  Link("a", "b");
  EXPECT_THAT(Rename("a", "b"), Succeeds());
  EXPECT_TRUE(Exists(In("a")));
}

TEST_F(Names, RenameDirectories) {
  Mkdir("a");
  Mkdir("a/inner");
  Mkdir("empty");
  Mkdir("full");
  File("full/x");
  File("file");
  EXPECT_THAT(Rename("a", "full"), FailsWith(ENOTEMPTY));
  EXPECT_THAT(Rename("a", "file"), FailsWith(ENOTDIR));
  EXPECT_THAT(Rename("file", "a"), FailsWith(EISDIR));
  EXPECT_THAT(Rename("a", "a/inner/below"), FailsWith(EINVAL));
  EXPECT_THAT(Rename("a/inner", "a"), FailsWith(ENOTEMPTY));
  EXPECT_THAT(Rename("a", "empty"), Succeeds());
  EXPECT_TRUE(Exists(In("empty/inner")));
}

TEST_F(Names, RenameMovesDotdot) {
  Mkdir("a");
  Mkdir("b");
  Mkdir("a/sub");
  EXPECT_THAT(Rename("a/sub", "b/sub"), Succeeds());
  EXPECT_EQ(Of("b/sub/..").st_ino, Of("b").st_ino);
  EXPECT_EQ(Of("a").st_nlink, 2u);
  EXPECT_EQ(Of("b").st_nlink, 3u);
}

TEST_F(Names, RenameErrors) {
  File("file");
  Mkdir("a");
  EXPECT_THAT(Rename("none", "x"), FailsWith(ENOENT));
  EXPECT_THAT(Rename("file", "none/x"), FailsWith(ENOENT));
  EXPECT_THAT(Rename("file", "x/"), FailsWith(ENOTDIR));
  EXPECT_THAT(Rename("a/.", "x"), FailsWith(EBUSY));
  EXPECT_THAT(Rename("file", "a/.."), FailsWith(EBUSY));
}

TEST_F(Names, RenameNoreplaceAndExchange) {
  File("a", "A");
  File("b", "B");
  Mkdir("d");
  EXPECT_THAT(Rename2("a", "b", RENAME_NOREPLACE), FailsWith(EEXIST));
  EXPECT_THAT(Rename2("a", "c", RENAME_NOREPLACE), Succeeds());
  EXPECT_THAT(Rename2("c", "b", RENAME_EXCHANGE), Succeeds());
  EXPECT_EQ(ReadFile(In("c")), "B");
  EXPECT_THAT(Rename2("b", "d", RENAME_EXCHANGE), Succeeds());
  EXPECT_TRUE(S_ISDIR(Of("b").st_mode));
  EXPECT_THAT(Rename2("b", "none", RENAME_EXCHANGE), FailsWith(ENOENT));
  EXPECT_THAT(Rename2("b", "c", RENAME_EXCHANGE | RENAME_NOREPLACE), FailsWith(EINVAL));
  EXPECT_THAT(Rename2("b", "c", 1 << 10), FailsWith(EINVAL));
}

TEST_F(Names, OpenFilesFollowARename) {
  File("a", "text");
  const Fd fd(open(In("a").c_str(), O_RDONLY));
  Rename("a", "b");
  char path[4096] = {};
  const std::string self = "/proc/self/fd/" + std::to_string(fd);
  EXPECT_THAT(readlink(self.c_str(), path, sizeof(path)), Succeeds());
  EXPECT_EQ(path, In("b"));
  Unlink("b");
  memset(path, 0, sizeof(path));
  EXPECT_THAT(readlink(self.c_str(), path, sizeof(path)), Succeeds());
  EXPECT_EQ(path, In("b") + " (deleted)");
}

TEST_F(Names, LinkCountsAndErrors) {
  File("a", "text");
  Mkdir("d");
  EXPECT_THAT(Link("a", "b"), Succeeds());
  EXPECT_EQ(Of("b").st_nlink, 2u);
  EXPECT_EQ(Of("b").st_ino, Of("a").st_ino);
  EXPECT_THAT(Link("a", "b"), FailsWith(EEXIST));
  EXPECT_THAT(Link("none", "c"), FailsWith(ENOENT));
  EXPECT_THAT(Link("d", "e"), FailsWith(EPERM));
  EXPECT_THAT(Link("a", "none/x"), FailsWith(ENOENT));
  EXPECT_THAT(Unlink("a"), Succeeds());
  EXPECT_EQ(Of("b").st_nlink, 1u);
  EXPECT_EQ(ReadFile(In("b")), "text");
}

TEST_F(Names, LinkatFollowsOnlyWhenAsked) {
  File("file");
  symlink("file", In("link").c_str());
  EXPECT_THAT(linkat(AT_FDCWD, In("link").c_str(), AT_FDCWD, In("l2").c_str(), 0), Succeeds());
  EXPECT_TRUE(S_ISLNK(Of("l2").st_mode));
  EXPECT_THAT(linkat(AT_FDCWD, In("link").c_str(), AT_FDCWD, In("f2").c_str(), AT_SYMLINK_FOLLOW),
              Succeeds());
  EXPECT_TRUE(S_ISREG(Of("f2").st_mode));
  EXPECT_THAT(linkat(AT_FDCWD, In("link").c_str(), AT_FDCWD, In("f3").c_str(), 0x1),
              FailsWith(EINVAL));
}

TEST_F(Names, SymlinkAndReadlink) {
  EXPECT_THAT(symlink("any text at all", In("link").c_str()), Succeeds());
  char target[64] = {};
  EXPECT_THAT(readlink(In("link").c_str(), target, sizeof(target)), SucceedsWith(15));
  EXPECT_STREQ(target, "any text at all");
  EXPECT_THAT(readlink(In("link").c_str(), target, 3), SucceedsWith(3)) << "cut, not refused";
  EXPECT_THAT(readlink(In("link").c_str(), target, 0), FailsWith(EINVAL));
  EXPECT_THAT(readlink(dir_.c_str(), target, 9), FailsWith(EINVAL));
  EXPECT_THAT(symlink("x", In("link").c_str()), FailsWith(EEXIST));
  EXPECT_THAT(symlink("", In("empty").c_str()), FailsWith(ENOENT));
  EXPECT_THAT(symlink(std::string(4096, 'x').c_str(), In("l").c_str()), FailsWith(ENAMETOOLONG));
  EXPECT_THAT(syscall(SYS_readlink, In("link").c_str(), kBadAddress, 5), FailsWith(EFAULT));
}

TEST_F(Names, LinksInTheMiddleOfAPath) {
  Mkdir("real");
  File("real/file", "found");
  symlink("real", In("link").c_str());
  EXPECT_EQ(ReadFile(In("link/file")), "found");
  EXPECT_EQ(ReadFile(In("link/../real//./file")), "found");
  symlink("loop", In("loop").c_str());
  struct stat st;
  EXPECT_THAT(stat(In("loop/x").c_str(), &st), FailsWith(ELOOP));
}

TEST_F(Names, TrailingSlashFollowsALinkToADirectory) {
  Mkdir("real");
  symlink("real", In("link").c_str());
  struct stat st = {};
  EXPECT_THAT(lstat(In("link/").c_str(), &st), Succeeds());
  EXPECT_TRUE(S_ISDIR(st.st_mode));
  EXPECT_THAT(Rmdir("link"), FailsWith(ENOTDIR));
}

TEST_F(Names, StickyDirectoriesProtectOthersFiles) {
  REQUIRE_ROOT();
  ASSERT_THAT(chmod(dir_.c_str(), 01777), Succeeds());
  File("roots");
  EXPECT_THAT(ForkAndRun([&] {
                ASSERT_THAT(setresuid(1234, 1234, 1234), Succeeds());
                EXPECT_THAT(Unlink("roots"), FailsWith(EPERM));
                EXPECT_THAT(Rename("roots", "mine"), FailsWith(EPERM));
                File("own");
                EXPECT_THAT(Unlink("own"), Succeeds());
              }),
              ExitsWith(0));
}

TEST_F(Names, MknodMakesFilesAndFifos) {
  EXPECT_THAT(mknod(In("f").c_str(), S_IFREG | 0600, 0), Succeeds());
  EXPECT_TRUE(S_ISREG(Of("f").st_mode));
  EXPECT_THAT(mknod(In("p").c_str(), S_IFIFO | 0600, 0), Succeeds());
  EXPECT_TRUE(S_ISFIFO(Of("p").st_mode));
  EXPECT_THAT(mknod(In("f").c_str(), S_IFREG | 0600, 0), FailsWith(EEXIST));
  EXPECT_THAT(mknod(In("d").c_str(), S_IFDIR | 0600, 0), FailsWith(EPERM));
  EXPECT_THAT(mknod(In("x").c_str(), 0160000, 0), FailsWith(EINVAL));
}

TEST_F(Names, GetdentsListsEverythingOnce) {
  std::set<std::string> expected = {".", ".."};
  for (int i = 0; i < 300; ++i) {
    const std::string name = "entry" + std::to_string(i);
    File(name);
    expected.insert(name);
  }
  EXPECT_EQ(List(), expected);
}

TEST_F(Names, GetdentsTypesAndSmallBuffers) {
  Mkdir("sub");
  symlink("x", In("link").c_str());
  File("file");
  const Fd fd(open(dir_.c_str(), O_RDONLY | O_DIRECTORY));
  alignas(8) char buffer[32];
  EXPECT_THAT(syscall(SYS_getdents64, int{fd}, buffer, 8), FailsWith(EINVAL));
  int seen = 0;
  long bytes = 0;
  while ((bytes = syscall(SYS_getdents64, int{fd}, buffer, sizeof(buffer))) > 0) {
    const auto* entry = reinterpret_cast<const dirent64*>(buffer);
    const std::string name = entry->d_name;
    if (name == "sub") {
      EXPECT_EQ(entry->d_type, DT_DIR);
    }
    if (name == "link") {
      EXPECT_EQ(entry->d_type, DT_LNK);
    }
    if (name == "file") {
      EXPECT_EQ(entry->d_type, DT_REG);
    }
    if (name[0] != '.') {
      EXPECT_EQ(entry->d_ino, Of(name).st_ino);
      ++seen;
    }
  }
  EXPECT_EQ(bytes, 0);
  EXPECT_EQ(seen, 3);
}

TEST_F(Names, GetdentsRewindsAndErrors) {
  File("a");
  const Fd fd(open(dir_.c_str(), O_RDONLY));
  alignas(8) char buffer[1024];
  const long first = syscall(SYS_getdents64, int{fd}, buffer, sizeof(buffer));
  EXPECT_GT(first, 0);
  EXPECT_THAT(syscall(SYS_getdents64, int{fd}, buffer, sizeof(buffer)), SucceedsWith(0));
  EXPECT_THAT(lseek(fd, 0, SEEK_SET), SucceedsWith(0));
  EXPECT_THAT(syscall(SYS_getdents64, int{fd}, buffer, sizeof(buffer)), SucceedsWith(first));
  lseek(fd, 0, SEEK_SET);
  EXPECT_THAT(syscall(SYS_getdents64, int{fd}, kBadAddress, 1024), FailsWith(EFAULT));
  const Fd file(open(In("a").c_str(), O_RDONLY));
  EXPECT_THAT(syscall(SYS_getdents64, int{file}, buffer, sizeof(buffer)), FailsWith(ENOTDIR));
  Mkdir("gone");
  const Fd gone(open(In("gone").c_str(), O_RDONLY));
  Rmdir("gone");
  EXPECT_THAT(syscall(SYS_getdents64, int{gone}, buffer, sizeof(buffer)), FailsWith(ENOENT));
}

TEST_F(Names, RemovingWhileListingIsSafe) {
  for (int i = 0; i < 100; ++i) File("f" + std::to_string(i));
  DIR* stream = opendir(dir_.c_str());
  int removed = 0;
  while (const dirent* entry = readdir(stream)) {
    if (entry->d_name[0] == 'f' && Unlink(entry->d_name) == 0) ++removed;
  }
  closedir(stream);
  EXPECT_EQ(removed, 100);
  EXPECT_EQ(List().size(), 2u);
}

TEST_F(Names, CwdFollowsChdirRenameAndRemoval) {
  EXPECT_THAT(ForkAndRun([&] {
                char cwd[512] = {};
                Mkdir("a");
                ASSERT_THAT(chdir(In("a").c_str()), Succeeds());
                EXPECT_STREQ(getcwd(cwd, sizeof(cwd)), In("a").c_str());
                Rename("a", "b");
                EXPECT_STREQ(getcwd(cwd, sizeof(cwd)), In("b").c_str());
                Rmdir("b");
                EXPECT_THAT(syscall(SYS_getcwd, cwd, sizeof(cwd)), FailsWith(ENOENT));
                EXPECT_THAT(open("x", O_CREAT | O_RDWR, 0600), FailsWith(ENOENT));
                EXPECT_THAT(chdir(".."), Succeeds());
              }),
              ExitsWith(0));
}

TEST_F(Names, ChdirErrors) {
  File("file");
  EXPECT_THAT(chdir(In("file").c_str()), FailsWith(ENOTDIR));
  EXPECT_THAT(chdir(In("none").c_str()), FailsWith(ENOENT));
  const Fd fd(open(In("file").c_str(), O_RDONLY));
  EXPECT_THAT(fchdir(fd), FailsWith(ENOTDIR));
  EXPECT_THAT(fchdir(1'000'000), FailsWith(EBADF));
  char small[2];
  EXPECT_THAT(syscall(SYS_getcwd, small, 1), FailsWith(ERANGE));
  EXPECT_THAT(syscall(SYS_getcwd, kBadAddress, 4096), FailsWith(EFAULT));
}

TEST_F(Names, FchdirGoesBack) {
  EXPECT_THAT(ForkAndRun([&] {
                const Fd here(open(dir_.c_str(), O_PATH));
                ASSERT_THAT(chdir("/"), Succeeds());
                EXPECT_THAT(fchdir(here), Succeeds());
                char cwd[512] = {};
                EXPECT_STREQ(getcwd(cwd, sizeof(cwd)), dir_.c_str());
              }),
              ExitsWith(0));
}

TEST_F(Names, DotdotOfTheRootIsTheRoot) {
  struct stat root;
  struct stat above;
  ASSERT_THAT(stat("/", &root), Succeeds());
  ASSERT_THAT(stat("/../../..", &above), Succeeds());
  EXPECT_EQ(root.st_ino, above.st_ino);
  EXPECT_EQ(root.st_dev, above.st_dev);
}

TEST_F(Names, ChrootConfinesPaths) {
  REQUIRE_CAPABILITY(CAP_SYS_CHROOT);
  Mkdir("jail");
  File("jail/inside", "inside");
  File("outside", "outside");
  symlink("/inside", In("jail/absolute").c_str());
  EXPECT_THAT(ForkAndRun([&] {
                ASSERT_THAT(chroot(In("jail").c_str()), Succeeds());
                ASSERT_THAT(chdir("/"), Succeeds());
                EXPECT_EQ(ReadFile("/inside"), "inside");
                EXPECT_EQ(ReadFile("/absolute"), "inside");
                EXPECT_THAT(open("../outside", O_RDONLY), FailsWith(ENOENT));
                char cwd[16] = {};
                EXPECT_STREQ(getcwd(cwd, sizeof(cwd)), "/");
              }),
              ExitsWith(0));
}

TEST_F(Names, ChrootErrors) {
  File("file");
  REQUIRE_ROOT();
  EXPECT_THAT(chroot(In("file").c_str()), FailsWith(ENOTDIR));
  EXPECT_THAT(chroot(In("none").c_str()), FailsWith(ENOENT));
  EXPECT_THAT(ForkAndRun([&] {
                ASSERT_THAT(setresuid(1234, 1234, 1234), Succeeds());
                EXPECT_THAT(chroot("/"), FailsWith(EPERM));
              }),
              ExitsWith(0));
}

bool MayMount() {
  __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
  __user_cap_data_struct data[2] = {};
  EXPECT_THAT(syscall(SYS_capget, &header, data), Succeeds());
  return (data[0].effective >> CAP_SYS_ADMIN & 1) != 0;
}

TEST(Mount, ErrorsComeInLinuxsOrder) {
  const unsigned long address = 1;
  EXPECT_THAT(syscall(SYS_mount, "none", "/", address, 0, nullptr), FailsWith(EFAULT));
  EXPECT_THAT(mount("none", "/not/there", "tmpfs", 0, nullptr), FailsWith(ENOENT));
  const bool may = MayMount();
  EXPECT_THAT(mount("none", "/", "no-such-type", 0, nullptr), FailsWith(may ? ENODEV : EPERM));
  EXPECT_THAT(mount("none", "/", nullptr, 0, nullptr), FailsWith(may ? EINVAL : EPERM));
}

}  // namespace
}  // namespace skep::test
