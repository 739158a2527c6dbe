// A Lane against a peer that the test plays.
#include "gofer/protocol/lane.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <unistd.h>
#include <optional>
#include <vector>

#include "base/host_call.h"

namespace skep::gofer {
namespace {

class TestCall final : public Call {
 public:
  explicit TestCall(Op what) : Call(what) {}
  void Write(Writer& out) const override { out.Put(uint64_t{7}); }
  Result<void> Parse(Reply& reply) override {
    value = TRY(reply.body.Get<uint64_t>());
    file = std::move(reply.file);
    return reply.body.End();
  }
  uint64_t value = 0;
  OwnedFd file;
};

class LaneTest : public ::testing::Test {
 protected:
  LaneTest() {
    host::SocketPair pair = *host::MakeSocketPair(SOCK_SEQPACKET);
    peer_ = std::move(pair.b);
    lane_.emplace(std::move(pair.a));
    lane_->on_broken = [this] { ++broken_; };
    lane_->on_settled = [this] { ++settled_; };
  }
  // The next request's header, as the peer sees it.
  RequestHeader TakeRequest() {
    std::vector<std::byte> bytes(kMessageMax);
    const iovec part = {bytes.data(), bytes.size()};
    const Result<host::Received> got =
        host::RecvMsg(peer_.get(), std::span(&part, 1), {}, MSG_DONTWAIT);
    if (!got) return {};
    body_.assign(bytes.begin() + sizeof(RequestHeader),
                 bytes.begin() + static_cast<ptrdiff_t>(got->size));
    return *Reader(bytes).Get<RequestHeader>();
  }
  template <class T>
  void Answer(const RequestHeader& to, const T& body, int file = -1, uint16_t error = 0) {
    Send(ReplyHeader{to.id, to.op, error}, body, file);
  }
  template <class T>
  void Send(const ReplyHeader& header, const T& body, int file = -1) {
    const iovec parts[] = {{const_cast<ReplyHeader*>(&header), sizeof header},
                           {const_cast<T*>(&body), sizeof body}};
    ASSERT_TRUE(host::SendMsg(peer_.get(), parts, std::span(&file, file >= 0 ? 1 : 0), 0));
  }
  bool Take() { return lane_->Take(Lane::Wait::kNo); }

