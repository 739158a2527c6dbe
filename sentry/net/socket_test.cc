#include "sentry/net/socket.h"

#include <net/if.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>

#include "sentry/net/unix_test_util.h"
#include "sentry/sched/timer.h"

namespace skep::net {
namespace {

using vfs::CodeOf;
using vfs::OnFiber;
using vfs::OnFibersOf;

// A family whose connections take a while.
class SlowSocket final : public Socket {
 public:
  SlowSocket(NetNamespace& space, uint32_t flags)
      : Socket(space.anon_fs().SharedInode("[slow]"), AF_INET, SOCK_STREAM, 0, flags),
        space_(&space) {}
  Result<void> Bind(vfs::Caller&, const Address&) override { return {}; }
  Result<void> Listen(vfs::Caller&, int) override { return {}; }
  Result<void> Shutdown(int) override { return {}; }
  Result<Address> LocalName() override { return Address(); }
  Result<Address> PeerName() override { return Address(); }
  Result<void> TryConnect(vfs::Caller&, const Address&, ConnectWait&) override {
    if (connected) return Fail(EISCONN);
    BeginConnect();
    begun = true;
    return Fail(EINPROGRESS);
  }
  Result<Ref<Socket>> TryAccept(vfs::Caller&, uint32_t) override { return Fail(EAGAIN); }
  Result<size_t> TrySend(vfs::Caller&, SendRequest&) override { return Fail(EAGAIN); }
  Result<Received> TryReceive(vfs::Caller&, mm::IoSequence&, int) override { return Fail(EAGAIN); }
  sched::WaitQueue* Waiters() override { return &waiters_; }

  void End(int error) {
    connected = error == 0;
    EndConnect(error);
  }
  std::atomic<bool> begun{false}, connected{false};

 protected:
  NetNamespace& net_namespace() override { return *space_; }

