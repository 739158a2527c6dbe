// Page faults: pages that are not there yet, copy-on-write, stacks that grow.
#include <algorithm>
#include <csignal>
#include <iterator>
#include <utility>

#include "sentry/mm/state.h"

namespace skep::mm {

using sched::SleepLockHold;

namespace {

constexpr FaultResult kRetry{FaultOutcome::kRetry};
constexpr FaultResult kOutOfMemory{FaultOutcome::kKilled};
constexpr FaultResult kMapErr{FaultOutcome::kSignal, SIGSEGV, SEGV_MAPERR};
constexpr FaultResult kAccErr{FaultOutcome::kSignal, SIGSEGV, SEGV_ACCERR};
constexpr FaultResult kBusErr{FaultOutcome::kSignal, SIGBUS, BUS_ADRERR};

constexpr uint64_t kStackStep = 64 << 10;  // a stack grows by this much at a time where it may
constexpr int kFaultPieces = 16;
constexpr uint64_t kNear = 64 << 10;  // copy-on-write faults this close together are one streak
// Another thread has mapped the page since, or the mapping forbids an access that the engine could
// not classify. The second kind repeats immediately, so it is counted: at the limit it is refused.
constexpr int kIdleFaults = 8;
constexpr int kIdleFaultsUnsure = 64;

FaultResult FromErrno(int error) {
  return error == ENOMEM || error == kKilled ? kOutOfMemory : kBusErr;
}

}  // namespace

FaultResult MemoryManager::HandleFault(uint64_t address, FaultAccess access,
                                       const MemoryLimits& limits) {
  SleepLockHold hold(state_->mmap_lock);
  state_->stack_limit = limits.stack;
  state_->space_limit = limits.address_space;
  FaultResult result = state_->Fault(address, access);
  if (result.outcome == FaultOutcome::kSignal && result.code == SEGV_ACCERR) {
    const auto vma = state_->vmas.Find(address);
    result.readable = vma != state_->vmas.end() && (vma->second.prot & PROT_READ) != 0;
  }
  return result;
}

FaultResult MemoryManager::State::Fault(uint64_t address, FaultAccess access) {
  auto it = vmas.Find(address);
  if (it == vmas.end()) {
    it = ExpandStack(address);
    if (it == vmas.end()) return kMapErr;
  }
  const Vma& vma = it->second;
  if (!vma.accessible()) return kAccErr;
  if (access.write == Did::kYes && (vma.prot & PROT_WRITE) == 0) return kAccErr;
  if (access.fetch == Did::kYes && (vma.prot & PROT_EXEC) == 0) return kAccErr;

  const auto segment = segments.Find(address);
  if (segment == segments.end()) return FillFault(it, address);
  if (!segment->second.mapped && active()) {
    Batch batch;
    {
      MutexLock lock(vmas_lock);
      segment->second.mapped = true;
      batch.Map(segment->second, HostProt(vma, segment->second), false);
    }
    const int error = Commit(batch);
    return error == 0 || error == EIO ? kRetry : FromErrno(error);
  }
  const bool to_copy = ((vma.prot & ~HostProt(vma, segment->second)) & PROT_WRITE) != 0;
  if (access.write != Did::kNo && access.fetch != Did::kYes && to_copy)
    return WriteFault(it, address);
  return UpToDate(vma, segment, address, access);
}

// Linux: expand_stack. The VMA that contains `address` now, or end().
VmaSet::iterator MemoryManager::State::ExpandStack(uint64_t address) {
  const auto it = vmas.FirstEndingAfter(address);
  if (it == vmas.end() || !it->second.grows_down || address < kGuestAddressMin) return vmas.end();
  const Vma& vma = it->second;
  uint64_t floor = kGuestAddressMin;
  if (it != vmas.begin()) {
    const Vma& below = std::prev(it)->second;
    floor = std::max(floor, below.end);
    if (!below.grows_down && below.accessible())
      floor = std::max(floor, below.end + kStackGuardGap);
  }
  floor = std::max(floor, vma.end - std::min(vma.end, stack_limit));
  const uint64_t page = PageFloor(address);
  if (page < floor) return vmas.end();
  // Linux: acct_stack_growth: RLIMIT_AS.
  const uint64_t used = vmas.total_bytes();
  const uint64_t most = space_limit - std::min(space_limit, used);
  floor = std::max(floor, vma.start - std::min(vma.start, most));
  if (page < floor) return vmas.end();
  const uint64_t start = std::max(PageCeil(floor), page & ~(kStackStep - 1));
  Vma grown = vma;
  grown.end = vma.start;
  grown.start = start;
  std::vector<Segment> fresh;
  if (grown.accessible() && !MakeAnonymous(grown.range(), fresh)) {
    GiveBack(fresh);
    return vmas.end();
  }
  Batch batch;
  VmaSet::iterator result;
  {
    MutexLock lock(vmas_lock);
    result = vmas.GrowDown(it, start);
    Install(result->second, std::move(fresh), false, batch);
  }
  (void)Commit(batch);
  return result;
}

// There are no pages at `address` yet.
FaultResult MemoryManager::State::FillFault(VmaSet::iterator it, uint64_t address) {
  const Vma& vma = it->second;
  const uint64_t page = PageFloor(address);
  const auto next = segments.FirstEndingAfter(address);
  Range hole{vma.start, next == segments.end() ? vma.end : std::min(vma.end, next->first)};
  if (next != segments.begin()) hole.start = std::max(hole.start, std::prev(next)->second.end);
  std::vector<Segment> fresh;
  Result<void> made;
  if (vma.anonymous()) {
    const uint64_t window = page / kHomeSize * kHomeSize;
    made = MakeAnonymous(hole.Intersect({window, window + kHomeSize}), fresh);
  } else {
    const bool write = vma.shared && (vma.prot & PROT_WRITE) != 0;
    made = MakeFile(vma, {page, hole.end}, write, kFaultPieces, fresh);
  }
  if (!made) {
    GiveBack(fresh);
    return FromErrno(made.error().code());
  }
  Batch batch;
  {
    MutexLock lock(vmas_lock);
    Install(vma, std::move(fresh), false, batch);
  }
  const int error = Commit(batch);
  return error == 0 || error == EIO ? kRetry : FromErrno(error);
}

// How much a copy-on-write fault at `address` copies.
Range MemoryManager::State::CopyRange(uint64_t address, Range within) {
  const uint64_t page = PageFloor(address);
  if (segments.count() > kCrowded) {
    const uint64_t block = page & ~(kCrowdedBlock - 1);
    return within.Intersect({block, block + kCrowdedBlock});
  }
  const auto is_near = [page](const Streak& streak) {
    return page + kNear >= streak.last.start && page < streak.last.end + kNear;
  };
  auto streak = std::find_if(streaks.begin(), streaks.end(), is_near);
  if (streak == streaks.end()) {
    streak = streaks.begin() + next_streak++ % streaks.size();
    *streak = {};
  }
  const uint64_t size = streak->next_size;
  streak->next_size = std::min(kCopyStreakMax, size * 2);
  const uint64_t start = page & ~(size - 1);
  streak->last = within.Intersect({start, start + size});
  return streak->last;
}

// A write to pages that the host maps read-only, in a VMA that may (or a caller who must) write.
FaultResult MemoryManager::State::WriteFault(VmaSet::iterator it, uint64_t address) {
  const Vma& vma = it->second;
  const Segment segment = segments.Find(address)->second;
  if (segment.kind == Segment::Kind::kFile) {
    // The file decides again what is there: it may have shrunk, or have pages to make.
    const bool copy = !vma.shared;
    const Range range =
        copy ? CopyRange(address, segment.range()) : Range{PageFloor(address), segment.end};
    std::vector<Segment> fresh;
    const Result<void> made = MakeFile(vma, range, !copy, kFaultPieces, fresh);
    if (!made) return FromErrno(made.error().code());
    if (copy) return Copy(it, fresh.front().range(), fresh.front());
    Batch batch;
    {
      MutexLock lock(vmas_lock);
      segments.Take({range.start, fresh.back().end}, batch.doomed);
      Install(vma, std::move(fresh), false, batch);
    }
    const int error = Commit(batch);
    return error == 0 || error == EIO ? kRetry : FromErrno(error);
  }
  Range range = segment.range();
  if (!segment.extent->UsedOnce(segment.offsets())) {
    range = CopyRange(address, segment.range());
    if (hot) hot->Add(range);
    if (!segment.extent->UsedOnce(segment.OffsetsOf(range))) return Copy(it, range, segment);
  } else if (hot) {
    hot->Add({PageFloor(address), PageFloor(address) + kPageSize});
  }
  // Nobody else has these pages any more.
  Batch batch;
  {
    MutexLock lock(vmas_lock);
    cache.Clear();
    segments.Split(range.start);
    segments.Split(range.end);
    Segment& ours = segments.Find(range.start)->second;
    ours.cow = false;
    if (ours.mapped) batch.Protect(range, HostProt(vma, ours));
    segments.Merge(range, vma.range());
  }
  (void)Commit(batch);
  return kRetry;
}

FaultResult MemoryManager::State::Copy(VmaSet::iterator it, Range range, const Segment& source) {
  std::vector<Segment> fresh;
  const Result<void> made = CopyPrivate(source, range, fresh);
  if (!made) return FromErrno(made.error().code());
  Batch batch;
  {
    MutexLock lock(vmas_lock);
    segments.Take(range, batch.doomed);  // the new mapping takes the old one's place on the host
    Install(it->second, std::move(fresh), true, batch);
  }
  const int error = Commit(batch);
  return error == 0 || error == EIO ? kRetry : FromErrno(error);
}

// A fault although the host maps what the tree says.
FaultResult MemoryManager::State::UpToDate(const Vma& vma, SegmentSet::iterator segment,
                                           uint64_t address, FaultAccess access) {
  if (segment->second.kind == Segment::Kind::kFile) {
    // The host's file may have shrunk below its mapping.
    const uint64_t page = PageFloor(address);
    const uint64_t offset = vma.OffsetOf(page);
    const Result<Piece> piece =
        vma.file->Translate({offset, offset + kPageSize}, segment->second.for_write);
    const bool same = piece && piece->file == segment->second.file &&
                      piece->offset == segment->second.OffsetOf(page);
    if (!same) {
      Batch batch;
      {
        MutexLock lock(vmas_lock);
        cache.Clear();
        segments.Take({page, page + kPageSize}, batch.doomed);
        if (batch.doomed.front().mapped) batch.Unmap({page, page + kPageSize});
      }
      (void)Commit(batch);
      return piece ? kRetry : FromErrno(piece.error().code());
    }
  }
  const int prot = HostProt(vma, segment->second);
  const bool refuses = (access.write != Did::kNo && (prot & PROT_WRITE) == 0) ||
                       (access.fetch != Did::kNo && (prot & PROT_EXEC) == 0);
  if (idle_address != PageFloor(address) || idle_generation != generation) {
    idle_address = PageFloor(address);
    idle_generation = generation;
    idle_count = 0;
  }
  if (++idle_count < (refuses && access.protection ? kIdleFaults : kIdleFaultsUnsure))
    return kRetry;
  idle_count = 0;
  if (refuses) return kAccErr;
  if (segment->second.kind == Segment::Kind::kFile) return kBusErr;
  // The host does not map what it was told to: once more.
  MutexLock lock(vmas_lock);
  segment->second.mapped = false;
  return kRetry;
}

}  // namespace skep::mm
