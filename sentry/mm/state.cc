#include "sentry/mm/state.h"

#include <algorithm>
#include <functional>
#include <iterator>
#include <utility>

#include "base/check.h"
#include "base/host_call.h"
#include "sentry/arena/arena.h"
#include "sentry/sched/fiber.h"

namespace skep::mm {

using platform::MapOp;

// -- Batch --

void Batch::Map(const Segment& segment, int prot, bool populate) {
  if (!ops.empty()) {
    MapOp& last = ops.back();
    if (last.kind == MapOp::Kind::kMap && last.start + last.size == segment.start &&
        last.prot == prot && last.populate == populate && last.file == segment.file &&
        last.offset + last.size == segment.offset) {
      last.size += segment.size();
      return;
    }
  }
  ops.push_back({MapOp::Kind::kMap, static_cast<uint8_t>(prot), populate, segment.start,
                 segment.size(), segment.file, segment.offset});
}

void Batch::Unmap(Range range) {
  if (!ops.empty()) {
    MapOp& last = ops.back();
    if (last.kind == MapOp::Kind::kUnmap && last.start + last.size == range.start) {
      last.size += range.size();
      return;
    }
  }
  ops.push_back({MapOp::Kind::kUnmap, 0, false, range.start, range.size(), {}, 0});
}

void Batch::Protect(Range range, int prot) {
  if (!ops.empty()) {
    MapOp& last = ops.back();
    if (last.kind == MapOp::Kind::kProtect && last.start + last.size == range.start &&
        last.prot == prot) {
      last.size += range.size();
      return;
    }
  }
  ops.push_back(
      {MapOp::Kind::kProtect, static_cast<uint8_t>(prot), false, range.start, range.size(), {}, 0});
}

// -- Commit --

namespace {

// Gives pages back a part at a time; others run in between. It is finished also for who was killed.
template <class F>
void InSteps(Range pages, const F& give_back) {
  for (uint64_t at = pages.start; at < pages.end; at += kPunchStep) {
    give_back(Range{at, std::min(pages.end, at + kPunchStep)});
    (void)sched::YieldIfLong();
  }
}

// What the host looks through page tables for.
uint64_t BytesTakenAway(const MapOp& op) { return op.kind == MapOp::Kind::kMap ? 0 : op.size; }

}  // namespace

int MemoryManager::State::Commit(Batch& batch) {
  ++generation;
  peak_virtual = std::max(peak_virtual, vmas.total_bytes());
  for (const Batch::Note& note : batch.notes) {
    if (note.add) {
      note.file->AddMapping(mm, note.addresses, note.offset);
    } else {
      note.file->RemoveMapping(mm, note.addresses, note.offset);
      (void)sched::YieldIfLong();  // a file may have many mappings
    }
  }
  for (const Batch::Punched& part : batch.punched) {
    InSteps(part.offsets, [&](Range step) { part.extent->file().Punch(step); });
  }
  int error = 0;
  if (!batch.ops.empty() && active()) {
    if (memory.limit().set()) LimitPopulation(batch);
    const platform::AddressSpace::Applied applied = ApplyInSteps(batch);
    error = applied.error;
    if (error == EIO) {
      KillSpace();
    } else if (error != 0) {
      Repair(batch, applied.done);
    }
  }
  Release(batch);
  return error;
}

// Pages that do not fit into the memory limit are not populated: a guest that touches one waits for
// memory then.
void MemoryManager::State::LimitPopulation(Batch& batch) {
  uint64_t bytes = 0;
  for (const MapOp& op : batch.ops) {
    if (op.populate) bytes += op.size;
  }
  if (bytes == 0 || bytes <= memory.limit().Room()) return;
  for (MapOp& op : batch.ops) op.populate = false;
}

platform::AddressSpace::Applied MemoryManager::State::Apply(std::span<const platform::MapOp> ops) {
  const arena::HostHeapScope host;
  platform::AddressSpace* space = arena::HostTable::Get().Get(mm.space_);
  CHECK(space != nullptr);
  return space->Apply(ops);
}

// Applies the batch. Where much is unmapped or protected the host works for a while: then a part at
// a time, so that others may run. `batch` has the parts afterwards.
platform::AddressSpace::Applied MemoryManager::State::TakeAwayInSteps(Batch& batch) {
  uint64_t bytes = 0;
  for (const MapOp& op : batch.ops) bytes += BytesTakenAway(op);
  if (bytes <= kUnmapStep) return Apply(batch.ops);
  std::vector<MapOp> rest;
  rest.swap(batch.ops);
  std::reverse(rest.begin(), rest.end());
  uint64_t step = kUnmapStep;
  while (!rest.empty()) {
    const size_t first = batch.ops.size();
    for (uint64_t left = step; left != 0 && !rest.empty();) {
      MapOp& op = rest.back();
      MapOp part = op;
      part.size = BytesTakenAway(op) == 0 ? op.size : std::min(op.size, left);
      left -= BytesTakenAway(part);
      batch.ops.push_back(part);
      op.start += part.size;
      op.size -= part.size;
      if (op.size == 0) rest.pop_back();
    }
    const uint64_t before = host::MonotonicNs();
    const platform::AddressSpace::Applied applied = Apply(std::span(batch.ops).subspan(first));
    if (applied.error != 0) {
      batch.ops.insert(batch.ops.end(), rest.rbegin(), rest.rend());
      return {first + applied.done, applied.error};
    }
    const uint64_t took = host::MonotonicNs() - before;
    if (took < kShortStepNs) step *= 2;
    if (took > kLongStepNs) step = std::max(PageFloor(step / 2), kPageSize);
    (void)sched::YieldIfLong();
  }
  return {batch.ops.size(), 0};
}

// Large mappings are made first and populated afterwards, so that others may run meanwhile and a
// kill ends it. (Mapped anew in pieces: the host merges these.) Populating is an offer: it has no
// errors.
platform::AddressSpace::Applied MemoryManager::State::ApplyInSteps(Batch& batch) {
  std::vector<platform::MapOp> large;
  for (platform::MapOp& op : batch.ops) {
    if (!op.populate || op.size <= kPopulateStep) continue;
    large.push_back(op);
    op.populate = false;
  }
  const platform::AddressSpace::Applied applied = TakeAwayInSteps(batch);
  if (applied.error != 0) return applied;
  for (const platform::MapOp& op : large) {
    for (uint64_t done = 0; done < op.size; done += kPopulateStep) {
      if (!sched::YieldIfLong()) return applied;
      if (memory.limit().set() && memory.limit().Room() < kPopulateStep) return applied;
      Batch piece;
      piece.ops.push_back(op);
      piece.ops[0].start += done;
      piece.ops[0].offset += done;
      piece.ops[0].size = std::min(kPopulateStep, op.size - done);
      const platform::AddressSpace::Applied populated = Apply(piece.ops);
      if (populated.error == EIO) return {batch.ops.size(), EIO};
      if (populated.error != 0) {
        Repair(piece, 0);
        return applied;
      }
    }
  }
  return applied;
}

// The stub does not answer: the engine will report Died.
void MemoryManager::State::KillSpace() {
  dead = true;
  const arena::HostHeapScope host;
  arena::HostTable::Get().Get(mm.space_)->Kill();
}

// Gives pages back. Not under a Mutex: destructors of files run here. Until a dead space is
// destroyed some thread of it may still run, so its pages stay.
void MemoryManager::State::Release(Batch& batch) {
  if (dead) {
    std::move(batch.doomed.begin(), batch.doomed.end(), std::back_inserter(stranded));
    batch.doomed.clear();
  }
  // An extent that nobody else holds punches what is in use by itself: in fewer pieces.
  std::sort(batch.doomed.begin(), batch.doomed.end(), [](const Segment& a, const Segment& b) {
    return std::less<>()(a.extent.get(), b.extent.get());
  });
  for (auto first = batch.doomed.begin(); first != batch.doomed.end();) {
    auto last = first;
    while (last != batch.doomed.end() && last->extent == first->extent) ++last;
    const bool dies =
        first->extent && first->extent->RefCount() == static_cast<uint32_t>(last - first);
    for (; first != last; ++first) {
      const bool apart = !dies || first->size() > kPunchStep;
      if (apart && first->kind == Segment::Kind::kPrivate) {
        InSteps(first->offsets(), [&](Range step) { first->extent->DropUse(step); });
      }
      first->extent = {};
    }
    (void)sched::YieldIfLong();
  }
  batch = {};
}

// The host refused op `done`: nothing is mapped where it and the later ones were to work, and the
// tree says so.
void MemoryManager::State::Repair(const Batch& batch, size_t done) {
  Batch undo;
  for (size_t i = done; i < batch.ops.size(); ++i) {
    undo.Unmap({batch.ops[i].start, batch.ops[i].start + batch.ops[i].size});
  }
  if (Apply(undo.ops).error != 0) KillSpace();
  MutexLock lock(vmas_lock);
  cache.Clear();
  for (size_t i = done; i < batch.ops.size(); ++i) {
    const Range range{batch.ops[i].start, batch.ops[i].start + batch.ops[i].size};
    segments.Split(range.start);
    segments.Split(range.end);
    for (auto it = segments.FirstEndingAfter(range.start);
         it != segments.end() && it->first < range.end; ++it) {
      it->second.mapped = false;
    }
  }
}

// -- the tree --

void MemoryManager::State::SplitAt(uint64_t address, Batch& batch) {
  segments.Split(address);
  const auto it = vmas.Find(address);
  if (it == vmas.end() || it->second.start == address) return;
  const Vma& vma = it->second;
  if (vma.file) {
    batch.notes.push_back({false, vma.file, vma.range(), vma.offset});
    batch.notes.push_back({true, vma.file, {vma.start, address}, vma.offset});
    batch.notes.push_back({true, vma.file, {address, vma.end}, vma.OffsetOf(address)});
  }
  vmas.Split(address);
}

// Joins the VMAs that meet at `address`, if they can be one.
VmaSet::iterator MemoryManager::State::MergeAt(uint64_t address, Batch& batch) {
  const auto it = vmas.Find(address);
  if (it == vmas.end() || it->second.start != address || it == vmas.begin()) return it;
  const Vma& upper = it->second;
  const Vma& lower = std::prev(it)->second;
  if (!lower.CanMerge(upper)) return it;
  if (upper.file) {
    batch.notes.push_back({false, lower.file, lower.range(), lower.offset});
    batch.notes.push_back({false, upper.file, upper.range(), upper.offset});
    batch.notes.push_back({true, lower.file, {lower.start, upper.end}, lower.offset});
  }
  const auto merged = vmas.MergeWithPrevious(it);
  segments.Merge({address, address}, merged->second.range());
  return merged;
}

void MemoryManager::State::MergeAround(Range range, Batch& batch) {
  for (auto it = vmas.FirstEndingAfter(range.start == 0 ? 0 : range.start - 1);
       it != vmas.end() && it->first <= range.end;) {
    it = std::next(MergeAt(it->first, batch));
  }
}

// Unmaps what is in `range`. Its VMAs are gone; files and pages wait in the batch.
void MemoryManager::State::Remove(Range range, Batch& batch) {
  cache.Clear();
  SplitAt(range.start, batch);
  SplitAt(range.end, batch);
  for (auto it = vmas.FirstEndingAfter(range.start); it != vmas.end() && it->first < range.end;) {
    Vma& vma = it->second;
    if (vma.file) batch.notes.push_back({false, vma.file, vma.range(), vma.offset});
    it = vmas.Erase(it);
  }
  const size_t first = batch.doomed.size();
  segments.Take(range, batch.doomed);
  for (size_t i = first; i < batch.doomed.size(); ++i) {
    if (batch.doomed[i].mapped) batch.Unmap(batch.doomed[i].range());
  }
}

void MemoryManager::State::RemoveAll(Batch& batch) {
  for (;;) {
    {
      MutexLock lock(vmas_lock);
      auto end = vmas.begin();
      for (size_t i = 0; i < kRemoveStep && end != vmas.end(); ++i) ++end;
      Remove({0, end == vmas.end() ? kGuestAddressEnd : end->second.start}, batch);
      if (vmas.begin() == vmas.end()) return;
    }
    (void)sched::YieldIfLong();
  }
}

// Puts new segments of `vma` in place.
void MemoryManager::State::Install(const Vma& vma, std::vector<Segment>&& fresh, bool populate,
                                   Batch& batch) {
  cache.Clear();
  for (Segment& segment : fresh) {
    segment.mapped = active();
    if (segment.mapped) batch.Map(segment, HostProt(vma, segment), populate || segment.present);
    if (!held) segment.present = false;
    const Range range = segment.range();
    segments.Insert(std::move(segment));
    segments.Merge(range, vma.range());
  }
  fresh.clear();
}

}  // namespace skep::mm
