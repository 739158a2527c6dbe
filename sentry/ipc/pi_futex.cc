#include "sentry/ipc/pi_futex.h"

#include <linux/futex.h>
#include <algorithm>
#include <deque>

#include "base/check.h"

namespace skep::ipc {
namespace {

constexpr int kNotYet = 0, kHandedOver = 1, kOwnerDied = 2;

}  // namespace

// Lives on the waiting fiber's stack. `bucket` and `state` change under the bucket's lock.
struct PiFutexTable::Waiter {
  uint32_t tid;
  sched::Fiber* fiber;
  FutexKey key;                          // of WaitRequeue: what it waits on
  FutexKey target;                       // of WaitRequeue: the lock it may be moved to
  std::atomic<Bucket*> bucket{nullptr};  // null: it waits no more
  State* state = nullptr;                // null: not moved yet
  std::atomic<int> granted{kNotYet};
};

struct PiFutexTable::State {
  FutexKey key;
  uint32_t owner = 0;
  std::deque<Waiter*> waiters;
  int taking_over = 0;  // threads that own it and have still to write that into the word
};

PiFutexTable::Bucket::Bucket() = default;
PiFutexTable::Bucket::~Bucket() = default;

class SCOPED_CAPABILITY PiFutexTable::TwoLocks {
 public:
  TwoLocks(Bucket& a, Bucket& b) ACQUIRE(a.lock, b.lock) NO_THREAD_SAFETY_ANALYSIS
      : low_(&a < &b ? &a : &b),
        high_(&a == &b ? nullptr : (&a < &b ? &b : &a)) {
    low_->lock.Lock();
    if (high_ != nullptr) high_->lock.Lock();
  }
  ~TwoLocks() RELEASE() NO_THREAD_SAFETY_ANALYSIS {
    if (high_ != nullptr) high_->lock.Unlock();
    low_->lock.Unlock();
  }
  TwoLocks(const TwoLocks&) = delete;
  TwoLocks& operator=(const TwoLocks&) = delete;

