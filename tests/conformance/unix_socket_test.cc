// Unix stream sockets and socket pairs, passed descriptors and credentials.
#include <fcntl.h>
#include <net/if.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>

#include <cstring>
#include <optional>
#include <thread>

#include "tests/util/matchers.h"
#include "tests/util/process.h"

namespace skep::test {
namespace {

Fd Socket(int type = SOCK_STREAM) { return Fd(socket(AF_UNIX, type, 0)); }

struct Address {
  sockaddr_un un = {AF_UNIX, {}};
  socklen_t size = sizeof(sa_family_t);

  explicit Address(const std::string& path) {
    memcpy(un.sun_path, path.data(), path.size());
    size = static_cast<socklen_t>(sizeof(sa_family_t) + path.size() + (path[0] == '\0' ? 0 : 1));
  }
  const sockaddr* get() const { return reinterpret_cast<const sockaddr*>(&un); }
};

Address Abstract(const std::string& name) {
  return Address(std::string(1, '\0') + "skep." + std::to_string(getpid()) + name);
}

long SendFds(int socket, const std::vector<int>& fds, const std::string& data = "x") {
  char control[CMSG_SPACE(sizeof(int) * 16)] = {};
  iovec vector = {const_cast<char*>(data.data()), data.size()};
  msghdr message = {};
  message.msg_iov = &vector;
  message.msg_iovlen = 1;
  message.msg_control = control;
  message.msg_controllen = CMSG_SPACE(sizeof(int) * fds.size());
  cmsghdr* header = CMSG_FIRSTHDR(&message);
  header->cmsg_level = SOL_SOCKET;
  header->cmsg_type = SCM_RIGHTS;
  header->cmsg_len = CMSG_LEN(sizeof(int) * fds.size());
  memcpy(CMSG_DATA(header), fds.data(), sizeof(int) * fds.size());
  return sendmsg(socket, &message, MSG_NOSIGNAL);
}

struct Received {
  long result = 0;
  int flags = 0;
  std::string data;
  std::vector<int> fds;
};

Received ReceiveFds(int socket, size_t room = 16, int flags = 0) {
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int) * 16)] = {};
  char data[64];
  iovec vector = {data, sizeof(data)};
  msghdr message = {};
  message.msg_iov = &vector;
  message.msg_iovlen = 1;
  message.msg_control = control;
  message.msg_controllen = room == 0 ? 0 : CMSG_LEN(sizeof(int) * room);
  Received received;
  received.result = recvmsg(socket, &message, flags);
  received.flags = message.msg_flags;
  if (received.result > 0) received.data.assign(data, static_cast<size_t>(received.result));
  for (cmsghdr* header = CMSG_FIRSTHDR(&message); header != nullptr;
       header = CMSG_NXTHDR(&message, header)) {
    const size_t count = (header->cmsg_len - CMSG_LEN(0)) / sizeof(int);
    const auto* fds = reinterpret_cast<const int*>(CMSG_DATA(header));
    received.fds.insert(received.fds.end(), fds, fds + count);
  }
  return received;
}

TEST(Socket, Errors) {
  EXPECT_THAT(socket(AF_UNIX, 99, 0), FailsWith(EINVAL));
  EXPECT_THAT(socket(AF_UNIX, SOCK_STREAM, 77), FailsWith(EPROTONOSUPPORT));
  EXPECT_THAT(socket(99, SOCK_STREAM, 0), FailsWith(EAFNOSUPPORT));
  EXPECT_THAT(syscall(SYS_socketpair, AF_UNIX, SOCK_STREAM, 0, kBadAddress), FailsWith(EFAULT));
  const Fd fd(open("/dev/null", O_RDWR));
  EXPECT_THAT(listen(fd, 1), FailsWith(ENOTSOCK));
  EXPECT_THAT(listen(1'000'000, 1), FailsWith(EBADF));
}

TEST(Socketpair, IsADuplexStream) {
  const Pipe pair = MakeSocketPair(SOCK_STREAM | SOCK_CLOEXEC);
  EXPECT_THAT(fcntl(pair.reader, F_GETFD), SucceedsWith(FD_CLOEXEC));
  EXPECT_THAT(write(pair.writer, "abc", 3), SucceedsWith(3));
  EXPECT_THAT(write(pair.writer, "def", 3), SucceedsWith(3));
  char buffer[16] = {};
  EXPECT_THAT(read(pair.reader, buffer, 4), SucceedsWith(4));
  EXPECT_STREQ(buffer, "abcd") << "no message boundaries";
  EXPECT_THAT(write(pair.reader, "back", 4), SucceedsWith(4));
  EXPECT_THAT(read(pair.writer, buffer, 16), SucceedsWith(4));
}

