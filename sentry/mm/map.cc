// mmap, munmap and brk, with Linux's order of checks (mm/mmap.c).
#include <algorithm>
#include <iterator>
#include <utility>

#include "sentry/mm/file_pages.h"
#include "sentry/mm/state.h"

namespace skep::mm {

using sched::SleepLockHold;

namespace {

constexpr int kMapType = 0x0f;
constexpr uint64_t kUnlimited = ~uint64_t{0};
constexpr Range kAnywhere{kGuestAddressMin, kGuestAddressEnd};
constexpr Range kLow32{0x40000000, 0x80000000};  // MAP_32BIT: Linux, find_start_end()

// The flags that MAP_SHARED_VALIDATE accepts (Linux: LEGACY_MAP_MASK and what every file has).
constexpr int kValidatedFlags = kMapType | MAP_FIXED | MAP_ANONYMOUS | MAP_DENYWRITE |
                                MAP_EXECUTABLE | MAP_GROWSDOWN | MAP_LOCKED | MAP_NORESERVE |
                                MAP_POPULATE | MAP_NONBLOCK | MAP_STACK | MAP_HUGETLB | MAP_32BIT |
                                MAP_FIXED_NOREPLACE;

Result<void> CheckType(const MmapRequest& request) {
  const int type = request.flags & kMapType;
  if (request.file) {
    if (type != MAP_SHARED && type != MAP_SHARED_VALIDATE && type != MAP_PRIVATE) {
      return Fail(EINVAL);
    }
    if (type == MAP_SHARED_VALIDATE && (request.flags & ~kValidatedFlags) != 0) {
      return Fail(EOPNOTSUPP);
    }
    if (type != MAP_PRIVATE && (request.prot & PROT_WRITE) != 0 &&
        (request.max_prot & PROT_WRITE) == 0) {
      return Fail(EACCES);
    }
    if ((request.prot & PROT_EXEC) != 0 && (request.max_prot & PROT_EXEC) == 0) {
      return Fail(EPERM);
    }
    if ((request.flags & MAP_GROWSDOWN) != 0) return Fail(EINVAL);
    return {};
  }
  if (type == MAP_SHARED) {
    if ((request.flags & MAP_GROWSDOWN) != 0) return Fail(EINVAL);
    return {};
  }
  if (type != MAP_PRIVATE) return Fail(EINVAL);
  return {};
}

}  // namespace

Result<void> MemoryManager::State::CheckLimits(const Vma& vma, uint64_t replaced,
                                               const MemoryLimits& limits) {
  if (vmas.total_bytes() - replaced + vma.size() > limits.address_space) return Fail(ENOMEM);
  if (limits.data != kUnlimited && vma.is_data()) {
    uint64_t data = vma.size();
    for (const auto& [start, other] : vmas) data += other.is_data() ? other.size() : 0;
    if (data - std::min(data, replaced) > limits.data) return Fail(ENOMEM);
  }
  return {};
}

uint64_t MemoryManager::State::LockedBytes() {
  uint64_t bytes = 0;
  for (const auto& [start, vma] : vmas) bytes += vma.locked ? vma.size() : 0;
  return bytes;
}

Result<void> MemoryManager::State::CheckLocked(uint64_t more, const MemoryLimits& limits) {
  if (limits.locked == kUnlimited) return {};
  if (LockedBytes() + more > limits.locked) return Fail(EAGAIN);
  return {};
}

// Linux: __get_unmapped_area.
Result<uint64_t> MemoryManager::State::PickAddress(const MmapRequest& request, uint64_t size) {
  if (size > kGuestAddressEnd) return Fail(ENOMEM);
  if ((request.flags & (MAP_FIXED | MAP_FIXED_NOREPLACE)) != 0) {
    if (request.address > kGuestAddressEnd - size) return Fail(ENOMEM);
    if (!IsPageAligned(request.address)) return Fail(EINVAL);
    if (request.address < kGuestAddressMin) return Fail(EPERM);
    const Range range{request.address, request.address + size};
    if ((request.flags & MAP_FIXED_NOREPLACE) != 0 && vmas.AnyIn(range)) return Fail(EEXIST);
    return request.address;
  }
  const bool low = (request.flags & MAP_32BIT) != 0;
  const Range within = low ? kLow32 : kAnywhere;
  uint64_t hint = PageFloor(request.address);
  if (hint != 0) {
    hint = std::max(hint, kGuestAddressMin);
    if (hint <= within.end && within.end - hint >= size) {
      const auto next = vmas.FirstEndingAfter(hint);
      const uint64_t guard = next != vmas.end() && next->second.grows_down ? kStackGuardGap : 0;
      if (next == vmas.end() || hint + size + guard <= next->second.start) return hint;
    }
  }
  if (low) {
    const auto found = vmas.FindGap(size, kLow32);
    if (!found) return Fail(ENOMEM);
    return *found;
  }
  auto found = vmas.FindGap(size, {kGuestAddressMin, mmap_top});
  if (!found) found = vmas.FindGap(size, kAnywhere);
  if (!found) return Fail(ENOMEM);
  return *found;
}

Result<uint64_t> MemoryManager::Mmap(const MmapRequest& request, const MemoryLimits& limits) {
  if (request.size == 0) return Fail(EINVAL);
  const uint64_t size = PageCeil(request.size);
  if (size == 0) return Fail(ENOMEM);
  if (request.file) {
    if (!IsPageAligned(request.offset)) return Fail(EINVAL);
    uint64_t end = 0;
    if (__builtin_add_overflow(request.offset, size, &end)) return Fail(EOVERFLOW);
  }
  State& state = *state_;
  SleepLockHold hold(state.mmap_lock);
  state.stack_limit = limits.stack;
  state.space_limit = limits.address_space;
  if (state.vmas.count() > kMaxMappings) return Fail(ENOMEM);
  const uint64_t address = TRY(state.PickAddress(request, size));
  const bool lock = (request.flags & MAP_LOCKED) != 0 || state.lock_future;
  if ((request.flags & MAP_LOCKED) != 0 && limits.locked == 0) return Fail(EPERM);
  if (lock) TRY(state.CheckLocked(size, limits));
  TRY(CheckType(request));
  if ((request.flags & MAP_HUGETLB) != 0) return Fail(ENOMEM);  // the pool of huge pages is empty

  Vma vma;
  vma.start = address;
  vma.end = address + size;
  vma.prot = request.prot & (PROT_READ | PROT_WRITE | PROT_EXEC);
  vma.max_prot = request.max_prot;
  vma.shared = (request.flags & kMapType) != MAP_PRIVATE;
  if (!vma.shared) vma.max_prot |= PROT_WRITE;
  vma.grows_down = (request.flags & MAP_GROWSDOWN) != 0;
  vma.locked = lock;
  vma.lock_on_fault = (request.flags & MAP_LOCKED) == 0 && lock && state.lock_future_on_fault;
  vma.no_reserve = (request.flags & MAP_NORESERVE) != 0;
  vma.file = request.file;
  vma.offset = request.file ? request.offset : 0;
  vma.name = request.name;
  TRY(state.CheckLimits(vma, state.vmas.BytesIn(vma.range()), limits));
  if (vma.shared && !vma.file) {
    auto pages = MakeRef<FilePages>(state.memory);
    TRY(pages->Truncate(size));
    pages->SetName({0, 1, state.memory.NextInode(), "/dev/zero (deleted)"});
    vma.file = std::move(pages);
  }
  const bool populate = (lock && !vma.lock_on_fault) ||
                        (request.flags & (MAP_POPULATE | MAP_NONBLOCK)) == MAP_POPULATE;
  Batch batch;
  // The flag means nothing to Linux any more, but linkers and loaders still set it.
  const bool data_segment = (request.flags & MAP_DENYWRITE) != 0;
  return state.MapVma(std::move(vma), populate, batch,
                      data_segment ? kCopySegmentMax : kCopyAtMapMax);
}

// The segments a new VMA starts with. A private writable mapping of a file: copies of its pages, if
// it is no larger than `copy_max`.
Result<void> MemoryManager::State::FirstPages(const Vma& vma, std::vector<Segment>& fresh,
                                              uint64_t copy_max) {
  const MemoryLimit& limit = memory.limit();
  const bool copy = vma.file && !vma.shared && (vma.prot & PROT_WRITE) != 0 &&
                    vma.size() <= copy_max && (!limit.set() || vma.size() <= limit.Room());
  if (!vma.accessible()) return {};
  if (vma.anonymous()) {
    return vma.size() > kEagerMax ? Result<void>() : MakeAnonymous(vma.range(), fresh);
  }
  const bool write = vma.shared && (vma.prot & PROT_WRITE) != 0;
  std::vector<Segment> pieces;
  const Result<void> made = MakeFile(vma, vma.range(), write, kMaxPieces, pieces);
  if (!made) {
    const int error = made.error().code();
    // Beyond the end, or unreadable now: the access finds out.
    return error == ENODEV || error == EACCES || error == ENOMEM || error == kKilled
               ? made
               : Result<void>();
  }
  for (Segment& piece : pieces) {
    if (!copy || !CopyPrivate(piece, piece.range(), fresh)) fresh.push_back(std::move(piece));
  }
  return {};
}

// Puts `vma` in place of whatever was there.
Result<uint64_t> MemoryManager::State::MapVma(Vma vma, bool populate, Batch& batch,
                                              uint64_t copy_max) {
  const Range range = vma.range();
  const Ref<Mappable> file = vma.file;
  const uint64_t offset = vma.offset;
  if (file) file->AddMapping(mm, range, offset);  // before it is asked for pages
  std::vector<Segment> fresh;
  const Result<void> made = FirstPages(vma, fresh, copy_max);
  if (!made) {
    GiveBack(fresh);
    if (file) file->RemoveMapping(mm, range, offset);
    return Fail(made.error().code());
  }
  {
    MutexLock lock(vmas_lock);
    Remove(range, batch);
    const auto it = vmas.Insert(std::move(vma));
    Install(it->second, std::move(fresh), populate && it->second.accessible(), batch);
    MergeAround(range, batch);
  }
  const int error = Commit(batch);
  if (error != 0 && error != EIO) {
    (void)Unmap(range);
    return Fail(error);
  }
  return range.start;
}

Result<void> MemoryManager::State::Unmap(Range range) {
  const auto it = vmas.FirstEndingAfter(range.start);
  if (it == vmas.end() || it->second.start >= range.end) return {};
  if (it->second.start < range.start && range.end < it->second.end &&
      vmas.count() >= kMaxMappings) {
    return Fail(ENOMEM);
  }
  Batch batch;
  {
    MutexLock lock(vmas_lock);
    Remove(range, batch);
  }
  (void)Commit(batch);
  return {};
}

Result<void> MemoryManager::Munmap(uint64_t start, uint64_t size) {
  if (!IsPageAligned(start) || start > kGuestAddressEnd || size > kGuestAddressEnd - start) {
    return Fail(EINVAL);
  }
  const uint64_t whole = PageCeil(size);
  if (whole == 0) return Fail(EINVAL);
  SleepLockHold hold(state_->mmap_lock);
  return state_->Unmap({start, start + whole});
}

void MemoryManager::SetBrkStart(uint64_t start) {
  SleepLockHold hold(state_->mmap_lock);
  MutexLock lock(state_->vmas_lock);
  state_->brk_start = state_->brk = start;
  layout.start_brk = start;
}

void MemoryManager::SetMmapTop(uint64_t top) {
  SleepLockHold hold(state_->mmap_lock);
  state_->mmap_top = std::min(PageFloor(top), kGuestAddressEnd);
}

// Linux: SYSCALL_DEFINE1(brk).
uint64_t MemoryManager::Brk(uint64_t wanted, const MemoryLimits& limits) {
  State& state = *state_;
  SleepLockHold hold(state.mmap_lock);
  state.stack_limit = limits.stack;
  state.space_limit = limits.address_space;
  const uint64_t old = state.brk;
  if (wanted < state.brk_start || wanted > kGuestAddressEnd) return old;
  const uint64_t data = layout.end_data - layout.start_data;
  if (limits.data != kUnlimited && wanted - state.brk_start + data > limits.data) return old;
  const uint64_t new_end = PageCeil(wanted);
  const uint64_t old_end = PageCeil(old);
  if (new_end < old_end) {
    if (!state.Unmap({new_end, old_end})) return old;
  } else if (new_end > old_end) {
    const auto next = state.vmas.FirstEndingAfter(old_end);
    if (next != state.vmas.end()) {
      const uint64_t guard = next->second.grows_down ? kStackGuardGap : 0;
      if (new_end + kPageSize > next->second.start - std::min(next->second.start, guard)) {
        return old;
      }
    }
    Vma vma;
    vma.start = old_end;
    vma.end = new_end;
    vma.prot = PROT_READ | PROT_WRITE;
    vma.locked = state.lock_future;
    vma.lock_on_fault = state.lock_future && state.lock_future_on_fault;
    if (vma.locked && !state.CheckLocked(vma.size(), limits)) return old;
    if (state.vmas.count() > kMaxMappings || !state.CheckLimits(vma, 0, limits)) return old;
    const bool populate = vma.locked && !vma.lock_on_fault;
    Batch batch;
    if (!state.MapVma(std::move(vma), populate, batch)) return old;
  }
  MutexLock lock(state.vmas_lock);
  state.brk = wanted;
  return wanted;
}

}  // namespace skep::mm
