// Lane: one connection to a gofer and the calls that are under way on it.
//
// Any number of calls may be under way; replies come in any order and are parsed when they are
// taken, whoever takes them. Not thread-safe: one thread at a time uses it. Host side: its memory,
// and what Parse makes, is malloc's. It knows nothing of fibers.
#pragma once

#include <functional>
#include <memory>
#include <unordered_set>
#include <vector>

#include "base/owned_fd.h"
#include "base/result.h"
#include "gofer/protocol/messages.h"

namespace skep::gofer {

// A reply as it is given to Parse: valid until that returns.
struct Reply {
  Reader body;
  OwnedFd file;  // donated; none also if this process had no room for it
};

// One request and what is made of its reply. Neither may wait for anything.
class Call {
 public:
  explicit Call(Op what) : op(what) {}
  Call(const Call&) = delete;
  Call& operator=(const Call&) = delete;
  virtual void Write(Writer& out) const = 0;
  // An error, whichever: the gofer does not keep to the protocol.
  virtual Result<void> Parse(Reply& reply) = 0;
  const Op op;

 protected:
  ~Call() = default;
};

// A call that is under way: the caller's, who keeps it until it is done or given up.
struct CallUnderWay {
  explicit CallUnderWay(Call& what) : call(what) {}
  Call& call;
  Result<void> outcome;
  bool done = false;
  void (*wake)(void*) = nullptr;  // called once, when it is done
  void* waiter = nullptr;
  uint32_t id = 0;
  CallUnderWay* next = nullptr;
};

// Whether the host's files or names may be others afterwards.
bool IsChange(Op op);

class Lane {
 public:
  // `socket`: a connected SOCK_SEQPACKET unix socket.
  explicit Lane(OwnedFd socket);
  ~Lane();
  Lane(const Lane&) = delete;
  Lane& operator=(const Lane&) = delete;

  enum class Wait : bool { kNo, kYes };
  // EAGAIN (not with kYes): the socket is full, try again later. ENOMEM. ENAMETOOLONG: the request
  // does not fit a message. EIO: the connection is broken.
  Result<void> Send(CallUnderWay& call, Wait wait);
  // Takes one reply and hands it to its call. False: none is there, or the connection is broken
  // (all calls are done then, with EIO).
  bool Take(Wait wait);
  // Nobody waits for it any more: its reply will be thrown away, what was donated with it closed
  // and its handles given back.
  void GiveUp(CallUnderWay& call);
  bool anything_given_up() const { return !given_up_.empty(); }

  // Gives references back. Batched: sent when enough have gathered, or by FlushReleases.
  void Release(NodeId node, uint64_t count);
  void FlushReleases();

  int socket() const { return socket_.get(); }
  bool broken() const { return broken_; }
  // Called once, when the gofer is gone or does not keep to the protocol.
  std::function<void()> on_broken;
  // Called when a change that was given up is over.
  std::function<void()> on_settled;

 private:
  bool TakeMessage(size_t size, OwnedFd file);
  CallUnderWay* Unlink(uint32_t id);
  void Finish(CallUnderWay& call, Result<void> outcome);
  void ThrowAway(Op op, Reader body);
  void Break();

  const OwnedFd socket_;
  const std::unique_ptr<std::byte[]> request_;
  const std::unique_ptr<std::byte[]> reply_;
  uint32_t last_id_ = 0;
  bool broken_ = false;
  CallUnderWay* under_way_ = nullptr;
  std::unordered_set<uint32_t> given_up_;  // ids
  std::vector<ReleaseRecord> releases_;
};

}  // namespace skep::gofer