TEST(Socketpair, SeqpacketAndDatagramKeepBoundaries) {
  for (const int type : {SOCK_SEQPACKET, SOCK_DGRAM}) {
    const Pipe pair = MakeSocketPair(type);
    write(pair.writer, "one", 3);
    write(pair.writer, "three", 5);
    char buffer[16] = {};
    EXPECT_THAT(read(pair.reader, buffer, 2), SucceedsWith(2)) << "the rest is cut off";
    EXPECT_THAT(read(pair.reader, buffer, 16), SucceedsWith(5));
    EXPECT_STREQ(buffer, "three");
  }
}

TEST(Stream, EndOfFileEpipeAndSigpipe) {
  Pipe pair = MakeSocketPair(SOCK_STREAM);
  write(pair.writer, "z", 1);
  pair.writer.Reset();
  char buffer[4];
  EXPECT_THAT(read(pair.reader, buffer, 4), SucceedsWith(1));
  EXPECT_THAT(read(pair.reader, buffer, 4), SucceedsWith(0));
  EXPECT_THAT(send(pair.reader, "x", 1, MSG_NOSIGNAL), FailsWith(EPIPE));
  EXPECT_THAT(ForkAndRun([&] { write(pair.reader, "x", 1); }), KilledBy(SIGPIPE));
}

TEST(Stream, UnreadDataAtCloseIsAReset) {
  Pipe pair = MakeSocketPair(SOCK_STREAM);
  write(pair.writer, "unread", 6);
  pair.reader.Reset();
  char byte;
  EXPECT_THAT(read(pair.writer, &byte, 1), FailsWith(ECONNRESET));
  EXPECT_THAT(read(pair.writer, &byte, 1), SucceedsWith(0));
}

TEST(Stream, ShutdownEachWay) {
  const Pipe pair = MakeSocketPair(SOCK_STREAM);
  write(pair.writer, "x", 1);
  EXPECT_THAT(shutdown(pair.writer, SHUT_WR), Succeeds());
  char buffer[4];
  EXPECT_THAT(read(pair.reader, buffer, 4), SucceedsWith(1));
  EXPECT_THAT(read(pair.reader, buffer, 4), SucceedsWith(0));
  EXPECT_THAT(send(pair.writer, "x", 1, MSG_NOSIGNAL), FailsWith(EPIPE));
  EXPECT_THAT(write(pair.reader, "y", 1), SucceedsWith(1)) << "the other way is open";
  EXPECT_THAT(shutdown(pair.writer, SHUT_RD), Succeeds());
  EXPECT_THAT(send(pair.reader, "z", 1, MSG_NOSIGNAL), FailsWith(EPIPE));
  EXPECT_THAT(shutdown(pair.writer, 9), FailsWith(EINVAL));
}

TEST(Stream, NonblockingAndDontwait) {
  const Pipe pair = MakeSocketPair(SOCK_STREAM);
  char byte;
  EXPECT_THAT(recv(pair.reader, &byte, 1, MSG_DONTWAIT), FailsWith(EAGAIN));
  const std::string block(4096, 'x');
  while (send(pair.writer, block.data(), block.size(), MSG_DONTWAIT) > 0) {
  }
  EXPECT_EQ(errno, EAGAIN);
  pollfd entry = {pair.writer, POLLOUT, 0};
  EXPECT_THAT(poll(&entry, 1, 0), SucceedsWith(0));
}

TEST(Stream, PeekAndWaitall) {
  const Pipe pair = MakeSocketPair(SOCK_STREAM);
  write(pair.writer, "abcd", 4);
  char buffer[8] = {};
  EXPECT_THAT(recv(pair.reader, buffer, 2, MSG_PEEK), SucceedsWith(2));
  EXPECT_THAT(recv(pair.reader, buffer, 8, MSG_PEEK), SucceedsWith(4));
  int bytes = 0;
  EXPECT_THAT(ioctl(pair.reader, FIONREAD, &bytes), Succeeds());
  EXPECT_EQ(bytes, 4);
  std::thread writer([&, tid = GetTid()] {
    WaitUntilBlocked(getpid(), tid);
    write(pair.writer, "efgh", 4);
  });
  EXPECT_THAT(recv(pair.reader, buffer, 8, MSG_WAITALL), SucceedsWith(8));
  EXPECT_EQ(std::string(buffer, 8), "abcdefgh");
  writer.join();
}

