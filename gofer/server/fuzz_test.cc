// Deterministic hostile bytes against the server: it must answer each message, with an error or
// not, and nothing may happen outside its tree.
#include <sys/resource.h>
#include <array>
#include <random>

#include "gofer/server/test_tree.h"

namespace skep::gofer {
namespace {

class Fuzzer {
 public:
  explicit Fuzzer(uint32_t seed) : random_(seed) {}
  uint32_t Below(uint32_t end) { return static_cast<uint32_t>((random_() >> 4) % end); }

  // Learns handles from an answer, so that later messages reach further.
  void Learn(std::span<const std::byte> reply) {
    Reader in(reply);
    const Result<ReplyHeader> header = in.Get<ReplyHeader>();
    if (!header || header->error != 0) return;
    const Op op = static_cast<Op>(header->op);
    const bool makes = op == Op::kMkdir || op == Op::kCreate || op == Op::kSymlink ||
                       op == Op::kMknod || op == Op::kLink || op == Op::kReopen;
    if (op == Op::kWalk && !in.Get<WalkReply>()) return;
    if (!makes && op != Op::kWalk) return;
    while (const Result<NodeRecord> record = in.Get<NodeRecord>()) {
      known_[next_known_++ % known_.size()] = record->node;
    }
  }

  // Bytes without any sense.
  std::vector<std::byte> Noise() {
    std::vector<std::byte> bytes(Below(200));
    for (std::byte& b : bytes) b = static_cast<std::byte>(Below(256));
    return bytes;
  }

  // A real operation with plausible arguments, one in four damaged.
  std::vector<std::byte> Message() {
    std::vector<std::byte> bytes(4096);
    Writer out(bytes);
    const Op op = static_cast<Op>(1 + Below(static_cast<uint32_t>(Op::kEnd)));
    out.Put(RequestHeader{Below(100), static_cast<uint16_t>(op), 0});
    PutBody(op, out);
    bytes.resize(out.size());
    if (Below(4) == 0 && bytes.size() > 8) {
      for (int i = 0; i < 3; ++i) {
        const uint32_t at = 8 + Below(static_cast<uint32_t>(bytes.size() - 8));
        bytes[at] = static_cast<std::byte>(Below(256));
      }
      if (Below(3) == 0) bytes.resize(Below(static_cast<uint32_t>(bytes.size())));
    }
    return bytes;
  }

 private:
  NodeId AnyNode() {
    const uint32_t choice = Below(8);
    if (choice == 0) return NodeId{Below(200)};
    return choice == 1 ? NodeId{1} : known_[Below(static_cast<uint32_t>(known_.size()))];
  }
  std::string AnyName() {
    constexpr const char* kNames[] = {"a", "b", "c", "d", "..", ".", "", "a/b", "link", "e"};
    return kNames[Below(Below(3) == 0 ? 10 : 4)];
  }

  void PutBody(Op op, Writer& out) {
    switch (op) {
      case Op::kWalk: {
        const uint32_t count = Below(5);
        out.Put(WalkRequest{AnyNode(), count, 0});
        for (uint32_t i = 0; i < count; ++i) out.PutString(AnyName());
        return;
      }
      case Op::kReaddir:
        return out.Put(ReaddirRequest{AnyNode(), Below(3), Below(5000), Below(2)});
      case Op::kOpen:
        return out.Put(OpenRequest{AnyNode(), Below(3) | (Below(2) == 0 ? 0U : O_TRUNC), 0});
      case Op::kCreate:
      case Op::kMkdir:
      case Op::kMknod:
      case Op::kSymlink: {
        const uint32_t type = op == Op::kMknod ? Below(16) << 12 : 0;
        out.Put(MakeRequest{AnyNode(), 0700 | type, kKeepId, Below(2) == 0 ? kKeepId : Below(9),
                            op == Op::kCreate ? 2U : 0U});
        out.PutString(AnyName());
        if (op == Op::kSymlink) out.PutString("../../../../etc/passwd");
        return;
      }
      case Op::kLink:
        out.Put(LinkRequest{AnyNode(), AnyNode()});
        return out.PutString(AnyName());
      case Op::kUnlink:
        out.Put(UnlinkRequest{AnyNode(), Below(2), 0});
        return out.PutString(AnyName());
      case Op::kRename:
        out.Put(RenameRequest{AnyNode(), AnyNode(), Below(4), 0});
        out.PutString(AnyName());
        return out.PutString(AnyName());
      case Op::kSetAttr: {
        SetAttrRequest change;
        change.node = AnyNode();
        change.mask = Below(256);
        change.mode = Below(010000);
        change.size = Below(1 << 20);
        return out.Put(change);
      }
      case Op::kGetXattr:
      case Op::kSetXattr:
      case Op::kListXattr:
      case Op::kRemoveXattr: {
        const uint32_t size = Below(70000);
        out.Put(XattrRequest{AnyNode(), Below(3), op == Op::kSetXattr ? size % 64 : size});
        out.PutString(op == Op::kListXattr ? "" : "user.a");
        if (op == Op::kSetXattr) out.PutBytes(std::vector<std::byte>(size % 64));
        return;
      }
      case Op::kFsync:
        return out.Put(FsyncRequest{Below(64) == 0 ? AnyNode() : NodeId{99}, 1, 0});
      case Op::kRelease: {
        const uint32_t count = Below(3);
        out.Put(count);
        out.Put(uint32_t{0});
        for (uint32_t i = 0; i < count; ++i) out.Put(ReleaseRecord{AnyNode(), 1 + Below(3)});
        return;
      }
      case Op::kReopen:
        out.Put(ReopenRequest{AnyNode(), Below(2), 0});
        return out.PutString(Below(2) == 0 ? "a/b" : AnyName());
      case Op::kAttach:
        return out.Put(AttachRequest{Below(2), 0});
      default:
        return out.Put(AnyNode());
    }
  }

