// For simulations: a gofer over a temporary directory that answers what it is told to answer, in
// any order. What threads ask (an attach, a connection) is answered at once, by a thread of its
// own.
//
// Collect and Answer are the simulation's, on the worker's thread. In the end, Remove and Check:
// nothing that was donated or counted may be left.
#pragma once

#include <gtest/gtest.h>
#include <sys/socket.h>
#include <cstring>
#include <filesystem>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "base/host_call.h"
#include "gofer/server/test_tree.h"
#include "sentry/arena/arena.h"
#include "sentry/fs/gofer/gofer_fs.h"

namespace skep::fs {

class SimulatedGofer {
 public:
  explicit SimulatedGofer(sched::Scheduler& scheduler) {
    const arena::HostHeapScope host;
    server_ = std::move(*gofer::Server::Make(gofer::ConfigFor(tree.path())));
    nodes_at_first_ = Nodes();
    host::SocketPair pair = *host::MakeSocketPair(SOCK_SEQPACKET);
    control_ = std::move(pair.b);
    {
      const arena::ArenaHeapScope arena;
      connection_ = *GoferConnection::Add(std::move(pair.a), &scheduler, {});
    }
    thread_ = std::thread([this] { ServeControl(); });
  }
  ~SimulatedGofer() {
    if (!thread_.joinable()) return;
    (void)shutdown(control_.get(), SHUT_RDWR);  // a simulation that has failed
    thread_.join();
  }
  SimulatedGofer(const SimulatedGofer&) = delete;
  SimulatedGofer& operator=(const SimulatedGofer&) = delete;

  Ref<GoferFs> Mount() { return *GoferFs::Make(connection_, {.dev_minor = 3}); }

  // Takes what has been asked since. How many requests are unanswered.
  size_t Collect() {
    std::lock_guard lock(mutex_);
    for (const OwnedFd& socket : workers_) {
      std::vector<std::byte> request(gofer::kMessageMax);
      for (;;) {
        const iovec part = {request.data(), request.size()};
        const auto got = host::RecvMsg(socket.get(), std::span(&part, 1), {}, MSG_DONTWAIT);
        if (!got || got->size == 0) break;
        pending_.push_back({socket.get(), {request.begin(), request.begin() + got->size}});
      }
    }
    return pending_.size();
  }
  // For those that Collect has counted. It has taken part in it, or been too late.
  void Answer(size_t index) {
    std::lock_guard lock(mutex_);
    const Request request = std::move(pending_.at(index));
    pending_.erase(pending_.begin() + static_cast<std::ptrdiff_t>(index));
    ++answered_;
    Reply(request.socket, server_->Handle(request.bytes, Room()), {});
  }
  uint64_t answered() const { return answered_; }
  // No change that somebody gave up is under way.
  bool settled() const { return connection_->trusted_since() != ~uint64_t{0}; }
  // Some change was given up and is over.
  bool was_given_up() const { return settled() && connection_->trusted_since() != 0; }

  // On a fiber, when nobody uses the file system any more.
  void Remove() { connection_ = {}; }
  // After that, on any thread: what is left.
  void Check() {
    thread_.join();                    // the connection is closed
    while (Collect() != 0) Answer(0);  // releases
    EXPECT_EQ(Nodes(), nodes_at_first_) << "handles that were not given back";
    server_.reset();
    EXPECT_EQ(OpenFiles(), 0) << "files that were donated and are open";
  }

  gofer::TempTree tree;

 private:
  struct Request {
    int socket;
    std::vector<std::byte> bytes;
  };

  size_t Nodes() { return server_->nodes().size(); }
  // For this process, in the tree.
  int OpenFiles() const {
    int found = 0;
    for (const auto& entry : std::filesystem::directory_iterator("/proc/self/fd")) {
      std::error_code gone;
      const std::string target = std::filesystem::read_symlink(entry.path(), gone);
      if (target.starts_with(tree.path())) ++found;
    }
    return found;
  }
  std::span<std::byte> Room() { return std::span(room_.get(), gofer::kMessageMax); }
  void Reply(int socket, const gofer::Server::Answer& answer, OwnedFd donated) {
    if (answer.size == 0) return;
    const iovec part = {room_.get(), answer.size};
    const int fd = donated ? donated.get() : answer.file.get();
    (void)host::SendMsg(socket, std::span(&part, 1), std::span(&fd, fd >= 0 ? 1 : 0), MSG_NOSIGNAL);
  }
  // A worker's connection: this end of it is served by the simulation.
  bool IsConnect(std::span<const std::byte> request) {
    const auto header = gofer::Reader(request).Get<gofer::RequestHeader>();
    return header && header->op == static_cast<uint16_t>(gofer::Op::kConnect);
  }
  void Connect(std::span<const std::byte> request) {
    host::SocketPair pair = *host::MakeSocketPair(SOCK_SEQPACKET);
    workers_.push_back(std::move(pair.b));
    const auto header = *gofer::Reader(request).Get<gofer::RequestHeader>();
    const gofer::ReplyHeader reply = {header.id, header.op, 0};
    memcpy(room_.get(), &reply, sizeof reply);
    Reply(control_.get(), {.size = sizeof reply, .file = {}}, std::move(pair.a));
  }
  void ServeControl() {
    std::vector<std::byte> request(gofer::kMessageMax);
    for (;;) {
      const iovec part = {request.data(), request.size()};
      const auto got = host::RecvMsg(control_.get(), std::span(&part, 1), {}, 0);
      if (!got || got->size == 0) return;
      const auto bytes = std::span<const std::byte>(request).first(got->size);
      std::lock_guard lock(mutex_);
      if (IsConnect(bytes)) {
        Connect(bytes);
      } else {
        Reply(control_.get(), server_->Handle(bytes, Room()), {});
      }
    }
  }

  std::unique_ptr<gofer::Server> server_;
  size_t nodes_at_first_ = 0;
  OwnedFd control_;
  Ref<GoferConnection> connection_;
  std::mutex mutex_;  // of what follows
  const std::unique_ptr<std::byte[]> room_ = std::make_unique<std::byte[]>(gofer::kMessageMax);
  std::vector<OwnedFd> workers_;
  std::vector<Request> pending_;
  uint64_t answered_ = 0;
  std::thread thread_;
};

}  // namespace skep::fs
