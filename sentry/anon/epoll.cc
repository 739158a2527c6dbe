#include "sentry/anon/epoll.h"

#include <algorithm>

#include "base/check.h"
#include "sentry/sched/fiber.h"
#include "sentry/vfs/blocking.h"

namespace skep::anon {
namespace {

// Linux: EP_PRIVATE_BITS, EPOLLEXCLUSIVE_OK_BITS.
constexpr uint32_t kPrivateBits = EPOLLWAKEUP | EPOLLONESHOT | EPOLLET | EPOLLEXCLUSIVE;
constexpr uint32_t kExclusiveOk =
    EPOLLIN | EPOLLOUT | EPOLLERR | EPOLLHUP | EPOLLWAKEUP | EPOLLET | EPOLLEXCLUSIVE;
constexpr int kMaxNests = 4;  // Linux: EP_MAX_NESTS
// Items that are looked at while nobody else runs. No call answers more events than that.
constexpr size_t kCollectStep = 4096;
constexpr size_t kMaxItems = size_t{1} << 20;  // of one epoll; Linux: max_user_watches

}  // namespace

class Epoll::Item final : public sched::WaitEntry {
 public:
  Item(Epoll& owner, vfs::File& watched_file, int number, const epoll_event& event)
      : epoll(owner),
        file(&watched_file),
        fd(number),
        events(event.events | EPOLLERR | EPOLLHUP),
        data(event.data.u64) {}

  Epoll& epoll;
  vfs::File* const file;  // not held; valid under watched->mutex while attached
  const int fd;
  std::atomic<uint32_t> events;
  uint64_t data;
  Ref<Watched> watched;
  // Guarded by watched->mutex.
  bool attached = false;
  Item* watched_previous = nullptr;
  Item* watched_next = nullptr;
  // Guarded by epoll.ready_mutex_.
  bool ready = false;
  Item* ready_previous = nullptr;
  Item* ready_next = nullptr;
  Item* dead_next = nullptr;

 private:
  bool OnWake(vfs::EventMask happened) override;
};

// The items that watch one file.
class Epoll::Watched final : public vfs::FileObserver {
 public:
  void OnLastReference() override;

  void Link(Item& item) REQUIRES(mutex) {
    item.attached = true;
    item.watched_previous = nullptr;
    item.watched_next = first;
    if (first != nullptr) first->watched_previous = &item;
    first = &item;
  }
  void Unlink(Item& item) REQUIRES(mutex) {
    item.attached = false;
    (item.watched_previous != nullptr ? item.watched_previous->watched_next : first) =
        item.watched_next;
    if (item.watched_next != nullptr) item.watched_next->watched_previous = item.watched_previous;
  }

