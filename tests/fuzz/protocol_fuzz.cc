// Requests to a running sandbox and its replies, both ways: a client and a sentry that have been
// taken over.
#include <sys/socket.h>

#include "base/host_call.h"
#include "sentry/boot/protocol.h"
#include "tests/fuzz/fuzz.h"

namespace skep::fuzz {
namespace {

using namespace skep::boot;

// An input: one byte (below), the message's number in its variant, its body.
constexpr uint8_t kIsReply = 1;   // else a request
constexpr uint8_t kIsPacket = 2;  // what follows is a whole packet; else a body alone

std::string Seed(const Request& request) {
  return std::string(1, '\0') + static_cast<char>(request.index()) + EncodeRequest(request);
}
std::string Seed(const Reply& reply) {
  return std::string(1, kIsReply) + static_cast<char>(reply.index()) + EncodeReply(reply);
}

// What Send writes, as one string.
std::string SentPacket(const Request& request) {
  const host::SocketPair pair = host::MakeSocketPair(SOCK_SEQPACKET).value();
  if (!SendRequest(pair.a.get(), 3, request)) Fail("a seed that cannot be sent");
  std::string packet(1000, '\0');
  packet.resize(host::Read(pair.b.get(), std::as_writable_bytes(std::span(packet))).value());
  return std::string(1, kIsPacket) + '\0' + packet;
}

std::vector<std::string> Seeds() {
  ExecRequest exec;
  exec.container = "box";
  exec.process.argv = {"sh", "-c", "true"};
  exec.process.env = {"A=1"};
  return {Seed(Request(ListRequest{})),
          Seed(Request(exec)),
          Seed(Request(WaitRequest{"box", "e1"})),
          Seed(Request(SignalRequest{"box", "", 15})),
          Seed(Request(WindowRequest{"box", "e1", 24, 80})),
          Seed(Request(ReleaseRequest{"box"})),
          Seed(Reply(ErrorReply{-2, "why"})),
          Seed(Reply(ListReply{{{"one", true, 0, {"e1", "e2"}}, {"two", false, 256, {}}}})),
          Seed(Reply(ExecReply{"e1"})),
          Seed(Reply(ExitReply{9})),
          SentPacket(SignalRequest{"box", "", 9}),
          SentPacket(exec)};
}

// A message that was read is written, and read back the same.
template <class Message, class Decode, class Encode>
void RoundTrip(const Result<Message>& message, Decode decode, Encode encode) {
  if (!message) {
    if (message.error().code() != EPROTO) Fail("an error that is not EPROTO");
    return;
  }
  const std::string written = encode(*message);
  const auto again = decode(static_cast<uint32_t>(message->index()), written);
  if (!again || encode(*again) != written) Fail("no round trip");
}

void TakePacket(std::string_view packet, bool is_reply) {
  const host::SocketPair pair = host::MakeSocketPair(SOCK_SEQPACKET).value();
  const OwnedFd file = host::MemfdCreate("fuzz", 1).value();
  (void)host::WriteAll(file.get(), std::as_bytes(std::span(packet)));
  const iovec part = {const_cast<char*>(packet.data()), packet.size()};
  const int fd = file.get();
  const bool with_file = !packet.empty() && packet.back() % 2 != 0;
  (void)host::SendMsg(pair.a.get(), std::span(&part, 1), std::span(&fd, with_file ? 1 : 0),
                      MSG_NOSIGNAL | MSG_DONTWAIT);
  shutdown(pair.a.get(), SHUT_WR);
  int error = 0;
  if (is_reply) {
    const auto got = ReceiveReply(pair.b.get());
    if (!got) error = got.error().code();
  } else {
    const auto got = ReceiveRequest(pair.b.get());
    if (!got) error = got.error().code();
  }
  if (error != 0 && error != EPROTO && error != ECONNRESET) Fail("neither EPROTO nor the end");
}

int TestOneInput(const uint8_t* data, size_t size) {
  if (size < 2) return 0;
  const std::string_view body(reinterpret_cast<const char*>(data) + 2, size - 2);
  if ((data[0] & fuzz::kIsPacket) != 0) {
    fuzz::TakePacket(body, (data[0] & fuzz::kIsReply) != 0);
  } else if ((data[0] & fuzz::kIsReply) != 0) {
    fuzz::RoundTrip(boot::DecodeReply(data[1], body), boot::DecodeReply, boot::EncodeReply);
  } else {
    fuzz::RoundTrip(boot::DecodeRequest(data[1], body), boot::DecodeRequest, boot::EncodeRequest);
  }
  return 0;
}

const Target kTarget("protocol", Seeds, TestOneInput);

}  // namespace
}  // namespace skep::fuzz
