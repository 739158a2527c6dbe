// The lines of --strace.
#include "sentry/syscalls/strace.h"

#include <fcntl.h>
#include <linux/futex.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>

#include "sentry/syscalls/strace_args.h"
#include "sentry/syscalls/test_kernel.h"

namespace skep::syscalls {
namespace {

using Guest = TestKernel::Guest;

// A kernel whose trace goes to a file in memory.
class StraceTest : public ::testing::Test {
 protected:
  StraceTest() {
    const arena::ArenaHeapScope arena;
    fd_ = arena::HostTable::Get().Add(host::MemfdCreate("strace", 0).value());
    kernel.kernel().strace = std::make_unique<Strace>(fd_);
  }
  ~StraceTest() override {
    const arena::ArenaHeapScope arena;
    kernel.OnFiber([&] { kernel.kernel().strace.reset(); });
    const OwnedFd file = arena::HostTable::Get().Remove(fd_);
  }
  // What was written since the last call, without threads and times.
  std::string Lines() {
    std::string text(64 << 10, '\0');
    const size_t got = host::PRead(arena::HostTable::Get().Get(fd_),
                                   std::as_writable_bytes(std::span(text)), seen_)
                           .value();
    seen_ += got;
    std::string lines;
    for (size_t at = 0; at < got;) {
      const size_t end = text.find('\n', at);
      lines += text.substr(at + kPrefix, end - at - kPrefix + 1);
      at = end + 1;
    }
    return lines;
  }
  // The line of one call.
  std::string Trace(uint64_t number, std::array<uint64_t, 6> args = {}) {
    (void)Lines();
    (void)init.Run(number, args);
    return Lines();
  }

