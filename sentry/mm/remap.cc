// mremap, with Linux's order of checks (mm/mremap.c).
#include <iterator>
#include <utility>

#include "sentry/mm/state.h"

namespace skep::mm {

using sched::SleepLockHold;

Result<uint64_t> MemoryManager::Mremap(uint64_t old_start, uint64_t old_size, uint64_t new_size,
                                       int flags, uint64_t new_start, const MemoryLimits& limits) {
  if ((flags & ~(MREMAP_FIXED | MREMAP_MAYMOVE | MREMAP_DONTUNMAP)) != 0) return Fail(EINVAL);
  if ((flags & MREMAP_FIXED) != 0 && (flags & MREMAP_MAYMOVE) == 0) return Fail(EINVAL);
  if ((flags & MREMAP_DONTUNMAP) != 0 && ((flags & MREMAP_MAYMOVE) == 0 || old_size != new_size)) {
    return Fail(EINVAL);
  }
  if (!IsPageAligned(old_start)) return Fail(EINVAL);
  State::RemapArgs args{old_start, PageCeil(old_size), PageCeil(new_size), flags, new_start};
  if (args.new_size == 0) return Fail(EINVAL);

  State& state = *state_;
  SleepLockHold hold(state.mmap_lock);
  state.stack_limit = limits.stack;
  state.space_limit = limits.address_space;
  if (state.vmas.Find(old_start) == state.vmas.end()) return Fail(EFAULT);
  if ((flags & (MREMAP_FIXED | MREMAP_DONTUNMAP)) != 0) return state.RemapTo(args, limits);

  if (args.old_size >= args.new_size) {
    if (args.old_size > args.new_size) {
      if (args.old_size > kGuestAddressEnd - old_start) return Fail(EINVAL);
      TRY(state.Unmap({old_start + args.new_size, old_start + args.old_size}));
    }
    return old_start;
  }
  const VmaSet::iterator it = TRY(state.Resizable(args, limits));
  if (it->second.end == old_start + args.old_size) {
    const bool expanded = TRY(state.ExpandInPlace(it, args));
    if (expanded) return old_start;
  }
  if ((flags & MREMAP_MAYMOVE) == 0) return Fail(ENOMEM);
  const MmapRequest anywhere{.size = args.new_size};
  const uint64_t target = TRY(state.PickAddress(anywhere, args.new_size));
  return state.MoveVma(args, target);
}

// Linux: mremap_to.
Result<uint64_t> MemoryManager::State::RemapTo(RemapArgs args, const MemoryLimits& limits) {
  const bool fixed = (args.flags & MREMAP_FIXED) != 0;
  if (!IsPageAligned(args.new_start)) return Fail(EINVAL);
  if (args.new_size > kGuestAddressEnd || args.new_start > kGuestAddressEnd - args.new_size) {
    return Fail(EINVAL);
  }
  if (args.old_size > kGuestAddressEnd - args.old_start) return Fail(EINVAL);
  const Range from{args.old_start, args.old_start + args.old_size};
  const Range to{args.new_start, args.new_start + args.new_size};
  if (from.start < to.end && to.start < from.end) return Fail(EINVAL);
  if (vmas.count() + 2 >= kMaxMappings) return Fail(ENOMEM);
  if (fixed) {
    if (args.new_start < kGuestAddressMin) return Fail(EPERM);
    TRY(Unmap(to));
  }
  if (args.old_size > args.new_size) {
    TRY(Unmap({args.old_start + args.new_size, args.old_start + args.old_size}));
    args.old_size = args.new_size;
  }
  const VmaSet::iterator it = TRY(Resizable(args, limits));
  if ((args.flags & MREMAP_DONTUNMAP) != 0) {
    Vma twin;
    twin.end = args.new_size;
    twin.prot = it->second.prot;
    TRY(CheckLimits(twin, 0, limits));
  }
  const MmapRequest where{.address = args.new_start, .flags = fixed ? MAP_FIXED : 0};
  const uint64_t target = TRY(PickAddress(where, args.new_size));
  return MoveVma(args, target);
}

// Linux: vma_to_resize.
Result<VmaSet::iterator> MemoryManager::State::Resizable(const RemapArgs& args,
                                                         const MemoryLimits& limits) {
  const auto it = vmas.Find(args.old_start);
  if (it == vmas.end()) return Fail(EFAULT);
  const Vma& vma = it->second;
  if (args.old_size == 0 && !vma.shared) return Fail(EINVAL);
  if (args.old_size > vma.end - args.old_start) return Fail(EFAULT);
  if (args.new_size == args.old_size) return it;
  uint64_t end = 0;
  if (vma.file && __builtin_add_overflow(vma.OffsetOf(args.old_start), args.new_size, &end)) {
    return Fail(EINVAL);
  }
  if (args.new_size > kGuestAddressEnd) return Fail(ENOMEM);
  const uint64_t more = args.new_size - args.old_size;
  if (vma.locked) TRY(CheckLocked(more, limits));
  Vma grown = vma;
  grown.end = grown.start + more;
  TRY(CheckLimits(grown, 0, limits));
  return it;
}

// False: there is no room.
Result<bool> MemoryManager::State::ExpandInPlace(VmaSet::iterator it, const RemapArgs& args) {
  const Range more{args.old_start + args.old_size, args.old_start + args.new_size};
  if (more.end > kGuestAddressEnd || more.end < more.start) return false;
  const auto next = std::next(it);
  if (next != vmas.end()) {
    const uint64_t guard = next->second.grows_down ? kStackGuardGap : 0;
    if (more.end + guard > next->second.start) return false;
  }
  Vma tail = it->second;
  tail.offset = it->second.OffsetOf(more.start);
  tail.start = more.start;
  tail.end = more.end;
  const bool populate = tail.locked && !tail.lock_on_fault;
  Batch batch;
  const Result<uint64_t> mapped = MapVma(std::move(tail), populate, batch);  // and it merges
  if (!mapped) return Fail(mapped.error().code());
  return true;
}

// Moves the pages of [old_start, old_start + old_size) to `target`, where the VMA is new_size long.
// Linux: move_vma.
Result<uint64_t> MemoryManager::State::MoveVma(const RemapArgs& args, uint64_t target) {
  if (vmas.count() + 3 >= kMaxMappings) return Fail(ENOMEM);
  const Range from{args.old_start, args.old_start + args.old_size};
  const Range to{target, target + args.new_size};
  Vma moved = vmas.Find(args.old_start)->second;
  moved.offset = moved.file ? moved.OffsetOf(args.old_start) : 0;
  moved.start = to.start;
  moved.end = to.end;
  if (moved.file) moved.file->AddMapping(mm, to, moved.offset);
  // Pages for the part that is new; the old ones come along below.
  std::vector<Segment> fresh;
  if (args.new_size > args.old_size) {
    Vma tail = moved;
    tail.start = to.start + args.old_size;
    tail.offset = moved.OffsetOf(tail.start);
    const Result<void> made = FirstPages(tail, fresh);
    if (!made) {
      GiveBack(fresh);
      if (moved.file) moved.file->RemoveMapping(mm, to, moved.offset);
      return Fail(made.error().code());
    }
  }
  const bool keep = (args.flags & MREMAP_DONTUNMAP) != 0;
  const bool populate = moved.locked && !moved.lock_on_fault;
  Batch batch;
  std::vector<Segment> old;
  std::vector<Range> emptied;
  {
    MutexLock lock(vmas_lock);
    cache.Clear();
    if (!from.empty()) segments.Take(from, old);
    const auto it = vmas.Insert(std::move(moved));
    for (Segment& segment : old) {
      if (segment.mapped) emptied.push_back(segment.range());
      segment.start += to.start - from.start;
      segment.end += to.start - from.start;
    }
    Install(it->second, std::move(old), false, batch);
    Install(it->second, std::move(fresh), populate, batch);
    for (const Range range : emptied) batch.Unmap(range);
    if (keep) {
      SplitAt(from.start, batch);
      SplitAt(from.end, batch);
      Vma& left = vmas.Find(from.start)->second;
      left.locked = left.lock_on_fault = false;
    } else if (!from.empty()) {
      Remove(from, batch);
    }
    MergeAround(from, batch);
    MergeAround(to, batch);
  }
  (void)Commit(batch);  // what the host refused maps at the next access
  return target;
}

}  // namespace skep::mm
