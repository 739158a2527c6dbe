#include "base/host_call.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>
#include <csignal>

namespace skep::host {
namespace {

enum class Whence : uint8_t { kSet = SEEK_SET, kCurrent = SEEK_CUR };

TEST(HostCall, TakesWhatRegistersTake) {
  const Result<OwnedFd> root = CallFd(SYS_openat, AT_FDCWD, "/", O_RDONLY | O_CLOEXEC);
  ASSERT_TRUE(root);
  struct stat at{};
  EXPECT_TRUE(Call(SYS_fstat, root->get(), &at));
  EXPECT_TRUE(S_ISDIR(at.st_mode));
  const Result<OwnedFd> file = MemfdCreate("test", 0);
  ASSERT_TRUE(file && Truncate(file->get(), 4096));
  EXPECT_EQ(Call(SYS_lseek, file->get(), uint64_t{1} << 32, Whence::kSet), int64_t{1} << 32);
  // A negative int is a negative offset.
  EXPECT_EQ(Call(SYS_lseek, file->get(), -1, Whence::kCurrent), (int64_t{1} << 32) - 1);
  const auto mapped = Call(SYS_mmap, nullptr, 4096U, PROT_READ, MAP_SHARED, file->get(), 0);
  ASSERT_TRUE(mapped);
  EXPECT_TRUE(Call(SYS_munmap, *mapped, size_t{4096}));
}

TEST(HostCall, FailsWithTheErrno) {
  EXPECT_EQ(Call(SYS_close, -1).error(), Errno(EBADF));
  EXPECT_EQ(CallFd(SYS_openat, AT_FDCWD, "/no such file", O_RDONLY).error(), Errno(ENOENT));
  EXPECT_EQ(EpollCtl(-1, EPOLL_CTL_DEL, 0, nullptr).error(), Errno(EBADF));
  EXPECT_EQ(Kill(getpid(), 10'000).error(), Errno(EINVAL));
  EXPECT_TRUE(Kill(getpid(), 0));
}

TEST(HostCall, AffinityIsThatOfTheThread) {
  cpu_set_t before;
  CPU_ZERO(&before);
  ASSERT_TRUE(Call(SYS_sched_getaffinity, 0, sizeof before, &before));
  EXPECT_TRUE(SetAffinity(0, before));
  cpu_set_t none;
  CPU_ZERO(&none);
  EXPECT_EQ(SetAffinity(0, none).error(), Errno(EINVAL));
}

}  // namespace
}  // namespace skep::host
