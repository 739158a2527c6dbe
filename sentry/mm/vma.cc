#include "sentry/mm/vma.h"

#include <bit>
#include <iterator>
#include <utility>

#include "base/check.h"

namespace skep::mm {

bool Vma::CanMerge(const Vma& next) const {
  return end == next.start && prot == next.prot && max_prot == next.max_prot &&
         shared == next.shared && grows_down == next.grows_down && locked == next.locked &&
         lock_on_fault == next.lock_on_fault && dont_fork == next.dont_fork &&
         wipe_on_fork == next.wipe_on_fork && no_reserve == next.no_reserve &&
         dont_dump == next.dont_dump && file == next.file &&
         (!file || offset + size() == next.offset) && name == next.name;
}

// -- GapIndex --

// Exact up to 31 pages, then eight classes for each power of two.
uint32_t GapIndex::ClassOf(uint64_t size) {
  const uint64_t pages = size >> kPageShift;
  if (pages < 32) return static_cast<uint32_t>(pages);
  const auto log = static_cast<uint32_t>(std::bit_width(pages)) - 1;  // >= 5
  return 32 + (log - 5) * 8 + static_cast<uint32_t>((pages >> (log - 3)) & 7);
}

void GapIndex::Insert(Range gap) {
  if (!gap.empty()) gaps_.emplace(std::pair(ClassOf(gap.size()), gap.start), gap.end);
}

void GapIndex::Erase(Range gap) {
  if (!gap.empty()) CHECK(gaps_.erase({ClassOf(gap.size()), gap.start}) == 1);
}

// -- VmaSet --

VmaSet::VmaSet() { gaps_.Insert({0, kGuestAddressEnd}); }

Range VmaSet::GapBefore(iterator it) {
  const uint64_t start = it == map_.begin() ? 0 : std::prev(it)->second.end;
  return {start, it == map_.end() ? kGuestAddressEnd : it->second.start};
}

VmaSet::iterator VmaSet::Find(uint64_t address) {
  const iterator it = FirstEndingAfter(address);
  return it != map_.end() && it->second.start <= address ? it : map_.end();
}

VmaSet::iterator VmaSet::FirstEndingAfter(uint64_t x) {
  auto it = map_.upper_bound(x);
  if (it != map_.begin() && std::prev(it)->second.end > x) --it;
  return it;
}

bool VmaSet::AnyIn(Range range) {
  const iterator it = FirstEndingAfter(range.start);
  return it != map_.end() && it->second.start < range.end;
}

uint64_t VmaSet::BytesIn(Range range) {
  uint64_t bytes = 0;
  for (auto it = FirstEndingAfter(range.start); it != map_.end() && it->first < range.end; ++it) {
    bytes += it->second.range().Intersect(range).size();
  }
  return bytes;
}

VmaSet::iterator VmaSet::Insert(Vma vma) {
  const auto next = map_.lower_bound(vma.start);
  const Range gap = GapBefore(next);
  CHECK(gap.Contains(vma.range()) && vma.size() > 0);
  gaps_.Erase(gap);
  gaps_.Insert({gap.start, vma.start});
  gaps_.Insert({vma.end, gap.end});
  total_bytes_ += vma.size();
  const uint64_t start = vma.start;
  return map_.emplace_hint(next, start, std::move(vma));
}

VmaSet::iterator VmaSet::Erase(iterator it) {
  const Range before = GapBefore(it);
  const Range after = GapBefore(std::next(it));
  gaps_.Erase(before);
  gaps_.Erase(after);
  gaps_.Insert({before.start, after.end});
  total_bytes_ -= it->second.size();
  return map_.erase(it);
}

VmaSet::iterator VmaSet::Split(uint64_t address) {
  const auto it = FirstEndingAfter(address);
  if (it == map_.end() || it->second.start >= address) return it;
  Vma upper = it->second;
  upper.start = address;
  upper.offset = it->second.OffsetOf(address);
  it->second.end = address;
  return map_.emplace_hint(std::next(it), address, std::move(upper));
}

VmaSet::iterator VmaSet::GrowDown(iterator it, uint64_t start) {
  Vma vma = std::move(it->second);
  vma.offset -= vma.file ? vma.start - start : 0;
  vma.start = start;
  const iterator next = std::next(it);
  const Range before = GapBefore(it);
  gaps_.Erase(before);
  CHECK(before.start <= start);
  gaps_.Insert({before.start, start});
  total_bytes_ += it->first - start;
  map_.erase(it);
  return map_.emplace_hint(next, start, std::move(vma));
}

void VmaSet::SetEnd(iterator it, uint64_t end) {
  const Range after = GapBefore(std::next(it));
  CHECK(end > it->second.start && end <= after.end);
  gaps_.Erase(after);
  gaps_.Insert({end, after.end});
  total_bytes_ += end - it->second.end;  // wraps as it should
  it->second.end = end;
}

VmaSet::iterator VmaSet::MergeWithPrevious(iterator it) {
  if (it == map_.end() || it == map_.begin()) return it;
  const auto previous = std::prev(it);
  if (!previous->second.CanMerge(it->second)) return it;
  previous->second.end = it->second.end;
  map_.erase(it);
  return previous;
}

std::optional<uint64_t> VmaSet::FindGap(uint64_t size, Range within) {
  return gaps_.FindHighest(size, within, [&](Range gap) {
    const auto next = map_.find(gap.end);
    if (next == map_.end() || !next->second.grows_down) return gap;
    return Range{gap.start, gap.size() > kStackGuardGap ? gap.end - kStackGuardGap : gap.start};
  });
}

}  // namespace skep::mm