 private:
  const Ref<NetNamespace> space_;
  sched::WaitQueue waiters_;
};

struct SocketTest : UnixTest {
  Ref<SlowSocket> Slow(uint32_t flags) { return MakeRef<SlowSocket>(*space, flags); }
  int Option(Socket& socket, int name) {
    int value = -1;
    OptionReply reply(sizeof value);
    EXPECT_TRUE(socket.GetOption(caller, SOL_SOCKET, name, reply));
    memcpy(&value, reply.bytes().data(), reply.bytes().size());
    return value;
  }
  int SetTimeout(Socket& socket, int name, long microseconds) {
    const timeval time{.tv_sec = 0, .tv_usec = microseconds};
    return CodeOf(socket.SetOption(caller, SOL_SOCKET, name,
                                   {reinterpret_cast<const char*>(&time), sizeof time}));
  }
};

TEST_F(SocketTest, ANonblockingConnectIsUnderWayUntilItEnds) {
  OnFiber([this] {
    Ref<SlowSocket> socket = Slow(O_NONBLOCK);
    EXPECT_EQ(CodeOf(socket->Connect(caller, {})), EINPROGRESS);
    EXPECT_EQ(CodeOf(socket->Connect(caller, {})), EALREADY);
    EXPECT_EQ(Option(*socket, SO_ERROR), 0);
    socket->End(ECONNREFUSED);
    EXPECT_EQ(Option(*socket, SO_ERROR), ECONNREFUSED);
    EXPECT_EQ(Option(*socket, SO_ERROR), 0);
    EXPECT_EQ(CodeOf(socket->Connect(caller, {})), EINPROGRESS);
    socket->End(0);
    EXPECT_EQ(CodeOf(socket->Connect(caller, {})), EISCONN);
  });
}

TEST_F(SocketTest, ABlockingConnectTellsHowItEnded) {
  for (const int error : {0, ECONNREFUSED}) {
    Ref<SlowSocket> socket = Slow(0);
    OnFibersOf(
        2, [&] { EXPECT_EQ(CodeOf(socket->Connect(caller, {})), error); },
        [&] {
          while (!socket->begun) sched::Yield();
          socket->End(error);
        });
    EXPECT_EQ(Option(*socket, SO_ERROR), 0);
  }
}

TEST_F(SocketTest, AConnectThatTakesTooLongGoesOn) {
  OnFiber([this] {
    Ref<SlowSocket> socket = Slow(0);
    EXPECT_EQ(SetTimeout(*socket, SO_SNDTIMEO, 1000), 0);
    EXPECT_EQ(CodeOf(socket->Connect(caller, {})), EINPROGRESS);
    EXPECT_EQ(CodeOf(socket->Connect(caller, {})), EALREADY);
    socket->End(0);
    EXPECT_EQ(Option(*socket, SO_ERROR), 0);
  });
}

TEST_F(SocketTest, AnOptionIsCutToTheRoomThereIs) {
  OnFiber([this] {
    Ref<Socket> socket = New(SOCK_STREAM);
    OptionReply one(1);
    EXPECT_TRUE(socket->GetOption(caller, SOL_SOCKET, SO_TYPE, one));
    EXPECT_EQ(one.size(), 1U);
    EXPECT_EQ(one.bytes(), "\1");
    OptionReply much(100);
    EXPECT_TRUE(socket->GetOption(caller, SOL_SOCKET, SO_TYPE, much));
    EXPECT_EQ(much.size(), 4U);

    caller.credentials.groups = {5, 6, 7};
    Ref<Socket> server = New(SOCK_STREAM);
    EXPECT_TRUE(server->Bind(caller, Abstract("groups")));
    EXPECT_TRUE(server->Listen(caller, 1));
    EXPECT_TRUE(socket->Connect(caller, Abstract("groups")));
    OptionReply small(8);
    EXPECT_EQ(CodeOf(socket->GetOption(caller, SOL_SOCKET, SO_PEERGROUPS, small)), ERANGE);
    EXPECT_EQ(small.size(), 12U);
    OptionReply enough(12);
    EXPECT_TRUE(socket->GetOption(caller, SOL_SOCKET, SO_PEERGROUPS, enough));
    EXPECT_EQ(enough.bytes().size(), 12U);
  });
}

TEST_F(SocketTest, EveryFamilyTellsOfInterfaces) {
  OnFiber([this] {
    for (Ref<Socket> socket : {New(SOCK_DGRAM), Ref<Socket>(Slow(0))}) {
      ifreq request{};
      const auto ask = [&](unsigned long command) {
        return CodeOf(socket->Ioctl(caller, command, reinterpret_cast<uint64_t>(&request)));
      };
      strcpy(request.ifr_name, "none");
      EXPECT_EQ(ask(SIOCGIFINDEX), ENODEV);
      strcpy(request.ifr_name, "lo");
      EXPECT_EQ(ask(SIOCGIFINDEX), 0);
      EXPECT_EQ(request.ifr_ifindex, 1);
      EXPECT_EQ(ask(SIOCGIFMTU), 0);
      EXPECT_EQ(request.ifr_mtu, 65536);
      EXPECT_EQ(ask(SIOCSIFMTU), EPERM);
      request.ifr_ifindex = 2;
      EXPECT_EQ(ask(SIOCGIFNAME), ENODEV);
      EXPECT_EQ(ask(SIOCGIFADDR), ENOTTY);
    }
  });
}

TEST_F(SocketTest, FamiliesAreRowsOfATable) {
  OnFiber([this] {
    EXPECT_EQ(CodeOf(MakeSocket(*space, caller, AF_APPLETALK, SOCK_STREAM, 0, 0)), EAFNOSUPPORT);
    EXPECT_EQ(CodeOf(MakeSocketPair(*space, caller, AF_APPLETALK, SOCK_STREAM, 0, 0)),
              EAFNOSUPPORT);
    EXPECT_EQ(MakeSocket(*space, caller, AF_UNIX, SOCK_RAW, 0, 0).value()->type(), SOCK_DGRAM);
    EXPECT_EQ(CodeOf(MakeSocketPair(*space, caller, AF_UNIX, SOCK_RDM, 0, 0)), ESOCKTNOSUPPORT);
  });
}

}  // namespace
}  // namespace skep::net
