#include "sentry/net/in_flight.h"

#include <utility>

#include "sentry/net/unix_endpoint.h"
#include "sentry/net/unix_socket.h"

namespace skep::net {
namespace {

// Into and out of a list that begins at `first`.
template <class T, class Links>
void PushFront(T*& first, T& item, Links links) {
  auto [next, previous] = links(item);
  *next = first;
  *previous = nullptr;
  if (first != nullptr) *links(*first).second = &item;
  first = &item;
}
template <class T, class Links>
void Erase(T*& first, T& item, Links links) {
  auto [next, previous] = links(item);
  (*previous != nullptr ? *links(**previous).first : first) = *next;
  if (*next != nullptr) *links(**next).second = *previous;
  *next = *previous = nullptr;
}

std::pair<InFlightEdge**, InFlightEdge**> SentLinks(InFlightEdge& e) {
  return {&e.next_sent, &e.previous_sent};
}
std::pair<InFlightEdge**, InFlightEdge**> QueueLinks(InFlightEdge& e) {
  return {&e.next_queued, &e.previous_queued};
}
std::pair<UnixEndpoint**, UnixEndpoint**> NodeLinks(UnixEndpoint& e) {
  return {&e.in_flight_node().next, &e.in_flight_node().previous};
}
std::pair<UnixEndpoint**, UnixEndpoint**> EmbryoLinks(UnixEndpoint& e) {
  return {&e.in_flight_node().next_embryo, &e.in_flight_node().previous_embryo};
}

}  // namespace

void InFlight::Link(InFlightEdge& edge) {
  InFlightNode& node = edge.sent->in_flight_node();
  PushFront(node.sent, edge, SentLinks);
  PushFront(edge.queue->in_flight_node().queued, edge, QueueLinks);
  if (node.count++ == 0) PushFront(first_, *edge.sent, NodeLinks);
  sockets_.fetch_add(1, std::memory_order_relaxed);
}

void InFlight::Unlink(InFlightEdge& edge) {
  InFlightNode& node = edge.sent->in_flight_node();
  Erase(node.sent, edge, SentLinks);
  Erase(edge.queue->in_flight_node().queued, edge, QueueLinks);
  if (--node.count == 0) Erase(first_, *edge.sent, NodeLinks);
  sockets_.fetch_sub(1, std::memory_order_relaxed);
}

Result<void> InFlight::Add(InFlightLoad& load, const FileSender& sender,
                           const std::vector<Ref<vfs::File>>& files, UnixEndpoint& queue) {
  for (const Ref<vfs::File>& file : files) {
    if (auto* socket = dynamic_cast<UnixSocket*>(file.get())) {
      load.edges.push_back({.sent = &socket->endpoint(), .queue = &queue});
    }
  }
  {
    MutexLock lock(mutex_);
    size_t& count = files_of_[sender.user];
    if (count > sender.limit) {
      load.edges.clear();
      return Fail(ETOOMANYREFS);
    }
    count += files.size();
    load.user = sender.user;
    load.files = files.size();
    for (InFlightEdge& edge : load.edges) Link(edge);
  }
  if (!load.edges.empty()) Earn(kStepsPerSend);
  return {};
}

void InFlight::Remove(InFlightLoad& load) {
  if (load.files == 0) return;
  MutexLock lock(mutex_);
  for (InFlightEdge& edge : load.edges) Unlink(edge);
  load.edges.clear();
  const auto count = files_of_.find(load.user);
  count->second -= std::exchange(load.files, 0);
  if (count->second == 0) files_of_.erase(count);
}

std::vector<Ref<vfs::File>> InFlight::Copy(const std::vector<Ref<vfs::File>>& files) {
  MutexLock lock(mutex_);
  return files;
}

void InFlight::AddEmbryo(UnixEndpoint& listener, UnixEndpoint& embryo) {
  MutexLock lock(mutex_);
  embryo.in_flight_node().listener = &listener;
  PushFront(listener.in_flight_node().first_embryo, embryo, EmbryoLinks);
}

void InFlight::RemoveEmbryo(UnixEndpoint& embryo) {
  MutexLock lock(mutex_);
  UnixEndpoint* listener = std::exchange(embryo.in_flight_node().listener, nullptr);
  if (listener != nullptr) Erase(listener->in_flight_node().first_embryo, embryo, EmbryoLinks);
}

size_t InFlight::FilesOf(uint32_t user) {
  MutexLock lock(mutex_);
  const auto found = files_of_.find(user);
  return found == files_of_.end() ? 0 : found->second;
}

void InFlight::Earn(size_t steps) {
  {
    MutexLock lock(mutex_);
    earned_ += steps;
    if (earned_ < sockets_.load(std::memory_order_relaxed)) return;
  }
  Collect();
}

void InFlight::Reach(UnixEndpoint& socket, UnixEndpoint*& worklist) {
  InFlightNode& node = socket.in_flight_node();
  if (node.reached) return;
  node.reached = true;
  node.next_reached = worklist;
  worklist = &socket;
}

void InFlight::ReachQueue(const UnixEndpoint& queue, UnixEndpoint*& worklist) {
  for (InFlightEdge* e = queue.in_flight_node().queued; e != nullptr; e = e->next_queued) {
    Reach(*e->sent, worklist);
  }
}

// Somebody has it open, or can receive it from a socket that is in no message itself.
bool InFlight::HeldFromOutside(const UnixEndpoint& socket) {
  const InFlightNode& node = socket.in_flight_node();
  if (node.file->RefCount() != node.count) return true;
  for (const InFlightEdge* e = node.sent; e != nullptr; e = e->next_sent) {
    const UnixEndpoint* holder = e->queue;
    if (holder->in_flight_node().listener != nullptr) holder = holder->in_flight_node().listener;
    if (holder->in_flight_node().count == 0) return true;
  }
  return false;
}

// The sockets that cannot be reached from outside. References that come and go meanwhile do no
// harm: to get at a socket in a queue a program must hold the socket of that queue, which then is
// reached, and it must pass Remove or Copy, which wait for us. A reference that is dropped while we
// look makes a socket seem held that no longer is: it is found the next time.
std::vector<Ref<UnixEndpoint>> InFlight::FindGarbage() {
  std::vector<Ref<UnixEndpoint>> garbage;
  MutexLock lock(mutex_);
  earned_ = 0;
  UnixEndpoint* worklist = nullptr;
  for (UnixEndpoint* s = first_; s != nullptr; s = s->in_flight_node().next) {
    s->in_flight_node().reached = false;
  }
  for (UnixEndpoint* s = first_; s != nullptr; s = s->in_flight_node().next) {
    if (HeldFromOutside(*s)) Reach(*s, worklist);
  }
  while (worklist != nullptr) {
    const UnixEndpoint& socket = *worklist;
    worklist = socket.in_flight_node().next_reached;
    ReachQueue(socket, worklist);
    for (UnixEndpoint* e = socket.in_flight_node().first_embryo; e != nullptr;
         e = e->in_flight_node().next_embryo) {
      ReachQueue(*e, worklist);
    }
  }
  for (UnixEndpoint* s = first_; s != nullptr; s = s->in_flight_node().next) {
    if (!s->in_flight_node().reached) garbage.emplace_back(s);
  }
  return garbage;
}

void InFlight::Collect() {
  for (const Ref<UnixEndpoint>& socket : FindGarbage()) socket->DiscardMessages();
}

}  // namespace skep::net
