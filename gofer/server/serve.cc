// Connections and the threads that serve them.
#include <fmt/format.h>
#include <linux/futex.h>
#include <pthread.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <ctime>

#include "base/host_call.h"
#include "base/log.h"
#include "gofer/server/client_cpu.h"
#include "gofer/server/server.h"

namespace skep::gofer {
namespace {

constexpr int kMaxConnections = 256;  // one for each of a sentry's workers
constexpr int kMaxThreadsOfOne = 64;  // so many calls of one connection may hang
constexpr int kMaxThreads = 512;
constexpr int kSpareThreads = 4;  // made before there is work for them
constexpr size_t kThreadStackSize = size_t{256} << 10;

Result<size_t> SendReply(int socket, std::span<const std::byte> reply, int file) {
  const iovec part = {const_cast<std::byte*>(reply.data()), reply.size()};
  const std::span<const int> files(&file, file >= 0 ? 1 : 0);
  Result<size_t> sent = host::SendMsg(socket, std::span(&part, 1), files, 0);
  // More descriptors are on their way than the host allows: the client misses this one.
  if (!sent && file >= 0 && sent.error() == Errno(ETOOMANYREFS)) {
    sent = host::SendMsg(socket, std::span(&part, 1), {}, 0);
  }
  return sent;
}

}  // namespace

struct Server::Connection {
  Server& server;
  OwnedFd owned;  // none: Serve's caller has it
  int socket;
  std::atomic<int> idle{0}, threads{0};
  Connection(Server& of, int number) : server(of), socket(number) {}
  ~Connection() {
    if (owned) server.connections_.fetch_sub(1);
  }
};

struct Server::ThreadStart {
  Server& server;
  std::shared_ptr<Connection> connection;  // null: it waits for one
};

Server::~Server() {
  ending_.store(true);
  TellSpares(INT32_MAX);
  const timespec pause = {0, 1'000'000};
  while (threads_.load() != 0) {
    (void)host::Call(SYS_clock_nanosleep, CLOCK_MONOTONIC, 0, &pause, nullptr);
  }
}

Result<void> Server::Serve(int socket) {
  const auto connection = std::make_shared<Connection>(*this, socket);
  connection->threads.store(1);
  // The client is still busy with its own start.
  for (int i = 0; i < kSpareThreads; ++i) AddSpare();
  return ServeLoop(connection);
}

Result<void> Server::ServeLoop(const std::shared_ptr<Connection>& connection) {
  const auto request = std::make_unique_for_overwrite<std::byte[]>(kMessageMax);
  const auto reply = std::make_unique_for_overwrite<std::byte[]>(kMessageMax);
  ClientCpu cpu;
  for (;;) {
    connection->idle.fetch_add(1);
    // No room for control data: the kernel drops descriptors that a client tries to send.
    const Result<int64_t> size = host::Call(SYS_recvfrom, connection->socket, request.get(),
                                            kMessageMax, MSG_TRUNC, nullptr, nullptr);
    const bool was_last = connection->idle.fetch_sub(1) == 1;
    if (!size) {
      if (size.error() == Errno(EINTR)) continue;
      if (size.error() == Errno(ECONNRESET)) return {};
      return std::unexpected(size.error());
    }
    if (*size == 0) return {};
    if (was_last) AddThread(connection);
    size_t taken = static_cast<size_t>(*size);
    if (taken > kMessageMax) taken = 0;  // answered as a message without even a header
    const std::span<const std::byte> message(request.get(), taken);
    if (const Result<RequestHeader> header = Reader(message).Get<RequestHeader>()) {
      cpu.Follow(header->cpu);
    }
    const Answer answer = Handle(message, std::span(reply.get(), kMessageMax));
    if (answer.size == 0) continue;
    const Result<size_t> sent =
        SendReply(connection->socket, {reply.get(), answer.size}, answer.file.get());
    if (!sent) {
      const int code = sent.error().code();
      if (code == EPIPE || code == ECONNRESET) return {};
      return std::unexpected(sent.error());
    }
  }
}

void* Server::ThreadMain(void* start) {
  std::unique_ptr<ThreadStart> own(static_cast<ThreadStart*>(start));
  Server& server = own->server;
  if (!own->connection) own->connection = server.AwaitConnection();
  if (own->connection) {
    (void)server.ServeLoop(own->connection);
    own->connection->threads.fetch_sub(1);
  }
  own.reset();
  server.threads_.fetch_sub(1);  // it may be gone from here on
  return nullptr;
}

// Best effort: with fewer threads, requests wait for one another.
void Server::AddThread(const std::shared_ptr<Connection>& connection) {
  if (connection->threads.fetch_add(1) < kMaxThreadsOfOne &&
      (HandToSpare(connection) || StartThread(connection))) {
    return;
  }
  connection->threads.fetch_sub(1);
}

bool Server::HandToSpare(const std::shared_ptr<Connection>& connection) {
  {
    const MutexLock lock(spare_lock_);
    if (spares_ == 0) return false;
    --spares_;
    handed_.push_back(connection);
  }
  TellSpares(1);
  return true;
}

void Server::AddSpare() {
  {
    const MutexLock lock(spare_lock_);
    ++spares_;
  }
  if (StartThread(nullptr)) return;
  const MutexLock lock(spare_lock_);
  --spares_;
}

// For a spare thread, which is one no more afterwards: another one takes its place, so that the
// next to need one does not wait for it to be made. Null: the server ends.
std::shared_ptr<Server::Connection> Server::AwaitConnection() {
  for (;;) {
    const uint32_t seen = spare_news_.load();
    if (ending_.load()) return nullptr;
    std::shared_ptr<Connection> connection;
    bool last = false;
    {
      const MutexLock lock(spare_lock_);
      if (!handed_.empty()) {
        connection = std::move(handed_.back());
        handed_.pop_back();
        last = spares_ == 0;
      }
    }
    if (last) AddSpare();
    if (connection) return connection;
    (void)host::Call(SYS_futex, &spare_news_, FUTEX_WAIT_PRIVATE, seen, nullptr, nullptr, 0);
  }
}

void Server::TellSpares(int count) {
  spare_news_.fetch_add(1);
  (void)host::Call(SYS_futex, &spare_news_, FUTEX_WAKE_PRIVATE, count, nullptr, nullptr, 0);
}

bool Server::StartThread(const std::shared_ptr<Connection>& connection) {
  if (threads_.fetch_add(1) >= kMaxThreads) {
    threads_.fetch_sub(1);
    return false;
  }
  auto start = std::make_unique<ThreadStart>(*this, connection);
  pthread_attr_t attributes;
  pthread_attr_init(&attributes);
  pthread_attr_setstacksize(&attributes, kThreadStackSize);
  pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
  pthread_t thread{};
  // tidy: allow(std::thread) the gofer's threads know nothing of fibers
  const int error = pthread_create(&thread, &attributes, &ThreadMain, start.get());
  pthread_attr_destroy(&attributes);
  if (error == 0) {
    (void)start.release();  // the thread's
    return true;
  }
  SKEP_LOG(kWarning, "no more threads: error {}", error);
  threads_.fetch_sub(1);
  return false;
}

// One more connection for the same client.
Result<void> Server::Connect(Reader& in, ReplyWriter& out) {
  TRY(in.End());
  host::SocketPair pair = TRY(host::MakeSocketPair(SOCK_SEQPACKET));
  // The client waits in recvmsg for one tick of the host at most: the least there is.
  const timeval tick = {0, 1};
  TRY(host::Call(SYS_setsockopt, pair.a.get(), SOL_SOCKET, SO_RCVTIMEO, &tick, sizeof tick));
  const auto connection = std::make_shared<Connection>(*this, pair.b.get());
  connection->owned = std::move(pair.b);
  if (connections_.fetch_add(1) >= kMaxConnections) return Fail(EMFILE);
  AddThread(connection);
  if (connection->threads.load() == 0) return Fail(EAGAIN);
  out.donated = std::move(pair.a);
  return {};
}

}  // namespace skep::gofer