TEST(Stream, ReceiveTimeout) {
  const Pipe pair = MakeSocketPair(SOCK_STREAM);
  const timeval timeout = {0, 10'000};
  ASSERT_THAT(setsockopt(pair.reader, SOL_SOCKET, SO_RCVTIMEO, &timeout, sizeof(timeout)),
              Succeeds());
  const int64_t start = NowNs();
  char byte;
  EXPECT_THAT(read(pair.reader, &byte, 1), FailsWith(EAGAIN));
  EXPECT_GE(NowNs() - start, 10'000'000);
}

TEST(Named, BindListenConnectAccept) {
  const TempDir dir;
  const Address address(dir.File("s"));
  const Fd server = Socket();
  ASSERT_THAT(bind(server, address.get(), address.size), Succeeds());
  struct stat st;
  ASSERT_THAT(stat(dir.File("s").c_str(), &st), Succeeds());
  EXPECT_TRUE(S_ISSOCK(st.st_mode));
  ASSERT_THAT(listen(server, 5), Succeeds());
  const Fd client = Socket();
  ASSERT_THAT(connect(client, address.get(), address.size), Succeeds());
  write(client, "before accept", 13);
  const Fd accepted(accept4(server, nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC));
  ASSERT_THAT(accepted, Succeeds());
  EXPECT_NE(fcntl(accepted, F_GETFL) & O_NONBLOCK, 0);
  char buffer[32] = {};
  EXPECT_THAT(read(accepted, buffer, sizeof(buffer)), SucceedsWith(13));
}

TEST(Named, GetsocknameAndGetpeername) {
  const TempDir dir;
  const Address address(dir.File("s"));
  const Fd server = Socket();
  ASSERT_THAT(bind(server, address.get(), address.size), Succeeds());
  listen(server, 1);
  const Fd client = Socket();
  ASSERT_THAT(connect(client, address.get(), address.size), Succeeds());
  sockaddr_un name = {};
  socklen_t size = sizeof(name);
  EXPECT_THAT(getpeername(client, reinterpret_cast<sockaddr*>(&name), &size), Succeeds());
  EXPECT_EQ(name.sun_path, dir.File("s"));
  size = sizeof(name);
  EXPECT_THAT(getsockname(client, reinterpret_cast<sockaddr*>(&name), &size), Succeeds());
  EXPECT_EQ(size, sizeof(sa_family_t)) << "unnamed";
  EXPECT_THAT(getpeername(server, reinterpret_cast<sockaddr*>(&name), &size), FailsWith(ENOTCONN));
}

TEST(Named, Errors) {
  const TempDir dir;
  const Address address(dir.File("s"));
  const Fd server = Socket();
  ASSERT_THAT(bind(server, address.get(), address.size), Succeeds());
  EXPECT_THAT(bind(Socket(), address.get(), address.size), FailsWith(EADDRINUSE));
  const Address second = Abstract("second");
  EXPECT_THAT(bind(server, second.get(), second.size), FailsWith(EINVAL));
  EXPECT_THAT(connect(Socket(), address.get(), address.size), FailsWith(ECONNREFUSED));
  const Address none(dir.File("none"));
  EXPECT_THAT(connect(Socket(), none.get(), none.size), FailsWith(ENOENT));
  WriteFile(dir.File("plain"), "");
  const Address plain(dir.File("plain"));
  EXPECT_THAT(connect(Socket(), plain.get(), plain.size), FailsWith(ECONNREFUSED));
  EXPECT_THAT(listen(Socket(), 1), FailsWith(EINVAL)) << "not bound";
  EXPECT_THAT(accept(Socket(), nullptr, nullptr), FailsWith(EINVAL));
  EXPECT_THAT(connect(Socket(), address.get(), 1), FailsWith(EINVAL));
}

TEST(Named, ADatagramSocketRefusesAStream) {
  const TempDir dir;
  const Address address(dir.File("s"));
  const Fd server = Socket();
  ASSERT_THAT(bind(server, address.get(), address.size), Succeeds());
  listen(server, 1);
  EXPECT_THAT(connect(Socket(SOCK_DGRAM), address.get(), address.size), FailsWith(EPROTOTYPE));
}

TEST(Abstract, NamesLiveWithTheirSocket) {
  const Address address = Abstract("abc");
  {
    const Fd server = Socket();
    ASSERT_THAT(bind(server, address.get(), address.size), Succeeds());
    EXPECT_THAT(bind(Socket(), address.get(), address.size), FailsWith(EADDRINUSE));
    listen(server, 1);
    EXPECT_THAT(connect(Socket(), address.get(), address.size), Succeeds());
    EXPECT_THAT(connect(Socket(), address.get(), address.size - 1), FailsWith(ECONNREFUSED));
  }
  EXPECT_THAT(connect(Socket(), address.get(), address.size), FailsWith(ECONNREFUSED));
}

TEST(Abstract, AutobindGivesAName) {
  const Fd server = Socket();
  const sa_family_t family = AF_UNIX;
  ASSERT_THAT(bind(server, reinterpret_cast<const sockaddr*>(&family), sizeof(family)), Succeeds());
  sockaddr_un name = {};
  socklen_t size = sizeof(name);
  EXPECT_THAT(getsockname(server, reinterpret_cast<sockaddr*>(&name), &size), Succeeds());
  EXPECT_EQ(size, sizeof(family) + 6);
  EXPECT_EQ(name.sun_path[0], '\0');
}

TEST(Accept, BlocksUntilAConnection) {
  const Address address = Abstract("block");
  const Fd server = Socket();
  ASSERT_THAT(bind(server, address.get(), address.size), Succeeds());
  listen(server, 1);
  ChildProcess child([&] {
    const Fd accepted(accept(server, nullptr, nullptr));
    EXPECT_THAT(accepted, Succeeds());
    EXPECT_THAT(write(accepted, "hi", 2), SucceedsWith(2));
  });
  WaitUntilBlocked(child.pid());
  const Fd client = Socket();
  ASSERT_THAT(connect(client, address.get(), address.size), Succeeds());
  char buffer[4];
  EXPECT_THAT(read(client, buffer, 4), SucceedsWith(2));
  EXPECT_THAT(child.Wait(), ExitsWith(0));
}

TEST(Accept, BacklogAndNonblocking) {
  const Address address = Abstract("backlog");
  const Fd server = Socket(SOCK_STREAM | SOCK_NONBLOCK);
  ASSERT_THAT(bind(server, address.get(), address.size), Succeeds());
  listen(server, 1);
  EXPECT_THAT(accept(server, nullptr, nullptr), FailsWith(EAGAIN));
  std::vector<Fd> clients;
  int connected = 0;
  for (int i = 0; i < 5; ++i) {
    clients.push_back(Socket(SOCK_STREAM | SOCK_NONBLOCK));
    if (connect(clients.back(), address.get(), address.size) == 0) ++connected;
  }
  EXPECT_EQ(errno, EAGAIN);
  EXPECT_EQ(connected, 2);
  pollfd entry = {server, POLLIN, 0};
  EXPECT_THAT(poll(&entry, 1, 0), SucceedsWith(1));
}

TEST(Rights, PassesDescriptors) {
  const Pipe pair = MakeSocketPair(SOCK_STREAM);
  Pipe passed = MakePipe();
  ASSERT_THAT(SendFds(pair.writer, {passed.writer, passed.reader}, "two"), SucceedsWith(3));
  passed.writer.Reset();
  passed.reader.Reset();
  const Received received = ReceiveFds(pair.reader);
  EXPECT_EQ(received.data, "two");
  ASSERT_EQ(received.fds.size(), 2u);
  const Fd writer(received.fds[0]);
  const Fd reader(received.fds[1]);
  write(writer, "through", 7);
  char buffer[16] = {};
  EXPECT_THAT(read(reader, buffer, 16), SucceedsWith(7));
}

TEST(Rights, ShareTheDescriptionAcrossProcesses) {
  const Pipe pair = MakeSocketPair(SOCK_STREAM);
  const TempDir dir;
  WriteFile(dir.File("f"), "0123456789");
  EXPECT_THAT(ForkAndRun([&] {
                const Fd fd(open(dir.File("f").c_str(), O_RDONLY));
                lseek(fd, 7, SEEK_SET);
                EXPECT_THAT(SendFds(pair.writer, {fd}), SucceedsWith(1));
              }),
              ExitsWith(0));
  const Received received = ReceiveFds(pair.reader, 16, MSG_CMSG_CLOEXEC);
  ASSERT_EQ(received.fds.size(), 1u);
  const Fd fd(received.fds[0]);
  EXPECT_THAT(lseek(fd, 0, SEEK_CUR), SucceedsWith(7));
  EXPECT_THAT(fcntl(fd, F_GETFD), SucceedsWith(FD_CLOEXEC));
}

TEST(Rights, TooLittleRoomTruncatesAndClosesTheRest) {
  const Pipe pair = MakeSocketPair(SOCK_STREAM);
  const int lowest = LowestFreeFd();
  ASSERT_THAT(SendFds(pair.writer, {0, 1, 2}), SucceedsWith(1));
  const Received received = ReceiveFds(pair.reader, 1);
  EXPECT_NE(received.flags & MSG_CTRUNC, 0);
  EXPECT_EQ(received.fds.size(), 1u);
  for (const int fd : received.fds) close(fd);
  EXPECT_EQ(LowestFreeFd(), lowest);
  ASSERT_THAT(SendFds(pair.writer, {0}), SucceedsWith(1));
  EXPECT_NE(ReceiveFds(pair.reader, 0).flags & MSG_CTRUNC, 0);
}

TEST(Rights, AReadEndsAfterTheDataTheyCameWith) {
  const Pipe pair = MakeSocketPair(SOCK_STREAM);
  write(pair.writer, "plain", 5);
  SendFds(pair.writer, {0}, "with");
  write(pair.writer, "after", 5);
  const Received first = ReceiveFds(pair.reader);
  EXPECT_EQ(first.data, "plainwith");
  EXPECT_EQ(first.fds.size(), 1u);
  for (const int fd : first.fds) close(fd);
  EXPECT_EQ(ReceiveFds(pair.reader).data, "after");
}

TEST(Rights, BadDescriptorsAndLevels) {
  const Pipe pair = MakeSocketPair(SOCK_STREAM);
  EXPECT_THAT(SendFds(pair.writer, {1'000'000}), FailsWith(EBADF));
  pollfd entry = {pair.reader, POLLIN, 0};
  EXPECT_THAT(poll(&entry, 1, 0), SucceedsWith(0)) << "nothing was sent";
}

TEST(Rights, ASocketInItsOwnQueueIsCollected) {
  for (int i = 0; i < 50; ++i) {
    const Pipe pair = MakeSocketPair(SOCK_STREAM);
    ASSERT_THAT(SendFds(pair.writer, {pair.reader, pair.writer}), SucceedsWith(1));
  }
}

TEST(Credentials, PeercredIsOfTheConnector) {
  const Pipe pair = MakeSocketPair(SOCK_STREAM);
  ucred credentials = {};
  socklen_t size = sizeof(credentials);
  ASSERT_THAT(getsockopt(pair.reader, SOL_SOCKET, SO_PEERCRED, &credentials, &size), Succeeds());
  EXPECT_EQ(credentials.pid, getpid());
  EXPECT_EQ(credentials.uid, geteuid());
  const Address address = Abstract("cred");
  const Fd server = Socket();
  ASSERT_THAT(bind(server, address.get(), address.size), Succeeds());
  listen(server, 1);
  const Fd client = Socket();
  connect(client, address.get(), address.size);
  ASSERT_THAT(getsockopt(client, SOL_SOCKET, SO_PEERCRED, &credentials, &size), Succeeds());
  EXPECT_EQ(credentials.pid, getpid());
}

TEST(Credentials, PasscredAttachesThem) {
  const Pipe pair = MakeSocketPair(SOCK_STREAM);
  const int on = 1;
  ASSERT_THAT(setsockopt(pair.reader, SOL_SOCKET, SO_PASSCRED, &on, sizeof(on)), Succeeds());
  write(pair.writer, "x", 1);
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(ucred))] = {};
  char byte;
  iovec vector = {&byte, 1};
  msghdr message = {};
  message.msg_iov = &vector;
  message.msg_iovlen = 1;
  message.msg_control = control;
  message.msg_controllen = sizeof(control);
  ASSERT_THAT(recvmsg(pair.reader, &message, 0), SucceedsWith(1));
  const cmsghdr* header = CMSG_FIRSTHDR(&message);
  ASSERT_NE(header, nullptr);
  EXPECT_EQ(header->cmsg_type, SCM_CREDENTIALS);
  EXPECT_EQ(reinterpret_cast<const ucred*>(CMSG_DATA(header))->pid, getpid());
}

