// memfd and its seals, and the devices every program expects in /dev.
#include <fcntl.h>
#include <linux/capability.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>

#include <cstring>

#include "tests/util/matchers.h"
#include "tests/util/process.h"

namespace skep::test {
namespace {

constexpr unsigned kAllSeals = F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE;

TEST(Memfd, IsAnOrdinaryFile) {
  const Fd fd(memfd_create("name", MFD_CLOEXEC));
  ASSERT_THAT(fd, Succeeds());
  EXPECT_THAT(fcntl(fd, F_GETFD), SucceedsWith(FD_CLOEXEC));
  EXPECT_THAT(write(fd, "hello", 5), SucceedsWith(5));
  char buffer[8] = {};
  EXPECT_THAT(pread(fd, buffer, 8, 0), SucceedsWith(5));
  EXPECT_STREQ(buffer, "hello");
  struct stat st = {};
  ASSERT_THAT(fstat(fd, &st), Succeeds());
  EXPECT_TRUE(S_ISREG(st.st_mode));
  EXPECT_EQ(st.st_size, 5);
  EXPECT_EQ(st.st_nlink, 0u);
}

TEST(Memfd, NameShowsInProc) {
  const Fd fd(memfd_create("my name", 0));
  char target[64] = {};
  const std::string path = "/proc/self/fd/" + std::to_string(fd);
  EXPECT_THAT(readlink(path.c_str(), target, sizeof(target)), Succeeds());
  EXPECT_STREQ(target, "/memfd:my name (deleted)");
}

TEST(Memfd, Errors) {
  EXPECT_THAT(memfd_create("x", 0x8000), FailsWith(EINVAL));
  EXPECT_THAT(memfd_create(std::string(250, 'n').c_str(), 0), FailsWith(EINVAL));
  EXPECT_THAT(syscall(SYS_memfd_create, kBadAddress, 0), FailsWith(EFAULT));
  EXPECT_THAT(Fd(memfd_create(std::string(249, 'n').c_str(), 0)), Succeeds());
}

TEST(Memfd, WithoutAllowSealingItIsSealedAgainstSealing) {
  const Fd fd(memfd_create("x", 0));
  EXPECT_THAT(fcntl(fd, F_GET_SEALS), SucceedsWith(F_SEAL_SEAL));
  EXPECT_THAT(fcntl(fd, F_ADD_SEALS, F_SEAL_GROW), FailsWith(EPERM));
}

TEST(Memfd, SealsForbid) {
  const Fd fd(memfd_create("x", MFD_ALLOW_SEALING));
  ASSERT_THAT(ftruncate(fd, 8192), Succeeds());
  EXPECT_THAT(fcntl(fd, F_GET_SEALS), SucceedsWith(0));
  EXPECT_THAT(fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK), Succeeds());
  EXPECT_THAT(ftruncate(fd, 4096), FailsWith(EPERM));
  EXPECT_THAT(ftruncate(fd, 16384), Succeeds());
  EXPECT_THAT(fcntl(fd, F_ADD_SEALS, F_SEAL_GROW), Succeeds());
  EXPECT_THAT(ftruncate(fd, 32768), FailsWith(EPERM));
  EXPECT_THAT(pwrite(fd, "x", 1, 16384), FailsWith(EPERM));
  EXPECT_THAT(pwrite(fd, "x", 1, 0), SucceedsWith(1));
  EXPECT_THAT(fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE), Succeeds());
  EXPECT_THAT(pwrite(fd, "x", 1, 0), FailsWith(EPERM));
  EXPECT_THAT(mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0), FailsWith(EPERM));
  EXPECT_THAT(fcntl(fd, F_ADD_SEALS, F_SEAL_SEAL), Succeeds());
  EXPECT_THAT(fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE), FailsWith(EPERM));
  EXPECT_THAT(fcntl(fd, F_GET_SEALS), SucceedsWith(kAllSeals));
}

TEST(Memfd, AWritableSharedMappingPreventsSealing) {
  const Fd fd(memfd_create("x", MFD_ALLOW_SEALING));
  ASSERT_THAT(ftruncate(fd, 4096), Succeeds());
  {
    const Mapping memory(4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd);
    EXPECT_THAT(fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE), FailsWith(EBUSY));
  }
  EXPECT_THAT(fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE), Succeeds());
}

TEST(Memfd, SealsAreOnlyForFilesThatHaveThem) {
  const Pipe pipe = MakePipe();
  EXPECT_THAT(fcntl(pipe.reader, F_GET_SEALS), FailsWith(EINVAL));
  const Fd fd(memfd_create("x", MFD_ALLOW_SEALING));
  EXPECT_THAT(fcntl(fd, F_ADD_SEALS, 0x1000), FailsWith(EINVAL));
}

TEST(Memfd, SharedByMappingsOfTwoProcesses) {
  const Fd fd(memfd_create("x", 0));
  ASSERT_THAT(ftruncate(fd, 4096), Succeeds());
  const Mapping memory(4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd);
  EXPECT_THAT(ForkAndRun([&] {
                const Mapping own(4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd);
                strcpy(own.data(), "child");
              }),
              ExitsWith(0));
  EXPECT_STREQ(memory.data(), "child");
}

TEST(Memfd, CanBeExecuted) {
  const Fd fd(memfd_create("program", MFD_CLOEXEC));
  const std::string image = ReadFile(TestBinary());
  ASSERT_THAT(write(fd, image.data(), image.size()), SucceedsWith(image.size()));
  EXPECT_THAT(ForkAndRun([&] {
                const char* const argv[] = {TestBinary().c_str(), "--helper=exit_3", nullptr};
                const char* const env[] = {nullptr};
                syscall(SYS_execveat, int{fd}, "", argv, env, AT_EMPTY_PATH);
              }),
              ExitsWith(3));
}
const Helper kExit3("exit_3", [](int, char**) { return 3; });

