// A second thread rewrites what a system call reads: it must judge one copy.
#include <fcntl.h>
#include <linux/openat2.h>
#include <linux/sched.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <sys/un.h>

#include <atomic>
#include <cstring>
#include <thread>

#include "tests/hostile/hostile.h"

namespace skep::test {
namespace {

constexpr int kRounds = 3'000;
constexpr int64_t kPatienceNs = 10'000'000'000;

// Runs flip(turn) in a second thread for as long as it lives.
class Flipper {
 public:
  explicit Flipper(std::function<void(uint32_t)> flip)
      : thread_([this, flip = std::move(flip)] {
          for (uint32_t turn = 0; !stop_; ++turn) flip(turn);
        }) {}
  ~Flipper() {
    stop_ = true;
    thread_.join();
  }

 private:
  std::atomic<bool> stop_ = false;
  std::thread thread_;
};

template <class T>
void Store(T& where, T value) {
  std::atomic_ref<T>(where).store(value);
}

// What reads twice sees two values: the attack works.
TEST(DoubleFetchCanary, TheFlipperChangesWhatIsReadTwice) {
  uint64_t word = 0;
  const Flipper flipper([&](uint32_t turn) { Store(word, uint64_t{turn}); });
  const int64_t deadline = NowNs() + kPatienceNs;
  bool differed = false;
  while (!differed && NowNs() < deadline) {
    const uint64_t first = std::atomic_ref<uint64_t>(word).load();
    getppid();  // as long as a handler between its two reads
    differed = std::atomic_ref<uint64_t>(word).load() != first;
  }
  EXPECT_TRUE(differed);
}

TEST(DoubleFetch, IovecLengthAndBase) {
  char buffer[4096] = {};
  iovec vector = {buffer, 16};
  const Pipe pipe = MakePipe(O_NONBLOCK);
  const Flipper flipper([&](uint32_t turn) {
    Store(vector.iov_len, turn % 2 == 0 ? size_t{16} : ~size_t{0} >> (turn % 64));
    Store(vector.iov_base, turn % 3 == 0 ? static_cast<void*>(buffer) : kBadAddress);
  });
  for (int i = 0; i < kRounds; ++i) {
    const ssize_t written = writev(pipe.writer, &vector, 1);
    ASSERT_TRUE(written >= 0 || errno == EFAULT || errno == EINVAL || errno == EAGAIN) << errno;
    char drain[8192];
    while (read(pipe.reader, drain, sizeof(drain)) > 0) {
    }
  }
  ExpectAlive();
}

TEST(DoubleFetch, PathGrowsAndShrinks) {
  const TempDir dir;
  WriteFile(dir.File("a"), "a");
  const Mapping page(2 * kPageSize);
  munmap(page.page(1), kPageSize);
  const std::string good = dir.File("a");
  char* path = page.page(1) - good.size() - 1;  // its terminator is the last mapped byte
  memcpy(path, good.c_str(), good.size() + 1);
  const Flipper flipper([&](uint32_t turn) {
    Store(path[good.size()], turn % 2 == 0 ? '\0' : 'x');
    Store(path[good.size() - 2], turn % 3 == 0 ? '/' : '\0');
  });
  for (int i = 0; i < kRounds; ++i) {
    const Fd fd(open(path, O_RDONLY));
    ASSERT_TRUE(fd >= 0 || errno == EFAULT || errno == ENOENT || errno == ENOTDIR) << errno;
    struct stat st;
    if (stat(path, &st) != 0) {
      ASSERT_TRUE(errno == EFAULT || errno == ENOENT || errno == ENOTDIR) << errno;
    }
  }
  ExpectAlive();
}

TEST(DoubleFetch, SockaddrFamilyAndLength) {
  sockaddr_un address = {AF_UNIX, {}};
  strcpy(address.sun_path + 1, "skep.flip");
  std::atomic<socklen_t> length = sizeof(address);
  const Flipper flipper([&](uint32_t turn) {
    Store(address.sun_family, static_cast<sa_family_t>(turn % 5));
    Store(address.sun_path[0], turn % 2 == 0 ? '\0' : '/');
    length = turn % 300;
  });
  for (int i = 0; i < kRounds; ++i) {
    const Fd fd(socket(AF_UNIX, SOCK_STREAM, 0));
    if (::bind(fd, reinterpret_cast<sockaddr*>(&address), length) == 0) {
      sockaddr_un name;
      socklen_t size = sizeof(name);
      ASSERT_THAT(getsockname(fd, reinterpret_cast<sockaddr*>(&name), &size), Succeeds());
      ASSERT_LE(size, sizeof(name) + 1);
    }
    if (address.sun_path[0] == '/') unlink(address.sun_path);
  }
  ExpectAlive();
}

TEST(DoubleFetch, ControlMessageLength) {
  const Pipe pair = MakeSocketPair(SOCK_STREAM | SOCK_NONBLOCK);
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int) * 4)] = {};
  iovec vector = {control, 1};
  msghdr message = {};
  message.msg_iov = &vector;
  message.msg_iovlen = 1;
  message.msg_control = control;
  message.msg_controllen = sizeof(control);
  auto* header = reinterpret_cast<cmsghdr*>(control);
  header->cmsg_level = SOL_SOCKET;
  header->cmsg_type = SCM_RIGHTS;
  header->cmsg_len = CMSG_LEN(4);
  std::fill_n(reinterpret_cast<int*>(CMSG_DATA(header)), 4, STDOUT_FILENO);
  const Flipper flipper([&](uint32_t turn) {
    Store(header->cmsg_len, turn % 3 == 0 ? CMSG_LEN(4) : size_t{turn} << (turn % 40));
    Store(header->cmsg_type, static_cast<int>(turn % 4));
    Store(message.msg_iovlen, turn % 7 == 0 ? size_t{1} << 60 : size_t{1});
    Store(message.msg_controllen, turn % 5 == 0 ? ~size_t{0} : sizeof(control));
  });
  int taken = 0;
  int refused = 0;
  const int64_t deadline = NowNs() + kPatienceNs;  // on a busy machine the flipper may stand still
  for (int i = 0; i < kRounds || ((taken == 0 || refused == 0) && NowNs() < deadline); ++i) {
    const ssize_t sent = sendmsg(pair.writer, &message, MSG_DONTWAIT | MSG_NOSIGNAL);
    const int error = errno;
    ASSERT_TRUE(sent == 1 || error == EINVAL || error == EMSGSIZE || error == ENOBUFS ||
                error == EAGAIN || error == EBADF || error == EPERM || error == ESRCH)
        << sent << " errno " << error;
    ++(sent == 1 ? taken : refused);
    char data[64];
    alignas(cmsghdr) char got[256];
    iovec in = {data, sizeof(data)};
    msghdr receive = {};
    receive.msg_iov = &in;
    receive.msg_iovlen = 1;
    receive.msg_control = got;
    receive.msg_controllen = sizeof(got);
    const ssize_t read = recvmsg(pair.reader, &receive, MSG_DONTWAIT);
    if (sent != 1) {
      ASSERT_THAT(read, FailsWith(EAGAIN)) << "a message that was refused was delivered";
      continue;
    }
    ASSERT_EQ(read, 1);
    for (cmsghdr* h = CMSG_FIRSTHDR(&receive); h != nullptr; h = CMSG_NXTHDR(&receive, h)) {
      ASSERT_EQ(h->cmsg_level, SOL_SOCKET);
      ASSERT_EQ(h->cmsg_type, SCM_RIGHTS);
      ASSERT_LE(h->cmsg_len, CMSG_LEN(sizeof(int) * 4))
          << "more descriptors than there was room for";
      for (size_t k = 0; k < (h->cmsg_len - CMSG_LEN(0)) / sizeof(int); ++k) {
        const int fd = reinterpret_cast<int*>(CMSG_DATA(h))[k];
        ASSERT_THAT(close(fd), Succeeds()) << "a descriptor that is none";
      }
    }
  }
  EXPECT_GT(taken, 0);
  EXPECT_GT(refused, 0);
  ExpectAlive();
}

