// Files that are inside messages which nobody has received (Linux: net/unix/scm.c, garbage.c).
//
// They are counted for each user. Sockets among them make a graph: an edge leads from the socket
// that was sent to the one in whose queue it lies. Sockets that only such messages hold, and that
// no program can get out of a queue any more, are garbage: Collect() empties their queues.
//
// One for all network namespaces of a sandbox, since sockets may be sent from one to another. No
// lock is taken under its mutex.
#pragma once

#include <cstddef>
#include <cstdint>
#include <unordered_map>
#include <vector>

#include "base/mutex.h"
#include "base/ref.h"
#include "base/result.h"
#include "sentry/vfs/file.h"

namespace skep::net {

class UnixEndpoint;

// The user whose descriptors are in flight, and how many that user may have there.
struct FileSender {
  uint32_t user = 0;              // real uid
  uint64_t limit = ~uint64_t{0};  // RLIMIT_NOFILE; for ever with CAP_SYS_RESOURCE or CAP_SYS_ADMIN
};

// One socket in one message.
struct InFlightEdge {
  UnixEndpoint* sent = nullptr;   // its file is held by the message
  UnixEndpoint* queue = nullptr;  // alive while the message is in its queue or on its way there
  InFlightEdge *next_sent = nullptr, *previous_sent = nullptr;      // of the same `sent`
  InFlightEdge *next_queued = nullptr, *previous_queued = nullptr;  // in the same `queue`
};

// What a message counts for.
struct InFlightLoad {
  uint32_t user = 0;
  size_t files = 0;
  std::vector<InFlightEdge> edges;
};

// A socket's place in the graph; part of a UnixEndpoint. InFlight's mutex guards it.
struct InFlightNode {
  vfs::File* file = nullptr;  // of the endpoint; null: not accepted yet
  size_t count = 0;           // how many edges lead away: so many references are in messages
  InFlightEdge* sent = nullptr;
  InFlightEdge* queued = nullptr;
  // A connection that waits to be accepted is reached through its listener.
  UnixEndpoint* listener = nullptr;
  UnixEndpoint *first_embryo = nullptr, *next_embryo = nullptr, *previous_embryo = nullptr;
  // Sockets with count > 0.
  UnixEndpoint *next = nullptr, *previous = nullptr;
  bool reached = false;
  UnixEndpoint* next_reached = nullptr;
};

class InFlight final : public RefCounted<InFlight> {
 public:
  // Files that are about to go into the queue of `queue`. ETOOMANYREFS (Linux: too_many_unix_fds):
  // the user had more than his limit already.
  Result<void> Add(InFlightLoad& load, const FileSender& sender,
                   const std::vector<Ref<vfs::File>>& files, UnixEndpoint& queue);
  // Before the files are let go of, and before a receiver can use them.
  void Remove(InFlightLoad& load);
  // MSG_PEEK: the files of a message that stays. Not while a collection looks at who holds them.
  std::vector<Ref<vfs::File>> Copy(const std::vector<Ref<vfs::File>>& files);

  // A connection waits for `listener` to accept it; it no longer does (Linux: unix_sk()->listener).
  void AddEmbryo(UnixEndpoint& listener, UnixEndpoint& embryo);
  void RemoveEmbryo(UnixEndpoint& embryo);

  // A socket was closed: some may have become garbage. Looks for them if enough was done since the
  // last time: the cost of a look, which grows with the graph, is spread over closes and sends.
  void OnClose() {
    if (sockets_.load(std::memory_order_relaxed) != 0) Earn(kStepsPerClose);
  }
  // Looks now.
  void Collect();

  size_t sockets() const { return sockets_.load(std::memory_order_relaxed); }  // edges
  size_t FilesOf(uint32_t user);

 private:
  static constexpr size_t kStepsPerClose = 64, kStepsPerSend = 16;

  void Earn(size_t steps);
  void Link(InFlightEdge& edge) REQUIRES(mutex_);
  void Unlink(InFlightEdge& edge) REQUIRES(mutex_);
  void Reach(UnixEndpoint& socket, UnixEndpoint*& worklist) REQUIRES(mutex_);
  void ReachQueue(const UnixEndpoint& queue, UnixEndpoint*& worklist) REQUIRES(mutex_);
  bool HeldFromOutside(const UnixEndpoint& socket) REQUIRES(mutex_);
  std::vector<Ref<UnixEndpoint>> FindGarbage();

  Mutex mutex_{LockRank::kNames};
  std::unordered_map<uint32_t, size_t> files_of_ GUARDED_BY(mutex_);
  UnixEndpoint* first_ GUARDED_BY(mutex_) = nullptr;
  size_t earned_ GUARDED_BY(mutex_) = 0;
  std::atomic<size_t> sockets_{0};  // written under mutex_
};

}  // namespace skep::net
