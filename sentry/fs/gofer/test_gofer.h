// For unit tests: a gofer over a temporary directory, on a thread of its own, that counts the
// messages it answers.
#pragma once

#include <atomic>
#include <memory>
#include <thread>

#include "base/host_call.h"
#include "gofer/server/test_tree.h"
#include "sentry/arena/arena.h"
#include "sentry/fs/gofer/gofer_fs.h"

namespace skep::fs {

class TestGofer {
 public:
  explicit TestGofer(bool read_only = false) {
    const arena::HostHeapScope host;
    server_ = std::move(*gofer::Server::Make(gofer::ConfigFor(tree.path(), read_only)));
    host::SocketPair pair = *host::MakeSocketPair(SOCK_SEQPACKET);
    socket_ = std::move(pair.b);
    connection_ = *GoferConnection::Add(std::move(pair.a), nullptr, {});
    thread_ = std::thread([this] { Serve(); });
  }
  ~TestGofer() {
    connection_ = {};
    thread_.join();
  }

  Ref<GoferFs> Mount(GoferCaching caching = GoferCaching::kExclusive,
                     Ref<DonatedFiles> donated = {}) {
    return *GoferFs::Make(connection_,
                          {.dev_minor = 3, .caching = caching, .donated = std::move(donated)});
  }
  int Messages() const { return messages_.load(); }

  gofer::TempTree tree;

 private:
  void Serve() {
    const auto in = std::make_unique<std::byte[]>(gofer::kMessageMax);
    const auto out = std::make_unique<std::byte[]>(gofer::kMessageMax);
    for (;;) {
      const iovec part = {in.get(), gofer::kMessageMax};
      const Result<host::Received> got = host::RecvMsg(socket_.get(), std::span(&part, 1), {}, 0);
      if (!got || got->size == 0) return;
      messages_++;
      const gofer::Server::Answer answer =
          server_->Handle(std::span<const std::byte>(in.get(), got->size),
                          std::span(out.get(), gofer::kMessageMax));
      if (answer.size == 0) continue;
      const iovec reply = {out.get(), answer.size};
      const int fd = answer.file.get();
      const std::span<const int> fds(&fd, fd >= 0 ? 1 : 0);
      if (!host::SendMsg(socket_.get(), std::span(&reply, 1), fds, 0)) return;
    }
  }

  std::unique_ptr<gofer::Server> server_;
  OwnedFd socket_;
  Ref<GoferConnection> connection_;
  std::atomic<int> messages_{0};
  std::thread thread_;
};

}  // namespace skep::fs
