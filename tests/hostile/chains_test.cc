// Guests that chain objects which hold one another, as long as they like: what goes with the last
// reference must not need a stack as deep as the chain.
#include <fcntl.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/timerfd.h>
#include <sys/un.h>

#include <cstring>

#include "tests/hostile/hostile.h"

namespace skep::test {
namespace {

constexpr int kLength = 2'000;
constexpr int kLongMs = 60'000;

// Sends descriptors with one byte.
bool SendFds(int socket, std::initializer_list<int> fds) {
  char byte = 'x';
  iovec data = {&byte, 1};
  alignas(cmsghdr) char control[CMSG_SPACE(8 * sizeof(int))] = {};
  msghdr message = {};
  message.msg_iov = &data;
  message.msg_iovlen = 1;
  message.msg_control = control;
  message.msg_controllen = CMSG_SPACE(fds.size() * sizeof(int));
  cmsghdr* header = CMSG_FIRSTHDR(&message);
  header->cmsg_level = SOL_SOCKET;
  header->cmsg_type = SCM_RIGHTS;
  header->cmsg_len = CMSG_LEN(fds.size() * sizeof(int));
  memcpy(CMSG_DATA(header), fds.begin(), fds.size() * sizeof(int));
  return sendmsg(socket, &message, 0) == 1;
}

void AllowDescriptors(rlim_t count) {
  const rlimit limit = {count, count};
  if (setrlimit(RLIMIT_NOFILE, &limit) != 0) _exit(90);
}

struct Pair {
  int reader = -1, writer = -1;
  explicit Pair(int type) {
    int fds[2];
    if (socketpair(AF_UNIX, type, 0, fds) != 0) _exit(91);
    reader = fds[0];
    writer = fds[1];
  }
};

// Each socket lies in the queue of the next, with `cargo` beside it; then the last one is closed.
int ChainOfSockets(int type, const std::function<int()>& cargo) {
  return Attack(
      [&] {
        AllowDescriptors(4'096);
        const Pair probe(type);
        int last = probe.reader;
        for (int i = 0; i < kLength; ++i) {
          const Pair next(type);
          const int extra = cargo ? cargo() : -1;
          const bool sent =
              extra < 0 ? SendFds(next.writer, {last}) : SendFds(next.writer, {last, extra});
          if (!sent) _exit(3);
          close(last);
          close(next.writer);
          if (extra >= 0) close(extra);
          last = next.reader;
        }
        close(last);
        // The first of the chain has gone: its peer hears of it.
        if (type == SOCK_DGRAM) _exit(write(probe.writer, "x", 1) == -1 ? 0 : 4);
        char byte;
        _exit(read(probe.writer, &byte, 1) == 0 ? 0 : 4);
      },
      kLongMs);
}

TEST(Chains, StreamSocketsInOneAnothersQueues) {
  EXPECT_THAT(ChainOfSockets(SOCK_STREAM, {}), ExitsWith(0));
  ExpectAlive();
}

TEST(Chains, DatagramSocketsInOneAnothersQueues) {
  EXPECT_THAT(ChainOfSockets(SOCK_DGRAM, {}), ExitsWith(0));
  EXPECT_THAT(ChainOfSockets(SOCK_SEQPACKET, {}), ExitsWith(0));
  ExpectAlive();
}

// Every other kind of file, beside the socket.
TEST(Chains, SocketsWithFilesOfEveryKind) {
  const TempDir dir;
  const std::string path = dir.File("f");
  WriteFile(path, "x");
  const std::function<int()> kinds[] = {
      [] {
        int fds[2];
        if (pipe(fds) != 0) return -1;
        if (write(fds[1], "x", 1) != 1) return -1;
        close(fds[1]);
        return fds[0];
      },
      [] {
        const int epoll = epoll_create1(0);
        const int event = eventfd(0, 0);
        epoll_event wanted = {};
        wanted.events = EPOLLIN;
        const int done = epoll_ctl(epoll, EPOLL_CTL_ADD, event, &wanted);
        close(event);
        return done == 0 ? epoll : -1;
      },
      [] { return memfd_create("chain", 0); },
      [] { return timerfd_create(CLOCK_MONOTONIC, 0); },
      [&] {
        const int fd = open(path.c_str(), O_RDONLY);
        struct flock lock = {F_RDLCK, SEEK_SET, 0, 1, 0};
        return fcntl(fd, F_OFD_SETLK, &lock) == 0 ? fd : -1;
      },
      [] { return open("/proc/self/maps", O_RDONLY); },
      [] { return open("/dev/ptmx", O_RDWR | O_NOCTTY); },
      [] { return open("/", O_PATH); },
  };
  int index = 0;
  for (const auto& kind : kinds) {
    EXPECT_THAT(ChainOfSockets(SOCK_STREAM, kind), ExitsWith(0)) << "kind " << index;
    ++index;
  }
  ExpectAlive();
}

// Each listener lies in the queue of a connection that the next has not accepted.
TEST(Chains, ListenersInPendingConnections) {
  const int status = Attack(
      [] {
        AllowDescriptors(4'096);
        const Pair probe(SOCK_STREAM);
        int last = probe.reader;
        for (int i = 0; i < kLength; ++i) {
          const int listener = socket(AF_UNIX, SOCK_STREAM, 0);
          const int client = socket(AF_UNIX, SOCK_STREAM, 0);
          sockaddr_un name = {};
          name.sun_family = AF_UNIX;
          socklen_t size = sizeof(sa_family_t);  // autobind
          if (bind(listener, reinterpret_cast<sockaddr*>(&name), size) != 0) _exit(3);
          size = sizeof(name);
          if (getsockname(listener, reinterpret_cast<sockaddr*>(&name), &size) != 0) _exit(4);
          if (listen(listener, 1) != 0) _exit(5);
          if (connect(client, reinterpret_cast<sockaddr*>(&name), size) != 0) _exit(6);
          if (!SendFds(client, {last})) _exit(7);
          close(last);
          close(client);
          last = listener;
        }
        close(last);
        char byte;
        _exit(read(probe.writer, &byte, 1) == 0 ? 0 : 8);
      },
      kLongMs);
  EXPECT_THAT(status, ExitsWith(0));
  ExpectAlive();
}

// The chain is held by a process and goes when that dies.
TEST(Chains, TheirHolderIsKilled) {
  const int status = Attack(
      [] {
        AllowDescriptors(4'096);
        int last = Pair(SOCK_STREAM).reader;
        for (int i = 0; i < kLength; ++i) {
          const Pair next(SOCK_STREAM);
          if (!SendFds(next.writer, {last})) _exit(3);
          close(last);
          close(next.writer);
          last = next.reader;
        }
        raise(SIGKILL);
      },
      kLongMs);
  EXPECT_THAT(status, KilledBy(SIGKILL));
  ExpectAlive();
}

// Nested directories whose names nobody has used lately: the deepest holds all the others.
TEST(Chains, DirectoriesThatOnlyTheDeepestHolds) {
  constexpr int kNames = 33'000;  // more than a file system keeps of those that nobody uses
  for (const char* base : {"/", "/dev/shm"}) {
    const int status = Attack(
        [&] {
          if (chdir(base) != 0) _exit(0);
          if (mkdir("skep-chain", 0755) != 0 || chdir("skep-chain") != 0) _exit(3);
          for (int i = 0; i < kLength; ++i) {
            if (mkdir("d", 0755) != 0 || chdir("d") != 0) _exit(4);
          }
          const auto look_at_others = [&] {
            struct stat info;
            for (int i = 0; i < kNames; ++i) {
              const std::string name = std::string(base) + "/skep-none-" + std::to_string(i);
              if (stat(name.c_str(), &info) == 0) _exit(5);
            }
          };
          look_at_others();  // the upper ones are held by the deepest alone
          if (chdir("/") != 0) _exit(6);
          look_at_others();  // and now that one goes
          if (chdir(base) != 0 || chdir("skep-chain") != 0) _exit(7);
          for (int i = 0; i < kLength; ++i) {
            if (chdir("d") != 0) _exit(8);
          }
          for (int i = 0; i < kLength; ++i) {
            if (chdir("..") != 0 || rmdir("d") != 0) _exit(9);
          }
          if (chdir("..") != 0 || rmdir("skep-chain") != 0) _exit(10);
        },
        kLongMs);
    EXPECT_THAT(status, ExitsWith(0)) << base;
  }
  ExpectAlive();
}

// A user without privileges makes sockets that only lie in one another's queues. Were they not
// collected, his descriptors in flight would soon be more than he may have.
TEST(Chains, CyclesOfSocketsDoNotStay) {
  const int status = Attack(
      [] {
        AllowDescriptors(4'096);
        if (setresuid(54'321, 54'321, 54'321) != 0) _exit(3);
        for (int i = 0; i < 20'000; ++i) {
          const Pair a(SOCK_STREAM);
          if (i % 10 == 0) {  // one of two sockets
            const Pair b(SOCK_DGRAM);
            if (!SendFds(a.writer, {b.reader}) || !SendFds(b.writer, {a.reader})) _exit(4);
            close(b.reader);
            close(b.writer);
          } else if (!SendFds(a.writer, {a.reader})) {
            _exit(4);
          }
          close(a.reader);
          close(a.writer);
        }
      },
      kLongMs);
  EXPECT_THAT(status, ExitsWith(0));
  ExpectAlive();
}

// One user's descriptors in flight are not another's.
TEST(Chains, InFlightIsCountedForEachUser) {
  const int status = Attack(
      [] {
        AllowDescriptors(64);
        const Pair mine(SOCK_STREAM);
        ChildProcess greedy([&] {
          if (setresuid(54'321, 54'321, 54'321) != 0) _exit(3);
          prctl(PR_SET_PDEATHSIG, SIGKILL);
          const Pair pair(SOCK_STREAM);
          int sent = 0;
          while (sent < 1'000 && SendFds(pair.writer, {pair.writer})) ++sent;
          // As many as he may have open, and the one that goes over it.
          if (sent != 65 || errno != ETOOMANYREFS) _exit(4);
          if (write(mine.writer, "x", 1) != 1) _exit(5);
          pause();
        });
        char byte;
        if (read(mine.reader, &byte, 1) != 1) _exit(6);
        if (setresuid(54'322, 54'322, 54'322) != 0) _exit(7);
        for (int i = 0; i < 65; ++i) {
          if (!SendFds(mine.writer, {mine.writer})) _exit(8);
        }
        if (SendFds(mine.writer, {mine.writer}) || errno != ETOOMANYREFS) _exit(9);
        _exit(0);
      },
      kLongMs);
  EXPECT_THAT(status, ExitsWith(0));
  ExpectAlive();
}

}  // namespace
}  // namespace skep::test
