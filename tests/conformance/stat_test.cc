// stat and its family, permissions, owners, times, access, umask, xattrs, statfs.
#include <fcntl.h>
#include <linux/magic.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/time.h>
#include <sys/vfs.h>
#include <sys/xattr.h>

#include <cstring>

#include "tests/util/matchers.h"
#include "tests/util/process.h"

namespace skep::test {
namespace {

class Stat : public testing::Test {
 protected:
  Stat() {
    WriteFile(file_, "12345");
    EXPECT_THAT(symlink("file", link_.c_str()), Succeeds());
  }
  struct stat Of(const std::string& path) {
    struct stat st = {};
    EXPECT_THAT(lstat(path.c_str(), &st), Succeeds());
    return st;
  }
  mode_t ModeOf(const std::string& path) { return Of(path).st_mode & 07777; }

  TempDir dir_;
  std::string file_ = dir_.File("file");
  std::string link_ = dir_.File("link");
};

TEST_F(Stat, OfAFile) {
  const struct stat st = Of(file_);
  EXPECT_TRUE(S_ISREG(st.st_mode));
  EXPECT_EQ(st.st_mode & 07777, 0644u);
  EXPECT_EQ(st.st_size, 5);
  EXPECT_EQ(st.st_nlink, 1u);
  EXPECT_EQ(st.st_uid, geteuid());
  EXPECT_GT(st.st_ino, 0u);
  EXPECT_GT(st.st_blksize, 0);
  EXPECT_LE(st.st_mtim.tv_sec, time(nullptr) + 1);
}

TEST_F(Stat, FollowsLinksAndLstatDoesNot) {
  struct stat st = {};
  EXPECT_THAT(stat(link_.c_str(), &st), Succeeds());
  EXPECT_EQ(st.st_ino, Of(file_).st_ino);
  EXPECT_TRUE(S_ISLNK(Of(link_).st_mode));
  EXPECT_EQ(Of(link_).st_size, 4);
  EXPECT_EQ(ModeOf(link_), 0777u);
}

TEST_F(Stat, Errors) {
  struct stat st;
  EXPECT_THAT(stat(dir_.File("none").c_str(), &st), FailsWith(ENOENT));
  EXPECT_THAT(stat((file_ + "/x").c_str(), &st), FailsWith(ENOTDIR));
  EXPECT_THAT(stat((file_ + "/").c_str(), &st), FailsWith(ENOTDIR));
  EXPECT_THAT(stat("", &st), FailsWith(ENOENT));
  EXPECT_THAT(fstat(1'000'000, &st), FailsWith(EBADF));
  EXPECT_THAT(syscall(SYS_stat, file_.c_str(), kBadAddress), FailsWith(EFAULT));
  EXPECT_THAT(syscall(SYS_stat, kBadAddress, &st), FailsWith(EFAULT));
}

TEST_F(Stat, Fstatat) {
  const Fd where(open(dir_.c_str(), O_PATH));
  struct stat st = {};
  EXPECT_THAT(fstatat(where, "link", &st, AT_SYMLINK_NOFOLLOW), Succeeds());
  EXPECT_TRUE(S_ISLNK(st.st_mode));
  EXPECT_THAT(fstatat(where, "", &st, AT_EMPTY_PATH), Succeeds());
  EXPECT_TRUE(S_ISDIR(st.st_mode));
  EXPECT_THAT(fstatat(where, "", &st, 0), FailsWith(ENOENT));
  EXPECT_THAT(fstatat(where, "file", &st, 0x40000000), FailsWith(EINVAL));
}

TEST_F(Stat, StatxAgreesWithStat) {
  struct statx stx = {};
  ASSERT_THAT(statx(AT_FDCWD, file_.c_str(), 0, STATX_BASIC_STATS, &stx), Succeeds());
  const struct stat st = Of(file_);
  EXPECT_EQ(stx.stx_mask & STATX_BASIC_STATS, STATX_BASIC_STATS);
  EXPECT_EQ(stx.stx_mode, st.st_mode);
  EXPECT_EQ(stx.stx_ino, st.st_ino);
  EXPECT_EQ(stx.stx_size, 5u);
  EXPECT_EQ(makedev(stx.stx_dev_major, stx.stx_dev_minor), st.st_dev);
  EXPECT_EQ(stx.stx_mtime.tv_sec, st.st_mtim.tv_sec);
}

TEST_F(Stat, StatxErrors) {
  struct statx stx;
  EXPECT_THAT(statx(AT_FDCWD, file_.c_str(), 0, 1U << 31, &stx), FailsWith(EINVAL));
  EXPECT_THAT(statx(AT_FDCWD, file_.c_str(), 0x6000, 0, &stx), FailsWith(EINVAL));
  EXPECT_THAT(statx(AT_FDCWD, "", 0, 0, &stx), FailsWith(ENOENT));
  EXPECT_THAT(syscall(SYS_statx, AT_FDCWD, file_.c_str(), 0, 0, kBadAddress), FailsWith(EFAULT));
}

TEST_F(Stat, PipesSocketsAndDevices) {
  struct stat st = {};
  ASSERT_THAT(stat("/dev/null", &st), Succeeds());
  EXPECT_TRUE(S_ISCHR(st.st_mode));
  EXPECT_EQ(st.st_rdev, makedev(1, 3));
  const Pipe pipe = MakePipe();
  ASSERT_THAT(fstat(pipe.reader, &st), Succeeds());
  EXPECT_TRUE(S_ISFIFO(st.st_mode));
}

TEST_F(Stat, Chmod) {
  EXPECT_THAT(chmod(file_.c_str(), 0751), Succeeds());
  EXPECT_EQ(ModeOf(file_), 0751u);
  EXPECT_THAT(chmod(link_.c_str(), 01600), Succeeds());
  EXPECT_EQ(ModeOf(file_), 01600u) << "through the link";
  const Fd fd(open(file_.c_str(), O_RDONLY));
  EXPECT_THAT(fchmod(fd, 0640), Succeeds());
  EXPECT_EQ(ModeOf(file_), 0640u);
  EXPECT_THAT(fchmodat(AT_FDCWD, dir_.File("none").c_str(), 0, 0), FailsWith(ENOENT));
  EXPECT_THAT(fchmod(1'000'000, 0), FailsWith(EBADF));
}

TEST_F(Stat, ChmodIsTheOwners) {
  REQUIRE_ROOT();
  chmod(dir_.c_str(), 0755);
  EXPECT_THAT(ForkAndRun([&] {
                ASSERT_THAT(setresuid(1234, 1234, 1234), Succeeds());
                EXPECT_THAT(chmod(file_.c_str(), 0777), FailsWith(EPERM));
                EXPECT_THAT(chown(file_.c_str(), 1234, -1), FailsWith(EPERM));
              }),
              ExitsWith(0));
}

TEST_F(Stat, Chown) {
  REQUIRE_ROOT();
  EXPECT_THAT(chown(file_.c_str(), 10, 20), Succeeds());
  EXPECT_EQ(Of(file_).st_uid, 10u);
  EXPECT_THAT(chown(file_.c_str(), -1, 30), Succeeds());
  EXPECT_EQ(Of(file_).st_uid, 10u);
  EXPECT_EQ(Of(file_).st_gid, 30u);
  EXPECT_THAT(lchown(link_.c_str(), 11, 11), Succeeds());
  EXPECT_EQ(Of(link_).st_uid, 11u);
  EXPECT_EQ(Of(file_).st_uid, 10u);
  const Fd fd(open(file_.c_str(), O_RDONLY));
  EXPECT_THAT(fchown(fd, 12, 12), Succeeds());
  EXPECT_THAT(fchownat(fd, "", 13, 13, AT_EMPTY_PATH), Succeeds());
  EXPECT_EQ(Of(file_).st_gid, 13u);
}

TEST_F(Stat, ChownClearsSetIdBits) {
  REQUIRE_ROOT();
  ASSERT_THAT(chmod(file_.c_str(), 06755), Succeeds());
  ASSERT_THAT(chown(file_.c_str(), 10, 20), Succeeds());
  EXPECT_EQ(ModeOf(file_), 0755u);
}

TEST_F(Stat, UtimensatSetsNowAndOmits) {
  const timespec fixed[2] = {{111, 222}, {333, 444}};
  ASSERT_THAT(utimensat(AT_FDCWD, file_.c_str(), fixed, 0), Succeeds());
  struct stat st = Of(file_);
  EXPECT_EQ(st.st_atim.tv_sec, 111);
  EXPECT_EQ(st.st_mtim.tv_sec, 333);
  EXPECT_EQ(st.st_mtim.tv_nsec, 444);
  const timespec mixed[2] = {{0, UTIME_OMIT}, {0, UTIME_NOW}};
  ASSERT_THAT(utimensat(AT_FDCWD, file_.c_str(), mixed, 0), Succeeds());
  st = Of(file_);
  EXPECT_EQ(st.st_atim.tv_sec, 111);
  EXPECT_GT(st.st_mtim.tv_sec, 1'000'000);
  const timespec bad[2] = {{0, 1'000'000'000}, {0, 0}};
  EXPECT_THAT(utimensat(AT_FDCWD, file_.c_str(), bad, 0), FailsWith(EINVAL));
  const std::string none = file_ + ".none";
  EXPECT_THAT(utimensat(AT_FDCWD, none.c_str(), bad, 0), FailsWith(ENOENT)) << "the path first";
  const timespec omit[2] = {{0, UTIME_OMIT}, {0, UTIME_OMIT}};
  EXPECT_THAT(utimensat(-1, none.c_str(), omit, -1), Succeeds()) << "not even looked at";
  EXPECT_THAT(syscall(SYS_utimensat, AT_FDCWD, nullptr, fixed, 0), FailsWith(EFAULT));
  EXPECT_THAT(syscall(SYS_utimensat, -1, nullptr, fixed, 0), FailsWith(EBADF));
  EXPECT_THAT(utimensat(AT_FDCWD, link_.c_str(), fixed, AT_SYMLINK_NOFOLLOW), Succeeds());
  EXPECT_EQ(Of(link_).st_mtim.tv_sec, 333);
  EXPECT_GT(Of(file_).st_mtim.tv_sec, 1'000'000);
}

TEST_F(Stat, OlderTimeCalls) {
  const timeval times[2] = {{55, 6}, {77, 8}};
  EXPECT_THAT(utimes(file_.c_str(), times), Succeeds());
  EXPECT_EQ(Of(file_).st_mtim.tv_sec, 77);
  EXPECT_EQ(Of(file_).st_mtim.tv_nsec, 8'000);
  const long seconds[2] = {91, 92};
  EXPECT_THAT(syscall(SYS_utime, file_.c_str(), seconds), Succeeds());
  EXPECT_EQ(Of(file_).st_atim.tv_sec, 91);
  EXPECT_THAT(syscall(SYS_futimesat, AT_FDCWD, file_.c_str(), nullptr), Succeeds());
  EXPECT_GT(Of(file_).st_atim.tv_sec, 1'000'000);
}

TEST_F(Stat, TimesAreTheOwnersButNowIsTheWriters) {
  REQUIRE_ROOT();
  chmod(dir_.c_str(), 0755);
  chmod(file_.c_str(), 0666);
  EXPECT_THAT(ForkAndRun([&] {
                ASSERT_THAT(setresuid(1234, 1234, 1234), Succeeds());
                const timespec fixed[2] = {{1, 1}, {1, 1}};
                EXPECT_THAT(utimensat(AT_FDCWD, file_.c_str(), fixed, 0), FailsWith(EPERM));
                EXPECT_THAT(utimensat(AT_FDCWD, file_.c_str(), nullptr, 0), Succeeds());
              }),
              ExitsWith(0));
}

TEST_F(Stat, ChangesMoveCtime) {
  const struct stat before = Of(file_);
  EXPECT_TRUE(WaitUntil([&] {
    chmod(file_.c_str(), 0600);
    const struct stat now = Of(file_);
    return now.st_ctim.tv_sec != before.st_ctim.tv_sec ||
           now.st_ctim.tv_nsec != before.st_ctim.tv_nsec;
  }));
}

TEST_F(Stat, AccessUsesRealIds) {
  EXPECT_THAT(access(file_.c_str(), F_OK), Succeeds());
  EXPECT_THAT(access(file_.c_str(), R_OK | W_OK), Succeeds());
  EXPECT_THAT(access(file_.c_str(), X_OK), FailsWith(EACCES)) << "nobody may execute it";
  EXPECT_THAT(access(dir_.File("none").c_str(), F_OK), FailsWith(ENOENT));
  EXPECT_THAT(access(file_.c_str(), 8), FailsWith(EINVAL));
  REQUIRE_ROOT();
  chmod(dir_.c_str(), 0755);
  chmod(file_.c_str(), 0600);
  EXPECT_THAT(ForkAndRun([&] {
                ASSERT_THAT(setresuid(1234, 0, 0), Succeeds());
                EXPECT_THAT(access(file_.c_str(), R_OK), FailsWith(EACCES));
                EXPECT_THAT(syscall(439, AT_FDCWD, file_.c_str(), R_OK, AT_EACCESS), Succeeds());
              }),
              ExitsWith(0));
}

TEST_F(Stat, Faccessat2Flags) {
  EXPECT_THAT(symlink("nowhere", dir_.File("dangling").c_str()), Succeeds());
  const std::string dangling = dir_.File("dangling");
  EXPECT_THAT(syscall(439, AT_FDCWD, dangling.c_str(), F_OK, 0), FailsWith(ENOENT));
  EXPECT_THAT(syscall(439, AT_FDCWD, dangling.c_str(), F_OK, AT_SYMLINK_NOFOLLOW), Succeeds());
  EXPECT_THAT(syscall(439, AT_FDCWD, file_.c_str(), F_OK, 0x4000'0000), FailsWith(EINVAL));
  const Fd fd(open(file_.c_str(), O_PATH));
  EXPECT_THAT(syscall(439, int{fd}, "", R_OK, AT_EMPTY_PATH), Succeeds());
}

TEST_F(Stat, UmaskAnswersTheOldOne) {
  const ScopedUmask restore(022);
  EXPECT_EQ(umask(07777), 022u);
  EXPECT_EQ(umask(0), 0777u) << "only permission bits are kept";
}

TEST_F(Stat, SetgidDirectoriesPassTheirGroupOn) {
  REQUIRE_ROOT();
  ASSERT_THAT(chown(dir_.c_str(), 0, 777), Succeeds());
  ASSERT_THAT(chmod(dir_.c_str(), 02777), Succeeds());
  WriteFile(dir_.File("new"), "");
  EXPECT_EQ(Of(dir_.File("new")).st_gid, 777u);
  ASSERT_THAT(mkdir(dir_.File("sub").c_str(), 0755), Succeeds());
  EXPECT_EQ(ModeOf(dir_.File("sub")), 02755u);
}

TEST_F(Stat, StatfsOfKnownFilesystems) {
  struct statfs fs = {};
  ASSERT_THAT(statfs(dir_.c_str(), &fs), Succeeds());
  EXPECT_GT(fs.f_bsize, 0);
  EXPECT_EQ(fs.f_namelen, 255);
  EXPECT_GE(fs.f_blocks, fs.f_bfree);
  ASSERT_THAT(statfs("/proc", &fs), Succeeds());
  EXPECT_EQ(fs.f_type, PROC_SUPER_MAGIC);
  EXPECT_THAT(statfs(dir_.File("none").c_str(), &fs), FailsWith(ENOENT));
  EXPECT_THAT(fstatfs(1'000'000, &fs), FailsWith(EBADF));
  const Pipe pipe = MakePipe();
  ASSERT_THAT(fstatfs(pipe.reader, &fs), Succeeds());
  EXPECT_EQ(fs.f_type, PIPEFS_MAGIC);
}

// /dev/shm is a tmpfs everywhere.
class Xattr : public testing::Test {
 protected:
  Xattr() { WriteFile(path_, ""); }
  ~Xattr() override { unlink(path_.c_str()); }
  std::string path_ = "/dev/shm/skep_xattr_" + std::to_string(getpid());
  const char* file_ = path_.c_str();
};

TEST_F(Xattr, TmpfsKeepsTrustedAttributes) {
  REQUIRE_ROOT();
  if (setxattr(file_, "trusted.a", "value", 5, 0) != 0 && errno == EPERM) {
    GTEST_SKIP() << "needs CAP_SYS_ADMIN";
  }
  char value[16] = {};
  EXPECT_THAT(getxattr(file_, "trusted.a", value, sizeof(value)), SucceedsWith(5));
  EXPECT_STREQ(value, "value");
  EXPECT_THAT(getxattr(file_, "trusted.a", nullptr, 0), SucceedsWith(5));
  EXPECT_THAT(getxattr(file_, "trusted.a", value, 2), FailsWith(ERANGE));
  EXPECT_THAT(setxattr(file_, "trusted.a", "x", 1, XATTR_CREATE), FailsWith(EEXIST));
  EXPECT_THAT(setxattr(file_, "trusted.b", "x", 1, XATTR_REPLACE), FailsWith(ENODATA));
  char list[64] = {};
  EXPECT_THAT(listxattr(file_, list, sizeof(list)), SucceedsWith(10));
  EXPECT_STREQ(list, "trusted.a");
  EXPECT_THAT(removexattr(file_, "trusted.a"), Succeeds());
  EXPECT_THAT(getxattr(file_, "trusted.a", value, sizeof(value)), FailsWith(ENODATA));
}

TEST_F(Xattr, NamesAreChecked) {
  char value[4];
  EXPECT_THAT(getxattr(file_, "nonamespace", value, 4), FailsWith(EOPNOTSUPP));
  EXPECT_THAT(getxattr(file_, "", value, 4), FailsWith(ERANGE));
  EXPECT_THAT(getxattr(file_, ("user." + std::string(300, 'n')).c_str(), value, 4),
              FailsWith(ERANGE));
  EXPECT_THAT(setxattr(file_, "user.a", "x", 1, 7), FailsWith(EINVAL));
  EXPECT_THAT(setxattr(file_, "user.a", "x", 70'000, 0), FailsWith(E2BIG));
  EXPECT_THAT(getxattr("/dev/shm/no_such_file", "user.a", value, 4), FailsWith(ENOENT));
}

}  // namespace
}  // namespace skep::test