TEST(DoubleFetch, PollEntries) {
  const Pipe pipe = MakePipe();
  pollfd entries[4] = {};
  const Flipper flipper([&](uint32_t turn) {
    Store(entries[turn % 4].fd,
          turn % 2 == 0 ? static_cast<int>(pipe.writer) : static_cast<int>(turn));
    Store(entries[turn % 4].events, static_cast<short>(turn));
    Store(entries[turn % 4].revents, static_cast<short>(0x7777));
  });
  for (int i = 0; i < kRounds; ++i) {
    const int ready = poll(entries, 4, 0);
    ASSERT_GE(ready, 0);
    ASSERT_LE(ready, 4);
  }
  ExpectAlive();
}

TEST(DoubleFetch, SizedStructures) {
  const TempDir dir;
  WriteFile(dir.File("f"), "");
  struct {
    open_how how;
    uint64_t extra[16];
  } request = {{O_RDONLY, 0, 0}, {}};
  std::atomic<size_t> size = sizeof(open_how);
  const Flipper flipper([&](uint32_t turn) {
    size = turn % 160;
    Store(request.extra[turn % 16], uint64_t{turn % 3});
    Store(request.how.flags, turn % 4 == 0 ? ~__u64{0} : __u64{O_RDONLY});
    Store(request.how.resolve, __u64{turn % 128});
  });
  for (int i = 0; i < kRounds; ++i) {
    const Fd fd(static_cast<int>(
        syscall(SYS_openat2, AT_FDCWD, dir.File("f").c_str(), &request, size.load())));
    ASSERT_TRUE(fd >= 0 || errno == EINVAL || errno == E2BIG || errno == EXDEV || errno == ENOENT ||
                errno == ELOOP || errno == EAGAIN || errno == ENOTDIR || errno == EEXIST ||
                errno == EISDIR || errno == EACCES)
        << errno;
  }
  ExpectAlive();
}

