// mprotect (Linux: mm/mprotect.c), the mlock family (mm/mlock.c), msync and mincore.
#include <sys/syscall.h>
#include <algorithm>
#include <array>
#include <iterator>
#include <span>
#include <utility>
#include <vector>

#include "base/host_call.h"
#include "sentry/mm/state.h"

namespace skep::mm {

using sched::SleepLockHold;

Result<void> MemoryManager::Mprotect(uint64_t start, uint64_t size, int prot, bool grows_down,
                                     bool grows_up) {
  if (grows_down && grows_up) return Fail(EINVAL);
  if (!IsPageAligned(start)) return Fail(EINVAL);
  if (size == 0) return {};
  uint64_t end = start + PageCeil(size);
  if (end <= start) return Fail(ENOMEM);
  if ((prot & ~(PROT_READ | PROT_WRITE | PROT_EXEC | 0x8)) != 0) return Fail(EINVAL);  // PROT_SEM
  prot &= PROT_READ | PROT_WRITE | PROT_EXEC;

  State& state = *state_;
  SleepLockHold hold(state.mmap_lock);
  auto it = state.vmas.FirstEndingAfter(start);
  if (it == state.vmas.end()) return Fail(ENOMEM);
  if (grows_down) {
    if (it->second.start >= end) return Fail(ENOMEM);
    start = it->second.start;
    if (!it->second.grows_down) return Fail(EINVAL);
  } else {
    if (it->second.start > start) return Fail(ENOMEM);
    if (grows_up) return Fail(EINVAL);
  }
  Batch batch;
  Result<void> result;
  for (uint64_t at = start; at < end;) {
    it = state.vmas.Find(at);
    if (it == state.vmas.end()) {
      result = Fail(ENOMEM);
      break;
    }
    const Range part{at, std::min(end, it->second.end)};
    result = state.ProtectPart(it, part, prot, batch);
    if (!result) break;
    at = part.end;
  }
  (void)state.Commit(batch);
  return result;
}

// Linux: mprotect_fixup.
Result<void> MemoryManager::State::ProtectPart(VmaSet::iterator it, Range range, int prot,
                                               Batch& batch) {
  const int old_prot = it->second.prot;
  if ((prot & ~it->second.max_prot) != 0) return Fail(EACCES);
  if (prot == old_prot) return {};
  if (it->second.range() != range && vmas.count() >= kMaxMappings) return Fail(ENOMEM);
  Vma changed = it->second;
  changed.prot = prot;
  std::vector<Segment> fresh;
  const Result<void> made = FillHoles(changed, range, fresh);
  if (!made) {
    GiveBack(fresh);
    return made;
  }
  MutexLock lock(vmas_lock);
  cache.Clear();
  SplitAt(range.start, batch);
  SplitAt(range.end, batch);
  Vma& vma = vmas.Find(range.start)->second;
  changed = vma;
  vma.prot = prot;
  for (auto segment = segments.FirstEndingAfter(range.start);
       segment != segments.end() && segment->first < range.end; ++segment) {
    const int after = HostProt(vma, segment->second);
    if (segment->second.mapped && HostProt(changed, segment->second) != after) {
      batch.Protect(segment->second.range(), after);
    }
  }
  Install(vma, std::move(fresh), vma.locked && !vma.lock_on_fault, batch);
  MergeAround(range, batch);
  return {};
}

// -- mlock --

// Has the host take the faults of what is mapped in `range` now; but not where it has all pages
// already, so that none of these faults would wait for memory.
void MemoryManager::State::PopulateRange(Range range, Batch& batch) {
  for (auto it = segments.FirstEndingAfter(range.start);
       it != segments.end() && it->first < range.end; ++it) {
    const auto vma = vmas.Find(it->first);
    if (!it->second.mapped || !vma->second.accessible()) continue;
    Segment part = it->second;
    part.start = std::max(part.start, range.start);
    part.offset = it->second.OffsetOf(part.start);
    part.end = std::min(part.end, range.end);
    if (part.extent && part.extent->file().ResidentBytes(part.offsets()) == part.size()) continue;
    batch.Map(part, HostProt(vma->second, part), true);
  }
}

Result<void> MemoryManager::State::LockRange(Range range, bool lock, bool on_fault) {
  Batch batch;
  Result<void> result;
  uint64_t done = range.start;
  {
    MutexLock guard(vmas_lock);
    for (auto it = vmas.Find(range.start); done < range.end; it = vmas.FirstEndingAfter(done)) {
      if (it == vmas.end() || it->second.start > done) {
        result = Fail(ENOMEM);
        break;
      }
      const Range part{done, std::min(range.end, it->second.end)};
      if (it->second.locked != lock || it->second.lock_on_fault != (lock && on_fault)) {
        SplitAt(part.start, batch);
        SplitAt(part.end, batch);
        Vma& vma = vmas.Find(part.start)->second;
        vma.locked = lock;
        vma.lock_on_fault = lock && on_fault;
      }
      done = part.end;
    }
    MergeAround({range.start, done}, batch);
    if (lock && !on_fault) PopulateRange({range.start, done}, batch);
  }
  (void)Commit(batch);
  return result;
}

Result<void> MemoryManager::Mlock(uint64_t start, uint64_t size, bool on_fault,
                                  const MemoryLimits& limits) {
  if (limits.locked == 0) return Fail(EPERM);
  const uint64_t whole = PageCeil(size + (start & (kPageSize - 1)));
  start = PageFloor(start);
  State& state = *state_;
  SleepLockHold hold(state.mmap_lock);
  uint64_t locked = whole + state.LockedBytes();
  if (locked > limits.locked) {
    for (const auto& [at, vma] : state.vmas) {
      if (vma.locked) locked -= vma.range().Intersect({start, start + whole}).size();
    }
  }
  if (locked > limits.locked) return Fail(ENOMEM);
  if (start + whole < start) return Fail(EINVAL);
  if (whole == 0) return {};
  return state.LockRange({start, start + whole}, true, on_fault);
}

Result<void> MemoryManager::Munlock(uint64_t start, uint64_t size) {
  const uint64_t whole = PageCeil(size + (start & (kPageSize - 1)));
  start = PageFloor(start);
  if (start + whole < start) return Fail(EINVAL);
  if (whole == 0) return {};
  SleepLockHold hold(state_->mmap_lock);
  return state_->LockRange({start, start + whole}, false, false);
}

Result<void> MemoryManager::MlockAll(int flags, const MemoryLimits& limits) {
  if (flags == 0 || (flags & ~(MCL_CURRENT | MCL_FUTURE | MCL_ONFAULT)) != 0 ||
      flags == MCL_ONFAULT) {
    return Fail(EINVAL);
  }
  if (limits.locked == 0) return Fail(EPERM);
  State& state = *state_;
  SleepLockHold hold(state.mmap_lock);
  const bool current = (flags & MCL_CURRENT) != 0;
  const bool on_fault = (flags & MCL_ONFAULT) != 0;
  if (current && state.vmas.total_bytes() > limits.locked) return Fail(ENOMEM);
  state.lock_future = (flags & MCL_FUTURE) != 0;
  state.lock_future_on_fault = state.lock_future && on_fault;
  if (!current) return {};
  Batch batch;
  {
    MutexLock lock(state.vmas_lock);
    for (auto& [start, vma] : state.vmas) {
      vma.locked = true;
      vma.lock_on_fault = on_fault;
    }
    if (!on_fault) state.PopulateRange({0, kGuestAddressEnd}, batch);
  }
  (void)state.Commit(batch);
  return {};
}

Result<void> MemoryManager::MunlockAll() {
  State& state = *state_;
  SleepLockHold hold(state.mmap_lock);
  MutexLock lock(state.vmas_lock);
  state.lock_future = state.lock_future_on_fault = false;
  for (auto& [start, vma] : state.vmas) vma.locked = vma.lock_on_fault = false;
  return {};
}

// -- msync, mincore --

Result<void> MemoryManager::Msync(uint64_t start, uint64_t size, int flags) {
  if ((flags & ~(MS_ASYNC | MS_INVALIDATE | MS_SYNC)) != 0) return Fail(EINVAL);
  if (!IsPageAligned(start)) return Fail(EINVAL);
  if ((flags & MS_ASYNC) != 0 && (flags & MS_SYNC) != 0) return Fail(EINVAL);
  const uint64_t end = start + PageCeil(size);
  if (end < start) return Fail(ENOMEM);
  struct Part {
    Ref<Mappable> file;
    Range range;
  };
  std::vector<Part> parts;
  Result<void> result;
  if (end > start) {
    SleepLockHold hold(state_->mmap_lock);
    uint64_t at = start;
    for (auto it = state_->vmas.FirstEndingAfter(start); at < end; ++it) {
      if (it == state_->vmas.end() || it->second.start >= end) {
        result = Fail(ENOMEM);
        break;
      }
      const Vma& vma = it->second;
      if (vma.start > at) {
        result = Fail(ENOMEM);
        at = vma.start;
      }
      if ((flags & MS_INVALIDATE) != 0 && vma.locked) {
        result = Fail(EBUSY);
        break;
      }
      const uint64_t stop = std::min(end, vma.end);
      if (vma.file && vma.shared) {
        parts.push_back({vma.file, {vma.OffsetOf(at), vma.OffsetOf(at) + (stop - at)}});
      }
      at = stop;
    }
  }
  if ((flags & MS_SYNC) != 0) {
    for (const Part& part : parts) TRY(part.file->Sync(part.range));
  }
  return result;
}

Result<void> MemoryManager::Mincore(
    uint64_t start, uint64_t size,
    const std::function<Result<void>(std::span<const std::byte>)>& emit) {
  if (!IsPageAligned(start)) return Fail(EINVAL);
  if (start > kGuestAddressEnd || size > kGuestAddressEnd - start) return Fail(ENOMEM);
  std::array<std::byte, 512> resident{};
  for (const uint64_t end = start + PageCeil(size); start < end;) {
    size_t pages = 0;
    {
      SleepLockHold hold(state_->mmap_lock);
      const auto vma = state_->vmas.Find(start);
      if (vma == state_->vmas.end()) return Fail(ENOMEM);
      const auto segment = state_->segments.FirstEndingAfter(start);
      uint64_t stop = std::min({end, vma->second.end, start + resident.size() * kPageSize});
      const bool hole = segment == state_->segments.end() || segment->first > start;
      if (segment != state_->segments.end()) {
        stop = std::min(stop, hole ? segment->first : segment->second.end);
      }
      pages = static_cast<size_t>((stop - start) / kPageSize);
      std::fill_n(resident.begin(), pages, hole ? std::byte{0} : std::byte{1});
      if (!hole && segment->second.extent) {
        const std::byte* window =
            segment->second.extent->file().Window(segment->second.OffsetOf(start));
        (void)host::Call(SYS_mincore, window, stop - start, resident.data());
      }
      start = stop;
    }
    TRY(emit(std::span(resident).first(pages)));
  }
  return {};
}

}  // namespace skep::mm