  OwnedFd peer_;
  std::optional<Lane> lane_;
  std::vector<std::byte> body_;
  int broken_ = 0, settled_ = 0;
};

TEST_F(LaneTest, RepliesComeInAnyOrder) {
  TestCall first(Op::kGetAttr), second(Op::kStatfs);
  CallUnderWay a(first), b(second);
  ASSERT_TRUE(lane_->Send(a, Lane::Wait::kNo));
  ASSERT_TRUE(lane_->Send(b, Lane::Wait::kNo));
  const RequestHeader asked_first = TakeRequest(), asked_second = TakeRequest();
  EXPECT_FALSE(Take());
  Answer(asked_second, uint64_t{22});
  EXPECT_TRUE(Take());
  EXPECT_TRUE(b.done && !a.done);
  EXPECT_EQ(second.value, 22u);
  Answer(asked_first, uint64_t{11});
  EXPECT_TRUE(Take());
  EXPECT_TRUE(a.done);
  EXPECT_EQ(first.value, 11u);
  EXPECT_EQ(broken_, 0);
}

TEST_F(LaneTest, WhoeverTakesAReplyWakesItsCaller) {
  TestCall call(Op::kGetAttr);
  CallUnderWay under_way(call);
  int woken = 0;
  under_way.waiter = &woken;
  under_way.wake = [](void* count) { ++*static_cast<int*>(count); };
  ASSERT_TRUE(lane_->Send(under_way, Lane::Wait::kNo));
  Answer(TakeRequest(), uint64_t{1}, -1, ENOENT);
  EXPECT_TRUE(Take());
  EXPECT_EQ(woken, 1);
  EXPECT_EQ(under_way.outcome.error(), Errno(ENOENT));
}

// Its file is closed and its handle given back.
TEST_F(LaneTest, AReplyThatNobodyWaitsForIsThrownAway) {
  host::PipePair pipe = *host::MakePipe(O_NONBLOCK);
  TestCall call(Op::kCreate);
  CallUnderWay under_way(call);
  ASSERT_TRUE(lane_->Send(under_way, Lane::Wait::kNo));
  const RequestHeader asked = TakeRequest();
  lane_->GiveUp(under_way);
  EXPECT_TRUE(lane_->anything_given_up());
  Answer(asked, NodeRecord{NodeId{77}, {}}, pipe.writer.get());
  pipe.writer.Reset();
  EXPECT_TRUE(Take());
  EXPECT_FALSE(lane_->anything_given_up());
  EXPECT_EQ(settled_, 1);
  std::byte byte{};
  EXPECT_EQ(host::Read(pipe.reader.get(), std::span(&byte, 1)).value_or(99), 0u);  // no writer left
  lane_->FlushReleases();
  EXPECT_EQ(TakeRequest().op, static_cast<uint16_t>(Op::kRelease));
  Reader body(body_);
  EXPECT_EQ(*body.Get<uint32_t>(), 1u);
  EXPECT_EQ(*body.Get<uint32_t>(), 0u);
  const ReleaseRecord record = *body.Get<ReleaseRecord>();
  EXPECT_EQ(record.node, NodeId{77});
  EXPECT_EQ(record.count, 1u);
  EXPECT_EQ(broken_, 0);
}

TEST_F(LaneTest, AReplyThatIsNotAsAgreedBreaksTheConnection) {
  const auto broken_by = [&](auto answer) {
    host::SocketPair pair = *host::MakeSocketPair(SOCK_SEQPACKET);
    peer_ = std::move(pair.b);
    Lane lane(std::move(pair.a));
    TestCall call(Op::kGetAttr), other(Op::kStatfs);
    CallUnderWay under_way(call), waiting(other);
    EXPECT_TRUE(lane.Send(under_way, Lane::Wait::kNo));
    EXPECT_TRUE(lane.Send(waiting, Lane::Wait::kNo));
    answer(TakeRequest());
    EXPECT_FALSE(lane.Take(Lane::Wait::kNo));
    EXPECT_TRUE(lane.broken());
    // Everybody hears of it, as EIO.
    EXPECT_TRUE(under_way.done && waiting.done);
    EXPECT_EQ(under_way.outcome.error(), Errno(EIO));
    EXPECT_EQ(waiting.outcome.error(), Errno(EIO));
    TestCall later(Op::kGetAttr);
    CallUnderWay refused(later);
    EXPECT_EQ(lane.Send(refused, Lane::Wait::kNo).error(), Errno(EIO));
  };
  const auto op = static_cast<uint16_t>(Op::kGetAttr);
  broken_by([&](RequestHeader asked) { Answer(asked, uint32_t{1}); });  // too short
  broken_by([&](RequestHeader asked) { Answer(asked, std::array<uint64_t, 2>{}); });
  broken_by([&](RequestHeader asked) { Send(ReplyHeader{asked.id + 9, op, 0}, uint64_t{1}); });
  broken_by([&](RequestHeader asked) {
    Send(ReplyHeader{asked.id, static_cast<uint16_t>(Op::kFsync), 0}, uint64_t{1});
  });
  broken_by([&](RequestHeader asked) { Send(ReplyHeader{asked.id, op, 4096}, uint64_t{1}); });
  broken_by([&](RequestHeader) { peer_.Reset(); });
}

// The host drops what this process has no room for: it is missed by who asked for it.
TEST_F(LaneTest, ADescriptorThatFindsNoRoomBreaksNothing) {
  TestCall call(Op::kOpen);
  CallUnderWay under_way(call);
  ASSERT_TRUE(lane_->Send(under_way, Lane::Wait::kNo));
  Answer(TakeRequest(), uint64_t{5}, peer_.get());
  rlimit before{};
  ASSERT_EQ(getrlimit(RLIMIT_NOFILE, &before), 0);
  const OwnedFd lowest_free = *host::Dup(peer_.get());
  const rlimit few = {static_cast<rlim_t>(lowest_free.get() + 1), before.rlim_max};
  ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &few), 0);
  EXPECT_TRUE(Take());
  ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &before), 0);
  EXPECT_TRUE(under_way.done && under_way.outcome);
  EXPECT_EQ(call.value, 5u);
  EXPECT_FALSE(call.file);
  EXPECT_FALSE(lane_->broken());
}

}  // namespace
}  // namespace skep::gofer
