// For gofer tests: a temporary directory and a server over it, behind a client.
#pragma once

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "base/host_call.h"
#include "gofer/protocol/client.h"
#include "gofer/server/server.h"

namespace skep::gofer {

class TempTree {
 public:
  TempTree() {
    std::string pattern = testing::TempDir() + "gofer_XXXXXX";
    path_ = mkdtemp(pattern.data());
  }
  ~TempTree() { std::filesystem::remove_all(path_); }
  const std::string& path() const { return path_; }
  std::string At(const std::string& name) const { return path_ + "/" + name; }
  void Write(const std::string& name, const std::string& text) const {
    std::ofstream(At(name)) << text;
  }
  void Mkdir(const std::string& name) const { std::filesystem::create_directories(At(name)); }
  void Symlink(const std::string& target, const std::string& name) const {
    std::filesystem::create_symlink(target, At(name));
  }
  std::string Read(const std::string& name) const {
    std::ifstream in(At(name));
    return std::string(std::istreambuf_iterator<char>(in), {});
  }

 private:
  std::string path_;
};

inline OwnedFd PathFd(const std::string& path) {
  return OwnedFd(open(path.c_str(), O_PATH | O_CLOEXEC));
}

inline ServerConfig ConfigFor(const std::string& path, bool read_only = false) {
  ServerConfig config;
  config.attach_points.push_back({PathFd(path), read_only});
  config.proc_self_fd = OwnedFd(open("/proc/self/fd", O_PATH | O_CLOEXEC));
  return config;
}

// A server on a thread of its own, and its client.
class Service {
 public:
  explicit Service(ServerConfig config) {
    auto server = Server::Make(std::move(config));
    if (!server) abort();
    server_ = std::move(*server);
    host::SocketPair pair = *host::MakeSocketPair(SOCK_SEQPACKET);
    server_socket_ = std::move(pair.b);
    client_ = std::make_unique<Client>(std::move(pair.a));
    thread_ = std::thread([this] { served_ = server_->Serve(server_socket_.get()).has_value(); });
  }
  ~Service() {
    client_.reset();
    thread_.join();
    EXPECT_TRUE(served_);
  }
  Client& client() { return *client_; }
  const NodeTable& nodes() const { return server_->nodes(); }
  NodeId root(uint32_t attach = 0) { return client_->Attach(attach)->root.node; }

  Result<Walked> Walk(const std::string& path, uint32_t attach = 0) {
    return client_->Walk(root(attach), Split(path));
  }
  // The node at `path`, or kNone.
  NodeId Node(const std::string& path, uint32_t attach = 0) {
    const std::vector<std::string_view> names = Split(path);
    const Result<Walked> walked = client_->Walk(root(attach), names);
    if (!walked || walked->nodes.size() != names.size()) return NodeId::kNone;
    return names.empty() ? root(attach) : walked->nodes.back().node;
  }
  static std::vector<std::string_view> Split(std::string_view path) {
    std::vector<std::string_view> names;
    while (!path.empty()) {
      const size_t end = std::min(path.find('/'), path.size());
      names.push_back(path.substr(0, end));
      path.remove_prefix(std::min(end + 1, path.size()));
    }
    return names;
  }

 private:
  std::unique_ptr<Server> server_;
  OwnedFd server_socket_;
  std::unique_ptr<Client> client_;
  std::thread thread_;
  bool served_ = false;
};

template <class T>
int ErrorOf(const Result<T>& result) {
  return result ? 0 : result.error().code();
}

inline std::string ReadAll(const OwnedFd& fd) {
  std::string text(4096, '\0');
  const ssize_t n = pread(fd.get(), text.data(), text.size(), 0);
  text.resize(n < 0 ? 0 : static_cast<size_t>(n));
  return text;
}

}  // namespace skep::gofer
