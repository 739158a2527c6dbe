#include "sentry/mm/segment.h"

#include <iterator>
#include <utility>

#include "base/check.h"

namespace skep::mm {

bool Segment::CanMerge(const Segment& next) const {
  return end == next.start && kind == next.kind && cow == next.cow && for_write == next.for_write &&
         mapped == next.mapped && present == next.present && file == next.file &&
         offset + size() == next.offset && extent == next.extent;
}

int HostProt(const Vma& vma, const Segment& segment) {
  const bool writable =
      segment.kind == Segment::Kind::kPrivate ? !segment.cow : vma.shared && segment.for_write;
  return writable ? vma.prot : vma.prot & ~PROT_WRITE;
}

SegmentSet::iterator SegmentSet::Find(uint64_t address) {
  const auto it = FirstEndingAfter(address);
  return it != map_.end() && it->second.start <= address ? it : map_.end();
}

SegmentSet::iterator SegmentSet::FirstEndingAfter(uint64_t x) {
  auto it = map_.upper_bound(x);
  if (it != map_.begin() && std::prev(it)->second.end > x) --it;
  return it;
}

void SegmentSet::Split(uint64_t address) {
  const auto it = FirstEndingAfter(address);
  if (it == map_.end() || it->second.start >= address) return;
  Segment upper = it->second;
  upper.start = address;
  upper.offset = it->second.OffsetOf(address);
  it->second.end = address;
  map_.emplace_hint(std::next(it), address, std::move(upper));
}

SegmentSet::iterator SegmentSet::Insert(Segment segment) {
  const auto next = map_.lower_bound(segment.start);
  CHECK(next == map_.end() || next->first >= segment.end);
  CHECK(next == map_.begin() || std::prev(next)->second.end <= segment.start);
  const uint64_t start = segment.start;
  return map_.emplace_hint(next, start, std::move(segment));
}

void SegmentSet::Take(Range range, std::vector<Segment>& out) {
  Split(range.start);
  Split(range.end);
  for (auto it = map_.lower_bound(range.start); it != map_.end() && it->first < range.end;) {
    out.push_back(std::move(it->second));
    it = map_.erase(it);
  }
}

void SegmentSet::Merge(Range range, Range within) {
  auto it = FirstEndingAfter(range.start > within.start ? range.start - 1 : within.start);
  while (it != map_.end()) {
    const auto next = std::next(it);
    if (next == map_.end() || next->first > range.end || next->first >= within.end) return;
    if (it->second.CanMerge(next->second)) {
      it->second.end = next->second.end;
      map_.erase(next);
    } else {
      it = next;
    }
  }
}

}  // namespace skep::mm
