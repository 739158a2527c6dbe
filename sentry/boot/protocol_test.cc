// Requests and replies survive the way; what is cut, too long or made up ends as EPROTO.
#include "sentry/boot/protocol.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/socket.h>

#include "base/host_call.h"

namespace skep::boot {
namespace {

ExecRequest Exec() {
  ExecRequest exec;
  exec.container = "box";
  exec.process.argv = {"sh", "-c", "echo \xff\n"};
  exec.process.env = {"A=1"};
  exec.process.uid = 4294967294;
  exec.process.stdio_fds[1] = 1;
  exec.user = "ann";
  return exec;
}

TEST(Protocol, RequestsComeBack) {
  const host::SocketPair pair = *host::MakeSocketPair(SOCK_SEQPACKET);
  const OwnedFd file = host::MemfdCreate("test", 1).value();
  ASSERT_TRUE(SendRequest(pair.a.get(), 7, Exec(), {file.get(), file.get()}));
  const auto packet = ReceiveRequest(pair.b.get());
  ASSERT_TRUE(packet);
  EXPECT_EQ(packet->id, 7U);
  EXPECT_EQ(packet->fds.size(), 2U);
  const auto* exec = std::get_if<ExecRequest>(&packet->message);
  ASSERT_NE(exec, nullptr);
  EXPECT_EQ(exec->container, "box");
  EXPECT_EQ(exec->process.argv, Exec().process.argv);
  EXPECT_EQ(exec->process.uid, 4294967294U);
  EXPECT_EQ(exec->user, "ann");
  EXPECT_FALSE(exec->has_cwd);
}

TEST(Protocol, AContainerComesBack) {
  const host::SocketPair pair = *host::MakeSocketPair(SOCK_SEQPACKET);
  StartContainerRequest start;
  start.container.id = "two";
  start.container.hostname = "h\xff";
  start.container.mounts = {{.destination = "/", .attach = 3, .overlay = true}};
  start.container.pids_limit = 7;
  start.process = Exec().process;
  start.process.argv.emplace_back(1'000'000, 'x');  // in a file, beside all descriptors
  const OwnedFd file = host::MemfdCreate("test", 1).value();
  const std::vector<int> fds(4, file.get());
  ASSERT_TRUE(SendRequest(pair.a.get(), 9, start, fds));
  const auto packet = ReceiveRequest(pair.b.get());
  ASSERT_TRUE(packet);
  EXPECT_EQ(packet->fds.size(), 4U);
  const auto* back = std::get_if<StartContainerRequest>(&packet->message);
  ASSERT_NE(back, nullptr);
  EXPECT_EQ(ToJson(back->container), ToJson(start.container));
  EXPECT_EQ(ToJson(back->process), ToJson(start.process));
  EXPECT_FALSE(DecodeRequest(7, EncodeRequest(Exec())));
  const auto end = DecodeRequest(6, EncodeRequest(EndRequest{"two"}));
  ASSERT_TRUE(end);
  EXPECT_EQ(std::get<EndRequest>(*end).container, "two");
}

TEST(Protocol, LongMessagesTravelInAFile) {
  const host::SocketPair pair = *host::MakeSocketPair(SOCK_SEQPACKET);
  ExecRequest exec = Exec();
  exec.process.argv.emplace_back(3'000'000, 'x');
  const OwnedFd file = host::MemfdCreate("test", 1).value();
  ASSERT_TRUE(SendRequest(pair.a.get(), 8, exec, {file.get()}));
  const auto packet = ReceiveRequest(pair.b.get());
  ASSERT_TRUE(packet);
  EXPECT_EQ(packet->fds.size(), 1U);
  EXPECT_EQ(std::get<ExecRequest>(packet->message).process.argv.back().size(), 3'000'000U);
}

TEST(Protocol, RepliesComeBack) {
  const host::SocketPair pair = *host::MakeSocketPair(SOCK_SEQPACKET);
  const ListReply list = {{{"one", true, 0, {"e1", "e2"}}, {"two", false, 0x8900, {}}}};
  ASSERT_TRUE(SendReply(pair.a.get(), 1, list));
  ASSERT_TRUE(SendReply(pair.a.get(), 2, ErrorReply{-5, "no"}));
  ASSERT_TRUE(SendReply(pair.a.get(), 3, ExitReply{9, "why"}));
  const auto first = ReceiveReply(pair.b.get());
  ASSERT_TRUE(first);
  const auto& containers = std::get<ListReply>(first->message).containers;
  ASSERT_EQ(containers.size(), 2U);
  EXPECT_EQ(containers[0].execs, (std::vector<std::string>{"e1", "e2"}));
  EXPECT_EQ(containers[1].status, 0x8900);
  EXPECT_EQ(std::get<ErrorReply>(ReceiveReply(pair.b.get())->message).code, -5);
  EXPECT_EQ(std::get<ExitReply>(ReceiveReply(pair.b.get())->message).text, "why");
}

TEST(Protocol, EveryCutIsRefused) {
  const std::string body = EncodeRequest(Exec());
  ASSERT_TRUE(DecodeRequest(1, body));
  for (size_t size = 0; size < body.size(); ++size) {
    EXPECT_FALSE(DecodeRequest(1, std::string_view(body).substr(0, size))) << size;
  }
  EXPECT_FALSE(DecodeRequest(1, body + "x"));
  EXPECT_FALSE(DecodeRequest(99, ""));
  std::string lying = EncodeReply(ListReply{});
  lying[0] = lying[6] = '\x7f';  // that many containers
  EXPECT_FALSE(DecodeReply(2, lying));
}

TEST(Protocol, StrangePacketsAreRefused) {
  const host::SocketPair pair = *host::MakeSocketPair(SOCK_SEQPACKET);
  ASSERT_TRUE(host::Write(pair.a.get(), std::as_bytes(std::span("hello", 5))));
  EXPECT_EQ(ReceiveRequest(pair.b.get()).error().code(), EPROTO);
  const std::string long_packet(100'000, 'x');
  ASSERT_TRUE(host::Write(pair.a.get(), std::as_bytes(std::span(long_packet))));
  EXPECT_EQ(ReceiveRequest(pair.b.get()).error().code(), EPROTO);
  shutdown(pair.a.get(), SHUT_WR);
  EXPECT_EQ(ReceiveRequest(pair.b.get()).error().code(), ECONNRESET);
}

}  // namespace
}  // namespace skep::boot
