#include "sentry/mm/state.h"

#include <algorithm>
#include <functional>
#include <iterator>
#include <utility>

#include "base/check.h"
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

int MemoryManager::State::Commit(Batch& batch) {
  ++generation;
  peak_virtual = std::max(peak_virtual, vmas.total_bytes());
  for (const Batch::Note& note : batch.notes) {
    if (note.add) {
      note.file->AddMapping(mm, note.addresses, note.offset);
    } else {
      note.file->RemoveMapping(mm, note.addresses, note.offset);
    }
  }
  for (const Batch::Punched& part : batch.punched) part.extent->file().Punch(part.offsets);
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

// What does not fit into memory is not taken ahead: the guest that touches it pays for it.
void MemoryManager::State::LimitPopulation(Batch& batch) {
  uint64_t bytes = 0;
  for (const MapOp& op : batch.ops) {
    if (op.populate) bytes += op.size;
  }
  if (bytes == 0 || bytes <= memory.limit().Room()) return;
  for (MapOp& op : batch.ops) op.populate = false;
}

platform::AddressSpace::Applied MemoryManager::State::Apply(std::span<const platform::MapOp> ops) {
  const arena::HostScope host;
  platform::AddressSpace* space = arena::HostTable::Get().Get(mm.space_);
  CHECK(space != nullptr);
  return space->Apply(ops);
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
  const platform::AddressSpace::Applied applied = Apply(batch.ops);
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
  const arena::HostScope host;
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
      if (!dies && first->kind == Segment::Kind::kPrivate) {
        first->extent->DropUse(first->offsets());
      }
    }
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