  Mutex mutex{LockRank::kWatched};
  Item* first GUARDED_BY(mutex) = nullptr;
};

// Linux: ep_poll_callback.
bool Epoll::Item::OnWake(vfs::EventMask happened) {
  const uint32_t mask = events.load(std::memory_order_relaxed);
  if ((mask & ~kPrivateBits) == 0 || (happened & mask) == 0) return false;
  const bool somebody_waits = !epoll.waiters_.empty();
  epoll.MakeReady(*this, true);
  if ((mask & EPOLLEXCLUSIVE) == 0) return true;
  const uint32_t direction = happened & (EPOLLIN | EPOLLOUT);
  return somebody_waits && (direction == 0 || (direction & mask) != 0);
}

// The epoll of an item that is still linked here is alive: its destructor takes our mutex first.
void Epoll::Watched::OnLastReference() {
  MutexLock lock(mutex);
  while (first != nullptr) {
    Item& item = *first;
    Unlink(item);
    item.file->Waiters()->Remove(item);
    Epoll& epoll = item.epoll;
    MutexLock ready_lock(epoll.ready_mutex_);
    item.dead_next = epoll.first_dead_;
    epoll.first_dead_ = &item;
  }
}

void Epoll::Detach(Item& item) {
  MutexLock lock(item.watched->mutex);
  if (!item.attached) return;
  item.watched->Unlink(item);
  item.file->Waiters()->Remove(item);
}

Epoll::Epoll(vfs::Path path, EpollNesting& nesting)
    : File(std::move(path), O_RDWR), nesting_(nesting) {}

Epoll::~Epoll() {
  while (!items_.empty()) {
    const auto first = items_.begin();
    Detach(*first->second);
    {
      MutexLock lock(ready_mutex_);
      if (first->second->ready) UnlinkReady(*first->second);
    }
    items_.erase(first);
    if (HoldsNoMutex()) (void)sched::YieldIfLong();  // there may be a million
  }
}

void Epoll::MakeReady(Item& item, bool wake) {
  {
    MutexLock lock(ready_mutex_);
    if (!item.ready) {
      item.ready = true;
      item.ready_previous = last_ready_;
      item.ready_next = nullptr;
      (last_ready_ != nullptr ? last_ready_->ready_next : first_ready_) = &item;
      last_ready_ = &item;
      ++ready_count_;
    }
  }
  if (wake) WakeWaiters();
}

void Epoll::WakeWaiters() {
  // A watching epoll's queues are only ever woken from the queues of what it watches.
  NestedRank nested(LockRank::kWaitQueue);
  waiters_.Wake(EPOLLIN);
  poll_waiters_.Wake(EPOLLIN | EPOLLRDNORM);
}

void Epoll::UnlinkReady(Item& item) {
  (item.ready_previous != nullptr ? item.ready_previous->ready_next : first_ready_) =
      item.ready_next;
  (item.ready_next != nullptr ? item.ready_next->ready_previous : last_ready_) =
      item.ready_previous;
  item.ready = false;
  --ready_count_;
}

Epoll::Item* Epoll::PopReady() {
  MutexLock lock(ready_mutex_);
  Item* item = first_ready_;
  if (item != nullptr) UnlinkReady(*item);
  return item;
}

bool Epoll::HasReady() {
  MutexLock lock(ready_mutex_);
  return first_ready_ != nullptr;
}

// Takes out items whose file is gone.
void Epoll::FreeDead() {
  Item* dead = nullptr;
  {
    MutexLock lock(ready_mutex_);
    dead = std::exchange(first_dead_, nullptr);
    for (Item* item = dead; item != nullptr; item = item->dead_next) {
      if (item->ready) UnlinkReady(*item);
    }
  }
  while (dead != nullptr) {
    Item* next = dead->dead_next;
    {
      MutexLock lock(dead->watched->mutex);  // OnLastReference is done with us
    }
    items_.erase(Key{dead->file, dead->fd});
    dead = next;
  }
}

Result<void> Epoll::Control(int operation, Ref<vfs::File> file, int fd, const epoll_event& event) {
  if (file->Waiters() == nullptr) return Fail(EPERM);
  if (file.get() == this) return Fail(EINVAL);
  auto* inner = dynamic_cast<Epoll*>(file.get());
  if (operation != EPOLL_CTL_DEL && (event.events & EPOLLEXCLUSIVE) != 0) {
    if (operation == EPOLL_CTL_MOD) return Fail(EINVAL);
    if (inner != nullptr || (event.events & ~kExclusiveOk) != 0) return Fail(EINVAL);
  }
  switch (operation) {
    case EPOLL_CTL_ADD: {
      if (inner == nullptr) return Add(*file, fd, event);
      MutexLock lock(nesting_.mutex_);
      TRY(CheckNesting(*inner));
      return Add(*file, fd, event);
    }
    case EPOLL_CTL_MOD:
      return Modify(*file, fd, event);
    case EPOLL_CTL_DEL:
      return Remove(*file, fd);
    default:
      return Fail(EINVAL);
  }
}

Result<void> Epoll::Add(vfs::File& file, int fd, const epoll_event& event) {
  const auto watched = Ref<Watched>(static_cast<Watched*>(
      file.Observer([] { return Ref<vfs::FileObserver>(MakeRef<Watched>()); }).get()));
  MutexLock lock(mutex_);
  FreeDead();
  auto [place, is_new] = items_.try_emplace(Key{&file, fd});
  if (!is_new) return Fail(EEXIST);
  if (items_.size() > kMaxItems) {
    items_.erase(place);
    return Fail(ENOSPC);
  }
  place->second = std::make_unique<Item>(*this, file, fd, event);
  Item& item = *place->second;
  item.watched = watched;
  {
    MutexLock watched_lock(watched->mutex);
    watched->Link(item);
    file.Waiters()->Add(item, sched::kAllEvents, (event.events & EPOLLEXCLUSIVE) != 0);
  }
  if (PollItem(item) != 0) MakeReady(item, true);
  return {};
}

Result<void> Epoll::Modify(vfs::File& file, int fd, const epoll_event& event) {
  MutexLock lock(mutex_);
  FreeDead();
  const auto place = items_.find(Key{&file, fd});
  if (place == items_.end()) return Fail(ENOENT);
  Item& item = *place->second;
  if ((item.events.load() & EPOLLEXCLUSIVE) != 0) return Fail(EINVAL);
  item.data = event.data.u64;
  item.events.store(event.events | EPOLLERR | EPOLLHUP);
  if (PollItem(item) != 0) MakeReady(item, true);
  return {};
}

Result<void> Epoll::Remove(vfs::File& file, int fd) {
  MutexLock lock(mutex_);
  FreeDead();
  const auto place = items_.find(Key{&file, fd});
  if (place == items_.end()) return Fail(ENOENT);
  Item& item = *place->second;
  Detach(item);
  {
    MutexLock ready_lock(ready_mutex_);
    if (item.ready) UnlinkReady(item);
  }
  items_.erase(place);
  return {};
}

// Linux: ep_loop_check. At most kMaxNests links from the outermost epoll to the innermost.
Result<void> Epoll::CheckNesting(Epoll& inner) {
  const int below = DepthBelow(inner, 0);
  if (below > kMaxNests || DepthAbove(*this, 0) + 1 + below > kMaxNests) return Fail(ELOOP);
  return {};
}

// How many links there are below `target`; more than allowed if we are among them.
int Epoll::DepthBelow(Epoll& target, int level) {
  if (&target == this || level > kMaxNests) return kMaxNests + 1;
  NestedRank nested(LockRank::kEpoll);
  MutexLock lock(target.mutex_);
  int depth = 0;
  for (const auto& [key, item] : target.items_) {
    MutexLock watched_lock(item->watched->mutex);
    auto* child = item->attached ? dynamic_cast<Epoll*>(item->file) : nullptr;
    if (child != nullptr) depth = std::max(depth, 1 + DepthBelow(*child, level + 1));
  }
  return depth;
}

int Epoll::DepthAbove(Epoll& target, int level) {
  if (level > kMaxNests) return level;
  const auto watched = Ref<Watched>(static_cast<Watched*>(
      target.Observer([] { return Ref<vfs::FileObserver>(MakeRef<Watched>()); }).get()));
  std::vector<Ref<Epoll>> parents;
  {
    MutexLock lock(watched->mutex);
    for (Item* item = watched->first; item != nullptr; item = item->watched_next) {
      if (Ref<Epoll> parent = Ref<Epoll>::TryFrom(&item->epoll))
        parents.push_back(std::move(parent));
    }
  }
  int depth = 0;
  for (const Ref<Epoll>& parent : parents) {
    depth = std::max(depth, 1 + DepthAbove(*parent, level + 1));
  }
  return depth;
}

// What of the item's events its file has now.
vfs::EventMask Epoll::PollItem(Item& item) {
  const uint32_t wanted = item.events.load(std::memory_order_relaxed);
  MutexLock lock(item.watched->mutex);
  if (!item.attached) return 0;
  NestedRank nested(LockRank::kEpoll);  // the file may be an epoll, which is below us
  return item.file->Poll(wanted & ~kPrivateBits) & wanted & ~kPrivateBits;
}

// Looks at the items that are in the ready list now, a part at a time: until some are ready.
std::vector<epoll_event> Epoll::Collect(size_t max) {
  size_t left = 0;
  {
    MutexLock lock(ready_mutex_);
    left = ready_count_;
  }
  std::vector<epoll_event> found;
  while (left != 0 && found.empty()) {
    const size_t part = std::min(left, kCollectStep);
    found = CollectFirst(part, max);
    left -= part;
    if (!sched::YieldIfLong()) break;
  }
  return found;
}

// Linux: ep_send_events. An item that stays ready and is level-triggered goes to the end of the
// list.
std::vector<epoll_event> Epoll::CollectFirst(size_t left, size_t max) {
  std::vector<epoll_event> found;
  MutexLock lock(mutex_);
  FreeDead();
  for (; left != 0 && found.size() < max; --left) {
    Item* item = PopReady();
    if (item == nullptr) break;
    const vfs::EventMask happened = PollItem(*item);
    if (happened == 0) continue;
    epoll_event event{};
    event.events = happened;
    event.data.u64 = item->data;
    found.push_back(event);
    const uint32_t mask = item->events.load(std::memory_order_relaxed);
    if ((mask & EPOLLONESHOT) != 0) {
      item->events.store(mask & kPrivateBits);
    } else if ((mask & EPOLLET) == 0) {
      MakeReady(*item, false);
    }
  }
  return found;
}

Result<std::vector<epoll_event>> Epoll::Wait(size_t max, sched::Deadline deadline) {
  using Events = std::vector<epoll_event>;
  const auto attempt = [&]() -> Result<Events> {
    Events found = Collect(max);
    if (found.empty()) return Fail(EAGAIN);
    return found;
  };
  Result<Events> found = attempt();
  if (vfs::WouldBlock(found) && deadline != sched::Deadline(0)) {
    const vfs::WaitPolicy policy{.deadline = deadline, .interrupted = EINTR};
    found = vfs::BlockOn(waiters_, EPOLLIN, policy, attempt, vfs::Exclusive::kYes);
  }
  if (vfs::WouldBlock(found)) return Events();
  if (found && HasReady()) waiters_.Wake(EPOLLIN);  // the next one's share
  return found;
}

vfs::EventMask Epoll::Poll(vfs::EventMask) {
  MutexLock lock(mutex_);
  FreeDead();
  while (Item* item = PopReady()) {
    if (PollItem(*item) == 0) continue;
    MakeReady(*item, false);
    return EPOLLIN | EPOLLRDNORM;
  }
  return 0;
}

}  // namespace skep::anon