struct WithCredentials {
  long size = 0;
  int flags = 0;
  std::optional<ucred> sender;
};
WithCredentials ReceiveCredentials(int socket, size_t room = 100) {
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(ucred))] = {};
  char data[100];
  iovec vector = {data, room};
  msghdr message = {};
  message.msg_iov = &vector;
  message.msg_iovlen = 1;
  message.msg_control = control;
  message.msg_controllen = sizeof(control);
  WithCredentials received;
  received.size = recvmsg(socket, &message, MSG_DONTWAIT);
  received.flags = message.msg_flags;
  const cmsghdr* header = CMSG_FIRSTHDR(&message);
  if (header != nullptr && header->cmsg_type == SCM_CREDENTIALS) {
    received.sender.emplace();
    memcpy(&*received.sender, CMSG_DATA(header), sizeof(ucred));
  }
  return received;
}
void SetPasscred(int socket, int on) {
  ASSERT_THAT(setsockopt(socket, SOL_SOCKET, SO_PASSCRED, &on, sizeof(on)), Succeeds());
}

TEST(Credentials, GoAlongIfEitherEndAskedWhenItWasSent) {
  for (const int type : {SOCK_STREAM, SOCK_DGRAM, SOCK_SEQPACKET}) {
    const Pipe pair = MakeSocketPair(type);
    write(pair.writer, "nobody", 6);
    SetPasscred(pair.writer, 1);
    write(pair.writer, "sender", 6);
    SetPasscred(pair.writer, 0);
    SetPasscred(pair.reader, 1);
    write(pair.writer, "reader", 6);
    const WithCredentials unknown = ReceiveCredentials(pair.reader);
    ASSERT_TRUE(unknown.sender);
    EXPECT_EQ(unknown.size, 6) << "a stream is not read across a change";
    EXPECT_EQ(unknown.sender->pid, 0);
    EXPECT_EQ(unknown.sender->uid, 65534u);
    EXPECT_EQ(unknown.sender->gid, 65534u);
    const WithCredentials known = ReceiveCredentials(pair.reader);
    ASSERT_TRUE(known.sender);
    EXPECT_EQ(known.size, type == SOCK_STREAM ? 12 : 6);
    EXPECT_EQ(known.sender->pid, getpid());
    EXPECT_EQ(known.sender->uid, getuid());
  }
}