TEST(DoubleFetch, Clone3Arguments) {
  clone_args args = {};
  args.exit_signal = SIGCHLD;
  const Flipper flipper([&](uint32_t turn) {
    Store(args.flags, turn % 2 == 0 ? __u64{0} : __u64{CLONE_FILES} << (turn % 20));
    Store(args.exit_signal, __u64{turn % 3 == 0 ? 99U : 17U});
    Store(args.stack, turn % 2 == 0 ? __u64{0} : __u64{0x1000});
    Store(args.set_tid_size, turn % 5 == 0 ? ~__u64{0} : __u64{0});
  });
  int made = 0;
  int refused = 0;
  const int64_t deadline = NowNs() + kPatienceNs;
  for (int i = 0; i < 600 || ((made == 0 || refused == 0) && NowNs() < deadline); ++i) {
    const long pid = syscall(SYS_clone3, &args, sizeof(args));
    const int error = errno;
    if (pid == 0) _exit(0);
    ASSERT_TRUE(pid > 0 || error == EINVAL || error == EPERM || error == E2BIG) << error;
    ++(pid > 0 ? made : refused);
    // With CLONE_PARENT it is our parent's child.
    if (pid > 0 && waitpid(static_cast<pid_t>(pid), nullptr, __WALL) != pid) {
      ASSERT_EQ(errno, ECHILD);
    }
  }
  EXPECT_GT(made, 0);
  EXPECT_GT(refused, 0);
  EXPECT_THAT(waitpid(-1, nullptr, WNOHANG | __WALL), FailsWith(ECHILD)) << "a child was lost";
  ExpectAlive();
}

TEST(DoubleFetch, UnmappingTheBufferDuringACall) {
  const Pipe pipe = MakePipe(O_NONBLOCK);
  const Mapping reserve(16 * kPageSize);
  char* middle = reserve.page(8);
  const Flipper flipper([&](uint32_t turn) {
    if (turn % 2 == 0) {
      munmap(middle, 4 * kPageSize);
    } else {
      mmap(middle, 4 * kPageSize, PROT_READ | (turn % 4 == 1 ? PROT_WRITE : 0),
           MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
    }
  });
  for (int i = 0; i < kRounds; ++i) {
    write(pipe.writer, middle - 100, 2 * kPageSize);
    const ssize_t n = read(pipe.reader, middle - 100, 3 * kPageSize);
    ASSERT_TRUE(n >= 0 || errno == EFAULT || errno == EAGAIN) << errno;
    if (n < 0 && errno == EFAULT) {
      char drain[8192];
      while (read(pipe.reader, drain, sizeof(drain)) > 0) {
      }
    }
  }
  ExpectAlive();
}

TEST(DoubleFetch, ClosingTheDescriptorDuringACall) {
  std::atomic<int> shared = -1;
  const Flipper flipper([&](uint32_t turn) {
    const int fd =
        shared.exchange(turn % 2 == 0 ? open("/dev/zero", O_RDWR) : eventfd(0, EFD_NONBLOCK));
    if (fd >= 0) close(fd);
  });
  for (int i = 0; i < kRounds; ++i) {
    char buffer[512];
    const ssize_t n = read(shared, buffer, sizeof(buffer));
    ASSERT_TRUE(n >= 0 || errno == EBADF || errno == EAGAIN || errno == EINVAL) << errno;
    const Fd copy(dup(shared));
  }
  ExpectAlive();
}

}  // namespace
}  // namespace skep::test
