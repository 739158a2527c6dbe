#include "gofer/protocol/client.h"

#include "base/check.h"
#include "base/host_call.h"

namespace skep::gofer {

Client::Client(OwnedFd socket)
    : socket_(std::move(socket)),
      request_(new std::byte[kMessageMax]),
      reply_(new std::byte[kMessageMax]) {}

Client::~Client() { FlushReleases(); }

Writer Client::Begin(Op op) {
  Writer request(std::span(request_.get(), kMessageMax));
  const auto cpu = static_cast<uint16_t>(host::CurrentCpu() + 1);
  request.Put(RequestHeader{++last_id_, static_cast<uint16_t>(op), cpu});
  return request;
}

Result<void> Client::Send(size_t size) {
  if (broken_) return Fail(EIO);
  const iovec part = {request_.get(), size};
  if (!host::SendMsg(socket_.get(), std::span(&part, 1), {}, 0)) {
    broken_ = true;
    return Fail(EIO);
  }
  return {};
}

// One round trip. A gofer that does not answer as agreed is as good as dead.
Result<Client::Reply> Client::Exchange(const Writer& request) {
  if (!request.ok()) return Fail(ENAMETOOLONG);
  TRY(Send(request.size()));
  OwnedFd file;
  const iovec part = {reply_.get(), kMessageMax};
  Result<host::Received> received =
      host::RecvMsg(socket_.get(), std::span(&part, 1), std::span(&file, 1), 0);
  // A descriptor for which this process has no room is missed by the one who asked for it.
  broken_ = !received || received->truncated || received->size < sizeof(ReplyHeader);
  if (broken_) return Fail(EIO);
  Reader body(std::span<const std::byte>(reply_.get(), received->size));
  const ReplyHeader header = TRY(body.Get<ReplyHeader>());
  broken_ = header.id != last_id_ || header.error >= 4096;
  if (broken_) return Fail(EIO);
  if (header.error != 0) return Fail(header.error);
  return Reply{body, std::move(file)};
}

Result<std::vector<AttachRecord>> Client::Mounts() {
  MutexLock lock(mutex_);
  Reply reply = TRY(Exchange(Begin(Op::kMounts)));
  const uint32_t count = TRY(reply.body.Get<uint32_t>());
  if (count > reply.body.left() / sizeof(AttachRecord)) return Fail(EPROTO);
  std::vector<AttachRecord> mounts(count);
  for (AttachRecord& mount : mounts) mount = TRY(reply.body.Get<AttachRecord>());
  return mounts;
}

Result<AttachRecord> Client::Attach(uint32_t attach) {
  MutexLock lock(mutex_);
  Writer request = Begin(Op::kAttach);
  request.Put(AttachRequest{attach, 0});
  Reply reply = TRY(Exchange(request));
  return reply.body.Get<AttachRecord>();
}

// One message's worth of a walk, appended to `walked`.
Result<void> Client::WalkSome(NodeId parent, std::span<const std::string_view> names,
                              WalkOpens opens, Walked& walked) {
  Writer request = Begin(Op::kWalk);
  const uint32_t flags = opens == WalkOpens::kLast ? kWalkOpens : 0;
  request.Put(WalkRequest{parent, static_cast<uint32_t>(names.size()), flags});
  for (std::string_view name : names) request.PutString(name);
  Reply reply = TRY(Exchange(request));
  const WalkReply header = TRY(reply.body.Get<WalkReply>());
  if (header.reached > names.size() || header.error >= 4096) return Fail(EPROTO);
  if (header.stop > static_cast<uint16_t>(WalkStop::kFull)) return Fail(EPROTO);
  walked.stop = static_cast<WalkStop>(header.stop);
  walked.error = header.error;
  walked.nodes.reserve(walked.nodes.size() + header.reached);
  for (uint16_t i = 0; i < header.reached; ++i) {
    const NodeRecord node = TRY(reply.body.Get<NodeRecord>());
    walked.nodes.push_back(node);
  }
  if (walked.stop == WalkStop::kSymlink) {
    const std::span<const std::byte> target = TRY(reply.body.GetBytes(header.target_size));
    walked.target.assign(reinterpret_cast<const char*>(target.data()), target.size());
  }
  const bool nowhere = walked.nodes.empty() && walked.stop == WalkStop::kSymlink;
  const bool stuck = header.reached == 0 && walked.stop == WalkStop::kFull;
  const bool no_error = walked.stop == WalkStop::kError && walked.error == 0;
  if (nowhere || stuck || no_error) return Fail(EPROTO);
  if (opens == WalkOpens::kLast && walked.stop == WalkStop::kDone) {
    walked.file = std::move(reply.file);
  }
  return {};
}

Result<Walked> Client::Walk(NodeId parent, std::span<const std::string_view> names,
                            WalkOpens opens) {
  MutexLock lock(mutex_);
  Walked walked;
  for (;;) {
    const std::span<const std::string_view> rest = names.subspan(walked.nodes.size());
    const size_t count = std::min<size_t>(rest.size(), kMaxWalkNames);
    const WalkOpens opens_now = count == rest.size() ? opens : WalkOpens::kNo;
    TRY(WalkSome(parent, rest.first(count), opens_now, walked));
    const bool more = walked.stop == WalkStop::kFull ||
                      (walked.stop == WalkStop::kDone && walked.nodes.size() < names.size());
    if (!more) return walked;
    if (walked.nodes.empty()) return Fail(EPROTO);
    parent = walked.nodes.back().node;
  }
}

Result<DirPage> Client::Readdir(NodeId dir, uint64_t cookie, bool with_nodes, uint32_t max_bytes) {
  MutexLock lock(mutex_);
  Writer request = Begin(Op::kReaddir);
  request.Put(ReaddirRequest{dir, cookie, max_bytes, with_nodes ? kReaddirNodes : 0});
  Reply reply = TRY(Exchange(request));
  const ReaddirReply header = TRY(reply.body.Get<ReaddirReply>());
  if (header.count > reply.body.left() / sizeof(DirEntryHeader)) return Fail(EPROTO);
  DirPage page;
  page.at_end = header.at_end != 0;
  page.entries.resize(header.count);
  for (DirEntry& entry : page.entries) {
    const DirEntryHeader head = TRY(reply.body.Get<DirEntryHeader>());
    const std::span<const std::byte> name = TRY(reply.body.GetBytes(head.name_size));
    entry.name.assign(reinterpret_cast<const char*>(name.data()), name.size());
    entry.ino = head.ino;
    entry.next_cookie = head.next_cookie;
    entry.type = head.type;
    if (head.has_node != 0) entry.node = TRY(reply.body.Get<NodeRecord>());
  }
  return page;
}

Result<std::string> Client::Readlink(NodeId node) {
  MutexLock lock(mutex_);
  Writer request = Begin(Op::kReadlink);
  request.Put(node);
  Reply reply = TRY(Exchange(request));
  const std::string_view target = TRY(reply.body.GetString());
  return std::string(target);
}

Result<Opened> Client::Open(NodeId node, int flags) {
  MutexLock lock(mutex_);
  Writer request = Begin(Op::kOpen);
  request.Put(OpenRequest{node, static_cast<uint32_t>(flags), 0});
  Reply reply = TRY(Exchange(request));
  const Attributes attributes = TRY(reply.body.Get<Attributes>());
  if (!reply.file) return Fail(EMFILE);  // the kernel found no room in our table
  return Opened{std::move(reply.file), attributes};
}

Result<NodeRecord> Client::Make(Op op, NodeId dir, std::string_view name, const NewNode& what,
                                std::string_view target, uint32_t flags, OwnedFd* file) {
  MutexLock lock(mutex_);
  Writer request = Begin(op);
  request.Put(MakeRequest{dir, what.mode, what.uid, what.gid, flags});
  request.PutString(name);
  if (op == Op::kSymlink) request.PutString(target);
  Reply reply = TRY(Exchange(request));
  if (file != nullptr) *file = std::move(reply.file);
  return reply.body.Get<NodeRecord>();
}

Result<Created> Client::Create(NodeId dir, std::string_view name, const NewNode& what,
                               int open_flags) {
  Created created;
  created.node =
      TRY(Make(Op::kCreate, dir, name, what, {}, static_cast<uint32_t>(open_flags), &created.file));
  if (created.file) return created;
  Release(created.node.node);
  return Fail(EMFILE);
}

Result<NodeRecord> Client::Mkdir(NodeId dir, std::string_view name, const NewNode& what) {
  return Make(Op::kMkdir, dir, name, what, {}, 0, nullptr);
}
Result<NodeRecord> Client::Mknod(NodeId dir, std::string_view name, const NewNode& what) {
  return Make(Op::kMknod, dir, name, what, {}, 0, nullptr);
}
Result<NodeRecord> Client::Symlink(NodeId dir, std::string_view name, std::string_view target,
                                   const NewNode& what) {
  return Make(Op::kSymlink, dir, name, what, target, 0, nullptr);
}

Result<NodeRecord> Client::Link(NodeId node, NodeId dir, std::string_view name) {
  MutexLock lock(mutex_);
  Writer request = Begin(Op::kLink);
  request.Put(LinkRequest{node, dir});
  request.PutString(name);
  Reply reply = TRY(Exchange(request));
  return reply.body.Get<NodeRecord>();
}

Result<void> Client::Remove(NodeId dir, std::string_view name, uint32_t flags) {
  MutexLock lock(mutex_);
  Writer request = Begin(Op::kUnlink);
  request.Put(UnlinkRequest{dir, flags, 0});
  request.PutString(name);
  TRY(Exchange(request));
  return {};
}
Result<void> Client::Unlink(NodeId dir, std::string_view name) { return Remove(dir, name, 0); }
Result<void> Client::Rmdir(NodeId dir, std::string_view name) {
  return Remove(dir, name, kUnlinkDirectory);
}

Result<void> Client::Rename(NodeId old_dir, std::string_view old_name, NodeId new_dir,
                            std::string_view new_name, uint32_t flags) {
  MutexLock lock(mutex_);
  Writer request = Begin(Op::kRename);
  request.Put(RenameRequest{old_dir, new_dir, flags, 0});
  request.PutString(old_name);
  request.PutString(new_name);
  TRY(Exchange(request));
  return {};
}

Result<Attributes> Client::GetAttr(NodeId node) {
  MutexLock lock(mutex_);
  Writer request = Begin(Op::kGetAttr);
  request.Put(node);
  Reply reply = TRY(Exchange(request));
  return reply.body.Get<Attributes>();
}

Result<Attributes> Client::SetAttr(const SetAttrRequest& change) {
  MutexLock lock(mutex_);
  Writer request = Begin(Op::kSetAttr);
  request.Put(change);
  Reply reply = TRY(Exchange(request));
  return reply.body.Get<Attributes>();
}

Result<FsStatistics> Client::Statfs(NodeId node) {
  MutexLock lock(mutex_);
  Writer request = Begin(Op::kStatfs);
  request.Put(node);
  Reply reply = TRY(Exchange(request));
  return reply.body.Get<FsStatistics>();
}

Result<void> Client::Fsync(NodeId node, bool data_only) {
  MutexLock lock(mutex_);
  Writer request = Begin(Op::kFsync);
  request.Put(FsyncRequest{node, data_only ? 1U : 0U, 0});
  TRY(Exchange(request));
  return {};
}

Result<size_t> Client::ReadXattr(Op op, NodeId node, std::string_view name,
                                 std::span<std::byte> to) {
  MutexLock lock(mutex_);
  Writer request = Begin(op);
  const size_t size = std::min(to.size(), kXattrSizeMax);
  request.Put(XattrRequest{node, 0, static_cast<uint32_t>(size)});
  request.PutString(name);
  Reply reply = TRY(Exchange(request));
  const uint32_t value_size = TRY(reply.body.Get<uint32_t>());
  if (to.empty()) return value_size;
  if (value_size > to.size()) return Fail(EPROTO);
  const std::span<const std::byte> value = TRY(reply.body.GetBytes(value_size));
  if (value_size != 0) memcpy(to.data(), value.data(), value_size);
  return value_size;
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
  MutexLock lock(mutex_);
  Writer request = Begin(Op::kSetXattr);
  request.Put(
      XattrRequest{node, static_cast<uint32_t>(flags), static_cast<uint32_t>(value.size())});
  request.PutString(name);
  request.PutBytes(value);
  TRY(Exchange(request));
  return {};
}

Result<void> Client::RemoveXattr(NodeId node, std::string_view name) {
  MutexLock lock(mutex_);
  Writer request = Begin(Op::kRemoveXattr);
  request.Put(XattrRequest{node, 0, 0});
  request.PutString(name);
  TRY(Exchange(request));
  return {};
}

void Client::Release(NodeId node, uint64_t count) {
  MutexLock lock(mutex_);
  if (release_count_ == releases_.size()) FlushReleasesLocked();
  releases_[release_count_++] = {node, count};
}

void Client::FlushReleases() {
  MutexLock lock(mutex_);
  FlushReleasesLocked();
}

void Client::FlushReleasesLocked() {
  if (release_count_ == 0) return;
  Writer request = Begin(Op::kRelease);
  request.Put(static_cast<uint32_t>(release_count_));
  request.Put(uint32_t{0});
  request.PutBytes(std::as_bytes(std::span(releases_).first(release_count_)));
  CHECK(request.ok());
  (void)Send(request.size());  // a broken connection shows at the next call
  release_count_ = 0;
}

Result<NodePath> Client::PathOf(NodeId node) {
  MutexLock lock(mutex_);
  Writer request = Begin(Op::kPathOf);
  request.Put(node);
  Reply reply = TRY(Exchange(request));
  const AttachRequest attach = TRY(reply.body.Get<AttachRequest>());
  const std::string_view path = TRY(reply.body.GetString());
  return NodePath{attach.attach, std::string(path)};
}

Result<NodeRecord> Client::Reopen(NodeId wanted, uint32_t attach, std::string_view path) {
  MutexLock lock(mutex_);
  Writer request = Begin(Op::kReopen);
  request.Put(ReopenRequest{wanted, attach, 0});
  request.PutString(path);
  Reply reply = TRY(Exchange(request));
  return reply.body.Get<NodeRecord>();
}

}  // namespace skep::gofer