TEST(Credentials, OfNobodyAtTheEndOfAStream) {
  for (const int type : {SOCK_STREAM, SOCK_SEQPACKET}) {
    Pipe pair = MakeSocketPair(type);
    SetPasscred(pair.reader, 1);
    pair.writer = Fd();
    const WithCredentials end = ReceiveCredentials(pair.reader);
    EXPECT_EQ(end.size, 0);
    ASSERT_EQ(end.sender.has_value(), type == SOCK_STREAM);
    EXPECT_EQ(end.sender.value_or(ucred{}).pid, 0);
  }
}

TEST(Credentials, AnAcceptedSocketAsksAsItsListener) {
  const Address address = Abstract("passcred");
  const Fd server = Socket();
  ASSERT_THAT(bind(server, address.get(), address.size), Succeeds());
  SetPasscred(server, 1);
  listen(server, 1);
  const Fd client = Socket();
  ASSERT_THAT(connect(client, address.get(), address.size), Succeeds());
  const Fd accepted(accept(server, nullptr, nullptr));
  int on = 0;
  socklen_t size = sizeof(on);
  ASSERT_THAT(getsockopt(accepted, SOL_SOCKET, SO_PASSCRED, &on, &size), Succeeds());
  EXPECT_EQ(on, 1);
  write(client, "x", 1);
  const WithCredentials received = ReceiveCredentials(accepted);
  ASSERT_TRUE(received.sender);
  EXPECT_EQ(received.sender->pid, getpid());
}

