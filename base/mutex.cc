#include "base/mutex.h"

#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/check.h"

namespace skep {
namespace {

thread_local uint64_t held_ranks = 0;  // a bit for each LockRank this thread holds, if checked

}  // namespace

void Mutex::LockSlow() {
  // A holder keeps it for well under a microsecond: a few looks are cheaper than a sleep.
  for (int i = 0; i < 100; ++i) {
    uint32_t expected = 0;
    if (word_.load(std::memory_order_relaxed) == 0 &&
        word_.compare_exchange_strong(expected, 1, std::memory_order_acquire)) {
      return;
    }
    __builtin_ia32_pause();
  }
  while (word_.exchange(2, std::memory_order_acquire) != 0) {
    syscall(SYS_futex, &word_, FUTEX_WAIT_PRIVATE, 2, nullptr, nullptr, 0);
  }
}

void Mutex::WakeOne() { syscall(SYS_futex, &word_, FUTEX_WAKE_PRIVATE, 1, nullptr, nullptr, 0); }

void Mutex::NoteAcquire() {
  const uint64_t bit = uint64_t{1} << static_cast<unsigned>(rank_);
  CHECK(held_ranks < bit && "lock order: see base/lock_rank.h");
  held_ranks |= bit;
}

void Mutex::NoteRelease() { held_ranks &= ~(uint64_t{1} << static_cast<unsigned>(rank_)); }

NestedRank::NestedRank(LockRank rank)
    : hidden_(held_ranks & ~((uint64_t{1} << static_cast<unsigned>(rank)) - 1)) {
  held_ranks &= ~hidden_;
}
NestedRank::~NestedRank() { held_ranks |= hidden_; }

bool HoldsNoMutex() { return held_ranks == 0; }

}  // namespace skep
