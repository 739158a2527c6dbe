// MemoryManager::State: where pages come from.
#include <algorithm>
#include <cstring>
#include <iterator>
#include <optional>
#include <utility>

#include "base/check.h"
#include "base/host_call.h"
#include "sentry/mm/copy.h"
#include "sentry/mm/state.h"

namespace skep::mm {

using sched::SleepLockHold;

namespace {

// Pages that the host has already are mapped ahead of faults, where that costs less than they do.
constexpr uint64_t kPresentMin = 3 * kPageSize;
constexpr int kMaxPresentRuns = 8;
constexpr uint64_t kCheckedAtOnce = 256 << 10;

}  // namespace

Result<MemoryManager::State::Pages> MemoryManager::State::TakePages(Range range,
                                                                    Contents contents) {
  const auto from_home = [&](const MemoryFile::Home& home) -> std::optional<Pages> {
    if (!home.extent) return std::nullopt;
    const uint64_t within = (range.start + home.skew) % kHomeSize;
    const uint64_t window_left = kHomeSize - range.start % kHomeSize;
    Pages pages;
    pages.size = std::min({range.size(), window_left, kHomeSize - within});
    pages.offset = home.extent->offsets().start + within;
    pages.extent = home.extent;
    const Range taken{pages.offset, pages.offset + pages.size};
    if (!home.extent->TryUse(taken, contents, &pages.present)) return std::nullopt;
    return pages;
  };
  if (range.size() <= kHomeSize) {
    Homes& homes_here = homes[range.start / kHomeSize];
    if (auto pages = from_home(homes_here.last)) return std::move(*pages);
    // No home yet, or these pages of it are taken (a fork shares them, or they were moved away).
    std::swap(homes_here.last, homes_here.previous);
    if (auto pages = from_home(homes_here.last)) return std::move(*pages);
    if (Result<MemoryFile::Home> fresh = memory.TakeHome(range)) {
      homes_here.last = std::move(*fresh);
      return std::move(*from_home(homes_here.last));
    }
  }
  Pages pages;
  pages.extent = TRY(memory.Allocate(range.size(), range.start));
  pages.offset = pages.extent->offsets().start;
  pages.size = range.size();
  CHECK(pages.extent->TryUse({pages.offset, pages.offset + pages.size}));
  return pages;
}

Result<void> MemoryManager::State::MakeAnonymous(Range range, std::vector<Segment>& fresh,
                                                 Contents contents) {
  for (uint64_t at = range.start; at < range.end;) {
    Result<Pages> pages = TakePages({at, range.end}, contents);
    if (!pages) return Fail(pages.error().code());
    const Range taken{pages->offset, pages->offset + pages->size};
    const auto add = [&](Range offsets, bool present) {
      if (offsets.empty()) return;
      Segment segment;
      segment.start = at + (offsets.start - taken.start);
      segment.end = at + (offsets.end - taken.start);
      segment.file = memory.id();
      segment.offset = offsets.start;
      segment.extent = pages->extent;
      segment.present = present;
      fresh.push_back(std::move(segment));
    };
    uint64_t done = taken.start;
    int runs = 0;
    for (const Range run : pages->present) {
      if (run.size() < kPresentMin || runs == kMaxPresentRuns) continue;
      ++runs;
      if (contents == Contents::kZeros) {
        const uint64_t start = at + (run.start - taken.start);
        ahead.Add({start, start + run.size()});
      }
      add({done, run.start}, false);
      add(run, true);
      done = run.end;
    }
    add({done, taken.end}, false);
    at += pages->size;
  }
  return {};
}

// Pages of the file for the start of `range`: as many as there are in `max_pieces` pieces. An error
// only if there are none.
Result<void> MemoryManager::State::MakeFile(const Vma& vma, Range range, bool write, int max_pieces,
                                            std::vector<Segment>& fresh) {
  for (uint64_t at = range.start; at < range.end && max_pieces > 0; --max_pieces) {
    Result<Piece> piece =
        vma.file->Translate({vma.OffsetOf(at), vma.OffsetOf(range.start) + range.size()}, write);
    if (!piece) {
      if (at == range.start) return Fail(piece.error().code());
      return {};
    }
    CHECK(IsPageAligned(piece->offset) && IsPageAligned(piece->size) && piece->size > 0);
    Segment segment;
    segment.start = at;
    segment.end = at + std::min(piece->size, range.end - at);
    segment.kind = Segment::Kind::kFile;
    segment.for_write = write;
    segment.file = piece->file;
    segment.offset = piece->offset;
    segment.extent = std::move(piece->hold);
    at = segment.end;
    fresh.push_back(std::move(segment));
  }
  return {};
}

// Reads a whole number of pages of a host file; zeros beyond its end.
int MemoryManager::State::ReadPage(platform::HostFileId file, uint64_t offset,
                                   std::span<std::byte> to) {
  const Result<int> fd = arena::HostTable::Get().DescriptorOf(file);
  if (!fd) return fd.error().code();
  size_t done = 0;
  while (done < to.size()) {
    const Result<size_t> n = host::PRead(*fd, to.subspan(done), offset + done);
    if (!n) return n.error().code();
    if (*n == 0) break;
    done += *n;
  }
  if (ZeroTolerant(to.data() + done, to.size() - done) != to.size() - done) return ENOMEM;
  return 0;
}

// Private copies of the pages of `range`, which lies in `source`; all or none.
Result<void> MemoryManager::State::CopyPrivate(const Segment& source, Range range,
                                               std::vector<Segment>& fresh) {
  std::vector<Segment> copies;
  int error = 0;
  if (const Result<void> made = MakeAnonymous(range, copies, Contents::kOverwritten); !made)
    error = made.error().code();
  for (Segment& copy : copies) {
    if (error != 0) break;
    copy.present = true;
    std::byte* to = memory.Window(copy.offset);
    const uint64_t from = source.OffsetOf(copy.start);
    if (!source.extent) {
      error = ReadPage(source.file, from, {to, copy.size()});
    } else {
      const MemoryFile& file = source.extent->file();
      const size_t n = memory.limit().set() ? file.CopyPresent({from, from + copy.size()}, to)
                                            : CopyTolerant(to, file.Window(from), copy.size());
      if (n != copy.size()) error = ENOMEM;
    }
  }
  if (error != 0) {
    GiveBack(copies);
    return Fail(error);
  }
  std::move(copies.begin(), copies.end(), std::back_inserter(fresh));
  return {};
}

Result<void> MemoryManager::State::FillHoles(const Vma& vma, Range range,
                                             std::vector<Segment>& fresh) {
  if (!vma.accessible() || (vma.anonymous() && vma.size() > kEagerMax)) return {};
  const bool write = vma.shared && (vma.prot & PROT_WRITE) != 0;
  auto next = segments.FirstEndingAfter(range.start);
  for (uint64_t at = range.start; at < range.end;) {
    const bool last = next == segments.end() || next->first >= range.end;
    const Range hole{at, last ? range.end : std::max(at, next->first)};
    if (!hole.empty()) {
      const Result<void> made = vma.anonymous() ? MakeAnonymous(hole, fresh)
                                                : MakeFile(vma, hole, write, kMaxPieces, fresh);
      // A page that the file cannot give is no error here: the access to it finds out.
      if (!made && (vma.anonymous() || made.error().code() == kKilled)) return made;
    }
    if (last) break;
    at = next->second.end;
    ++next;
  }
  return {};
}

void MemoryManager::State::GiveBack(std::vector<Segment>& fresh) {
  for (Segment& segment : fresh) {
    if (segment.kind == Segment::Kind::kPrivate) segment.extent->DropUse(segment.offsets());
  }
  fresh.clear();
}

// Takes from the host what may be untouched, so that nobody but the sentry can see it.
void MemoryManager::State::DetachAhead(Batch& batch, std::vector<Segment>& detached) {
  MutexLock lock(vmas_lock);
  cache.Clear();
  for (Range run = ahead.NextFrom(0); !run.empty(); run = ahead.NextFrom(run.end)) {
    segments.Split(run.start);
    segments.Split(run.end);
    for (auto it = segments.FirstEndingAfter(run.start);
         it != segments.end() && it->first < run.end; ++it) {
      Segment& segment = it->second;
      if (segment.kind != Segment::Kind::kPrivate || segment.cow) continue;
      if (segment.mapped) batch.Unmap(segment.range());
      segment.mapped = false;
      detached.push_back(segment);
    }
  }
  ahead.Clear();
}

void MemoryManager::GiveBackUntouched() {
  State& state = *state_;
  SleepLockHold hold(state.mmap_lock);
  if (state.ahead.empty()) return;
  Batch batch;
  std::vector<Segment> detached;
  state.DetachAhead(batch, detached);
  if (state.Commit(batch) != 0) return;  // then the guest may have it mapped still
  std::vector<std::byte> buffer(kCheckedAtOnce);
  for (const Segment& segment : detached) {
    for (uint64_t at = segment.offset; at < segment.offset + segment.size();) {
      const Range part{at, std::min(at + kCheckedAtOnce, segment.offset + segment.size())};
      // Copies into guest memory come one by one, or have uses of their own.
      MutexLock lock(state.vmas_lock);
      if (segment.extent->UsedOnce(part)) state.PunchZeros(part, buffer);
      at = part.end;
    }
  }
}

// Nobody can write to `pages` meanwhile.
void MemoryManager::State::PunchZeros(Range pages, std::span<std::byte> buffer) {
  Range zeros{pages.start, pages.start};
  const auto punch = [&] {
    if (!zeros.empty()) memory.Punch(zeros);
  };
  for (const Range run : memory.ResidentRuns(pages)) {
    const std::span<std::byte> bytes = buffer.first(run.size());
    if (CopyTolerant(bytes.data(), memory.Window(run.start), run.size()) != run.size()) continue;
    for (uint64_t at = run.start; at < run.end; at += kPageSize) {
      const auto page = bytes.subspan(at - run.start, kPageSize);
      if (page[0] != std::byte{0} || std::memcmp(&page[0], &page[1], kPageSize - 1) != 0) continue;
      if (at != zeros.end) {
        punch();
        zeros = {at, at};
      }
      zeros.end = at + kPageSize;
    }
  }
  punch();
}

}  // namespace skep::mm
