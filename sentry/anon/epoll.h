// epoll(7): a set of files and those of them that are ready (Linux: fs/eventpoll.c).
//
// An item is a wait-queue entry in its file's queue; a wake-up links it into the ready list, and a
// wait polls only what is linked there. Items do not hold their file: when its last reference goes,
// its observer takes the items out of the file's queue and marks them dead; the epoll that owns
// them frees them at its next call.
//
// Locks: mutex_ (kEpoll) for the items, the observer's (kWatched) for an item's tie to its file,
// ready_mutex_ (kReady, taken inside wake-ups) for the ready and dead lists.
#pragma once

#include <sys/epoll.h>
#include <atomic>
#include <cstdint>
#include <map>
#include <memory>
#include <utility>
#include <vector>

#include "base/mutex.h"
#include "sentry/vfs/file.h"

namespace skep::anon {

// One per kernel: serialises the changes that make one epoll watch another.
class EpollNesting {
 private:
  friend class Epoll;
  Mutex mutex_{LockRank::kEpollNesting};
};

class Epoll final : public vfs::File {
 public:
  Epoll(vfs::Path path, EpollNesting& nesting);
  ~Epoll() override;

  // EPOLL_CTL_*. Both descriptors have been looked up. Errors in Linux's order: EPERM, EINVAL,
  // ELOOP, EEXIST, ENOENT, ENOSPC.
  Result<void> Control(int operation, Ref<vfs::File> file, int fd, const epoll_event& event);
  // Suspends until something is ready or the deadline has passed (0: looks once). At most `max`
  // events. EINTR.
  Result<std::vector<epoll_event>> Wait(size_t max, sched::Deadline deadline);

  bool seekable() const override { return false; }
  vfs::EventMask Poll(vfs::EventMask wanted) override;
  sched::WaitQueue* Waiters() override { return &poll_waiters_; }

 private:
  class Item;
  class Watched;
  using Key = std::pair<vfs::File*, int>;

  Result<void> Add(vfs::File& file, int fd, const epoll_event& event);
  Result<void> Modify(vfs::File& file, int fd, const epoll_event& event);
  Result<void> Remove(vfs::File& file, int fd);
  Result<void> CheckNesting(Epoll& inner);
  int DepthBelow(Epoll& target, int level);
  static int DepthAbove(Epoll& target, int level);

  void FreeDead() REQUIRES(mutex_);
  static void Detach(Item& item);
  vfs::EventMask PollItem(Item& item) REQUIRES(mutex_);
  void MakeReady(Item& item, bool wake);
  Item* PopReady();
  void UnlinkReady(Item& item) REQUIRES(ready_mutex_);
  bool HasReady();
  std::vector<epoll_event> Collect(size_t max) EXCLUDES(mutex_);
  std::vector<epoll_event> CollectFirst(size_t left, size_t max);
  // Within a wait queue's wake-up, or without locks.
  void WakeWaiters();

  EpollNesting& nesting_;
  Mutex mutex_{LockRank::kEpoll};
  std::map<Key, std::unique_ptr<Item>> items_ GUARDED_BY(mutex_);
  Mutex ready_mutex_{LockRank::kReady};
  Item* first_ready_ GUARDED_BY(ready_mutex_) = nullptr;
  Item* last_ready_ GUARDED_BY(ready_mutex_) = nullptr;
  size_t ready_count_ GUARDED_BY(ready_mutex_) = 0;
  Item* first_dead_ GUARDED_BY(ready_mutex_) = nullptr;
  sched::WaitQueue waiters_;       // fibers in Wait
  sched::WaitQueue poll_waiters_;  // who polls this file
};

}  // namespace skep::anon
