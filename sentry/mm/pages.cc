// MemoryManager::State: where pages come from.
#include <algorithm>
#include <iterator>
#include <utility>

#include "base/check.h"
#include "base/host_call.h"
#include "sentry/mm/copy.h"
#include "sentry/mm/state.h"

namespace skep::mm {

Result<MemoryManager::State::Pages> MemoryManager::State::TakePages(Range range) {
  if (range.size() > kHomeSize) {
    Ref<Extent> extent = TRY(memory.Allocate(range.size()));
    const uint64_t offset = extent->offsets().start;
    CHECK(extent->TryUse({offset, offset + range.size()}));
    return Pages{std::move(extent), offset, range.size()};
  }
  const uint64_t window = range.start / kHomeSize;
  const uint64_t within = range.start % kHomeSize;
  const uint64_t size = std::min(range.size(), kHomeSize - within);
  const auto home = homes.find(window);
  if (home != homes.end()) {
    const uint64_t offset = home->second->offsets().start + within;
    if (home->second->TryUse({offset, offset + size})) return Pages{home->second, offset, size};
  }
  // No home yet, or these pages of it are taken (a fork shares them, or they were moved away).
  Result<Ref<Extent>> fresh = memory.Allocate(kHomeSize);
  if (!fresh) {
    Ref<Extent> exact = TRY(memory.Allocate(size));
    const uint64_t offset = exact->offsets().start;
    CHECK(exact->TryUse({offset, offset + size}));
    return Pages{std::move(exact), offset, size};
  }
  homes[window] = *fresh;
  const uint64_t offset = (*fresh)->offsets().start + within;
  CHECK((*fresh)->TryUse({offset, offset + size}));
  return Pages{std::move(*fresh), offset, size};
}

Result<void> MemoryManager::State::MakeAnonymous(Range range, std::vector<Segment>& fresh) {
  for (uint64_t at = range.start; at < range.end;) {
    Result<Pages> pages = TakePages({at, range.end});
    if (!pages) return Fail(pages.error().code());
    Segment segment;
    segment.start = at;
    segment.end = at + pages->size;
    segment.file = memory.id();
    segment.offset = pages->offset;
    segment.extent = std::move(pages->extent);
    at = segment.end;
    fresh.push_back(std::move(segment));
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
  if (const Result<void> made = MakeAnonymous(range, copies); !made) error = made.error().code();
  for (const Segment& copy : copies) {
    if (error != 0) break;
    std::byte* to = memory.Window(copy.offset);
    const uint64_t from = source.OffsetOf(copy.start);
    if (!source.extent) {
      error = ReadPage(source.file, from, {to, copy.size()});
    } else if (CopyTolerant(to, source.extent->file().Window(from), copy.size()) != copy.size()) {
      error = ENOMEM;
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
      // What a file cannot give is found out by the access.
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

}  // namespace skep::mm