  std::minstd_rand random_;
  std::array<NodeId, 16> known_{};
  uint32_t next_known_ = 0;
};

size_t CountOpenFds() {
  size_t count = 0;
  for (const auto& entry : std::filesystem::directory_iterator("/proc/self/fd")) {
    (void)entry;
    ++count;
  }
  return count;
}

TEST(GoferFuzz, HundredThousandMessages) {
  TempTree tree;
  tree.Write("witness", "untouched");
  tree.Mkdir("root/a/b");
  tree.Write("root/c", "text");
  tree.Symlink("../witness", "root/link");
  std::vector<std::byte> reply(kMessageMax);
  const size_t fds_before = CountOpenFds();
  {
    ServerConfig config = ConfigFor(tree.At("root"));
    config.allow_fifos = true;
    config.max_open_fds = 128;
    config.max_nodes = 200;
    std::unique_ptr<Server> server = *Server::Make(std::move(config));
    Fuzzer fuzzer(20260);
    int answered = 0;
    int succeeded = 0;
    for (int i = 0; i < 100'000; ++i) {
      const std::vector<std::byte> request = i % 4 == 0 ? fuzzer.Noise() : fuzzer.Message();
      const Server::Answer answer = server->Handle(request, reply);
      ASSERT_LE(answer.size, reply.size());
      if (answer.size == 0) continue;  // a release
      ASSERT_GE(answer.size, sizeof(ReplyHeader));
      ReplyHeader header;
      memcpy(&header, reply.data(), sizeof header);
      ++answered;
      if (header.error == 0) ++succeeded;
      fuzzer.Learn(std::span<const std::byte>(reply).first(answer.size));
      ASSERT_LT(header.error, 4096);
      ASSERT_LE(server->nodes().size(), 200U);
      ASSERT_LE(server->nodes().open_fds(), 128U);
    }
    EXPECT_GT(answered, 50'000);
    EXPECT_GT(succeeded, 5'000);
  }
  EXPECT_EQ(CountOpenFds(), fds_before);
  EXPECT_EQ(tree.Read("witness"), "untouched");
  size_t beside = 0;
  for (const auto& entry : std::filesystem::directory_iterator(tree.path())) {
    (void)entry;
    ++beside;
  }
  EXPECT_EQ(beside, 2U);
}

TEST(GoferFuzz, NoiseOverTheSocketIsAnswered) {
  TempTree tree;
  std::unique_ptr<Server> server = *Server::Make(ConfigFor(tree.path()));
  host::SocketPair pair = *host::MakeSocketPair(SOCK_SEQPACKET);
  std::thread serving([&] { EXPECT_TRUE(server->Serve(pair.b.get())); });
  Fuzzer fuzzer(7);
  std::vector<std::byte> reply(kMessageMax);
  for (int i = 0; i < 2'000; ++i) {
    std::vector<std::byte> request = fuzzer.Noise();
    if (i % 100 == 0) request.resize(kMessageMax + 1);
    if (request.empty()) continue;
    // An unknown operation, so that there is always an answer; and a descriptor nobody asked for.
    if (request.size() > 5) request[5] = std::byte{0xff};
    const iovec part = {request.data(), request.size()};
    const int stray = pair.a.get();
    ASSERT_TRUE(host::SendMsg(pair.a.get(), std::span(&part, 1), std::span(&stray, 1), 0));
    const iovec answer = {reply.data(), reply.size()};
    const auto received = host::RecvMsg(pair.a.get(), std::span(&answer, 1), {}, 0);
    ASSERT_TRUE(received);
    ASSERT_EQ(received->size, sizeof(ReplyHeader));
  }
  pair.a.Reset();
  serving.join();
}

}  // namespace
}  // namespace skep::gofer
