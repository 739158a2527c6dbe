// A gofer that has been taken over, against its sentry. The input says which calls are made and
// what the gofer answers to each: some messages, right in their header or not, with a descriptor or
// not. All are on the socket before the call is made; behind the last one the gofer hangs up.
#include <fcntl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <algorithm>
#include <array>

#include "base/host_call.h"
#include "gofer/protocol/client.h"
#include "tests/fuzz/fuzz.h"

namespace skep::fuzz {
namespace {

using namespace skep::gofer;

constexpr NodeId kNode{7};
constexpr int kCalls = 8;
constexpr Op kOps[] = {Op::kMounts, Op::kAttach,   Op::kWalk,     Op::kReaddir,   Op::kOpen,
                       Op::kCreate, Op::kMkdir,    Op::kMknod,    Op::kSymlink,   Op::kLink,
                       Op::kUnlink, Op::kRename,   Op::kSetAttr,  Op::kGetAttr,   Op::kReadlink,
                       Op::kStatfs, Op::kGetXattr, Op::kSetXattr, Op::kListXattr, Op::kRemoveXattr,
                       Op::kFsync,  Op::kPathOf,   Op::kReopen,   Op::kConnect};

// How the header of an answer is made: as the client expects it, or from the input.
constexpr uint8_t kRightHeader = 1, kDonates = 2, kOneMore = 4;

std::string Answer(uint8_t kind, const std::string& body) {
  return Bytes(static_cast<uint8_t>(kind | kRightHeader)) +
         Bytes(static_cast<uint16_t>(body.size())) + body;
}
std::string Name(std::string_view name) {
  return Bytes(static_cast<uint16_t>(name.size())) + std::string(name);
}
std::string Call(Op op) {
  return Bytes(static_cast<uint8_t>(std::ranges::find(kOps, op) - std::begin(kOps)));
}

std::vector<std::string> Seeds() {
  const NodeRecord node{NodeId{9}, {}};
  const std::string walked = Bytes(WalkReply{2, 0, 0, 0}) + Bytes(node) + Bytes(node);
  const std::string link = Bytes(WalkReply{1, 1, 0, 3}) + Bytes(node) + "a/b";
  const std::string full = Bytes(WalkReply{1, 3, 0, 0}) + Bytes(node);
  const std::string entries = Bytes(ReaddirReply{2, 1}) + Bytes(DirEntryHeader{1, 1, 1, 8, 1, 0}) +
                              "a" + Bytes(node) + Bytes(DirEntryHeader{2, 2, 2, 4, 0, 0}) + "bc";
  return {Call(Op::kMounts) + Answer(0, Bytes(uint32_t{1}) + Bytes(AttachRecord{})) +
              Call(Op::kAttach) + Answer(0, Bytes(AttachRecord{})),
          Call(Op::kWalk) + Answer(kDonates, walked) + Call(Op::kWalk) + Answer(0, link),
          Call(Op::kWalk) + Answer(kOneMore, full) + Answer(0, full),
          Call(Op::kReaddir) + Answer(0, entries),
          Call(Op::kOpen) + Answer(kDonates, Bytes(Attributes{})) + Call(Op::kCreate) +
              Answer(0, Bytes(node)),
          Call(Op::kReadlink) + Answer(0, Name("target")) + Call(Op::kPathOf) +
              Answer(0, Bytes(AttachRequest{0, 0}) + Name("a/b")),
          Call(Op::kGetXattr) + Answer(0, Bytes(uint32_t{3}) + "abc") + Call(Op::kListXattr) +
              Answer(0, Bytes(uint32_t{7}) + std::string("user.a\0", 7)),
          Call(Op::kStatfs) + Answer(0, Bytes(FsStatistics{})) + Call(Op::kConnect) +
              Answer(kDonates, "")};
}

// Sends the answers to the request of this number. `as_asked`: the operation.
void PutAnswers(int socket, Input& in, uint32_t id, Op as_asked) {
  uint8_t kind = kOneMore;
  for (int count = 0; count < 4 && (kind & kOneMore) != 0; ++count) {
    kind = in.Take<uint8_t>();
    std::string message(in.Text(in.Take<uint16_t>()));
    if ((kind & kRightHeader) != 0) {
      const auto error = static_cast<uint16_t>(kind >= 0xf0 ? kind : 0);
      message.insert(0, Bytes(ReplyHeader{id++, static_cast<uint16_t>(as_asked), error}));
    }
    const iovec part = {message.data(), message.size()};
    const OwnedFd file = host::Open("/dev/null", O_RDONLY).value();
    const int fd = file.get();
    (void)host::SendMsg(socket, std::span(&part, 1), std::span(&fd, (kind & kDonates) != 0 ? 1 : 0),
                        MSG_DONTWAIT | MSG_NOSIGNAL);
  }
}

void CheckName(std::string_view name, size_t size) {
  if (name.size() > size) Fail("a name that is longer than its message");
}

// What changes nothing.
void Ask(Client& client, Op op) {
  constexpr std::string_view kNames[] = {"a", "b"};
  std::array<std::byte, 64> value{};
  switch (op) {
    case Op::kMounts:
      (void)client.Mounts();
      break;
    case Op::kAttach:
      (void)client.Attach(0);
      break;
    case Op::kWalk:
      if (const auto walked = client.Walk(kNode, kNames, Client::WalkOpens::kLast)) {
        if (walked->nodes.size() > std::size(kNames)) Fail("more nodes than names");
        if (walked->stop == WalkStop::kFull) Fail("a walk that is not over");
        if (walked->stop == WalkStop::kError && walked->error == 0) Fail("no error");
        if (walked->stop == WalkStop::kSymlink && walked->nodes.empty()) Fail("no symlink");
      }
      break;
    case Op::kReaddir:
      if (const auto page = client.Readdir(kNode, 0, true)) {
        for (const DirEntry& entry : page->entries) CheckName(entry.name, kMessageMax);
      }
      break;
    case Op::kOpen:
      if (const auto opened = client.Open(kNode, O_RDONLY)) {
        if (!opened->file) Fail("opened without a file");
      }
      break;
    case Op::kReadlink:
      if (const auto target = client.Readlink(kNode)) CheckName(*target, kMessageMax);
      break;
    case Op::kStatfs:
      (void)client.Statfs(kNode);
      break;
    case Op::kGetXattr:
      if (const auto size = client.GetXattr(kNode, "user.a", value)) {
        if (*size > value.size()) Fail("a value that is larger than its buffer");
      }
      break;
    case Op::kListXattr:
      (void)client.ListXattr(kNode, {});
      break;
    case Op::kPathOf:
      if (const auto path = client.PathOf(kNode)) CheckName(path->path, kMessageMax);
      break;
    case Op::kReopen:
      (void)client.Reopen(kNode, 0, "a/b");
      break;
    case Op::kConnect:
      if (const auto socket = client.Connect()) {
        if (!*socket) Fail("connected without a socket");
      }
      break;
    case Op::kGetAttr:
      (void)client.GetAttr(kNode);
      break;
    default:
      break;
  }
}

void Change(Client& client, Op op) {
  const std::array<std::byte, 64> value{};
  switch (op) {
    case Op::kCreate:
      if (const auto created = client.Create(kNode, "new", {.mode = 0644}, O_RDWR)) {
        if (!created->file) Fail("created without a file");
      }
      break;
    case Op::kMkdir:
      (void)client.Mkdir(kNode, "new", {.mode = 0755});
      break;
    case Op::kSymlink:
      (void)client.Symlink(kNode, "new", "target", {});
      break;
    case Op::kLink:
      (void)client.Link(kNode, kNode, "new");
      break;
    case Op::kUnlink:
      (void)client.Unlink(kNode, "old");
      break;
    case Op::kRename:
      (void)client.Rename(kNode, "old", kNode, "new", 0);
      break;
    case Op::kSetAttr:
      (void)client.SetAttr({.node = kNode, .mask = kSetMode});
      break;
    case Op::kMknod:
      (void)client.Mknod(kNode, "new", {.mode = S_IFIFO | 0644});
      break;
    case Op::kSetXattr:
      (void)client.SetXattr(kNode, "user.a", value, 0);
      break;
    case Op::kRemoveXattr:
      (void)client.RemoveXattr(kNode, "user.a");
      break;
    case Op::kFsync:
      (void)client.Fsync(kNode, true);
      break;
    default:
      break;
  }
}

// One connection for each call, so that a bad answer does not end the rest.
int TestOneInput(const uint8_t* data, size_t size) {
  fuzz::Input in(data, size);
  for (int calls = 0; calls < fuzz::kCalls && !in.empty(); ++calls) {
    auto pair = host::MakeSocketPair(SOCK_SEQPACKET);
    if (!pair) fuzz::Fail("no sockets");
    const gofer::Op op = fuzz::kOps[in.Take<uint8_t>() % std::size(fuzz::kOps)];
    // The first request of a connection is number 1, a walk's next one number 2.
    fuzz::PutAnswers(pair->b.get(), in, 1, op);
    shutdown(pair->b.get(), SHUT_WR);
    gofer::Client client(std::move(pair->a));
    fuzz::Ask(client, op);
    fuzz::Change(client, op);
  }
  return 0;
}

const Target kTarget("gofer_client", Seeds, TestOneInput);

}  // namespace
}  // namespace skep::fuzz
