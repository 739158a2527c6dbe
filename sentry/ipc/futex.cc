#include "sentry/ipc/futex.h"

#include <linux/futex.h>

#include "base/check.h"

namespace skep::ipc {
namespace {

constexpr int kRequeueAttempts = 16;
constexpr int kRobustListMax = 2048;  // Linux: ROBUST_LIST_LIMIT
constexpr uint32_t kAnyBit = ~uint32_t{0};

}  // namespace

// Lives on the waiting fiber's stack.
struct FutexTable::Waiter {
  FutexKey key;
  uint32_t bitset;
  sched::Fiber* fiber;
  std::atomic<Bucket*> bucket{nullptr};  // changes under the bucket's lock; null: woken
  Waiter* previous = nullptr;
  Waiter* next = nullptr;
};

// Both buckets' locks, the lower address first.
class SCOPED_CAPABILITY FutexTable::TwoLocks {
 public:
  TwoLocks(Bucket& a, Bucket& b) ACQUIRE(a.mutex, b.mutex) NO_THREAD_SAFETY_ANALYSIS
      : low_(&a < &b ? &a : &b),
        high_(&a == &b ? nullptr : (&a < &b ? &b : &a)) {
    low_->mutex.Lock();
    if (high_ != nullptr) high_->mutex.LockNested();
  }
  ~TwoLocks() RELEASE() NO_THREAD_SAFETY_ANALYSIS {
    if (high_ != nullptr) high_->mutex.UnlockNested();
    low_->mutex.Unlock();
  }
  TwoLocks(const TwoLocks&) = delete;
  TwoLocks& operator=(const TwoLocks&) = delete;

