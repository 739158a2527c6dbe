// Futexes: fibers that wait for another thread to wake a word of guest memory (Linux:
// kernel/futex/).
//
// A waiter joins its bucket first and reads the word afterwards, so a wake-up that follows a change
// of the word finds it, and no lock is held while guest memory is touched (which may fault and
// suspend the fiber).
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <functional>

#include "base/mutex.h"
#include "sentry/mm/memory_manager.h"
#include "sentry/sched/fiber.h"

namespace skep::ipc {

using FutexKey = mm::MemoryManager::FutexKey;

// The words of one address space: what futexes need of a MemoryManager.
class GuestWords {
 public:
  virtual Result<FutexKey> KeyOf(mm::UserAddr address, bool process_private) = 0;
  virtual Result<uint32_t> Load(mm::UserAddr address) = 0;
  virtual Result<uint32_t> FetchModify(mm::UserAddr address,
                                       const std::function<uint32_t(uint32_t)>& change) = 0;
  virtual Result<bool> CompareExchange(mm::UserAddr address, uint32_t& expected,
                                       uint32_t desired) = 0;

 protected:
  ~GuestWords() = default;
};

class MemoryWords final : public GuestWords {
 public:
  explicit MemoryWords(mm::MemoryManager& memory) : memory_(memory) {}
  Result<FutexKey> KeyOf(mm::UserAddr address, bool process_private) override {
    return memory_.KeyOf(address, process_private);
  }
  Result<uint32_t> Load(mm::UserAddr address) override { return memory_.LoadWord(address); }
  Result<uint32_t> FetchModify(mm::UserAddr address,
                               const std::function<uint32_t(uint32_t)>& change) override {
    return memory_.FetchModifyWord(address, change);
  }
  Result<bool> CompareExchange(mm::UserAddr address, uint32_t& expected,
                               uint32_t desired) override {
    return memory_.CompareExchangeWord(address, expected, desired);
  }

 private:
  mm::MemoryManager& memory_;
};

// A futex as a call names it.
struct FutexAt {
  GuestWords& words;
  mm::UserAddr address;
  bool process_private = false;  // FUTEX_PRIVATE_FLAG
};

class FutexTable {
 public:
  FutexTable() = default;
  FutexTable(const FutexTable&) = delete;
  FutexTable& operator=(const FutexTable&) = delete;

  // FUTEX_WAIT, FUTEX_WAIT_BITSET. EAGAIN: the word is not `expected`. ETIMEDOUT. Interrupted:
  // kRestartSys, or kRestartBlock if there is a deadline (call again with the same one).
  Result<void> Wait(const FutexAt& futex, uint32_t expected, uint32_t bitset,
                    sched::Deadline deadline);
  // FUTEX_WAKE, FUTEX_WAKE_BITSET: how many were woken. As on Linux, count < 1 wakes one.
  Result<int> Wake(const FutexAt& futex, int count, uint32_t bitset);
  // FUTEX_REQUEUE, and with `compare` FUTEX_CMP_REQUEUE: woken plus moved. EAGAIN.
  Result<int> Requeue(const FutexAt& from, const FutexAt& to, int wake, int move,
                      const uint32_t* compare);
  // FUTEX_WAKE_OP; `operation` is val3 as the guest gave it.
  Result<int> WakeOp(const FutexAt& first, const FutexAt& second, int wake_first, int wake_second,
                     uint32_t operation);

 private:
  struct Bucket;
  struct Waiter;
  struct Bucket {
    Mutex mutex{LockRank::kFutex};
    Waiter* first GUARDED_BY(mutex) = nullptr;
    Waiter* last GUARDED_BY(mutex) = nullptr;
    uint64_t joined GUARDED_BY(mutex) = 0;  // how many waiters have ever come
  };
  static constexpr size_t kBuckets = 256;

  Bucket& BucketOf(const FutexKey& key);
  static void Join(Bucket& bucket, Waiter& waiter) REQUIRES(bucket.mutex);
  static void Unlink(Bucket& bucket, Waiter& waiter) REQUIRES(bucket.mutex);
  static void WakeOne(Bucket& bucket, Waiter& waiter) REQUIRES(bucket.mutex);
  static int WakeLocked(Bucket& bucket, const FutexKey& key, int count, uint32_t bitset)
      REQUIRES(bucket.mutex);
  // True: it was still in the table, so nobody woke it.
  static bool Leave(Waiter& waiter);
  class TwoLocks;

  std::array<Bucket, kBuckets> buckets_;
};

// exit(2), execve(2): marks the robust futexes that `tid` still owns as FUTEX_OWNER_DIED and wakes
// a waiter of each. `head` is what set_robust_list(2) was given. Bounded, as the guest may lie.
void ExitRobustList(FutexTable& table, mm::UserMemory& memory, GuestWords& words, mm::UserAddr head,
                    uint32_t tid);

}  // namespace skep::ipc
