#include "jail/filter.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>
#include <csignal>
#include <functional>

#include "base/host_call.h"

namespace skep::jail {
namespace {

constexpr FilterRow kRows[] = {
    {SYS_write, "the test"},
    {SYS_fcntl, "the test", {Is(1, F_GETFL)}},
    {SYS_mmap, "the test", {Without(2, PROT_EXEC), With(3, MAP_ANONYMOUS)}},
    {SYS_ioctl, "the test", {Is(1, TCGETS)}},
    {SYS_ioctl, "the test", {Is(1, FIONREAD)}},
    {SYS_exit_group, "the test"},
};

int StatusOf(const std::function<int()>& body) {
  const pid_t child = fork();
  if (child == 0) {
    prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
    syscall(SYS_exit_group, body());
  }
  int status = -1;
  waitpid(child, &status, 0);
  return status;
}

bool IsRefused(long number, auto... args) {
  const int status = StatusOf([&] {
    if (!InstallFilter(kRows, Refusal::kErrno)) return 1;
    const Result<int64_t> done = host::Call(number, args...);
    return !done && done.error() == Errno(EPERM) ? 42 : 0;
  });
  return WIFEXITED(status) && WEXITSTATUS(status) == 42;
}

TEST(Filter, JudgesArguments) {
  EXPECT_FALSE(IsRefused(SYS_fcntl, 2, F_GETFL));
  EXPECT_TRUE(IsRefused(SYS_fcntl, 2, F_SETFL, 0));
  EXPECT_TRUE(IsRefused(SYS_fcntl, 2, F_DUPFD, 10));
  const auto map = [](int protection, int flags) {
    return IsRefused(SYS_mmap, nullptr, 4096, protection, flags, -1, 0);
  };
  EXPECT_FALSE(map(PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS));
  EXPECT_TRUE(map(PROT_READ | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS));
  EXPECT_TRUE(map(PROT_READ, MAP_PRIVATE));
  EXPECT_FALSE(IsRefused(SYS_ioctl, 0, TCGETS, nullptr));
  EXPECT_FALSE(IsRefused(SYS_ioctl, 0, FIONREAD, nullptr));
  EXPECT_TRUE(IsRefused(SYS_ioctl, 0, TIOCSTI, ""));
  // The kernel looks at the lower half only, and so does the row.
  EXPECT_FALSE(IsRefused(SYS_ioctl, 0, uint64_t{TCGETS} | uint64_t{1} << 32, nullptr));
  EXPECT_TRUE(IsRefused(SYS_getpid));
}

TEST(Filter, KillsWhoMakesAnotherCall) {
  const int status = StatusOf([] {
    if (!InstallFilter(kRows, Refusal::kKill)) return 1;
    (void)host::Call(SYS_getpid);
    return 0;
  });
  EXPECT_TRUE(WIFSIGNALED(status) && WTERMSIG(status) == SIGSYS) << status;
}

TEST(Filter, CountsUse) {
  const Result<OwnedFd> file = host::MemfdCreate("counts", 0);
  ASSERT_TRUE(file && host::Truncate(file->get(), 2 * kCountsOfPart * sizeof(uint64_t)));
  // Its counter has no process namespace to end with, and ends by the signal of its parent's end.
  const int status = StatusOf([&] {
    if (!InstallFilter(kRows, Refusal::kErrno, {file->get(), 1})) return 1;
    for (int i = 0; i < 3; ++i) (void)host::Call(SYS_ioctl, 0, FIONREAD, nullptr);
    (void)host::Call(SYS_ioctl, 0, TIOCSTI, "");
    return 0;
  });
  EXPECT_EQ(status, 0);
  std::array<uint64_t, 2 * kCountsOfPart> counts{};
  ASSERT_TRUE(host::PRead(file->get(), std::as_writable_bytes(std::span(counts)), 0));
  const std::span part = std::span(counts).subspan(kCountsOfPart, std::size(kRows));
  EXPECT_THAT(part, testing::ElementsAre(0, 0, 0, 0, 3, 1));
}

TEST(Filter, TextNamesCallAndRules) {
  EXPECT_EQ(TextOf(kRows[0]), "write");
  EXPECT_EQ(TextOf(kRows[1]), "fcntl(1: 0x3)");
  EXPECT_EQ(TextOf(kRows[2]), "mmap(2: without 0x4, 3: 0x20 in 0x20)");
}

TEST(Filter, FindsShadowedRows) {
  EXPECT_EQ(FindShadowed(kRows), -1);
  const FilterRow doubled[] = {{SYS_read, ""}, {SYS_write, ""}, {SYS_read, "", {Is(0, 3)}}};
  EXPECT_EQ(FindShadowed(doubled), 2);
  EXPECT_EQ(Joined(doubled).size(), 3U);
  const FilterRow same[] = {{SYS_read, "", {Is(0, 3)}}, {SYS_read, "again", {Is(0, 3)}}};
  EXPECT_EQ(Joined(same).size(), 1U);
}

}  // namespace
}  // namespace skep::jail