TEST(Credentials, OfAProcessThatDoesNotExist) {
  REQUIRE_ROOT();
  const Pipe pair = MakeSocketPair(SOCK_STREAM);
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(ucred))] = {};
  char byte = 'x';
  iovec vector = {&byte, 1};
  msghdr message = {};
  message.msg_iov = &vector;
  message.msg_iovlen = 1;
  message.msg_control = control;
  message.msg_controllen = sizeof(control);
  cmsghdr* header = CMSG_FIRSTHDR(&message);
  header->cmsg_level = SOL_SOCKET;
  header->cmsg_type = SCM_CREDENTIALS;
  header->cmsg_len = CMSG_LEN(sizeof(ucred));
  const ucred claimed = {4'000'000, 0, 0};
  memcpy(CMSG_DATA(header), &claimed, sizeof(claimed));
  EXPECT_THAT(sendmsg(pair.writer, &message, 0), FailsWith(ESRCH));
}

TEST(Rights, WithoutABufferTheyAreDropped) {
  const Pipe pair = MakeSocketPair(SOCK_STREAM);
  const int lowest = LowestFreeFd();
  ASSERT_THAT(SendFds(pair.writer, {0}), SucceedsWith(1));
  char byte;
  iovec vector = {&byte, 1};
  msghdr message = {};
  message.msg_iov = &vector;
  message.msg_iovlen = 1;
  message.msg_controllen = 64;
  EXPECT_THAT(recvmsg(pair.reader, &message, 0), SucceedsWith(1));
  EXPECT_NE(message.msg_flags & MSG_CTRUNC, 0);
  EXPECT_EQ(LowestFreeFd(), lowest);
}