 private:
  Bucket* low_;
  Bucket* high_;
};

PiFutexTable::Bucket& PiFutexTable::BucketOf(const FutexKey& key) {
  const uint64_t hash = (key.a ^ (key.b >> 2)) * 0x9e37'79b9'7f4a'7c15;
  return buckets_[(hash >> 40) % kBuckets];
}

PiFutexTable::State* PiFutexTable::Find(Bucket& bucket, const FutexKey& key) {
  const auto found = std::find_if(bucket.states.begin(), bucket.states.end(),
                                  [&](const auto& state) { return state->key == key; });
  return found == bucket.states.end() ? nullptr : found->get();
}

void PiFutexTable::DropIfUnused(Bucket& bucket, State& state) {
  if (!state.waiters.empty() || state.taking_over != 0) return;
  std::erase_if(bucket.states, [&](const auto& s) { return s.get() == &state; });
  state_count_.fetch_sub(1);
}

void PiFutexTable::SetBlockedOn(uint32_t tid, uint32_t owner) {
  MutexLock lock(mutex_);
  if (owner == 0) {
    blocked_on_.erase(tid);
  } else {
    blocked_on_[tid] = owner;
  }
}

bool PiFutexTable::WouldDeadlock(uint32_t tid, uint32_t owner) {
  MutexLock lock(mutex_);
  // A chain is no longer than there are threads that wait.
  for (size_t steps = blocked_on_.size() + 1; steps > 0; --steps) {
    if (owner == tid) return true;
    const auto next = blocked_on_.find(owner);
    if (next == blocked_on_.end()) return false;
    owner = next->second;
  }
  return false;
}

// Linux: futex_lock_pi_atomic without a waiter.
Result<bool> PiFutexTable::TakeFree(Bucket& bucket, const FutexKey& key, const FutexAt& futex,
                                    uint32_t tid, const IsAlive& alive, State** state) {
  uint32_t value = TRY(futex.words.Load(futex.address));
  for (;;) {
    const uint32_t owner = value & FUTEX_TID_MASK;
    if (owner == tid) return Fail(EDEADLK);
    if (owner == 0) {
      const uint32_t mine = (value & FUTEX_OWNER_DIED) | tid;
      const bool swapped = TRY(futex.words.CompareExchange(futex.address, value, mine));
      if (swapped) return true;
      continue;
    }
    const uint32_t waited = value | FUTEX_WAITERS;
    const bool marked = TRY(futex.words.CompareExchange(futex.address, value, waited));
    if (!marked) continue;
    bucket.states.push_back(std::make_unique<State>(State{.key = key, .owner = owner}));
    state_count_.fetch_add(1);
    *state = bucket.states.back().get();
    // An owner that leaves now finds the state; one that has left does not.
    if (alive(owner)) return false;
    DropIfUnused(bucket, **state);
    *state = nullptr;
    value = TRY(futex.words.Load(futex.address));
    if (value == waited) return Fail(ESRCH);
  }
}

Result<bool> PiFutexTable::Take(Bucket& bucket, const FutexKey& key, const FutexAt& futex,
                                uint32_t tid, const IsAlive& alive, State** state) {
  *state = Find(bucket, key);
  if (*state == nullptr) return TakeFree(bucket, key, futex, tid, alive, state);
  const uint32_t value = TRY(futex.words.Load(futex.address));
  if ((value & FUTEX_TID_MASK) == tid) return Fail(EDEADLK);
  // Linux: attach_to_pi_state: the word must say what we know, unless an owner has just died.
  if ((*state)->taking_over == 0 && (value & FUTEX_TID_MASK) != (*state)->owner) {
    return Fail(EINVAL);
  }
  if (WouldDeadlock(tid, (*state)->owner)) return Fail(EDEADLK);
  return false;
}

void PiFutexTable::Enqueue(Bucket& bucket, State& state, Waiter& waiter) {
  state.waiters.push_back(&waiter);
  waiter.key = state.key;
  waiter.state = &state;
  waiter.bucket.store(&bucket, std::memory_order_release);
  SetBlockedOn(waiter.tid, state.owner);
}

void PiFutexTable::Grant(Waiter& waiter, int how) {
  const Ref<sched::Fiber> fiber(waiter.fiber);
  waiter.bucket.store(nullptr, std::memory_order_relaxed);
  waiter.granted.store(how, std::memory_order_release);  // its frame may be gone from here on
  fiber->Unpark();
}

// To the first waiter; the state stays.
void PiFutexTable::HandOver(State& state, int how) {
  Waiter& next = *state.waiters.front();
  state.waiters.pop_front();
  state.owner = next.tid;
  if (how == kOwnerDied) ++state.taking_over;
  SetBlockedOn(next.tid, 0);
  for (const Waiter* waiter : state.waiters) SetBlockedOn(waiter->tid, state.owner);
  Grant(next, how);
}

bool PiFutexTable::Leave(Waiter& waiter) {
  for (;;) {
    Bucket* bucket = waiter.bucket.load(std::memory_order_acquire);
    if (bucket == nullptr) return false;
    const sched::SleepLockHold hold(bucket->lock);
    if (waiter.bucket.load(std::memory_order_relaxed) != bucket) continue;
    waiter.bucket.store(nullptr, std::memory_order_relaxed);
    if (waiter.state == nullptr) {
      std::erase(bucket->requeues, &waiter);
      return true;
    }
    std::erase(waiter.state->waiters, &waiter);
    SetBlockedOn(waiter.tid, 0);
    DropIfUnused(*bucket, *waiter.state);
    return true;
  }
}

// The owner died and did not write the new one's name into the word (Linux: fixup_pi_state_owner).
Result<void> PiFutexTable::TakeOver(Waiter& waiter, const FutexAt& lock) {
  Bucket& bucket = BucketOf(waiter.key);
  const sched::SleepLockHold hold(bucket.lock);
  State* state = Find(bucket, waiter.key);
  CHECK(state != nullptr && state->taking_over > 0);
  Result<uint32_t> value = lock.words.Load(lock.address);
  Result<void> result;
  while (value) {
    const uint32_t mine = waiter.tid | FUTEX_WAITERS | FUTEX_OWNER_DIED;
    const Result<bool> swapped = lock.words.CompareExchange(lock.address, *value, mine);
    if (!swapped) value = std::unexpected(swapped.error());
    if (!swapped || *swapped) break;
  }
  if (!value) result = std::unexpected(value.error());
  --state->taking_over;
  DropIfUnused(bucket, *state);
  return result;
}

Result<void> PiFutexTable::Sleep(Waiter& waiter, const FutexAt& lock, sched::Deadline deadline) {
  for (;;) {
    const int granted = waiter.granted.load(std::memory_order_acquire);
    if (granted == kHandedOver) return {};
    if (granted == kOwnerDied) return TakeOver(waiter, lock);
    const sched::WakeReason reason = sched::Suspend(deadline, sched::Sleep::kInterruptible);
    if (reason == sched::WakeReason::kWoken || !Leave(waiter)) continue;
    if (reason == sched::WakeReason::kTimedOut) return Fail(ETIMEDOUT);
    return Fail(kRestartNoIntr);
  }
}

Result<void> PiFutexTable::LockOrTry(const FutexAt& futex, uint32_t tid, const IsAlive& alive,
                                     sched::Deadline deadline, bool wait) {
  const FutexKey key = TRY(futex.words.KeyOf(futex.address, futex.process_private));
  Bucket& bucket = BucketOf(key);
  Waiter waiter{.tid = tid, .fiber = &sched::Fiber::Current(), .key = key, .target = {}};
  {
    const sched::SleepLockHold hold(bucket.lock);
    State* state = nullptr;
    const bool taken = TRY(Take(bucket, key, futex, tid, alive, &state));
    if (taken) return {};
    if (!wait || WouldDeadlock(tid, state->owner)) {
      DropIfUnused(bucket, *state);
      return Fail(wait ? EDEADLK : EAGAIN);
    }
    Enqueue(bucket, *state, waiter);
  }
  return Sleep(waiter, futex, deadline);
}

Result<void> PiFutexTable::Lock(const FutexAt& futex, uint32_t tid, const IsAlive& alive,
                                sched::Deadline deadline) {
  return LockOrTry(futex, tid, alive, deadline, true);
}

Result<void> PiFutexTable::TryLock(const FutexAt& futex, uint32_t tid, const IsAlive& alive) {
  return LockOrTry(futex, tid, alive, std::nullopt, false);
}

Result<void> PiFutexTable::Unlock(const FutexAt& futex, uint32_t tid) {
  const FutexKey key = TRY(futex.words.KeyOf(futex.address, futex.process_private));
  uint32_t value = TRY(futex.words.Load(futex.address));
  if ((value & FUTEX_TID_MASK) != tid) return Fail(EPERM);
  Bucket& bucket = BucketOf(key);
  const sched::SleepLockHold hold(bucket.lock);
  State* state = Find(bucket, key);
  if (state != nullptr && state->owner != tid) return Fail(EINVAL);
  const bool waited = state != nullptr && !state->waiters.empty();
  const uint32_t next = waited ? FUTEX_WAITERS | state->waiters.front()->tid : 0;
  for (;;) {
    const bool swapped = TRY(futex.words.CompareExchange(futex.address, value, next));
    if (swapped) break;
    if ((value & FUTEX_TID_MASK) != tid) return Fail(EINVAL);
  }
  if (waited) HandOver(*state, kHandedOver);
  if (state != nullptr) DropIfUnused(bucket, *state);
  return {};
}

Result<void> PiFutexTable::WaitRequeue(const FutexAt& futex, uint32_t expected, const FutexAt& lock,
                                       uint32_t tid, sched::Deadline deadline) {
  const FutexKey key = TRY(futex.words.KeyOf(futex.address, futex.process_private));
  const FutexKey target = TRY(lock.words.KeyOf(lock.address, lock.process_private));
  if (key == target) return Fail(EINVAL);
  Bucket& bucket = BucketOf(key);
  Waiter waiter{.tid = tid, .fiber = &sched::Fiber::Current(), .key = key, .target = target};
  {
    const sched::SleepLockHold hold(bucket.lock);
    const uint32_t value = TRY(futex.words.Load(futex.address));
    if (value != expected) return Fail(EAGAIN);
    bucket.requeues.push_back(&waiter);
    waiter.bucket.store(&bucket, std::memory_order_release);
  }
  auto slept = Sleep(waiter, lock, deadline);
  // Linux: once it was moved, the word has changed, so the call is not repeated.
  if (!slept && slept.error().code() == kRestartNoIntr && waiter.state != nullptr)
    return Fail(EAGAIN);
  return slept;
}

Result<int> PiFutexTable::Requeue(const FutexAt& futex, uint32_t expected, const FutexAt& lock,
                                  int wake, int move, const IsAlive& alive) {
  if (wake != 1 || move < 0) return Fail(EINVAL);
  const FutexKey key = TRY(futex.words.KeyOf(futex.address, futex.process_private));
  const FutexKey target = TRY(lock.words.KeyOf(lock.address, lock.process_private));
  if (key == target) return Fail(EINVAL);
  Bucket& bucket = BucketOf(key);
  Bucket& new_bucket = BucketOf(target);
  const TwoLocks locks(bucket, new_bucket);
  const uint32_t value = TRY(futex.words.Load(futex.address));
  if (value != expected) return Fail(EAGAIN);
  int count = 0;
  std::vector<Waiter*> ours;
  for (Waiter* waiter : bucket.requeues) {
    if (waiter->key == key) ours.push_back(waiter);
  }
  for (Waiter* waiter : ours) {
    if (count - wake >= move) break;
    if (waiter->target != target) return count != 0 ? Result<int>(count) : Fail(EINVAL);
    State* state = nullptr;
    const Result<bool> taken = Take(new_bucket, target, lock, waiter->tid, alive, &state);
    if (!taken) return count != 0 ? Result<int>(count) : std::unexpected(taken.error());
    std::erase(bucket.requeues, waiter);
    ++count;
    if (*taken) {
      waiter->key = target;
      Grant(*waiter, kHandedOver);
    } else {
      Enqueue(new_bucket, *state, *waiter);
    }
  }
  return count;
}

void PiFutexTable::OwnerLeaves(uint32_t tid) {
  if (state_count_.load() == 0) return;
  for (Bucket& bucket : buckets_) {
    const sched::SleepLockHold hold(bucket.lock);
    for (size_t i = 0; i < bucket.states.size(); ++i) {
      State& state = *bucket.states[i];
      if (state.owner == tid && !state.waiters.empty()) HandOver(state, kOwnerDied);
    }
  }
}

}  // namespace skep::ipc
