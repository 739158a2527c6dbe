// open, openat, creat and openat2: flags, modes, resolution, the order of errors.
#include <dirent.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#include <atomic>
#include <thread>

#include "tests/util/matchers.h"
#include "tests/util/process.h"

namespace skep::test {
namespace {

class Open : public testing::Test {
 protected:
  Open() {
    WriteFile(file_, "contents");
    EXPECT_THAT(symlink("file", link_.c_str()), Succeeds());
    EXPECT_THAT(symlink("nowhere", dangling_.c_str()), Succeeds());
  }
  int Try(const std::string& path, int flags, mode_t mode = 0) {
    fd_.Reset(open(path.c_str(), flags, mode));
    return fd_;
  }
  mode_t ModeOf(const std::string& path) {
    struct stat st = {};
    EXPECT_THAT(stat(path.c_str(), &st), Succeeds());
    return st.st_mode & 07777;
  }

  TempDir dir_;
  std::string file_ = dir_.File("file");
  std::string link_ = dir_.File("link");
  std::string dangling_ = dir_.File("dangling");
  Fd fd_;
};

TEST_F(Open, TakesTheLowestDescriptor) {
  const int lowest = LowestFreeFd();
  EXPECT_THAT(Try(file_, O_RDONLY), SucceedsWith(lowest));
  const Fd next(open(file_.c_str(), O_RDONLY));
  EXPECT_EQ(next, lowest + 1);
}

TEST_F(Open, PathErrors) {
  EXPECT_THAT(Try(dir_.File("none"), O_RDONLY), FailsWith(ENOENT));
  EXPECT_THAT(Try("", O_RDONLY), FailsWith(ENOENT));
  EXPECT_THAT(Try(dir_.File("file/x"), O_RDONLY), FailsWith(ENOTDIR));
  EXPECT_THAT(Try(dir_.File("file/"), O_RDONLY), FailsWith(ENOTDIR));
  EXPECT_THAT(Try(dir_.File("none/x"), O_RDONLY | O_CREAT, 0600), FailsWith(ENOENT));
  EXPECT_THAT(Try(dir_.File(std::string(256, 'n')), O_RDONLY), FailsWith(ENAMETOOLONG));
  EXPECT_THAT(Try(dir_.path() + "/" + std::string(4096, '/'), O_RDONLY), FailsWith(ENAMETOOLONG));
  EXPECT_THAT(syscall(SYS_openat, AT_FDCWD, kBadAddress, O_RDONLY), FailsWith(EFAULT));
}

TEST_F(Open, LongestNamesWork) {
  EXPECT_THAT(Try(dir_.File(std::string(255, 'n')), O_RDWR | O_CREAT, 0600), Succeeds());
  std::string path = dir_.path();
  while (path.size() + 7 < 4095) path += "/.";
  EXPECT_THAT(Try(path + "/file", O_RDONLY), Succeeds());
}

TEST_F(Open, CreateAppliesTheUmask) {
  const ScopedUmask mask(027);
  EXPECT_THAT(Try(dir_.File("new"), O_RDWR | O_CREAT, 0666), Succeeds());
  EXPECT_EQ(ModeOf(dir_.File("new")), 0640u);
  EXPECT_THAT(Try(dir_.File("sticky"), O_RDWR | O_CREAT, 07777), Succeeds());
  EXPECT_EQ(ModeOf(dir_.File("sticky")), 07750u);
}

TEST_F(Open, CreateOfAnExistingFileKeepsItsModeAndContents) {
  EXPECT_THAT(Try(file_, O_RDONLY | O_CREAT, 0777), Succeeds());
  EXPECT_EQ(ModeOf(file_), 0644u);
  EXPECT_EQ(ReadAll(fd_), "contents");
}

TEST_F(Open, ExclusiveRefusesAnythingThere) {
  EXPECT_THAT(Try(file_, O_RDWR | O_CREAT | O_EXCL, 0600), FailsWith(EEXIST));
  EXPECT_THAT(Try(link_, O_RDWR | O_CREAT | O_EXCL, 0600), FailsWith(EEXIST));
  EXPECT_THAT(Try(dangling_, O_RDWR | O_CREAT | O_EXCL, 0600), FailsWith(EEXIST));
  EXPECT_THAT(Try(dir_.path(), O_RDONLY | O_CREAT | O_EXCL, 0600), FailsWith(EEXIST));
  EXPECT_FALSE(Exists(dir_.File("nowhere")));
}

TEST_F(Open, CreateThroughADanglingLinkMakesItsTarget) {
  EXPECT_THAT(Try(dangling_, O_RDWR | O_CREAT, 0600), Succeeds());
  EXPECT_TRUE(Exists(dir_.File("nowhere")));
}

TEST_F(Open, AFileMayBeOpenedWritableAlthoughItsNewModeForbidsIt) {
  EXPECT_THAT(Try(dir_.File("new"), O_RDWR | O_CREAT, 0), Succeeds());
  EXPECT_THAT(write(fd_, "x", 1), SucceedsWith(1));
}

TEST_F(Open, TruncateEmpties) {
  EXPECT_THAT(Try(file_, O_WRONLY | O_TRUNC), Succeeds());
  EXPECT_EQ(ReadFile(file_), "");
}

TEST_F(Open, DirectoriesAreReadOnly) {
  EXPECT_THAT(Try(dir_.path(), O_RDONLY), Succeeds());
  EXPECT_THAT(Try(dir_.path(), O_WRONLY), FailsWith(EISDIR));
  EXPECT_THAT(Try(dir_.path(), O_RDWR), FailsWith(EISDIR));
  EXPECT_THAT(Try(dir_.path(), O_RDONLY | O_CREAT, 0600), FailsWith(EISDIR));
  EXPECT_THAT(Try(dir_.File("new/"), O_RDWR | O_CREAT, 0600), FailsWith(EISDIR));
  char byte;
  EXPECT_THAT(Try(dir_.path(), O_RDONLY), Succeeds());
  EXPECT_THAT(read(fd_, &byte, 1), FailsWith(EISDIR));
}

TEST_F(Open, DirectoryFlag) {
  EXPECT_THAT(Try(file_, O_RDONLY | O_DIRECTORY), FailsWith(ENOTDIR));
  EXPECT_THAT(Try(link_, O_RDONLY | O_DIRECTORY), FailsWith(ENOTDIR));
  EXPECT_THAT(Try(dir_.path(), O_RDONLY | O_DIRECTORY), Succeeds());
}

TEST_F(Open, NofollowRefusesAFinalLinkOnly) {
  EXPECT_THAT(Try(link_, O_RDONLY | O_NOFOLLOW), FailsWith(ELOOP));
  EXPECT_THAT(Try(dangling_, O_RDONLY | O_NOFOLLOW), FailsWith(ELOOP));
  EXPECT_THAT(Try(file_, O_RDONLY | O_NOFOLLOW), Succeeds());
  ASSERT_THAT(symlink(dir_.c_str(), dir_.File("d").c_str()), Succeeds());
  EXPECT_THAT(Try(dir_.File("d/file"), O_RDONLY | O_NOFOLLOW), Succeeds());
  EXPECT_THAT(Try(dir_.File("d"), O_RDONLY | O_NOFOLLOW | O_DIRECTORY), FailsWith(ENOTDIR));
}

TEST_F(Open, LinkChainsEndAtForty) {
  std::string target = "file";
  for (int i = 1; i <= 41; ++i) {
    const std::string name = "chain" + std::to_string(i);
    ASSERT_THAT(symlink(target.c_str(), dir_.File(name).c_str()), Succeeds());
    target = name;
  }
  EXPECT_THAT(Try(dir_.File("chain40"), O_RDONLY), Succeeds());
  EXPECT_THAT(Try(dir_.File("chain41"), O_RDONLY), FailsWith(ELOOP));
}

TEST_F(Open, PathDescriptorsOnlyName) {
  ASSERT_THAT(Try(file_, O_PATH), Succeeds());
  char byte;
  EXPECT_THAT(read(fd_, &byte, 1), FailsWith(EBADF));
  EXPECT_THAT(write(fd_, "x", 1), FailsWith(EBADF));
  EXPECT_THAT(fchmod(fd_, 0600), FailsWith(EBADF));
  EXPECT_THAT(lseek(fd_, 0, SEEK_SET), FailsWith(EBADF));
  EXPECT_THAT(ftruncate(fd_, 0), FailsWith(EBADF));
  EXPECT_THAT(mmap(nullptr, kPageSize, PROT_READ, MAP_PRIVATE, fd_, 0), FailsWith(EBADF));
  struct stat st;
  EXPECT_THAT(fstat(fd_, &st), Succeeds());
  EXPECT_THAT(fcntl(fd_, F_GETFL), SucceedsWith(O_PATH));
  const Fd copy(dup(fd_));
  EXPECT_THAT(copy, Succeeds());
}

TEST_F(Open, PathWithNofollowNamesTheLinkItself) {
  ASSERT_THAT(Try(link_, O_PATH | O_NOFOLLOW), Succeeds());
  struct stat st;
  ASSERT_THAT(fstat(fd_, &st), Succeeds());
  EXPECT_TRUE(S_ISLNK(st.st_mode));
  char target[16] = {};
  EXPECT_THAT(readlinkat(fd_, "", target, sizeof(target)), SucceedsWith(4));
}

TEST_F(Open, PathDescriptorsServeAsDirfdAndReopen) {
  const Fd where(open(dir_.c_str(), O_PATH));
  fd_.Reset(openat(where, "file", O_RDONLY));
  EXPECT_EQ(ReadAll(fd_), "contents");
  const Fd named(open(file_.c_str(), O_PATH));
  EXPECT_EQ(ReadFile("/proc/self/fd/" + std::to_string(named)), "contents");
}

TEST_F(Open, TmpfileHasNoNameUntilLinked) {
  const Fd fd(open(dir_.c_str(), O_TMPFILE | O_RDWR, 0600));
  ASSERT_THAT(fd, Succeeds());
  struct stat st = {};
  EXPECT_THAT(fstat(fd, &st), Succeeds());
  EXPECT_EQ(st.st_nlink, 0u);
  write(fd, "temporary", 9);
  const std::string self = "/proc/self/fd/" + std::to_string(fd);
  EXPECT_THAT(
      linkat(AT_FDCWD, self.c_str(), AT_FDCWD, dir_.File("named").c_str(), AT_SYMLINK_FOLLOW),
      Succeeds());
  EXPECT_EQ(ReadFile(dir_.File("named")), "temporary");
  EXPECT_THAT(Try(dir_.path(), O_TMPFILE | O_RDONLY, 0600), FailsWith(EINVAL));
  EXPECT_THAT(Try(file_, O_TMPFILE | O_RDWR, 0600), FailsWith(ENOTDIR));
}

TEST_F(Open, AppendWritesAtTheEndEveryTime) {
  const Fd one(open(file_.c_str(), O_WRONLY | O_APPEND));
  const Fd two(open(file_.c_str(), O_WRONLY | O_APPEND));
  write(one, "1", 1);
  write(two, "2", 1);
  lseek(one, 0, SEEK_SET);
  write(one, "3", 1);
  EXPECT_EQ(ReadFile(file_), "contents123");
}

TEST_F(Open, AccessModesAreHeld) {
  char byte;
  EXPECT_THAT(Try(file_, O_WRONLY), Succeeds());
  EXPECT_THAT(read(fd_, &byte, 1), FailsWith(EBADF));
  EXPECT_THAT(Try(file_, O_RDONLY), Succeeds());
  EXPECT_THAT(write(fd_, "x", 1), FailsWith(EBADF));
  EXPECT_THAT(Try(file_, O_RDWR), Succeeds());
  EXPECT_THAT(read(fd_, &byte, 1), SucceedsWith(1));
}

TEST_F(Open, AtTheDescriptorLimitCreatesNoFile) {
  {
    const ScopedRlimit limit(RLIMIT_NOFILE, static_cast<rlim_t>(LowestFreeFd()));
    EXPECT_THAT(Try(dir_.File("new"), O_CREAT | O_RDWR, 0600), FailsWith(EMFILE));
    EXPECT_THAT(Try(dir_.File("none"), O_RDONLY), FailsWith(EMFILE)) << "asked before the path";
    EXPECT_THAT(Try(file_, O_TRUNC | O_WRONLY), FailsWith(EMFILE));
  }
  EXPECT_FALSE(Exists(dir_.File("new")));
  EXPECT_EQ(ReadFile(file_), "contents");
}

TEST_F(Open, PermissionsDecideForOthers) {
  REQUIRE_ROOT();
  chmod(dir_.c_str(), 0755);
  chmod(file_.c_str(), 0600);
  EXPECT_THAT(ForkAndRun([&] {
                ASSERT_THAT(setresuid(1234, 1234, 1234), Succeeds());
                EXPECT_THAT(Try(file_, O_RDONLY), FailsWith(EACCES));
                EXPECT_THAT(Try(dir_.File("new"), O_RDWR | O_CREAT, 0600), FailsWith(EACCES));
                EXPECT_THAT(Try(file_, O_PATH), Succeeds());
              }),
              ExitsWith(0));
  chmod(file_.c_str(), 0644);
  chmod(dir_.c_str(), 0600);
  EXPECT_THAT(ForkAndRun([&] {
                ASSERT_THAT(setresuid(1234, 1234, 1234), Succeeds());
                EXPECT_THAT(Try(file_, O_RDONLY), FailsWith(EACCES)) << "no search permission";
              }),
              ExitsWith(0));
}

TEST_F(Open, NoatimeIsTheOwnersOnly) {
  REQUIRE_ROOT();
  chmod(dir_.c_str(), 0755);
  EXPECT_THAT(Try(file_, O_RDONLY | O_NOATIME), Succeeds());
  EXPECT_THAT(ForkAndRun([&] {
                ASSERT_THAT(setresuid(1234, 1234, 1234), Succeeds());
                EXPECT_THAT(Try(file_, O_RDONLY | O_NOATIME), FailsWith(EPERM));
              }),
              ExitsWith(0));
}

TEST_F(Open, AtRelativeToADescriptor) {
  const Fd where(open(dir_.c_str(), O_RDONLY));
  fd_.Reset(openat(where, "file", O_RDONLY));
  EXPECT_THAT(fd_, Succeeds());
  EXPECT_THAT(openat(fd_, "x", O_RDONLY), FailsWith(ENOTDIR));
  EXPECT_THAT(openat(1'000'000, "x", O_RDONLY), FailsWith(EBADF));
  EXPECT_THAT(Fd(openat(1'000'000, file_.c_str(), O_RDONLY)), Succeeds()) << "absolute";
  EXPECT_THAT(openat(where, "", O_RDONLY), FailsWith(ENOENT));
}

TEST_F(Open, CreatIsWriteOnlyTruncate) {
  fd_.Reset(creat(file_.c_str(), 0600));
  EXPECT_THAT(fcntl(fd_, F_GETFL), Succeeds());
  EXPECT_EQ(fcntl(fd_, F_GETFL) & O_ACCMODE, O_WRONLY);
  EXPECT_EQ(ReadFile(file_), "");
}

TEST_F(Open, UnlinkedFilesLiveOn) {
  EXPECT_THAT(Try(file_, O_RDWR), Succeeds());
  EXPECT_THAT(unlink(file_.c_str()), Succeeds());
  EXPECT_EQ(ReadAll(fd_), "contents");
  struct stat st;
  EXPECT_THAT(fstat(fd_, &st), Succeeds());
  EXPECT_EQ(st.st_nlink, 0u);
}

class OpenAt2 : public Open {
 protected:
  OpenAt2() {
    mkdir(dir_.File("sub").c_str(), 0755);
    WriteFile(dir_.File("sub/inner"), "inner");
    symlink("../file", dir_.File("sub/up").c_str());
    symlink("/", dir_.File("sub/root").c_str());
    symlink("inner", dir_.File("sub/near").c_str());
    where_.Reset(open(dir_.File("sub").c_str(), O_PATH | O_DIRECTORY));
  }
  int Open2(const char* path, uint64_t flags, uint64_t resolve = 0, uint64_t mode = 0) {
    open_how how = {flags, mode, resolve};
    fd_.Reset(static_cast<int>(syscall(SYS_openat2, int{where_}, path, &how, sizeof(how))));
    return fd_;
  }
  Fd where_;
};

TEST_F(OpenAt2, BeneathStaysInside) {
  EXPECT_THAT(Open2("inner", O_RDONLY, RESOLVE_BENEATH), Succeeds());
  EXPECT_THAT(Open2("near", O_RDONLY, RESOLVE_BENEATH), Succeeds());
  EXPECT_THAT(Open2("../file", O_RDONLY, RESOLVE_BENEATH), FailsWith(EXDEV));
  EXPECT_THAT(Open2("up", O_RDONLY, RESOLVE_BENEATH), FailsWith(EXDEV));
  EXPECT_THAT(Open2("/", O_RDONLY, RESOLVE_BENEATH), FailsWith(EXDEV));
  EXPECT_THAT(Open2("root", O_RDONLY, RESOLVE_BENEATH), FailsWith(EXDEV));
}

TEST_F(OpenAt2, InRootScopesAbsolutePathsAndDotdot) {
  EXPECT_THAT(Open2("/inner", O_RDONLY, RESOLVE_IN_ROOT), Succeeds());
  EXPECT_THAT(Open2("../../inner", O_RDONLY, RESOLVE_IN_ROOT), Succeeds());
  EXPECT_THAT(Open2("root/inner", O_RDONLY, RESOLVE_IN_ROOT), Succeeds());
  EXPECT_THAT(Open2("up", O_RDONLY, RESOLVE_IN_ROOT), FailsWith(ENOENT));
}

TEST_F(OpenAt2, NoSymlinks) {
  EXPECT_THAT(Open2("near", O_RDONLY, RESOLVE_NO_SYMLINKS), FailsWith(ELOOP));
  EXPECT_THAT(Open2("root/tmp", O_RDONLY, RESOLVE_NO_SYMLINKS), FailsWith(ELOOP));
  EXPECT_THAT(Open2("inner", O_RDONLY, RESOLVE_NO_SYMLINKS), Succeeds());
}

TEST_F(OpenAt2, NoMagiclinks) {
  EXPECT_THAT(Open2("inner", O_RDONLY), Succeeds());
  const Fd inner(fd_.Release());
  const std::string magic = "/proc/self/fd/" + std::to_string(inner);
  EXPECT_THAT(Open2(magic.c_str(), O_RDONLY), Succeeds());
  EXPECT_THAT(Open2(magic.c_str(), O_RDONLY, RESOLVE_NO_MAGICLINKS), FailsWith(ELOOP));
  EXPECT_THAT(Open2("near", O_RDONLY, RESOLVE_NO_MAGICLINKS), Succeeds());
}

TEST_F(OpenAt2, NoXdevStaysOnTheMount) {
  EXPECT_THAT(Open2("inner", O_RDONLY, RESOLVE_NO_XDEV), Succeeds());
  EXPECT_THAT(Open2("/proc/self", O_RDONLY, RESOLVE_NO_XDEV), FailsWith(EXDEV));
}

TEST_F(OpenAt2, RejectsWhatOpenatIgnores) {
  EXPECT_THAT(Open2("inner", O_RDONLY, 1 << 20), FailsWith(EINVAL));
  EXPECT_THAT(Open2("inner", 1ULL << 40), FailsWith(EINVAL));
  EXPECT_THAT(Open2("inner", O_RDONLY, 0, 0600), FailsWith(EINVAL)) << "a mode without O_CREAT";
  EXPECT_THAT(Open2("new", O_CREAT | O_RDWR, 0, 010000), FailsWith(EINVAL));
  EXPECT_THAT(Open2("inner", O_PATH | O_RDWR), FailsWith(EINVAL));
  EXPECT_THAT(Open2("inner", O_RDONLY, RESOLVE_BENEATH | RESOLVE_IN_ROOT), FailsWith(EINVAL));
}

TEST_F(OpenAt2, ChecksItsSize) {
  struct {
    open_how how;
    uint64_t unknown;
  } longer = {{O_RDONLY, 0, 0}, 1};
  EXPECT_THAT(syscall(SYS_openat2, int{where_}, "inner", &longer, sizeof(longer)),
              FailsWith(E2BIG));
  longer.unknown = 0;
  fd_.Reset(static_cast<int>(syscall(SYS_openat2, int{where_}, "inner", &longer, sizeof(longer))));
  EXPECT_THAT(fd_, Succeeds());
  EXPECT_THAT(syscall(SYS_openat2, int{where_}, "inner", &longer, 8), FailsWith(EINVAL));
  EXPECT_THAT(syscall(SYS_openat2, int{where_}, "inner", kBadAddress, 24), FailsWith(EFAULT));
}

TEST_F(OpenAt2, CreatesBeneath) {
  EXPECT_THAT(Open2("new", O_CREAT | O_RDWR, RESOLVE_BENEATH, 0600), Succeeds());
  EXPECT_TRUE(Exists(dir_.File("sub/new")));
  EXPECT_THAT(Open2("../escaped", O_CREAT | O_RDWR, RESOLVE_BENEATH, 0600), FailsWith(EXDEV));
  EXPECT_FALSE(Exists(dir_.File("escaped")));
}

TEST_F(OpenAt2, RenameRacesDoNotEscape) {
  std::atomic<bool> stop = false;
  mkdir(dir_.File("sub/a").c_str(), 0755);
  mkdir(dir_.File("sub/a/b").c_str(), 0755);
  std::thread renamer([&] {
    while (!stop) {
      rename(dir_.File("sub/a/b").c_str(), dir_.File("moved").c_str());
      rename(dir_.File("moved").c_str(), dir_.File("sub/a/b").c_str());
    }
  });
  for (int i = 0; i < 2'000; ++i) {
    const int fd = Open2("a/b/../../../file", O_RDONLY, RESOLVE_BENEATH);
    ASSERT_LT(fd, 0);
    ASSERT_TRUE(errno == EXDEV || errno == ENOENT || errno == EAGAIN) << errno;
  }
  stop = true;
  renamer.join();
}

}  // namespace
}  // namespace skep::test
