#include "sentry/net/in_flight.h"

#include <linux/capability.h>
#include <sys/epoll.h>

#include "sentry/net/unix_test_util.h"

namespace skep::net {
namespace {

using vfs::CodeOf;
using vfs::OnFiber;

constexpr vfs::EventMask kAll = ~vfs::EventMask{0};

// A socket with its peer, which tells when the socket has been closed.
struct Probed {
  Ref<Socket> socket, peer;
  explicit Probed(SocketPair pair) : socket(std::move(pair.first)), peer(std::move(pair.second)) {}
  bool closed() { return (peer->Poll(kAll) & EPOLLHUP) != 0; }
};

struct InFlightTest : UnixTest {
  InFlight& in_flight() { return space->in_flight(); }
  Probed NewProbed() { return Probed(Pair(SOCK_STREAM)); }
  // `file` into the queue of `to`.
  Result<size_t> Put(Probed& to, Ref<vfs::File> file) { return Give(*to.peer, std::move(file)); }
  Result<size_t> Give(Socket& through, Ref<vfs::File> file) {
    Control control;
    control.files.push_back(std::move(file));
    return Send(through, "x", 0, {}, std::move(control));
  }
  // What lies first in the queue.
  Ref<vfs::File> Take(Socket& from, int flags = 0) {
    std::string text(1, ' ');
    Result<Received> received = Receive(from, text, flags);
    if (!received || received->control.files.size() != 1) return {};
    return received->control.files[0];
  }
};

TEST_F(InFlightTest, ACycleIsCollectedWhenASocketIsClosed) {
  OnFiber([this] {
    Probed a = NewProbed(), b = NewProbed();
    EXPECT_TRUE(Put(a, b.socket));
    EXPECT_TRUE(Put(b, a.socket));
    EXPECT_EQ(in_flight().sockets(), 2U);
    a.socket = {};
    b.socket = {};
    EXPECT_FALSE(a.closed());
    (void)NewProbed();  // closed at once
    EXPECT_TRUE(a.closed());
    EXPECT_TRUE(b.closed());
    EXPECT_EQ(in_flight().sockets(), 0U);
    EXPECT_EQ(in_flight().FilesOf(caller.credentials.uid), 0U);
  });
}

TEST_F(InFlightTest, ASocketInItsOwnQueue) {
  OnFiber([this] {
    Probed a = NewProbed();
    EXPECT_TRUE(Put(a, a.socket));
    EXPECT_TRUE(Put(a, a.socket));
    a.socket = {};
    in_flight().Collect();
    EXPECT_TRUE(a.closed());
    EXPECT_EQ(in_flight().sockets(), 0U);
  });
}

TEST_F(InFlightTest, AReferenceFromOutsideKeepsTheWholeCycle) {
  OnFiber([this] {
    Probed a = NewProbed(), b = NewProbed();
    EXPECT_TRUE(Put(a, b.socket));
    EXPECT_TRUE(Put(b, a.socket));
    const Ref<Socket> held = a.socket;
    a.socket = {};
    b.socket = {};
    in_flight().Collect();
    EXPECT_FALSE(a.closed());
    EXPECT_FALSE(b.closed());
    const Ref<vfs::File> taken = Take(*held);
    ASSERT_TRUE(taken);
    EXPECT_EQ(Take(static_cast<Socket&>(*taken)), held);
    EXPECT_EQ(in_flight().sockets(), 0U);
  });
}

TEST_F(InFlightTest, ACycleThatCanStillBeReceivedStays) {
  OnFiber([this] {
    Probed a = NewProbed(), b = NewProbed(), door = NewProbed();
    EXPECT_TRUE(Put(a, b.socket));
    EXPECT_TRUE(Put(b, a.socket));
    EXPECT_TRUE(Put(door, a.socket));
    a.socket = {};
    b.socket = {};
    in_flight().Collect();
    EXPECT_FALSE(a.closed());
    {
      const Ref<vfs::File> peeked = Take(*door.socket, MSG_PEEK);
      ASSERT_TRUE(peeked);
      in_flight().Collect();
      EXPECT_TRUE(Take(static_cast<Socket&>(*peeked), MSG_PEEK));
    }
    door.socket = {};  // its queue goes, and with it the way in
    in_flight().Collect();
    EXPECT_TRUE(a.closed());
    EXPECT_TRUE(b.closed());
  });
}

TEST_F(InFlightTest, AListenerInTheQueueOfAConnectionThatItHasNotAccepted) {
  OnFiber([this] {
    for (const bool held : {false, true}) {
      Ref<Socket> listener = New(SOCK_STREAM), client = New(SOCK_STREAM);
      EXPECT_EQ(CodeOf(listener->Bind(caller, Abstract(held ? "h" : "n"))), 0);
      EXPECT_EQ(CodeOf(listener->Listen(caller, 1)), 0);
      EXPECT_EQ(CodeOf(client->Connect(caller, Abstract(held ? "h" : "n"))), 0);
      EXPECT_TRUE(Give(*client, listener));
      Ref<Socket> kept = held ? listener : Ref<Socket>();
      listener = {};
      in_flight().Collect();
      EXPECT_EQ((client->Poll(kAll) & EPOLLHUP) != 0, !held);
      if (!held) continue;
      Ref<Socket> accepted = kept->Accept(caller, 0).value();
      in_flight().Collect();
      EXPECT_EQ(Take(*accepted), kept);
    }
    EXPECT_EQ(in_flight().sockets(), 0U);
  });
}

// Cycles that hold other cycles go in one look, and so do files of other kinds and sockets that are
// in no cycle.
TEST_F(InFlightTest, CyclesAndWhatTheyHold) {
  OnFiber([this] {
    constexpr int kCount = 50;
    std::vector<Probed> all;
    for (int i = 0; i < kCount; ++i) all.push_back(NewProbed());
    Probed leaf = NewProbed(), live = NewProbed();
    for (size_t i = 0; i < kCount; ++i) {
      EXPECT_TRUE(Put(all[i], all[i].socket));
      if (i + 1 == kCount) break;
      EXPECT_TRUE(Put(all[i], all[i + 1].socket));
    }
    EXPECT_TRUE(Put(all[7], leaf.socket));
    EXPECT_TRUE(Put(all[7], live.socket));
    EXPECT_TRUE(Put(all[9], MakeRef<vfs::File>(fs.SharedInode("[test]"), O_RDWR)));
    leaf.socket = {};
    for (Probed& probed : all) probed.socket = {};
    in_flight().Collect();
    for (Probed& probed : all) EXPECT_TRUE(probed.closed());
    EXPECT_TRUE(leaf.closed());
    EXPECT_FALSE(live.closed());
    EXPECT_EQ(in_flight().sockets(), 0U);
    EXPECT_EQ(in_flight().FilesOf(caller.credentials.uid), 0U);
  });
}

TEST_F(InFlightTest, ManyCyclesDoNotStay) {
  OnFiber([this] {
    size_t most = 0;
    for (int i = 0; i < 20'000; ++i) {
      Probed a = NewProbed();
      EXPECT_TRUE(Put(a, a.socket));
      most = std::max(most, in_flight().sockets());
    }
    EXPECT_LE(most, 16U);
  });
}

// On the stack of a fiber: 64 KiB.
TEST_F(InFlightTest, LongChainsAreLetGoOfOneByOne) {
  OnFiber([this] {
    constexpr int kLength = 2'000;
    Probed first = NewProbed();
    Probed last = first;
    for (int i = 0; i < kLength; ++i) {
      Probed next = NewProbed();
      EXPECT_TRUE(Put(next, std::move(last.socket)));
      last = std::move(next);
    }
    first.socket = {};
    in_flight().Collect();
    EXPECT_FALSE(first.closed());
    last.socket = {};
    EXPECT_TRUE(first.closed());
    EXPECT_EQ(in_flight().sockets(), 0U);
  });
}

TEST_F(InFlightTest, ListenersInOneAnothersPendingConnections) {
  OnFiber([this] {
    constexpr int kLength = 1'000;
    Probed first = NewProbed();
    Ref<vfs::File> held = first.socket;
    first.socket = {};
    for (int i = 0; i < kLength; ++i) {
      const Address name = Abstract("nest" + std::to_string(i));
      Ref<Socket> listener = New(SOCK_STREAM), client = New(SOCK_STREAM);
      EXPECT_EQ(CodeOf(listener->Bind(caller, name)), 0);
      EXPECT_EQ(CodeOf(listener->Listen(caller, 1)), 0);
      EXPECT_EQ(CodeOf(client->Connect(caller, name)), 0);
      EXPECT_TRUE(Give(*client, std::move(held)));
      held = listener;
    }
    in_flight().Collect();
    EXPECT_FALSE(first.closed());
    held = {};
    EXPECT_TRUE(first.closed());
    EXPECT_EQ(in_flight().sockets(), 0U);
  });
}

TEST_F(InFlightTest, AUserHasAsManyInFlightAsHeMayHaveOpen) {
  OnFiber([this] {
    caller.credentials = auth::Credentials{};
    caller.credentials.uid = 1000;
    caller.credentials.effective = {};
    caller.file_limit = 3;
    Probed queue = NewProbed(), cargo = NewProbed();
    // As on Linux the count is looked at before the message adds to it.
    for (int i = 0; i < 4; ++i) EXPECT_TRUE(Put(queue, cargo.socket));
    EXPECT_EQ(CodeOf(Put(queue, cargo.socket)), ETOOMANYREFS);
    EXPECT_EQ(in_flight().FilesOf(1000), 4U);
    caller.credentials.uid = 1001;
    EXPECT_TRUE(Put(queue, cargo.socket));
    caller.credentials.uid = 1000;
    EXPECT_TRUE(Take(*queue.socket));
    EXPECT_TRUE(Put(queue, cargo.socket));
    EXPECT_EQ(CodeOf(Put(queue, cargo.socket)), ETOOMANYREFS);
    caller.credentials.effective = uint64_t{1} << CAP_SYS_RESOURCE;
    EXPECT_TRUE(Put(queue, cargo.socket));
    caller.credentials.effective = uint64_t{1} << CAP_SYS_ADMIN;
    EXPECT_TRUE(Put(queue, cargo.socket));
    queue.socket = {};
    EXPECT_EQ(in_flight().FilesOf(1000), 0U);
    EXPECT_EQ(in_flight().FilesOf(1001), 0U);
  });
}

}  // namespace
}  // namespace skep::net