TEST(Named, ItsFileHasTheModeOfTheSocket) {
  const TempDir dir;
  const ScopedUmask mask(0123);
  const Address address(dir.File("s"));
  const Fd fd = Socket();
  ASSERT_THAT(fchmod(fd, 0765), Succeeds());
  ASSERT_THAT(bind(fd, address.get(), address.size), Succeeds());
  struct stat info = {};
  ASSERT_THAT(stat(dir.File("s").c_str(), &info), Succeeds());
  EXPECT_EQ(info.st_mode, mode_t{S_IFSOCK | 0644});
}

TEST(Ioctl, EverySocketTellsOfInterfaces) {
  const Fd fd = Socket();
  ifreq request = {};
  strcpy(request.ifr_name, "none");
  EXPECT_THAT(ioctl(fd, SIOCGIFINDEX, &request), FailsWith(ENODEV));
  strcpy(request.ifr_name, "lo");
  EXPECT_THAT(ioctl(fd, SIOCGIFINDEX, &request), Succeeds());
  EXPECT_EQ(request.ifr_ifindex, 1);
  request = {};
  request.ifr_ifindex = 1;
  EXPECT_THAT(ioctl(fd, SIOCGIFNAME, &request), Succeeds());
  EXPECT_STREQ(request.ifr_name, "lo");
  ifconf list = {};
  EXPECT_THAT(ioctl(fd, SIOCGIFCONF, &list), Succeeds());
  EXPECT_GE(list.ifc_len, static_cast<int>(sizeof(ifreq)));
}

TEST(Options, TypeDomainErrorAndBuffers) {
  const Fd fd = Socket();
  int value = -1;
  socklen_t size = sizeof(value);
  EXPECT_THAT(getsockopt(fd, SOL_SOCKET, SO_TYPE, &value, &size), Succeeds());
  EXPECT_EQ(value, SOCK_STREAM);
  EXPECT_THAT(getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &value, &size), Succeeds());
  EXPECT_EQ(value, AF_UNIX);
  EXPECT_THAT(getsockopt(fd, SOL_SOCKET, SO_ERROR, &value, &size), Succeeds());
  EXPECT_EQ(value, 0);
  EXPECT_THAT(getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &value, &size), Succeeds());
  EXPECT_EQ(value, 0);
  value = 20'000;
  EXPECT_THAT(setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &value, sizeof(value)), Succeeds());
  EXPECT_THAT(getsockopt(fd, SOL_SOCKET, SO_SNDBUF, &value, &size), Succeeds());
  EXPECT_EQ(value, 40'000);
  EXPECT_THAT(getsockopt(fd, SOL_SOCKET, 9999, &value, &size), FailsWith(ENOPROTOOPT));
  EXPECT_THAT(syscall(SYS_getsockopt, int{fd}, SOL_SOCKET, SO_TYPE, kBadAddress, &size),
              FailsWith(EFAULT));
}

}  // namespace
}  // namespace skep::test
