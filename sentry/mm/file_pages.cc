#include "sentry/mm/file_pages.h"

#include <algorithm>
#include <bit>
#include <iterator>
#include <utility>

#include "base/check.h"
#include "sentry/mm/copy.h"
#include "sentry/mm/memory_manager.h"
#include "sentry/sched/fiber.h"

namespace skep::mm {

namespace {

constexpr uint64_t kFirstChunk = 1 << 20;
constexpr uint64_t kLargestChunk = 1 << 30;
constexpr uint64_t kWriteStep = 1 << 20;  // bytes claimed at a time
constexpr uint64_t kReadStep = 1 << 20;
constexpr uint64_t kFreeStep = uint64_t{16} << 20;
constexpr uint64_t kEndOfTime = uint64_t{1} << 63;

}  // namespace

FilePages::FilePages(MemoryFile& memory, Budget* budget) : memory_(memory), budget_(budget) {}

FilePages::~FilePages() {
  CHECK(mappings_.empty());
  if (HoldsNoMutex()) FreeInSteps({0, kEndOfTime});
  Uncharge(data_.total());
}

// -- memory --

FilePages::Chunks::iterator FilePages::FindChunk(uint64_t offset) {
  auto it = chunks_.upper_bound(offset);
  if (it == chunks_.begin()) return chunks_.end();
  --it;
  return it->second.end > offset ? it : chunks_.end();
}

// Chunks double in size along the file, or the first is as large as the file was made.
Result<FilePages::Chunks::iterator> FilePages::ChunkFor(uint64_t offset) {
  if (const auto found = FindChunk(offset); found != chunks_.end()) return found;
  Range range{0, kFirstChunk};
  if (chunks_.empty() && offset < size()) {
    range.end = std::clamp(std::bit_ceil(size()), kFirstChunk, kLargestChunk);
  }
  if (!range.Contains(offset)) {
    const uint64_t length = std::clamp(std::bit_floor(offset), kFirstChunk, kLargestChunk);
    range.start = offset & ~(length - 1);
    range.end = range.start + length;
  }
  const auto next = chunks_.upper_bound(offset);
  if (next != chunks_.end()) range.end = std::min(range.end, next->first);
  if (next != chunks_.begin()) range.start = std::max(range.start, std::prev(next)->second.end);
  Ref<Extent> extent = TRY(memory_.Allocate(range.size()));
  return chunks_.emplace_hint(next, range.start, Chunk{range.end, std::move(extent)});
}

// Pages become data, and are paid for. What a guest maps may never be touched: its memory counts
// when it is there.
Result<void> FilePages::Claim(Range pages, From from) {
  const uint64_t more = pages.size() - data_.CountIn(pages);
  if (more == 0) return {};
  if (from == From::kSentry) TRY(memory_.limit().CheckFill(more));
  if (budget_ != nullptr) {
    TRY(memory_.limit().ClaimForFiles(more));
    if (const Result<void> charged = budget_->Charge(more); !charged) {
      memory_.limit().ReleaseFromFiles(more);
      return charged;
    }
  }
  data_.Add(pages);
  return {};
}

void FilePages::Uncharge(uint64_t bytes) {
  if (budget_ == nullptr || bytes == 0) return;
  budget_->Uncharge(bytes);
  memory_.limit().ReleaseFromFiles(bytes);
}

void FilePages::Free(Range pages) {
  const uint64_t freed = data_.Remove(pages);
  Uncharge(freed);
  auto it = chunks_.upper_bound(pages.start);
  if (it != chunks_.begin()) --it;
  while (it != chunks_.end() && it->first < pages.end) {
    const Range chunk{it->first, it->second.end};
    const Range part = chunk.Intersect(pages);
    if (part == chunk) {
      it = chunks_.erase(it);
      continue;
    }
    if (!part.empty()) {
      const uint64_t offset = it->second.extent->offsets().start + (part.start - chunk.start);
      memory_.Punch({offset, offset + part.size()});
    }
    ++it;
  }
}

// As Free, a part at a time; others run in between. It is finished also for who was killed.
void FilePages::FreeInSteps(Range pages) {
  for (uint64_t at = pages.start;;) {
    {
      MutexLock lock(mutex_);
      at = std::max(at, data_.NextFrom(at).start);
      if (at >= pages.end || pages.end - at <= kFreeStep || data_.NextFrom(at).empty()) {
        Free(pages);  // with the chunks, of which little is left
        return;
      }
      Free({at, at + kFreeStep});
      at += kFreeStep;
    }
    (void)sched::YieldIfLong();
  }
}

FilePages::Part FilePages::PartAt(const Chunks::value_type& chunk, Range range) {
  return {chunk.second.extent, chunk.second.extent->offsets().start + (range.start - chunk.first),
          std::min(range.end, chunk.second.end) - range.start};
}

FilePages::Part FilePages::PartForRead(Range range) {
  MutexLock lock(mutex_);
  const Range data = data_.NextFrom(range.start);
  if (!data.Contains(range.start)) {
    const uint64_t end = data.empty() ? range.end : std::min(range.end, data.start);
    return {{}, 0, end - range.start};
  }
  const auto chunk = FindChunk(range.start);
  if (chunk == chunks_.end()) {  // allocated, never touched
    const auto next = chunks_.upper_bound(range.start);
    uint64_t end = std::min(range.end, data.end);
    if (next != chunks_.end()) end = std::min(end, next->first);
    return {{}, 0, end - range.start};
  }
  return PartAt(*chunk, {range.start, std::min(range.end, data.end)});
}

Result<FilePages::Part> FilePages::PartForWrite(Range range) {
  MutexLock lock(mutex_);
  const auto chunk = TRY(ChunkFor(range.start));
  const Part part = PartAt(*chunk, range);
  TRY(Claim({PageFloor(range.start), PageCeil(range.start + part.size)}, From::kSentry));
  return part;
}

uint64_t FilePages::BytesUsed() const {
  MutexLock lock(mutex_);
  if (!exposed_) return data_.total();
  uint64_t bytes = 0;
  for (const auto& [start, chunk] : chunks_) {
    const uint64_t base = chunk.extent->offsets().start;
    for (Range run = data_.NextFrom(start); !run.empty() && run.start < chunk.end;
         run = data_.NextFrom(run.end)) {
      const Range part = run.Intersect({start, chunk.end});
      bytes += memory_.ResidentBytes({base + (part.start - start), base + (part.end - start)});
    }
  }
  return bytes;
}

// -- reading and writing --

Result<size_t> FilePages::Read(uint64_t offset, IoSequence& to) {
  size_t done = 0;
  while (!to.empty()) {
    const uint64_t at = offset + done;
    const uint64_t end = size();
    if (at >= end) break;
    Part part = PartForRead({at, at + std::min({to.size(), end - at, kReadStep})});
    if (part.extent && memory_.limit().set()) {
      // What was allocated and never touched: reading it would make the pages.
      const MemoryFile::Run run = memory_.RunAt({part.offset, part.offset + part.size});
      part.size = run.offsets.size();
      if (run.hole) part.extent = {};
    }
    const CopyResult r =
        part.extent ? to.CopyOut({memory_.Window(part.offset), part.size}) : to.ZeroOut(part.size);
    done += r.bytes;
    if (r.fault != 0) return CopyResult{done, r.fault}.OrFault();
    if (!to.empty() && !sched::YieldIfLong()) return CopyResult{done, kKilled}.OrFault();
  }
  return done;
}

Result<size_t> FilePages::Write(uint64_t offset, IoSequence& from) {
  if (offset >= kEndOfTime || kEndOfTime - offset < from.size()) return Fail(EFBIG);
  const uint64_t old_size = size();
  // A guest may have written behind the end, through a mapping of the last page.
  if (offset > old_size) ZeroBytes({old_size, std::min(PageCeil(old_size), offset)});
  size_t done = 0;
  while (!from.empty()) {
    const uint64_t at = offset + done;
    const Result<Part> part =
        PartForWrite({at, at + std::min(from.size(), kWriteStep - at % kWriteStep)});
    if (!part) return CopyResult{done, part.error().code()}.OrFault();
    const CopyResult r = from.CopyIn({memory_.Window(part->offset), part->size});
    done += r.bytes;
    if (offset + done > size() && r.bytes != 0) {
      size_.store(offset + done, std::memory_order_release);
    }
    if (r.fault != 0) return CopyResult{done, r.fault}.OrFault();
    if (!from.empty() && !sched::YieldIfLong()) return CopyResult{done, kKilled}.OrFault();
  }
  return done;
}

void FilePages::ZeroBytes(Range bytes) {
  if (bytes.empty()) return;
  const Part part = PartForRead(bytes);
  if (part.extent) (void)ZeroTolerant(memory_.Window(part.offset), part.size);
}

// -- size and holes --

Result<void> FilePages::Truncate(uint64_t new_size) {
  if (new_size > kEndOfTime) return Fail(EFBIG);
  const uint64_t old_size = size();
  if (new_size >= old_size) {
    ZeroBytes({old_size, std::min(PageCeil(old_size), new_size)});
    size_.store(new_size, std::memory_order_release);
    return {};
  }
  // From here on no page beyond the end is given to anybody; then those that were are taken back.
  size_.store(new_size, std::memory_order_release);
  const Range beyond{PageCeil(new_size), kEndOfTime};
  Unmap(beyond, true);
  FreeInSteps(beyond);
  ZeroBytes({new_size, PageCeil(new_size)});
  return {};
}

Result<void> FilePages::Allocate(Range range, bool keep_size) {
  if (range.end > kEndOfTime) return Fail(EFBIG);
  {
    MutexLock lock(mutex_);
    TRY(Claim({PageFloor(range.start), PageCeil(range.end)}, From::kSentry));
  }
  if (!keep_size && range.end > size()) TRY(Truncate(range.end));
  return {};
}

Result<void> FilePages::PunchHole(Range range) {
  const Range whole{PageCeil(range.start), PageFloor(range.end)};
  if (whole.start > whole.end) {  // within one page
    ZeroBytes(range);
    return {};
  }
  ZeroBytes({range.start, whole.start});
  ZeroBytes({whole.end, range.end});
  if (whole.empty()) return {};
  Unmap(whole, false);
  FreeInSteps(whole);
  return {};
}

Result<uint64_t> FilePages::SeekData(uint64_t offset) const {
  const uint64_t end = size();
  if (offset >= end) return Fail(ENXIO);
  MutexLock lock(mutex_);
  const Range data = data_.NextFrom(offset);
  if (data.empty() || data.start >= end) return Fail(ENXIO);
  return data.start;
}

Result<uint64_t> FilePages::SeekHole(uint64_t offset) const {
  const uint64_t end = size();
  if (offset >= end) return Fail(ENXIO);
  MutexLock lock(mutex_);
  const Range data = data_.NextFrom(offset);
  return data.Contains(offset) ? std::min(data.end, end) : offset;
}

// -- mappings --

Result<Piece> FilePages::Translate(Range range, bool write) {
  const uint64_t end = PageCeil(size());
  if (range.start >= end) return Fail(ENXIO);
  range.end = std::min(range.end, end);
  MutexLock lock(mutex_);
  const auto chunk = TRY(ChunkFor(range.start));
  Part part = PartAt(*chunk, range);
  if (write) {
    Result<void> claimed = Claim({range.start, range.start + part.size}, From::kGuest);
    if (!claimed && claimed.error().code() == ENOSPC) {
      part.size = kPageSize;  // perhaps there is money for the page that is touched
      claimed = Claim({range.start, range.start + kPageSize}, From::kGuest);
    }
    if (!claimed) return Fail(claimed.error().code());
    exposed_ = true;
  }
  return Piece{memory_.id(), part.offset, part.size, std::move(part.extent)};
}

void FilePages::AddMapping(MemoryManager& mm, Range addresses, uint64_t offset) {
  MutexLock lock(mutex_);
  mappings_.push_back({&mm, addresses, offset});
  ++mappings_version_;
}

void FilePages::RemoveMapping(MemoryManager& mm, Range addresses, uint64_t offset) {
  MutexLock lock(mutex_);
  const auto it = std::find_if(mappings_.begin(), mappings_.end(), [&](const Mapping& m) {
    return m.mm == &mm && m.addresses == addresses && m.offset == offset;
  });
  CHECK(it != mappings_.end());
  *it = mappings_.back();
  mappings_.pop_back();
}

// Takes pages of `file_range` away from every guest that maps them.
void FilePages::Unmap(Range file_range, bool private_copies) {
  struct Target {
    Ref<MemoryManager> mm;
    Range addresses;
  };
  for (bool again = true; again;) {
    std::vector<Target> targets;
    uint64_t version;
    {
      MutexLock lock(mutex_);
      version = mappings_version_;
      for (const Mapping& m : mappings_) {
        const Range part = file_range.Intersect({m.offset, m.offset + m.addresses.size()});
        if (part.empty()) continue;
        Ref<MemoryManager> mm = Ref<MemoryManager>::TryFrom(m.mm);
        if (!mm) continue;
        const uint64_t start = m.addresses.start + (part.start - m.offset);
        targets.push_back({std::move(mm), {start, start + part.size()}});
      }
    }
    for (const Target& target : targets) {
      target.mm->InvalidateMapping(target.addresses, this, private_copies);
    }
    // A mapping that was moved or made meanwhile may have been missed.
    MutexLock lock(mutex_);
    again = version != mappings_version_;
  }
}

bool FilePages::HasWritableMapping() {
  struct Target {
    Ref<MemoryManager> mm;
    Range addresses;
  };
  std::vector<Target> targets;
  {
    MutexLock lock(mutex_);
    for (const Mapping& m : mappings_) {
      Ref<MemoryManager> mm = Ref<MemoryManager>::TryFrom(m.mm);
      if (mm) targets.push_back({std::move(mm), m.addresses});
    }
  }
  return std::any_of(targets.begin(), targets.end(), [&](const Target& target) {
    return target.mm->MapsWritable(target.addresses, *this);
  });
}

void FilePages::SetName(MappableName name) {
  MutexLock lock(mutex_);
  name_ = std::move(name);
}

MappableName FilePages::NameForMaps() {
  MutexLock lock(mutex_);
  return name_;
}

}  // namespace skep::mm