 private:
  Bucket* low_;
  Bucket* high_;
};

FutexTable::Bucket& FutexTable::BucketOf(const FutexKey& key) {
  uint64_t hash = (key.a ^ (key.b >> 2)) * 0x9e37'79b9'7f4a'7c15;
  hash ^= hash >> 29;
  hash *= 0xbf58'476d'1ce4'e5b9;
  return buckets_[(hash >> 32) % kBuckets];
}

void FutexTable::Join(Bucket& bucket, Waiter& waiter) {
  ++bucket.joined;
  waiter.previous = bucket.last;
  waiter.next = nullptr;
  (bucket.last != nullptr ? bucket.last->next : bucket.first) = &waiter;
  bucket.last = &waiter;
  waiter.bucket.store(&bucket, std::memory_order_release);
}

void FutexTable::Unlink(Bucket& bucket, Waiter& waiter) {
  (waiter.previous != nullptr ? waiter.previous->next : bucket.first) = waiter.next;
  (waiter.next != nullptr ? waiter.next->previous : bucket.last) = waiter.previous;
}

void FutexTable::WakeOne(Bucket& bucket, Waiter& waiter) {
  Unlink(bucket, waiter);
  const Ref<sched::Fiber> fiber(waiter.fiber);
  waiter.bucket.store(nullptr, std::memory_order_release);  // its frame may be gone from here on
  fiber->Unpark();
}

int FutexTable::WakeLocked(Bucket& bucket, const FutexKey& key, int count, uint32_t bitset) {
  int woken = 0;
  for (Waiter* waiter = bucket.first; waiter != nullptr;) {
    Waiter* next = waiter->next;
    if (waiter->key == key && (waiter->bitset & bitset) != 0) {
      WakeOne(bucket, *waiter);
      if (++woken >= count) break;
    }
    waiter = next;
  }
  return woken;
}

bool FutexTable::Leave(Waiter& waiter) {
  for (;;) {
    Bucket* bucket = waiter.bucket.load(std::memory_order_acquire);
    if (bucket == nullptr) return false;
    MutexLock lock(bucket->mutex);
    if (waiter.bucket.load(std::memory_order_relaxed) != bucket) continue;  // it was requeued
    Unlink(*bucket, waiter);
    waiter.bucket.store(nullptr, std::memory_order_relaxed);
    return true;
  }
}

Result<void> FutexTable::Wait(const FutexAt& futex, uint32_t expected, uint32_t bitset,
                              sched::Deadline deadline) {
  if (bitset == 0) return Fail(EINVAL);
  const FutexKey key = TRY(futex.words.KeyOf(futex.address, futex.process_private));
  Waiter waiter{.key = key, .bitset = bitset, .fiber = &sched::Fiber::Current()};
  {
    Bucket& bucket = BucketOf(key);
    MutexLock lock(bucket.mutex);
    Join(bucket, waiter);
  }
  const Result<uint32_t> value = futex.words.Load(futex.address);
  if (!value || *value != expected) {
    if (!Leave(waiter)) return {};  // somebody has already woken us: that must not be lost
    return Fail(value ? EAGAIN : value.error().code());
  }
  for (;;) {
    if (waiter.bucket.load(std::memory_order_acquire) == nullptr) return {};
    const sched::WakeReason reason = sched::Suspend(deadline, sched::Sleep::kInterruptible);
    if (reason == sched::WakeReason::kWoken) continue;
    if (!Leave(waiter)) return {};
    if (reason == sched::WakeReason::kTimedOut) return Fail(ETIMEDOUT);
    return Fail(deadline ? kRestartBlock : kRestartSys);
  }
}

Result<int> FutexTable::Wake(const FutexAt& futex, int count, uint32_t bitset) {
  if (bitset == 0) return Fail(EINVAL);
  const FutexKey key = TRY(futex.words.KeyOf(futex.address, futex.process_private));
  Bucket& bucket = BucketOf(key);
  MutexLock lock(bucket.mutex);
  return WakeLocked(bucket, key, count, bitset);
}

Result<int> FutexTable::Requeue(const FutexAt& from, const FutexAt& to, int wake, int move,
                                const uint32_t* compare) {
  if (wake < 0 || move < 0) return Fail(EINVAL);
  const FutexKey key = TRY(from.words.KeyOf(from.address, from.process_private));
  const FutexKey new_key = TRY(to.words.KeyOf(to.address, to.process_private));
  Bucket& bucket = BucketOf(key);
  Bucket& new_bucket = BucketOf(new_key);
  for (int attempt = 1;; ++attempt) {
    uint64_t joined = 0;
    if (compare != nullptr) {
      {
        MutexLock lock(bucket.mutex);
        joined = bucket.joined;
      }
      const uint32_t value = TRY(from.words.Load(from.address));
      if (value != *compare) return Fail(EAGAIN);
    }
    TwoLocks locks(bucket, new_bucket);
    // A waiter that came after the word was read may wait for another value of it: look again.
    if (compare != nullptr && joined != bucket.joined && attempt < kRequeueAttempts) continue;
    int count = 0;
    for (Waiter* waiter = bucket.first;
         waiter != nullptr && (count < wake || count - wake < move);) {
      Waiter* next = waiter->next;
      if (waiter->key == key) {
        if (++count <= wake) {
          WakeOne(bucket, *waiter);
        } else {
          waiter->key = new_key;
          if (&bucket != &new_bucket) {
            Unlink(bucket, *waiter);
            Join(new_bucket, *waiter);
          }
        }
      }
      waiter = next;
    }
    return count;
  }
}

Result<int> FutexTable::WakeOp(const FutexAt& first, const FutexAt& second, int wake_first,
                               int wake_second, uint32_t operation) {
  const FutexKey first_key = TRY(first.words.KeyOf(first.address, first.process_private));
  const FutexKey second_key = TRY(second.words.KeyOf(second.address, second.process_private));
  // Linux: futex_atomic_op_inuser. Both arguments are signed 12-bit numbers.
  const uint32_t op = operation >> 28 & 7;
  const uint32_t comparison = operation >> 24 & 15;
  const auto signed12 = [](uint32_t x) { return static_cast<int32_t>(x << 20) >> 20; };
  auto argument = static_cast<uint32_t>(signed12(operation >> 12 & 0xfff));
  const int32_t compare_to = signed12(operation & 0xfff);
  if ((operation >> 28 & FUTEX_OP_OPARG_SHIFT) != 0) argument = uint32_t{1} << (argument & 31);
  if (op > FUTEX_OP_XOR || comparison > FUTEX_OP_CMP_GE) return Fail(ENOSYS);

  const uint32_t old = TRY(second.words.FetchModify(second.address, [&](uint32_t word) -> uint32_t {
    switch (op) {
      case FUTEX_OP_SET:
        return argument;
      case FUTEX_OP_ADD:
        return word + argument;
      case FUTEX_OP_OR:
        return word | argument;
      case FUTEX_OP_ANDN:
        return word & ~argument;
      default:
        return word ^ argument;
    }
  }));
  const auto value = static_cast<int32_t>(old);
  bool holds = false;
  switch (comparison) {
    case FUTEX_OP_CMP_EQ:
      holds = value == compare_to;
      break;
    case FUTEX_OP_CMP_NE:
      holds = value != compare_to;
      break;
    case FUTEX_OP_CMP_LT:
      holds = value < compare_to;
      break;
    case FUTEX_OP_CMP_GE:
      holds = value >= compare_to;
      break;
    case FUTEX_OP_CMP_LE:
      holds = value <= compare_to;
      break;
    default:
      holds = value > compare_to;
      break;
  }
  Bucket& bucket = BucketOf(first_key);
  Bucket& second_bucket = BucketOf(second_key);
  TwoLocks locks(bucket, second_bucket);
  int woken = WakeLocked(bucket, first_key, wake_first, kAnyBit);
  if (holds) woken += WakeLocked(second_bucket, second_key, wake_second, kAnyBit);
  return woken;
}

namespace {

// Linux: handle_futex_death. False: stop walking.
bool HandleOwnerDeath(FutexTable& table, GuestWords& words, mm::UserAddr address, uint32_t tid,
                      bool pi, bool pending) {
  const FutexAt futex{words, address, false};
  Result<uint32_t> loaded = words.Load(address);
  if (!loaded) return false;
  uint32_t value = *loaded;
  // The owner died between unlocking and waking: the next waiter must still be woken.
  if (pending && !pi && value == 0) {
    (void)table.Wake(futex, 1, kAnyBit);
    return true;
  }
  for (;;) {
    if ((value & FUTEX_TID_MASK) != tid) return true;
    const uint32_t dead = (value & FUTEX_WAITERS) | FUTEX_OWNER_DIED;
    const Result<bool> swapped = words.CompareExchange(address, value, dead);
    if (!swapped) return false;
    if (*swapped) break;
  }
  if (!pi && (value & FUTEX_WAITERS) != 0) (void)table.Wake(futex, 1, kAnyBit);
  return true;
}

}  // namespace

// Linux: exit_robust_list. The low bit of an entry marks a PI futex.
void ExitRobustList(FutexTable& table, mm::UserMemory& memory, GuestWords& words, mm::UserAddr head,
                    uint32_t tid) {
  const auto fetch = [&](mm::UserAddr at) {
    return memory.CopyIn(mm::UserPtr<const uint64_t>(at));
  };
  Result<uint64_t> entry = fetch(head);
  const Result<uint64_t> offset = fetch(head + 8);
  const Result<uint64_t> pending = fetch(head + 16);
  if (!entry || !offset || !pending) return;
  const auto futex_of = [&](uint64_t e) { return mm::UserAddr{(e & ~uint64_t{1}) + *offset}; };

  for (int i = 0; i < kRobustListMax && (*entry & ~uint64_t{1}) != mm::Raw(head); ++i) {
    // The next one first: the entry is not ours once it is unlocked.
    const Result<uint64_t> next = fetch(mm::UserAddr{*entry & ~uint64_t{1}});
    if ((*entry & ~uint64_t{1}) != (*pending & ~uint64_t{1}) &&
        !HandleOwnerDeath(table, words, futex_of(*entry), tid, (*entry & 1) != 0, false)) {
      return;
    }
    if (!next) return;
    entry = next;
  }
  if ((*pending & ~uint64_t{1}) != 0) {
    (void)HandleOwnerDeath(table, words, futex_of(*pending), tid, (*pending & 1) != 0, true);
  }
}

}  // namespace skep::ipc
