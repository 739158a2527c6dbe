#include "sentry/fs/gofer/connection.h"

#include <array>
#include <atomic>
#include <memory>

#include "base/check.h"
#include "base/mutex.h"
#include "sentry/arena/arena.h"

namespace skep::fs {
namespace {

constexpr uint32_t kMaxConnections = 1024;

struct Gofer {
  Gofer(std::unique_ptr<FiberTransport> carrier)
      : transport(*carrier), client(std::move(carrier)) {}
  FiberTransport& transport;
  gofer::Client client;
};

struct Table {
  Mutex mutex{LockRank::kLeaf};
  std::array<bool, kMaxConnections> taken GUARDED_BY(mutex){};
  std::array<std::atomic<Gofer*>, kMaxConnections> gofers{};
};

// Host state of the process, as arena::HostTable is.
Table& TheTable() {
  // tidy: allow(static) host resources by number: not kernel state, made anew after a restore
  static Table& table = []() -> Table& {
    const arena::HostScope host;
    return *new Table;
  }();
  return table;
}

std::unique_ptr<Gofer> Make(OwnedFd socket, GoferConnection::Options options) {
  auto transport = std::make_unique<FiberTransport>(std::move(socket), options.workers);
  transport->on_lost = std::move(options.on_lost);
  return std::make_unique<Gofer>(std::move(transport));
}

Gofer& Find(uint32_t index) {
  Gofer* gofer = TheTable().gofers[index].load(std::memory_order_acquire);
  CHECK(gofer != nullptr);
  return *gofer;
}

}  // namespace

Result<GoferConnection> GoferConnection::Add(OwnedFd socket, Options options) {
  const arena::HostScope host;
  Table& table = TheTable();
  uint32_t index = 1;
  {
    MutexLock lock(table.mutex);
    while (index < kMaxConnections && table.taken[index]) ++index;
    if (index == kMaxConnections) return Fail(ENFILE);
    table.taken[index] = true;
  }
  table.gofers[index].store(Make(std::move(socket), std::move(options)).release());
  return GoferConnection(index);
}

void GoferConnection::Restore(OwnedFd socket, Options options) const {
  CHECK(index_ != 0 && index_ < kMaxConnections);
  const arena::HostScope host;
  Table& table = TheTable();
  {
    MutexLock lock(table.mutex);
    table.taken[index_] = true;
  }
  const std::unique_ptr<Gofer> old(
      table.gofers[index_].exchange(Make(std::move(socket), std::move(options)).release()));
}

void GoferConnection::Remove() const {
  const arena::HostScope host;
  Table& table = TheTable();
  const std::unique_ptr<Gofer> old(table.gofers[index_].exchange(nullptr));
  MutexLock lock(table.mutex);
  table.taken[index_] = false;
}

gofer::Client& GoferConnection::client() const { return Find(index_).client; }
FiberTransport& GoferConnection::transport() const { return Find(index_).transport; }

}  // namespace skep::fs
