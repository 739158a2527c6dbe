#include "gofer/protocol/lane.h"

#include <algorithm>
#include <utility>

#include "base/check.h"
#include "base/host_call.h"
#include "gofer/protocol/replies.h"

namespace skep::gofer {
namespace {

constexpr size_t kReleasesAtOnce = 128;

Writer Begin(std::span<std::byte> buffer, uint32_t id, Op op) {
  Writer request(buffer);
  const auto cpu = static_cast<uint16_t>(host::CurrentCpu() + 1);
  request.Put(RequestHeader{id, static_cast<uint16_t>(op), cpu});
  return request;
}

// What the host may run out of for a moment: it is no fault of the connection.
bool IsShortage(int code) { return code == EAGAIN || code == ENOBUFS || code == ENOMEM; }

}  // namespace

bool IsChange(Op op) {
  switch (op) {
    case Op::kCreate:
    case Op::kMkdir:
    case Op::kMknod:
    case Op::kSymlink:
    case Op::kLink:
    case Op::kUnlink:
    case Op::kRename:
    case Op::kSetAttr:
    case Op::kSetXattr:
    case Op::kRemoveXattr:
      return true;
    default:
      return false;
  }
}

Lane::Lane(OwnedFd socket)
    : socket_(std::move(socket)),
      request_(std::make_unique_for_overwrite<std::byte[]>(kMessageMax)),
      reply_(std::make_unique_for_overwrite<std::byte[]>(kMessageMax)) {}

Lane::~Lane() {
  CHECK(under_way_ == nullptr);
  FlushReleases();
}

Result<void> Lane::Send(CallUnderWay& call, Wait wait) {
  if (broken_) return Fail(EIO);
  const uint32_t id = ++last_id_;
  Writer request = Begin(std::span(request_.get(), kMessageMax), id, call.call.op);
  call.call.Write(request);
  if (!request.ok()) return Fail(ENAMETOOLONG);
  const iovec part = {request_.get(), request.size()};
  const int flags = wait == Wait::kYes ? 0 : MSG_DONTWAIT;
  if (Result<size_t> sent = host::SendMsg(socket_.get(), std::span(&part, 1), {}, flags); !sent) {
    const int code = sent.error().code();
    if (IsShortage(code)) return Fail(code == EAGAIN ? EAGAIN : ENOMEM);
    Break();
    return Fail(EIO);
  }
  call.id = id;
  call.next = under_way_;
  under_way_ = &call;
  return {};
}

bool Lane::Take(Wait wait) {
  if (broken_) return false;
  OwnedFd file;
  const iovec part = {reply_.get(), kMessageMax};
  const Result<host::Received> received =
      host::RecvMsg(socket_.get(), std::span(&part, 1), std::span(&file, 1),
                    wait == Wait::kYes ? 0 : MSG_DONTWAIT);
  if (!received && IsShortage(received.error().code())) return false;
  // A descriptor for which this process has no room is missed by who asked for it.
  if (received && !received->truncated && TakeMessage(received->size, std::move(file))) return true;
  Break();
  return false;
}

CallUnderWay* Lane::Unlink(uint32_t id) {
  for (CallUnderWay** at = &under_way_; *at != nullptr; at = &(*at)->next) {
    CallUnderWay* found = *at;
    if (found->id != id) continue;
    *at = found->next;
    return found;
  }
  return nullptr;
}

void Lane::Finish(CallUnderWay& call, Result<void> outcome) {
  call.outcome = outcome;
  call.done = true;
  if (call.wake != nullptr) call.wake(call.waiter);  // it may be gone afterwards
}

// False: it is not as agreed.
bool Lane::TakeMessage(size_t size, OwnedFd file) {
  Reader body(std::span<const std::byte>(reply_.get(), size));
  const Result<ReplyHeader> header = body.Get<ReplyHeader>();
  if (!header || header->error >= 4096) return false;
  if (!given_up_.empty() && given_up_.erase(header->id) != 0) {
    const auto op = static_cast<Op>(header->op);
    if (header->error == 0) ThrowAway(op, body);
    if (IsChange(op) && on_settled) on_settled();
    return true;
  }
  CallUnderWay* call = Unlink(header->id);
  if (call == nullptr) return false;
  Reply reply{body, std::move(file)};
  const bool as_asked = header->op == static_cast<uint16_t>(call->call.op);
  Result<void> outcome;
  bool agreed = as_asked;
  if (as_asked && header->error != 0) {
    outcome = Fail(header->error);
  } else if (as_asked) {
    agreed = call->call.Parse(reply).has_value();
  }
  if (!agreed) outcome = Fail(EIO);
  Finish(*call, outcome);
  return agreed;
}

void Lane::GiveUp(CallUnderWay& call) {
  CHECK(!call.done && Unlink(call.id) == &call);
  given_up_.insert(call.id);
}

// A reply that nobody waits for: the handles in it have been counted as ours.
void Lane::ThrowAway(Op op, Reader body) {
  const auto give_back = [this](NodeId node) {
    if (node != NodeId::kNone) Release(node, 1);
  };
  switch (op) {
    case Op::kWalk:
      if (Result<Walked> walked = DecodeWalk(body)) {
        for (const NodeRecord& record : walked->nodes) give_back(record.node);
      }
      break;
    case Op::kReaddir:
      if (Result<DirPage> page = DecodeReaddir(body)) {
        for (const DirEntry& entry : page->entries) give_back(entry.node.node);
      }
      break;
    case Op::kCreate:
    case Op::kMkdir:
    case Op::kMknod:
    case Op::kSymlink:
    case Op::kLink:
      if (Result<NodeRecord> made = body.Get<NodeRecord>()) give_back(made->node);
      break;
    default:
      break;
  }
}

void Lane::Break() {
  if (broken_) return;
  broken_ = true;
  while (CallUnderWay* call = std::exchange(under_way_, nullptr)) {
    for (; call != nullptr;) {
      CallUnderWay* next = call->next;
      Finish(*call, Fail(EIO));
      call = next;
    }
  }
  if (on_broken) on_broken();
}

void Lane::Release(NodeId node, uint64_t count) {
  releases_.push_back({node, count});
  if (releases_.size() >= kReleasesAtOnce) FlushReleases();
}

// Does not wait: what the socket has no room for goes another time.
void Lane::FlushReleases() {
  while (!releases_.empty() && !broken_) {
    const size_t count = std::min(releases_.size(), kReleasesAtOnce);
    const std::span<const ReleaseRecord> last = std::span(releases_).last(count);
    Writer request = Begin(std::span(request_.get(), kMessageMax), ++last_id_, Op::kRelease);
    request.Put(static_cast<uint32_t>(count));
    request.Put(uint32_t{0});
    request.PutBytes(std::as_bytes(last));
    CHECK(request.ok());
    const iovec part = {request_.get(), request.size()};
    if (!host::SendMsg(socket_.get(), std::span(&part, 1), {}, MSG_DONTWAIT)) return;
    releases_.resize(releases_.size() - count);
  }
  if (broken_) releases_.clear();
}

}  // namespace skep::gofer
