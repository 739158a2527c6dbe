#include "sentry/mm/memory_limit.h"

#include <algorithm>

#include "sentry/arena/arena.h"
#include "sentry/mm/memory_file.h"

namespace skep::mm {
namespace {

// What a guest can touch between two looks at it, and what stubs cost the host besides its pages.
constexpr uint64_t kMinReserve = 1 << 20;
constexpr uint64_t kMaxReserve = 64 << 20;
constexpr uint64_t kReserveShare = 32;
constexpr int kTries = 16;
// What files leave to processes: a share of the limit, and what a shell needs to remove them.
constexpr uint64_t kProcessShare = 4;
constexpr uint64_t kMinForProcesses = 24 << 20;

}  // namespace

void MemoryLimit::Set(uint64_t limit, Reliever* reliever) {
  limit_ = limit;
  reliever_ = reliever;
}

// A limit that is too small for the reserves leaves nothing: then the first process dies.
uint64_t MemoryLimit::Reserve() const {
  const uint64_t share = std::clamp(limit_ / kReserveShare, kMinReserve, kMaxReserve);
  return std::min(share, limit_ / 2);
}

uint64_t MemoryLimit::Used() const {
  return memory_.UsedBytes() + arena::CurrentUsage().heap_bytes;
}

uint64_t MemoryLimit::Room() const {
  if (!set()) return ~uint64_t{0};
  const uint64_t used = Used();
  const uint64_t room = used < kill_above() ? kill_above() - used : 0;
  memory_.GiveBackKept(room / 2);
  return room;
}

uint64_t MemoryLimit::KeepAtMost(uint64_t freed) const {
  if (!set()) return ~uint64_t{0};
  const uint64_t used = Used();
  const uint64_t stays = used - std::min(used, freed);
  return stays < kill_above() ? (kill_above() - stays) / 2 : 0;
}

Result<void> MemoryLimit::CheckFill(uint64_t bytes) const {
  if (!set()) return {};
  const uint64_t used = Used();
  if (used >= fill_to() || bytes > fill_to() - used) return Fail(ENOSPC);
  memory_.GiveBackKept((fill_to() - used - bytes) / 2);
  return {};
}

uint64_t MemoryLimit::MostForFiles() const {
  if (!set()) return ~uint64_t{0};
  return limit_ - std::min(limit_ / 2, std::max(limit_ / kProcessShare, kMinForProcesses));
}

Result<void> MemoryLimit::ClaimForFiles(uint64_t bytes) {
  const uint64_t most = MostForFiles();
  uint64_t now = file_bytes_.load();
  do {
    if (bytes > most || now > most - bytes) return Fail(ENOSPC);
  } while (!file_bytes_.compare_exchange_weak(now, now + bytes));
  return {};
}

Result<void> MemoryLimit::MakeRoom(uint64_t bytes) const {
  if (!set() || reliever_ == nullptr) return {};
  for (int tries = 0; tries < kTries; ++tries) {
    if (Room() >= bytes) return {};
    const Result<void> relieved = reliever_->Relieve();
    if (!relieved) return Fail(relieved.error().code() == kKilled ? kKilled : EFAULT);
  }
  return Fail(EFAULT);
}

}  // namespace skep::mm
