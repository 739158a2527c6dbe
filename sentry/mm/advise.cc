// madvise (Linux: mm/madvise.c), and files that take pages back.
#include <algorithm>
#include <iterator>
#include <utility>
#include <vector>

#include "base/missing_defs.h"
#include "sentry/mm/state.h"

namespace skep::mm {

using sched::SleepLockHold;

namespace {

bool KnownAdvice(int advice) {
  switch (advice) {
    case MADV_NORMAL:
    case MADV_RANDOM:
    case MADV_SEQUENTIAL:
    case MADV_WILLNEED:
    case MADV_DONTNEED:
    case MADV_FREE:
    case MADV_REMOVE:
    case MADV_DONTFORK:
    case MADV_DOFORK:
    case MADV_MERGEABLE:
    case MADV_UNMERGEABLE:
    case MADV_HUGEPAGE:
    case MADV_NOHUGEPAGE:
    case MADV_DONTDUMP:
    case MADV_DODUMP:
    case MADV_WIPEONFORK:
    case MADV_KEEPONFORK:
    case MADV_COLD:
    case MADV_PAGEOUT:
    case MADV_POPULATE_READ:
    case MADV_POPULATE_WRITE:
    case MADV_DONTNEED_LOCKED:
    case MADV_COLLAPSE:
      return true;
    default:
      return false;
  }
}

}  // namespace

// Private pages of `range` are forgotten: anonymous memory reads as zeros, a file as the file.
void MemoryManager::State::DropPages(const Vma& vma, Range range, Batch& batch) {
  if (vma.shared) return;
  segments.Split(range.start);
  segments.Split(range.end);
  for (auto it = segments.FirstEndingAfter(range.start);
       it != segments.end() && it->first < range.end;) {
    Segment& segment = it->second;
    if (segment.kind == Segment::Kind::kPrivate && (segment.cow || vma.file)) {
      if (segment.mapped) batch.Unmap(segment.range());
      batch.doomed.push_back(std::move(segment));
      it = segments.Erase(it);
      continue;
    }
    // Ours alone: the host makes them zeros where they are, in every mapping.
    if (segment.kind == Segment::Kind::kPrivate)
      batch.punched.push_back({segment.extent, segment.offsets()});
    ++it;
  }
  segments.Merge(range, vma.range());
}

// Changes a flag of the part of `it` in `range`.
void MemoryManager::State::SetFlag(Range range, bool Vma::* flag, bool value, Batch& batch) {
  SplitAt(range.start, batch);
  SplitAt(range.end, batch);
  vmas.Find(range.start)->second.*flag = value;
  MergeAround(range, batch);
}

// One VMA's part. Under both locks.
Result<void> MemoryManager::State::AdvisePart(VmaSet::iterator it, Range range, int advice,
                                              Batch& batch) {
  const Vma& vma = it->second;
  switch (advice) {
    case MADV_DONTNEED:
    case MADV_DONTNEED_LOCKED:
      if (vma.locked && advice == MADV_DONTNEED) return Fail(EINVAL);
      DropPages(vma, range, batch);
      return {};
    case MADV_FREE:
      if (vma.locked || vma.file) return Fail(EINVAL);
      DropPages(vma, range, batch);
      return {};
    case MADV_COLD:
    case MADV_PAGEOUT:
      if (vma.locked) return Fail(EINVAL);
      return {};
    case MADV_DONTFORK:
    case MADV_DOFORK:
      SetFlag(range, &Vma::dont_fork, advice == MADV_DONTFORK, batch);
      return {};
    case MADV_WIPEONFORK:
      if (vma.file || vma.shared) return Fail(EINVAL);
      SetFlag(range, &Vma::wipe_on_fork, true, batch);
      return {};
    case MADV_KEEPONFORK:
      SetFlag(range, &Vma::wipe_on_fork, false, batch);
      return {};
    case MADV_DONTDUMP:
    case MADV_DODUMP:
      SetFlag(range, &Vma::dont_dump, advice == MADV_DONTDUMP, batch);
      return {};
    case MADV_POPULATE_READ:
    case MADV_POPULATE_WRITE:
      if (!vma.accessible() || (advice == MADV_POPULATE_WRITE && (vma.prot & PROT_WRITE) == 0)) {
        return Fail(EINVAL);
      }
      PopulateRange(range, batch);
      return {};
    default:
      return {};
  }
}

Result<void> MemoryManager::Madvise(uint64_t start, uint64_t size, int advice) {
  if (advice == MADV_HWPOISON || advice == MADV_SOFT_OFFLINE) return Fail(EPERM);
  if (!KnownAdvice(advice)) return Fail(EINVAL);
  if (!IsPageAligned(start)) return Fail(EINVAL);
  const uint64_t whole = PageCeil(size);
  if (size != 0 && whole == 0) return Fail(EINVAL);
  const uint64_t end = start + whole;
  if (end < start) return Fail(EINVAL);
  if (end == start) return {};

  std::vector<State::Hole> holes;
  Result<void> result;
  {
    SleepLockHold hold(state_->mmap_lock);
    Batch batch;
    result = state_->AdviseRange({start, end}, advice, holes, batch);
    (void)state_->Commit(batch);
  }
  for (const State::Hole& hole : holes) TRY(hole.file->PunchHole(hole.range));
  return result;
}

// Linux: madvise_walk_vmas.
Result<void> MemoryManager::State::AdviseRange(Range range, int advice, std::vector<Hole>& holes,
                                               Batch& batch) {
  MutexLock lock(vmas_lock);
  cache.Clear();
  Result<void> result;
  for (uint64_t at = range.start; at < range.end;) {
    const auto it = vmas.FirstEndingAfter(at);
    if (it == vmas.end() || it->second.start >= range.end) return Fail(ENOMEM);
    const Vma& vma = it->second;
    if (vma.start > at) {  // remembered; the rest is done all the same
      result = Fail(ENOMEM);
      at = vma.start;
    }
    const Range part{at, std::min(range.end, vma.end)};
    at = part.end;
    if (advice != MADV_REMOVE) {
      const Result<void> done = AdvisePart(it, part, advice, batch);
      if (!done) return done;
      continue;
    }
    if (vma.locked || !vma.file) return Fail(EINVAL);
    if (!vma.shared || (vma.max_prot & PROT_WRITE) == 0) return Fail(EACCES);
    const uint64_t offset = vma.OffsetOf(part.start);
    holes.push_back({vma.file, {offset, offset + part.size()}});
  }
  return result;
}

// -- files that shrink --

void MemoryManager::InvalidateMapping(Range addresses, const Mappable* file, bool private_copies) {
  State& state = *state_;
  state.StopTransfers();
  {
    SleepLockHold hold(state.mmap_lock);
    Batch batch;
    {
      MutexLock lock(state.vmas_lock);
      state.cache.Clear();
      for (auto vma = state.vmas.FirstEndingAfter(addresses.start);
           vma != state.vmas.end() && vma->first < addresses.end; ++vma) {
        if (!vma->second.file || (file != nullptr && vma->second.file.get() != file)) continue;
        std::vector<Segment> taken;
        state.segments.Take(addresses.Intersect(vma->second.range()), taken);
        for (Segment& segment : taken) {
          if (segment.kind == Segment::Kind::kPrivate && !private_copies) {
            state.segments.Insert(std::move(segment));
            continue;
          }
          if (segment.mapped) batch.Unmap(segment.range());
          batch.doomed.push_back(std::move(segment));
        }
      }
    }
    (void)state.Commit(batch);
  }
  state.AllowTransfers();
}

bool MemoryManager::MapsWritable(Range addresses, const Mappable& file) {
  MutexLock lock(state_->vmas_lock);
  for (auto it = state_->vmas.FirstEndingAfter(addresses.start);
       it != state_->vmas.end() && it->first < addresses.end; ++it) {
    const Vma& vma = it->second;
    if (vma.file.get() == &file && vma.shared && (vma.max_prot & PROT_WRITE) != 0) return true;
  }
  return false;
}

}  // namespace skep::mm
