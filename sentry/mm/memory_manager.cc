// MemoryManager: its life, its engine half, and fork.
#include "sentry/mm/memory_manager.h"

#include <iterator>
#include <utility>

#include "base/check.h"
#include "sentry/arena/arena.h"
#include "sentry/mm/state.h"

namespace skep::mm {

using arena::HostTable;
using sched::SleepLockHold;

MemoryManager::MemoryManager(MemoryFile& memory) : state_(std::make_unique<State>(*this, memory)) {}

Ref<MemoryManager> MemoryManager::Make(MemoryFile& memory) {
  return Ref<MemoryManager>(new MemoryManager(memory));
}

MemoryManager::~MemoryManager() {
  Deactivate();
  Batch batch;
  state_->RemoveAll(batch);
  state_->homes.clear();
  (void)state_->Commit(batch);
}

Result<void> MemoryManager::Activate(sched::Worker& worker) { return Activate(worker.engine()); }

Result<void> MemoryManager::Activate(platform::Engine& engine) {
  SleepLockHold hold(state_->mmap_lock);
  CHECK(!space_);
  {
    const arena::HostHeapScope host;
    std::unique_ptr<platform::AddressSpace> space = TRY(engine.NewAddressSpace());
    space_ = HostTable::Get().Add(std::move(space));
  }
  return MapAll();
}

Result<void> MemoryManager::Reactivate(platform::Engine& engine) {
  {
    const arena::HostHeapScope host;
    std::unique_ptr<platform::AddressSpace> space = TRY(engine.NewAddressSpace());
    HostTable::Get().Restore(space_, std::move(space));
  }
  return MapAll();
}

Result<void> MemoryManager::RestoreContext(platform::Engine& engine, arena::HostContext ref,
                                           const platform::Registers& registers,
                                           std::span<const std::byte> xsave) {
  platform::AddressSpace* space = HostTable::Get().Get(space_);
  if (space == nullptr) return Fail(EIO);
  // The image was made by an engine that shares address spaces between workers; this one may not.
  if (!space->Serves(engine)) return Fail(ENOTSUP);
  const arena::HostHeapScope host;
  std::unique_ptr<platform::Context> context = TRY(engine.NewContext(*space, registers, xsave));
  HostTable::Get().Restore(ref, std::move(context));
  return {};
}

Result<void> MemoryManager::MapAll() {
  Batch batch;
  {
    MutexLock lock(state_->vmas_lock);
    auto vma = state_->vmas.begin();
    for (auto& [start, segment] : state_->segments) {
      while (vma->second.end <= start) ++vma;
      segment.mapped = true;
      batch.Map(segment, HostProt(vma->second, segment), segment.present);
      segment.present = false;
    }
    for (const auto& [start, in] : state_->vmas) state_->segments.Merge(in.range(), in.range());
  }
  if (state_->Commit(batch) == EIO) return Fail(EIO);
  return {};
}

Result<arena::HostContext> MemoryManager::NewContext(platform::Engine& engine,
                                                     const platform::Registers& registers,
                                                     std::span<const std::byte> xsave) {
  platform::AddressSpace* space = HostTable::Get().Get(space_);
  if (space == nullptr) return Fail(EIO);
  const arena::HostHeapScope host;
  std::unique_ptr<platform::Context> context = TRY(engine.NewContext(*space, registers, xsave));
  return HostTable::Get().Add(std::move(context));
}

void MemoryManager::Deactivate() {
  SleepLockHold hold(state_->mmap_lock);
  if (space_) {
    state_->UnmapLarge();
    const arena::HostHeapScope host;
    const std::unique_ptr<platform::AddressSpace> space = HostTable::Get().Remove(space_);
    space_ = {};
  }
  Batch batch;
  {
    MutexLock lock(state_->vmas_lock);
    state_->dead = state_->held = false;
    batch.doomed.swap(state_->stranded);
    for (auto& [start, segment] : state_->segments) segment.mapped = false;
  }
  (void)state_->Commit(batch);
}

// Before the space goes, or is emptied at once: the host would work through all page tables while
// nobody else runs.
void MemoryManager::State::UnmapLarge() {
  if (!active()) return;
  Batch batch;
  for (const auto& [start, segment] : segments) {
    if (segment.mapped && segment.size() > kUnmapStep) batch.Unmap(segment.range());
  }
  if (!batch.ops.empty() && TakeAwayInSteps(batch).error != 0) KillSpace();
}

void MemoryManager::KillGuests() {
  SleepLockHold hold(state_->mmap_lock);
  if (state_->alive()) state_->KillSpace();
}

Result<void> MemoryManager::Clear() {
  SleepLockHold hold(state_->mmap_lock);
  State& state = *state_;
  state.UnmapLarge();
  Batch batch;
  state.RemoveAll(batch);
  {
    MutexLock lock(state.vmas_lock);
    state.brk_start = state.brk = 0;
    state.homes.clear();
    state.ahead.Clear();
    state.hot = {};
  }
  batch.ops.clear();  // Reset unmaps everything at once
  state.lock_future = state.lock_future_on_fault = false;
  state.peak_virtual = 0;
  layout = {};
  program.fetch_add(1);
  membarriers = 0;
  Result<void> reset;
  if (state.alive()) {
    const arena::HostHeapScope host;
    reset = HostTable::Get().Get(space_)->Reset();
    state.held = reset.has_value();
  }
  if (!reset) state.KillSpace();
  (void)state.Commit(batch);
  return reset;
}

Result<void> MemoryManager::MapProgram() {
  SleepLockHold hold(state_->mmap_lock);
  state_->held = false;
  return state_->alive() ? MapAll() : Fail(EIO);
}

Result<Ref<MemoryManager>> MemoryManager::Fork() {
  State& state = *state_;
  Ref<MemoryManager> child = Make(state.memory);
  State& copy = *child->state_;
  state.StopTransfers();
  {
    SleepLockHold hold(state.mmap_lock);
    Batch batch;
    // With other threads at work, copies would show what they write out of order.
    if (users <= 1) state.CopyHot(copy, batch);
    if (!state.hot) state.hot = MakeRef<HotPages>();
    copy.hot = state.hot;
    {
      MutexLock lock(state.vmas_lock);
      state.cache.Clear();
      for (auto& [start, vma] : state.vmas) {
        if (!vma.dont_fork) state.ForkVma(vma, copy, batch);
      }
      copy.brk_start = state.brk_start;
      copy.brk = state.brk;
    }
    copy.mmap_top = state.mmap_top;
    copy.stack_limit = state.stack_limit;
    copy.space_limit = state.space_limit;
    copy.peak_virtual = copy.vmas.total_bytes();
    child->layout = layout;
    child->membarriers = membarriers.load();
    // From here on files may find the child and take its lock.
    for (auto& [start, vma] : copy.vmas) {
      if (vma.file) vma.file->AddMapping(*child, vma.range(), vma.offset);
    }
    (void)state.Commit(batch);
  }
  state.AllowTransfers();
  return child;
}

// Gives `child` copies of what one side would soon write to, where nobody else has these pages: so
// both may.
void MemoryManager::State::CopyHot(State& child, Batch& batch) {
  const MemoryLimit& limit = memory.limit();
  if (!hot || (limit.set() && limit.Room() < HotPages::kMaxBytes)) return;
  std::vector<Range> pieces;
  for (const Range run : hot->ForFork()) {
    for (auto it = segments.FirstEndingAfter(run.start);
         it != segments.end() && it->first < run.end; ++it) {
      const Segment& segment = it->second;
      const Range piece = run.Intersect(segment.range());
      if (segment.kind != Segment::Kind::kPrivate ||
          (vmas.Find(piece.start)->second.prot & PROT_WRITE) == 0)
        continue;
      if (!segment.cow || segment.extent->UsedOnce(segment.OffsetsOf(piece)))
        pieces.push_back(piece);
    }
  }
  for (const Range piece : pieces) CopyHotPiece(piece, child, batch);
}

void MemoryManager::State::CopyHotPiece(Range piece, State& child, Batch& batch) {
  const Vma& vma = vmas.Find(piece.start)->second;
  if (vma.dont_fork || vma.wipe_on_fork) return;
  std::vector<Segment> copies;
  if (!child.CopyPrivate(segments.Find(piece.start)->second, piece, copies)) return;
  for (Segment& copy : copies) child.segments.Insert(std::move(copy));
  MutexLock lock(vmas_lock);
  segments.Split(piece.start);
  segments.Split(piece.end);
  Segment& ours = segments.Find(piece.start)->second;
  if (ours.cow && ours.mapped) batch.Protect(piece, vma.prot);
  ours.cow = false;
}

// Gives `child` a copy of `vma` with its pages; neither side may write to them from now on.
void MemoryManager::State::ForkVma(const Vma& vma, State& child, Batch& batch) {
  Vma twin = vma;
  twin.locked = twin.lock_on_fault = false;
  child.vmas.Insert(std::move(twin));
  if (vma.wipe_on_fork) return;
  for (auto it = segments.FirstEndingAfter(vma.start); it != segments.end() && it->first < vma.end;
       ++it) {
    Segment& segment = it->second;
    if (child.segments.Find(segment.start) != child.segments.end()) continue;  // CopyHot did
    if (segment.kind == Segment::Kind::kPrivate) {
      const int before = HostProt(vma, segment);
      segment.cow = true;
      const int after = HostProt(vma, segment);
      if (segment.mapped && before != after) batch.Protect(segment.range(), after);
      segment.extent->AddUse(segment.offsets());
    }
    Segment shared = segment;
    shared.mapped = false;
    child.segments.Insert(std::move(shared));
  }
}

}  // namespace skep::mm
