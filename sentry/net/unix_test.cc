#include <sys/epoll.h>
#include <sys/un.h>
#include <csignal>
#include <cstring>

#include "sentry/net/control.h"
#include "sentry/net/unix_test_util.h"

namespace skep::net {
namespace {

using vfs::CodeOf;
using vfs::OnFiber;
using vfs::OnFibersOf;
using vfs::TestCaller;
using vfs::TryRead;
using vfs::TryWrite;

const auto* const kEnvironment =
    ::testing::AddGlobalTestEnvironment(new arena::ArenaTestEnvironment);

TEST_F(UnixTest, CreationErrors) {
  EXPECT_EQ(CodeOf(MakeUnixSocket(*space, caller, SOCK_STREAM, 5, 0)), EPROTONOSUPPORT);
  EXPECT_EQ(CodeOf(MakeUnixSocket(*space, caller, SOCK_RDM, 0, 0)), ESOCKTNOSUPPORT);
  EXPECT_EQ(New(SOCK_RAW)->type(), SOCK_DGRAM);
}

TEST_F(UnixTest, StreamPairCarriesBytesAndEnds) {
  OnFiber([this] {
    SocketPair pair = Pair(SOCK_STREAM);
    EXPECT_EQ(CodeOf(TryRead(caller, *pair.first, 1)), EAGAIN);
    EXPECT_EQ(TryWrite(caller, *pair.second, "abc").value(), 3U);
    EXPECT_EQ(TryWrite(caller, *pair.second, "def").value(), 3U);
    std::string text(4, '\0');
    EXPECT_EQ(Receive(*pair.first, text, MSG_PEEK)->size, 4U);
    EXPECT_EQ(text, "abcd");
    EXPECT_EQ(TryRead(caller, *pair.first, 5).value(), "abcde");
    EXPECT_EQ(CodeOf(pair.second->Shutdown(SHUT_WR)), 0);
    EXPECT_EQ(pair.first->Poll(~0U),
              EPOLLIN | EPOLLRDNORM | EPOLLRDHUP | EPOLLOUT | EPOLLWRNORM | EPOLLWRBAND);
    EXPECT_EQ(TryRead(caller, *pair.first, 5).value(), "f");
    EXPECT_EQ(TryRead(caller, *pair.first, 5).value(), "");
    EXPECT_EQ(CodeOf(TryWrite(caller, *pair.second, "x")), EPIPE);
    EXPECT_EQ(caller.signals, std::vector<int>{SIGPIPE});
    EXPECT_EQ(CodeOf(Send(*pair.second, "x", MSG_NOSIGNAL)), EPIPE);
    EXPECT_EQ(caller.signals.size(), 1U);
  });
}

TEST_F(UnixTest, CloseWithUnreadDataResets) {
  OnFiber([this] {
    SocketPair pair = Pair(SOCK_STREAM, 0);
    EXPECT_TRUE(TryWrite(caller, *pair.first, "hi"));
    pair.second = {};
    EXPECT_EQ(pair.first->Poll(~0U) & (EPOLLERR | EPOLLHUP), EPOLLERR | EPOLLHUP);
    EXPECT_EQ(CodeOf(TryRead(caller, *pair.first, 9)), ECONNRESET);
    EXPECT_EQ(TryRead(caller, *pair.first, 9).value(), "");
    EXPECT_EQ(CodeOf(TryWrite(caller, *pair.first, "x")), EPIPE);
  });
}

TEST_F(UnixTest, BuffersFillAsOnLinux) {
  OnFiber([this] {
    SocketPair bytes = Pair(SOCK_STREAM);
    int count = 0;
    while (TryWrite(caller, *bytes.first, "x")) ++count;
    EXPECT_EQ(count, 278);
    EXPECT_EQ(bytes.first->Poll(~0U), 0U);
    SocketPair packets = Pair(SOCK_DGRAM);
    for (count = 0; TryWrite(caller, *packets.first, "x");) ++count;
    EXPECT_EQ(count, 278);
    SocketPair large = Pair(SOCK_DGRAM);
    EXPECT_EQ(CodeOf(TryWrite(caller, *large.first, std::string(212992, 'x'))), EMSGSIZE);
    EXPECT_EQ(TryWrite(caller, *large.first, std::string(212992 - 32, 'x')).value(), 212960U);
    EXPECT_EQ(CodeOf(TryWrite(caller, *large.first, "")), EAGAIN);
  });
}

TEST_F(UnixTest, StreamConnections) {
  OnFiber([this] {
    Ref<Socket> server = New(SOCK_STREAM), client = New(SOCK_STREAM), late = New(SOCK_STREAM);
    EXPECT_EQ(server->Poll(~0U), EPOLLHUP | EPOLLOUT | EPOLLWRNORM | EPOLLWRBAND);
    EXPECT_EQ(CodeOf(TryRead(caller, *server, 1)), EINVAL);
    EXPECT_EQ(CodeOf(TryWrite(caller, *server, "x")), ENOTCONN);
    EXPECT_EQ(CodeOf(server->Listen(caller, 1)), EINVAL);  // no name yet
    EXPECT_EQ(CodeOf(server->Accept(caller, 0)), EINVAL);
    EXPECT_EQ(CodeOf(Send(*server, "x", 0, Abstract("s"))), EOPNOTSUPP);
    EXPECT_EQ(CodeOf(client->Connect(caller, Abstract("s"))), ECONNREFUSED);
    EXPECT_EQ(CodeOf(server->Bind(caller, Abstract("s"))), 0);
    EXPECT_EQ(CodeOf(server->Bind(caller, Abstract("t"))), EINVAL);
    EXPECT_EQ(CodeOf(New(SOCK_STREAM)->Bind(caller, Abstract("s"))), EADDRINUSE);
    EXPECT_EQ(CodeOf(New(SOCK_DGRAM)->Bind(caller, Abstract("s"))), 0);
    EXPECT_EQ(CodeOf(client->Connect(caller, Abstract("s"))), ECONNREFUSED);  // not listening
    EXPECT_EQ(CodeOf(server->Listen(caller, 0)), 0);
    EXPECT_EQ(server->Poll(~0U), 0U);
    EXPECT_EQ(CodeOf(server->Accept(caller, 0)), EAGAIN);
    EXPECT_EQ(CodeOf(client->Connect(caller, Abstract("s"))), 0);
    EXPECT_EQ(CodeOf(late->Connect(caller, Abstract("s"))), EAGAIN);  // the backlog is full
    EXPECT_TRUE(TryWrite(caller, *client, "early"));
    Ref<Socket> accepted = server->Accept(caller, 0).value();
    EXPECT_EQ(CodeOf(client->Connect(caller, Abstract("s"))), EISCONN);
    EXPECT_EQ(CodeOf(Send(*client, "x", 0, Abstract("s"))), EISCONN);
    EXPECT_EQ(TryRead(caller, *accepted, 9).value(), "early");
    EXPECT_EQ(client->PeerName().value(), Abstract("s"));
    EXPECT_EQ(accepted->LocalName().value(), Abstract("s"));
    EXPECT_EQ(accepted->PeerName().value().size, 2U);
    EXPECT_EQ(CodeOf(late->PeerName()), ENOTCONN);
    EXPECT_EQ(CodeOf(late->Connect(caller, Abstract("s"))), 0);
    server = {};  // what was not accepted is reset
    EXPECT_EQ(CodeOf(TryRead(caller, *late, 1)), ECONNRESET);
    EXPECT_EQ(TryRead(caller, *late, 1).value(), "");
    ucred credentials{};
    OptionReply option(sizeof credentials);
    EXPECT_TRUE(client->GetOption(caller, SOL_SOCKET, SO_PEERCRED, option));
    memcpy(&credentials, option.bytes().data(), sizeof credentials);
    EXPECT_EQ(credentials.pid, caller.process);
  });
}

TEST_F(UnixTest, ConnectAndAcceptSleep) {
  for (const int workers : {1, 2}) {
    Ref<Socket> server = New(SOCK_STREAM, 0);
    EXPECT_TRUE(server->Bind(caller, Abstract("sleepy")));
    EXPECT_TRUE(server->Listen(caller, 0));
    constexpr int kClients = 20;
    std::vector<std::move_only_function<void()>> bodies;
    bodies.push_back([&] {
      for (int i = 0; i < kClients; ++i) {
        Ref<Socket> accepted = server->Accept(caller, 0).value();
        EXPECT_EQ(vfs::ReadBlocking(caller, *accepted, 9).value(), "hello");
        EXPECT_TRUE(Send(*accepted, "bye"));
      }
    });
    for (int i = 0; i < kClients; ++i) {
      bodies.push_back([this] {
        TestCaller mine;
        Ref<Socket> client = New(SOCK_STREAM, 0);
        EXPECT_TRUE(client->Connect(mine, Abstract("sleepy")));
        EXPECT_TRUE(Send(*client, "hello"));
        std::string text(3, '\0');
        EXPECT_EQ(Receive(*client, text, MSG_WAITALL)->size, 3U);
        EXPECT_EQ(text, "bye");
      });
    }
    vfs::OnFibers(workers, std::move(bodies));
  }
}

TEST_F(UnixTest, DatagramsKeepTheirBounds) {
  OnFiber([this] {
    Ref<Socket> a = New(SOCK_DGRAM), b = New(SOCK_DGRAM);
    EXPECT_EQ(CodeOf(TryWrite(caller, *a, "x")), ENOTCONN);
    EXPECT_TRUE(a->Bind(caller, Abstract("a")));
    EXPECT_TRUE(b->Bind(caller, Abstract("b")));
    EXPECT_EQ(Send(*a, "longer", 0, Abstract("b")).value(), 6U);
    EXPECT_EQ(Send(*a, "", 0, Abstract("b")).value(), 0U);
    std::string text(4, '\0');
    Received received = Receive(*b, text, MSG_TRUNC).value();
    EXPECT_EQ(received.size, 6U);
    EXPECT_EQ(received.flags, MSG_TRUNC);
    EXPECT_EQ(received.address, Abstract("a"));
    EXPECT_EQ(text, "long");
    EXPECT_EQ(Receive(*b, text)->size, 0U);
    EXPECT_EQ(CodeOf(Receive(*b, text)), EAGAIN);
    // b talks to a only: others may not send to it.
    EXPECT_TRUE(b->Connect(caller, Abstract("a")));
    Ref<Socket> c = New(SOCK_DGRAM);
    EXPECT_EQ(CodeOf(c->Connect(caller, Abstract("b"))), EPERM);
    EXPECT_EQ(CodeOf(Send(*c, "x", 0, Abstract("b"))), EPERM);
    // a's queue takes eleven from strangers; the twelfth waits.
    EXPECT_TRUE(c->Connect(caller, Abstract("a")));
    int count = 0;
    while (TryWrite(caller, *c, "x")) ++count;
    EXPECT_EQ(count, 11);
    EXPECT_EQ(c->Poll(~0U) & EPOLLOUT, 0U);
    EXPECT_TRUE(TryRead(caller, *a, 1));
    EXPECT_NE(c->Poll(~0U) & EPOLLOUT, 0U);
    a = {};
    EXPECT_EQ(CodeOf(TryWrite(caller, *c, "x")), ECONNREFUSED);
    EXPECT_EQ(CodeOf(TryWrite(caller, *c, "x")), ENOTCONN);
  });
}

TEST_F(UnixTest, SeqpacketIsPacketsWithAnEnd) {
  OnFiber([this] {
    SocketPair pair = Pair(SOCK_SEQPACKET);
    EXPECT_TRUE(TryWrite(caller, *pair.first, "one"));
    EXPECT_TRUE(TryWrite(caller, *pair.first, "two"));
    EXPECT_EQ(TryRead(caller, *pair.second, 2).value(), "on");
    EXPECT_EQ(TryRead(caller, *pair.second, 9).value(), "two");
    pair.first = {};
    EXPECT_EQ(CodeOf(TryWrite(caller, *pair.second, "x")), EPIPE);
    EXPECT_TRUE(caller.signals.empty());
    EXPECT_EQ(TryRead(caller, *pair.second, 9).value(), "");
    EXPECT_EQ(CodeOf(TryRead(caller, *New(SOCK_SEQPACKET), 9)), ENOTCONN);
  });
}

TEST_F(UnixTest, FilesTravel) {
  OnFiber([this] {
    SocketPair pair = Pair(SOCK_STREAM);
    SocketPair cargo = Pair(SOCK_STREAM);
    Control control;
    control.files = {cargo.first, cargo.first};
    const int on = 1;
    EXPECT_TRUE(pair.second->SetOption(caller, SOL_SOCKET, SO_PASSCRED,
                                       {reinterpret_cast<const char*>(&on), sizeof on}));
    EXPECT_TRUE(Send(*pair.first, "a"));
    EXPECT_TRUE(Send(*pair.first, "with files", 0, {}, control));
    EXPECT_TRUE(Send(*pair.first, "after"));
    std::string text(99, '\0');
    Received received = Receive(*pair.second, text).value();
    EXPECT_EQ(received.size, 11U);  // nothing follows descriptors
    ASSERT_EQ(received.control.files.size(), 2U);
    auto table = MakeRef<vfs::FdTable>();
    constexpr size_t kRoomForOne = CMSG_LEN(sizeof(int));
    ControlReply reply(caller, std::move(received.control), true, *table, 32 + kRoomForOne, 0);
    EXPECT_EQ(reply.flags(), MSG_CTRUNC);
    EXPECT_EQ(table->Get(0).error().code(), EBADF);
    std::move(reply).Commit();
    EXPECT_EQ(table->Get(0).value(), cargo.first);
    // Sent back by number, with credentials that are not the caller's.
    EXPECT_EQ(ParseControl(caller, *table, reply.bytes()).value().files.size(), 1U);
    ucred other{.pid = 1, .uid = 0, .gid = 0};
    std::string bytes(CMSG_SPACE(sizeof other), '\0');
    cmsghdr header{
        .cmsg_len = CMSG_LEN(sizeof other), .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_CREDENTIALS};
    memcpy(bytes.data(), &header, sizeof header);
    memcpy(bytes.data() + sizeof header, &other, sizeof other);
    EXPECT_EQ(CodeOf(ParseControl(caller, *table, bytes)), EPERM);
    header.cmsg_len = 4;
    memcpy(bytes.data(), &header, sizeof header);
    EXPECT_EQ(CodeOf(ParseControl(caller, *table, bytes)), EINVAL);
  });
}

TEST_F(UnixTest, SocketsInsideThemselvesAreLetGoOf) {
  OnFiber([this] {
    SocketPair pair = Pair(SOCK_STREAM);
    Control control;
    control.files = {pair.first};
    EXPECT_TRUE(Send(*pair.first, "x", 0, {}, control));
    control.files.clear();
    pair.second = {};  // its queue held the other one
    EXPECT_EQ(pair.first->RefCount(), 1U);
  });
}

TEST_F(UnixTest, Options) {
  Ref<Socket> socket = New(SOCK_STREAM);
  const auto set = [&](int level, int name, int value) {
    return CodeOf(socket->SetOption(caller, level, name,
                                    {reinterpret_cast<const char*>(&value), sizeof value}));
  };
  const auto get = [&](int name) {
    int value = -1;
    OptionReply reply(sizeof value);
    EXPECT_TRUE(socket->GetOption(caller, SOL_SOCKET, name, reply));
    memcpy(&value, reply.bytes().data(), sizeof value);
    return value;
  };
  EXPECT_EQ(get(SO_TYPE), SOCK_STREAM);
  EXPECT_EQ(get(SO_SNDBUF), 212992);
  EXPECT_EQ(set(SOL_SOCKET, SO_SNDBUF, 1), 0);
  EXPECT_EQ(get(SO_SNDBUF), 4608);
  EXPECT_EQ(set(SOL_SOCKET, SO_PASSCRED, 1), 0);
  EXPECT_EQ(get(SO_PASSCRED), 1);
  EXPECT_EQ(set(SOL_SOCKET, 9999, 1), ENOPROTOOPT);
  EXPECT_EQ(set(6, 1, 1), EOPNOTSUPP);
  EXPECT_EQ(CodeOf(socket->SetOption(caller, SOL_SOCKET, SO_RCVBUF, "x")), EINVAL);
  EXPECT_EQ(get(SO_ERROR), 0);
}

TEST_F(UnixTest, MuchDataBothWays) {
  for (const int workers : {1, 2}) {
    constexpr size_t kTotal = size_t{2} << 20;
    SocketPair pair = Pair(SOCK_STREAM, 0);
    size_t received[2] = {0, 0};
    const auto writer = [&](Socket& socket) {
      const std::string text(50'000, 'w');
      for (size_t sent = 0; sent < kTotal;) {
        sent += Send(socket, std::string_view(text).substr(0, kTotal - sent)).value();
      }
    };
    const auto reader = [&](Socket& socket, size_t& count) {
      std::string text(33'333, '\0');
      while (count < kTotal) count += Receive(socket, text)->size;
    };
    OnFibersOf(
        workers, [&] { writer(*pair.first); }, [&] { reader(*pair.second, received[0]); },
        [&] { writer(*pair.second); }, [&] { reader(*pair.first, received[1]); });
    EXPECT_EQ(received[0], kTotal);
    EXPECT_EQ(received[1], kTotal);
  }
}

}  // namespace
}  // namespace skep::net
