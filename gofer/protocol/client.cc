#include "gofer/protocol/client.h"

#include <algorithm>
#include <optional>

namespace skep::gofer {
namespace {

// A call of two functions: one writes the request's body, one makes a T of the reply.
template <class T, class WriteBody, class Decode>
class CallOf final : public Call {
 public:
  CallOf(Op what, WriteBody& write, Decode& decode) : Call(what), write_(write), decode_(decode) {}
  void Write(Writer& out) const override { write_(out); }
  Result<void> Parse(Reply& reply) override {
    Result<T> decoded = decode_(reply);
    if (!decoded) return std::unexpected(decoded.error());
    TRY(reply.body.End());
    value = std::move(*decoded);
    return {};
  }
  std::optional<T> value;

 private:
  WriteBody& write_;
  Decode& decode_;
};

struct Nothing {};

}  // namespace

Result<void> BlockingTransport::Ask(Call& call) {
  MutexLock lock(mutex_);
  CallUnderWay under_way(call);
  TRY(lane_.Send(under_way, Lane::Wait::kYes));
  while (!under_way.done) (void)lane_.Take(Lane::Wait::kYes);
  return under_way.outcome;
}

void BlockingTransport::Release(NodeId node, uint64_t count) {
  MutexLock lock(mutex_);
  lane_.Release(node, count);
}

void BlockingTransport::FlushReleases() {
  MutexLock lock(mutex_);
  lane_.FlushReleases();
}

template <class T, class Write, class Decode>
Result<T> Client::Ask(Op op, Write write, Decode decode) {
  CallOf<T, Write, Decode> call(op, write, decode);
  TRY(transport_->Ask(call));
  return std::move(*call.value);
}

template <class Write>
Result<void> Client::AskForNothing(Op op, Write write) {
  TRY(Ask<Nothing>(op, write, [](Reply&) { return Result<Nothing>(); }));
  return {};
}

Result<std::vector<AttachRecord>> Client::Mounts() {
  return Ask<std::vector<AttachRecord>>(
      Op::kMounts, [](Writer&) {}, [](Reply& reply) { return DecodeMounts(reply.body); });
}

Result<AttachRecord> Client::Attach(uint32_t attach) {
  return Ask<AttachRecord>(
      Op::kAttach, [&](Writer& out) { out.Put(AttachRequest{attach, 0}); },
      [](Reply& reply) { return reply.body.Get<AttachRecord>(); });
}

// One message's worth of a walk.
Result<Walked> Client::WalkSome(NodeId parent, std::span<const std::string_view> names,
                                WalkOpens opens) {
  const bool wants_file = opens == WalkOpens::kLast;
  return Ask<Walked>(
      Op::kWalk,
      [&](Writer& out) {
        const uint32_t flags = wants_file ? kWalkOpens : 0;
        out.Put(WalkRequest{parent, static_cast<uint32_t>(names.size()), flags});
        for (std::string_view name : names) out.PutString(name);
      },
      [&](Reply& reply) -> Result<Walked> {
        Walked walked = TRY(DecodeWalk(reply.body));
        const size_t reached = walked.nodes.size();
        if (reached > names.size()) return Fail(EPROTO);
        if (walked.stop == WalkStop::kDone && reached < names.size()) return Fail(EPROTO);
        if (wants_file && walked.stop == WalkStop::kDone) walked.file = std::move(reply.file);
        return walked;
      });
}

void Client::GiveBack(std::span<const NodeRecord> nodes) {
  for (const NodeRecord& record : nodes) Release(record.node);
}

Result<Walked> Client::Walk(NodeId parent, std::span<const std::string_view> names,
                            WalkOpens opens) {
  Walked walked;
  for (;;) {
    const std::span<const std::string_view> rest = names.subspan(walked.nodes.size());
    const size_t count = std::min<size_t>(rest.size(), kMaxWalkNames);
    const WalkOpens opens_now = count == rest.size() ? opens : WalkOpens::kNo;
    Result<Walked> part = WalkSome(parent, rest.first(count), opens_now);
    if (!part) {
      GiveBack(walked.nodes);
      return part;
    }
    walked.nodes.insert(walked.nodes.end(), part->nodes.begin(), part->nodes.end());
    walked.stop = part->stop;
    walked.error = part->error;
    walked.target = std::move(part->target);
    walked.file = std::move(part->file);
    const bool more = walked.stop == WalkStop::kFull ||
                      (walked.stop == WalkStop::kDone && walked.nodes.size() < names.size());
    if (!more) return walked;
    parent = walked.nodes.back().node;
  }
}

Result<DirPage> Client::Readdir(NodeId dir, uint64_t cookie, bool with_nodes, uint32_t max_bytes) {
  return Ask<DirPage>(
      Op::kReaddir,
      [&](Writer& out) {
        out.Put(ReaddirRequest{dir, cookie, max_bytes, with_nodes ? kReaddirNodes : 0});
      },
      [](Reply& reply) { return DecodeReaddir(reply.body); });
}

Result<std::string> Client::Readlink(NodeId node) {
  return Ask<std::string>(
      Op::kReadlink, [&](Writer& out) { out.Put(node); },
      [](Reply& reply) -> Result<std::string> {
        const std::string_view target = TRY(reply.body.GetString());
        return std::string(target);
      });
}

Result<Opened> Client::Open(NodeId node, int flags) {
  Result<Opened> opened = Ask<Opened>(
      Op::kOpen, [&](Writer& out) { out.Put(OpenRequest{node, static_cast<uint32_t>(flags), 0}); },
      [](Reply& reply) -> Result<Opened> {
        const Attributes attributes = TRY(reply.body.Get<Attributes>());
        return Opened{std::move(reply.file), attributes};
      });
  if (opened && !opened->file) return Fail(EMFILE);  // the kernel found no room in our table
  return opened;
}

Result<Created> Client::Make(Op op, NodeId dir, std::string_view name, const NewNode& what,
                             std::string_view target, uint32_t flags) {
  return Ask<Created>(
      op,
      [&](Writer& out) {
        out.Put(MakeRequest{dir, what.mode, what.uid, what.gid, flags});
        out.PutString(name);
        if (op == Op::kSymlink) out.PutString(target);
      },
      [](Reply& reply) -> Result<Created> {
        const NodeRecord node = TRY(reply.body.Get<NodeRecord>());
        return Created{std::move(reply.file), node};
      });
}

Result<Created> Client::Create(NodeId dir, std::string_view name, const NewNode& what,
                               int open_flags) {
  Created created = TRY(Make(Op::kCreate, dir, name, what, {}, static_cast<uint32_t>(open_flags)));
  if (created.file) return created;
  Release(created.node.node);
  return Fail(EMFILE);
}

Result<NodeRecord> Client::Mkdir(NodeId dir, std::string_view name, const NewNode& what) {
  const Created made = TRY(Make(Op::kMkdir, dir, name, what, {}, 0));
  return made.node;
}
Result<NodeRecord> Client::Mknod(NodeId dir, std::string_view name, const NewNode& what) {
  const Created made = TRY(Make(Op::kMknod, dir, name, what, {}, 0));
  return made.node;
}
Result<NodeRecord> Client::Symlink(NodeId dir, std::string_view name, std::string_view target,
                                   const NewNode& what) {
  const Created made = TRY(Make(Op::kSymlink, dir, name, what, target, 0));
  return made.node;
}

Result<NodeRecord> Client::Link(NodeId node, NodeId dir, std::string_view name) {
  return Ask<NodeRecord>(
      Op::kLink,
      [&](Writer& out) {
        out.Put(LinkRequest{node, dir});
        out.PutString(name);
      },
      [](Reply& reply) { return reply.body.Get<NodeRecord>(); });
}

Result<void> Client::Remove(NodeId dir, std::string_view name, uint32_t flags) {
  return AskForNothing(Op::kUnlink, [&](Writer& out) {
    out.Put(UnlinkRequest{dir, flags, 0});
    out.PutString(name);
  });
}
Result<void> Client::Unlink(NodeId dir, std::string_view name) { return Remove(dir, name, 0); }
Result<void> Client::Rmdir(NodeId dir, std::string_view name) {
  return Remove(dir, name, kUnlinkDirectory);
}

Result<void> Client::Rename(NodeId old_dir, std::string_view old_name, NodeId new_dir,
                            std::string_view new_name, uint32_t flags) {
  return AskForNothing(Op::kRename, [&](Writer& out) {
    out.Put(RenameRequest{old_dir, new_dir, flags, 0});
    out.PutString(old_name);
    out.PutString(new_name);
  });
}

Result<Attributes> Client::GetAttr(NodeId node) {
  return Ask<Attributes>(
      Op::kGetAttr, [&](Writer& out) { out.Put(node); },
      [](Reply& reply) { return reply.body.Get<Attributes>(); });
}

Result<Attributes> Client::SetAttr(const SetAttrRequest& change) {
  return Ask<Attributes>(
      Op::kSetAttr, [&](Writer& out) { out.Put(change); },
      [](Reply& reply) { return reply.body.Get<Attributes>(); });
}

Result<FsStatistics> Client::Statfs(NodeId node) {
  return Ask<FsStatistics>(
      Op::kStatfs, [&](Writer& out) { out.Put(node); },
      [](Reply& reply) { return reply.body.Get<FsStatistics>(); });
}

Result<void> Client::Fsync(NodeId node, bool data_only) {
  return AskForNothing(Op::kFsync,
                       [&](Writer& out) { out.Put(FsyncRequest{node, data_only ? 1U : 0U, 0}); });
}

Result<size_t> Client::ReadXattr(Op op, NodeId node, std::string_view name,
                                 std::span<std::byte> to) {
  const auto size = static_cast<uint32_t>(std::min(to.size(), kXattrSizeMax));
  return Ask<size_t>(
      op,
      [&](Writer& out) {
        out.Put(XattrRequest{node, 0, size});
        out.PutString(name);
      },
      [&](Reply& reply) -> Result<size_t> {
        const uint32_t value_size = TRY(reply.body.Get<uint32_t>());
        if (size == 0) return value_size;
        if (value_size > size) return Fail(EPROTO);
        const std::span<const std::byte> value = TRY(reply.body.GetBytes(value_size));
        std::copy(value.begin(), value.end(), to.begin());
        return value_size;
      });
}

Result<size_t> Client::GetXattr(NodeId node, std::string_view name, std::span<std::byte> value) {
  return ReadXattr(Op::kGetXattr, node, name, value);
}
Result<size_t> Client::ListXattr(NodeId node, std::span<std::byte> names) {
  return ReadXattr(Op::kListXattr, node, {}, names);
}

Result<void> Client::SetXattr(NodeId node, std::string_view name, std::span<const std::byte> value,
                              int flags) {
  if (value.size() > kXattrSizeMax) return Fail(E2BIG);
  return AskForNothing(Op::kSetXattr, [&](Writer& out) {
    out.Put(XattrRequest{node, static_cast<uint32_t>(flags), static_cast<uint32_t>(value.size())});
    out.PutString(name);
    out.PutBytes(value);
  });
}

Result<void> Client::RemoveXattr(NodeId node, std::string_view name) {
  return AskForNothing(Op::kRemoveXattr, [&](Writer& out) {
    out.Put(XattrRequest{node, 0, 0});
    out.PutString(name);
  });
}

Result<NodePath> Client::PathOf(NodeId node) {
  return Ask<NodePath>(
      Op::kPathOf, [&](Writer& out) { out.Put(node); },
      [](Reply& reply) { return DecodePathOf(reply.body); });
}

Result<NodeRecord> Client::Reopen(NodeId wanted, uint32_t attach, std::string_view path) {
  return Ask<NodeRecord>(
      Op::kReopen,
      [&](Writer& out) {
        out.Put(ReopenRequest{wanted, attach, 0});
        out.PutString(path);
      },
      [](Reply& reply) { return reply.body.Get<NodeRecord>(); });
}

Result<OwnedFd> Client::Connect() {
  OwnedFd socket = TRY(Ask<OwnedFd>(
      Op::kConnect, [](Writer&) {},
      [](Reply& reply) { return Result<OwnedFd>(std::move(reply.file)); }));
  if (!socket) return Fail(EMFILE);
  return socket;
}

}  // namespace skep::gofer