TEST(DevNull, SwallowsAndIsEmpty) {
  const Fd fd(open("/dev/null", O_RDWR));
  ASSERT_THAT(fd, Succeeds());
  char byte;
  EXPECT_THAT(write(fd, "gone", 4), SucceedsWith(4));
  EXPECT_THAT(read(fd, &byte, 1), SucceedsWith(0));
  EXPECT_THAT(lseek(fd, 77, SEEK_SET), SucceedsWith(0));
  EXPECT_THAT(ftruncate(fd, 0), FailsWith(EINVAL));
  EXPECT_THAT(write(fd, kBadAddress, 4), SucceedsWith(4)) << "it does not look";
  EXPECT_THAT(Fd(open("/dev/null", O_WRONLY | O_CREAT | O_TRUNC, 0666)), Succeeds());
}

TEST(DevZero, GivesZeroesAndMaps) {
  const Fd fd(open("/dev/zero", O_RDWR));
  ASSERT_THAT(fd, Succeeds());
  char buffer[100];
  memset(buffer, 1, sizeof(buffer));
  EXPECT_THAT(read(fd, buffer, sizeof(buffer)), SucceedsWith(100));
  for (const char byte : buffer) EXPECT_EQ(byte, 0);
  EXPECT_THAT(write(fd, "x", 1), SucceedsWith(1));
  const Mapping memory(8192, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd);
  EXPECT_EQ(memory.data()[5000], 0);
  memory.data()[5000] = 1;
}

TEST(DevZero, SharedMappingsAreAnonymousSharedMemory) {
  const Fd fd(open("/dev/zero", O_RDWR));
  const Mapping memory(4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd);
  EXPECT_THAT(ForkAndRun([&] { memory.data()[0] = 'c'; }), ExitsWith(0));
  EXPECT_EQ(memory.data()[0], 'c');
}

TEST(DevFull, IsFull) {
  const Fd fd(open("/dev/full", O_RDWR));
  ASSERT_THAT(fd, Succeeds());
  EXPECT_THAT(write(fd, "x", 1), FailsWith(ENOSPC));
  char byte = 1;
  EXPECT_THAT(read(fd, &byte, 1), SucceedsWith(1));
  EXPECT_EQ(byte, 0);
}

TEST(DevRandom, GivesDifferentBytes) {
  for (const char* path : {"/dev/urandom", "/dev/random"}) {
    const Fd fd(open(path, O_RDONLY));
    ASSERT_THAT(fd, Succeeds());
    uint64_t first = 0;
    uint64_t second = 0;
    EXPECT_THAT(read(fd, &first, 8), SucceedsWith(8));
    EXPECT_THAT(read(fd, &second, 8), SucceedsWith(8));
    EXPECT_NE(first, second);
    pollfd entry = {fd, POLLIN, 0};
    EXPECT_THAT(poll(&entry, 1, 0), SucceedsWith(1));
  }
}

TEST(Dev, NumbersAndKinds) {
  const std::pair<const char*, dev_t> devices[] = {
      {"/dev/null", makedev(1, 3)},   {"/dev/zero", makedev(1, 5)},    {"/dev/full", makedev(1, 7)},
      {"/dev/random", makedev(1, 8)}, {"/dev/urandom", makedev(1, 9)}, {"/dev/tty", makedev(5, 0)},
      {"/dev/ptmx", makedev(5, 2)}};
  for (const auto& [path, number] : devices) {
    struct stat st = {};
    ASSERT_THAT(stat(path, &st), Succeeds()) << path;
    EXPECT_TRUE(S_ISCHR(st.st_mode)) << path;
    EXPECT_EQ(st.st_rdev, number) << path;
    EXPECT_EQ(st.st_mode & 0666, 0666u) << path;
  }
}

TEST(Dev, FdLinksToProc) {
  char target[64] = {};
  ASSERT_THAT(readlink("/dev/fd", target, sizeof(target)), Succeeds());
  EXPECT_STREQ(target, "/proc/self/fd");
  const Pipe pipe = MakePipe();
  write(pipe.writer, "via", 3);
  const Fd again(open(("/dev/fd/" + std::to_string(pipe.reader)).c_str(), O_RDONLY));
  char buffer[4] = {};
  EXPECT_THAT(read(again, buffer, 4), SucceedsWith(3));
  memset(target, 0, sizeof(target));
  EXPECT_THAT(readlink("/dev/stdin", target, sizeof(target)), Succeeds());
  EXPECT_STREQ(target, "/proc/self/fd/0");
}

TEST(Dev, TtyWithoutATerminalIsEnxio) {
  EXPECT_THAT(ForkAndRun([] {
                setsid();
                EXPECT_THAT(open("/dev/tty", O_RDWR), FailsWith(ENXIO));
              }),
              ExitsWith(0));
}

TEST(Dev, ShmTakesFiles) {
  const std::string path = "/dev/shm/skep_test_" + std::to_string(getpid());
  const Fd fd(open(path.c_str(), O_RDWR | O_CREAT | O_EXCL, 0600));
  ASSERT_THAT(fd, Succeeds());
  EXPECT_THAT(ftruncate(fd, 8192), Succeeds());
  const Mapping memory(8192, PROT_READ | PROT_WRITE, MAP_SHARED, fd);
  memory.data()[4096] = 'm';
  char byte = 0;
  EXPECT_THAT(pread(fd, &byte, 1, 4096), SucceedsWith(1));
  EXPECT_EQ(byte, 'm');
  EXPECT_THAT(unlink(path.c_str()), Succeeds());
}

}  // namespace
}  // namespace skep::test
