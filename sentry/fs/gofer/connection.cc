#include "sentry/fs/gofer/connection.h"

#include <array>
#include <atomic>

#include "base/check.h"
#include "base/mutex.h"
#include "sentry/arena/arena.h"

namespace skep::fs {
namespace {

constexpr uint32_t kMaxConnections = 1024;

struct Table {
  Mutex mutex{LockRank::kLeaf};
  uint32_t used GUARDED_BY(mutex) = 0;
  std::array<std::atomic<gofer::Client*>, kMaxConnections> clients{};
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

}  // namespace

GoferConnection GoferConnection::Add(std::unique_ptr<gofer::Client> client) {
  Table& table = TheTable();
  uint32_t index = 0;
  {
    MutexLock lock(table.mutex);
    index = ++table.used;
  }
  CHECK(index < kMaxConnections);
  table.clients[index].store(client.release());
  return GoferConnection(index);
}

void GoferConnection::Restore(std::unique_ptr<gofer::Client> client) const {
  CHECK(index_ != 0 && index_ < kMaxConnections);
  Table& table = TheTable();
  {
    MutexLock lock(table.mutex);
    table.used = std::max(table.used, index_);
  }
  const arena::HostScope host;
  const std::unique_ptr<gofer::Client> old(table.clients[index_].exchange(client.release()));
}

void GoferConnection::Remove() const {
  const arena::HostScope host;
  const std::unique_ptr<gofer::Client> old(TheTable().clients[index_].exchange(nullptr));
}

gofer::Client& GoferConnection::client() const {
  gofer::Client* client = TheTable().clients[index_].load(std::memory_order_acquire);
  CHECK(client != nullptr);
  return *client;
}

}  // namespace skep::fs