  static constexpr size_t kPrefix = sizeof("[    1]   0.000000 ") - 1;
  static constexpr uint64_t kAtCwd = static_cast<uint64_t>(AT_FDCWD);
  TestKernel kernel;
  Guest init = kernel.init();
  arena::HostFd fd_;
  uint64_t seen_ = 0;
};

TEST_F(StraceTest, NamesFlagsAndConstants) {
  EXPECT_EQ(Trace(SYS_mprotect, {0x1000, 4096, PROT_READ | PROT_EXEC}),
            "mprotect(0x1000, 0x1000, PROT_READ|PROT_EXEC) = -1 ENOMEM\n");
  EXPECT_EQ(Trace(SYS_mprotect, {0x1001, 4096, PROT_NONE}),
            "mprotect(0x1001, 0x1000, PROT_NONE) = -1 EINVAL\n");
  EXPECT_EQ(Trace(SYS_madvise, {0, 0, MADV_DONTNEED}), "madvise(0, 0, MADV_DONTNEED) = 0\n");
  EXPECT_EQ(Trace(SYS_socket, {AF_INET6, SOCK_STREAM | SOCK_CLOEXEC, 0}),
            "socket(AF_INET6, SOCK_STREAM|SOCK_CLOEXEC, 0) = -1 EAFNOSUPPORT\n");
  EXPECT_EQ(Trace(SYS_kill, {12345, SIGTERM}), "kill(12345, SIGTERM) = -1 ESRCH\n");
  EXPECT_EQ(Trace(SYS_kill, {12345, 40}), "kill(12345, SIGRT_8) = -1 ESRCH\n");
  EXPECT_EQ(Trace(SYS_ioctl, {9, TIOCGWINSZ, 0}), "ioctl(9, TIOCGWINSZ, 0) = -1 EBADF\n");
  EXPECT_EQ(Trace(SYS_ioctl, {9, 0x1234, 0}), "ioctl(9, 0x1234, 0) = -1 EBADF\n");
  EXPECT_EQ(Trace(SYS_fcntl, {9, F_GETFD, 0}), "fcntl(9, F_GETFD, 0) = -1 EBADF\n");
  EXPECT_EQ(Trace(SYS_lseek, {9, ~uint64_t{0}, SEEK_END}), "lseek(9, -1, SEEK_END) = -1 EBADF\n");
  EXPECT_EQ(Trace(SYS_futex, {4, FUTEX_WAKE | FUTEX_PRIVATE_FLAG, 1}),
            "futex(0x4, FUTEX_WAKE|FUTEX_PRIVATE_FLAG, 1, 0, 0, 0) = 0\n");
  EXPECT_EQ(Trace(SYS_clone, {CLONE_SIGHAND | uint64_t{SIGCHLD}}),
            "clone(CLONE_SIGHAND|SIGCHLD, 0, 0, 0, 0) = -1 EINVAL\n");
}

TEST_F(StraceTest, StringsAndBuffers) {
  const uint64_t path = init.Text("/no \"such\"\n");
  EXPECT_EQ(Trace(SYS_openat, {kAtCwd, path, O_RDWR | O_CLOEXEC, 0}),
            "openat(AT_FDCWD, \"/no \\\"such\\\"\\n\", O_RDWR|O_CLOEXEC, 0) = -1 ENOENT\n");
  EXPECT_EQ(Trace(SYS_openat, {kAtCwd, 0, 0, 0}),
            "openat(AT_FDCWD, NULL, O_RDONLY, 0) = -1 EFAULT\n");
  EXPECT_EQ(Trace(SYS_openat, {kAtCwd, 0x10, 0, 0}),
            "openat(AT_FDCWD, 0x10, O_RDONLY, 0) = -1 EFAULT\n");
  const uint64_t fds = init.Allocate(8);
  EXPECT_EQ(Trace(SYS_pipe2, {fds, O_NONBLOCK}), "pipe2([0, 1], O_NONBLOCK) = 0\n");
  const uint64_t text = init.Text("0123456789abcdefghijklmnopqrstuvwxyz");
  EXPECT_EQ(Trace(SYS_write, {1, text, 5}), "write(1, \"01234\", 0x5) = 5\n");
  EXPECT_EQ(Trace(SYS_write, {1, text, 36}),
            "write(1, \"0123456789abcdefghijklmnopqrstuv\"..., 0x24) = 36\n");
  const uint64_t room = init.Allocate(64);
  EXPECT_EQ(Trace(SYS_read, {0, room, 7}), "read(0, \"0123401\", 0x7) = 7\n");
  const std::string empty = Trace(SYS_read, {5, room, 7});
  EXPECT_EQ(empty.find("read(5, 0x"), 0U) << empty << "nothing was read: the address";
  const std::string long_name(300, 'n');
  EXPECT_EQ(Trace(SYS_chdir, {init.Text(long_name)}),
            "chdir(\"" + long_name.substr(0, kStraceText) + "\"...) = -1 ENAMETOOLONG\n");
}

TEST_F(StraceTest, SocketAddressesAndTimes) {
  ASSERT_EQ(init.Run(SYS_socket, {AF_UNIX, SOCK_STREAM, 0}), 0);
  const uint64_t at = init.Allocate(128);
  sockaddr_un address = {AF_UNIX, "/none"};
  init.Put(at, address);
  EXPECT_EQ(Trace(SYS_connect, {0, at, sizeof address}),
            "connect(0, {sa_family=AF_UNIX, sun_path=\"/none\"}, 110) = -1 ENOENT\n");
  address = {AF_UNIX, "\0abs"};
  init.Put(at, address);
  EXPECT_EQ(Trace(SYS_connect, {0, at, 6}),
            "connect(0, {sa_family=AF_UNIX, sun_path=@\"abs\"}, 6) = -1 ECONNREFUSED\n");
  init.Put(at, timespec{1, -1});
  EXPECT_EQ(Trace(SYS_nanosleep, {at, 0}), "nanosleep({tv_sec=1, tv_nsec=-1}, 0) = -1 EINVAL\n");
}

TEST_F(StraceTest, UnknownCallsSignalsAndEnds) {
  EXPECT_EQ(Trace(400), "syscall_400() = -1 ENOSYS\n");
  Guest child = init.Fork();
  const auto pid = static_cast<uint64_t>(child.tid());
  (void)child.Run(SYS_setpgid, {0, 0});
  (void)Lines();
  (void)init.Run(SYS_kill, {pid, SIGSTOP});
  (void)init.Run(SYS_wait4, {pid, 0, WUNTRACED, 0});
  (void)init.Run(SYS_kill, {pid, SIGCONT});
  (void)init.Run(SYS_kill, {pid, SIGTERM});
  child.WaitForEnd();
  const std::string lines = Lines();
  EXPECT_NE(lines.find("kill(2, SIGSTOP) = 0\n"), std::string::npos) << lines;
  EXPECT_NE(lines.find("--- SIGSTOP {si_code=0} ---\n"), std::string::npos) << lines;
  EXPECT_NE(lines.find("+++ killed by SIGTERM +++\n"), std::string::npos) << lines;
}

TEST_F(StraceTest, AnExecIsToldAtItsStartWithItsWords) {
  const uint64_t argv = init.Allocate(32);
  init.Put(argv, std::array<uint64_t, 3>{init.Text("a"), init.Text("b c"), 0});
  EXPECT_EQ(Trace(SYS_execve, {init.Text("/none"), argv, 0}),
            "execve(\"/none\", [\"a\", \"b c\"], 0)\n<... execve resumed>) = -1 ENOENT\n");
}

}  // namespace
}  // namespace skep::syscalls
