#include "sentry/fs/gofer/connection.h"

#include <fmt/format.h>
#include <array>
#include <atomic>
#include <memory>

#include "base/check.h"
#include "base/log.h"
#include "base/mutex.h"
#include "sentry/arena/arena.h"
#include "sentry/sched/scheduler.h"

namespace skep::fs {
namespace {

constexpr uint32_t kNumbers = GoferConnection::kMaxConnections + 1;  // 0 is none

struct Gofer {
  Gofer(std::unique_ptr<FiberTransport> carrier)
      : transport(*carrier), client(std::move(carrier)) {}
  FiberTransport& transport;
  gofer::Client client;
};

struct Table {
  Mutex mutex{LockRank::kLeaf};
  std::array<bool, kNumbers> taken GUARDED_BY(mutex){};
  std::array<std::atomic<Gofer*>, kNumbers> gofers{};
};

// Host state of the process, as arena::HostTable is.
Table& TheTable() {
  // tidy: allow(static) host resources by number: not kernel state, made anew after a restore
  static Table& table = []() -> Table& {
    const arena::HostHeapScope host;
    return *new Table;
  }();
  return table;
}

int WorkersOf(const sched::Scheduler* scheduler) {
  return scheduler == nullptr ? 0 : scheduler->worker_count();
}

std::unique_ptr<Gofer> Make(OwnedFd socket, const sched::Scheduler* scheduler,
                            std::function<void()> on_lost) {
  auto transport = std::make_unique<FiberTransport>(std::move(socket), WorkersOf(scheduler));
  transport->on_lost = std::move(on_lost);
  return std::make_unique<Gofer>(std::move(transport));
}

Gofer& Find(uint32_t index) {
  Gofer* gofer = TheTable().gofers[index].load(std::memory_order_acquire);
  CHECK(gofer != nullptr);
  return *gofer;
}

// Nobody uses it any more, and nobody finds it. The number is free afterwards.
void Destroy(Gofer* gofer, uint32_t index) {
  const arena::HostHeapScope host;
  const std::unique_ptr<Gofer> gone(gofer);
  Table& table = TheTable();
  MutexLock lock(table.mutex);
  table.taken[index] = false;
}

// A worker's connection is closed by its own thread, one worker after the other.
void CloseFrom(sched::Scheduler& scheduler, int worker, Gofer* gofer, uint32_t index) {
  if (worker == scheduler.worker_count()) return Destroy(gofer, index);
  const arena::ArenaHeapScope arena_heap;
  const auto spawned =
      sched::Fiber::Spawn(scheduler.worker(worker), [&scheduler, worker, gofer, index] {
        {
          const arena::HostHeapScope host;
          gofer->transport.CloseHere();
        }
        CloseFrom(scheduler, worker + 1, gofer, index);
      });
  // Without a stack for that fiber the gofer and its number stay taken.
  if (!spawned) SKEP_LOG(kWarning, "cannot close the connection to gofer {}", index);
}

}  // namespace

Result<Ref<GoferConnection>> GoferConnection::Add(OwnedFd socket, sched::Scheduler* scheduler,
                                                  std::function<void()> on_lost) {
  Table& table = TheTable();
  uint32_t index = 1;
  {
    MutexLock lock(table.mutex);
    while (index < kNumbers && table.taken[index]) ++index;
    if (index == kNumbers) return Fail(ENFILE);
    table.taken[index] = true;
  }
  {
    const arena::HostHeapScope host;
    table.gofers[index].store(Make(std::move(socket), scheduler, std::move(on_lost)).release());
  }
  return Ref<GoferConnection>(new GoferConnection(index, scheduler));
}

void GoferConnection::Restore(OwnedFd socket, std::function<void()> on_lost) const {
  CHECK(index_ < kNumbers);
  const arena::HostHeapScope host;
  Table& table = TheTable();
  {
    MutexLock lock(table.mutex);
    table.taken[index_] = true;
  }
  const std::unique_ptr<Gofer> old(table.gofers[index_].exchange(
      Make(std::move(socket), scheduler_, std::move(on_lost)).release()));
}

GoferConnection::~GoferConnection() {
  Gofer* gofer = TheTable().gofers[index_].exchange(nullptr);
  if (gofer == nullptr) return;
  if (scheduler_ == nullptr) {
    Destroy(gofer, index_);
  } else {
    CloseFrom(*scheduler_, 0, gofer, index_);
  }
}

gofer::Client& GoferConnection::client() const { return Find(index_).client; }
FiberTransport& GoferConnection::transport() const { return Find(index_).transport; }

}  // namespace skep::fs
