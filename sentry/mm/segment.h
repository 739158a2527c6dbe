// Segments: which pages of which file the host maps at which guest addresses.
//
// A segment lies within one VMA. Its pages are private memory (anonymous, or copied from a private
// file mapping), or pages of the mapped file itself. While a space is active and a segment is
// `mapped`, the host maps exactly its pages there, with HostProt(vma, segment).
#pragma once

#include <cstdint>
#include <map>
#include <vector>

#include "base/range.h"
#include "base/ref.h"
#include "platform/platform.h"
#include "sentry/mm/memory_file.h"
#include "sentry/mm/vma.h"

namespace skep::mm {

struct Segment {
  enum class Kind : uint8_t { kPrivate, kFile };

  uint64_t start = 0, end = 0;
  Kind kind = Kind::kPrivate;
  bool cow = false;        // kPrivate: other spaces may use the pages: not writable on the host
  bool for_write = false;  // kFile: Mappable::Translate was told that it would be written
  bool mapped = false;
  bool present = false;  // until it is mapped: the host has all of its pages
  platform::HostFileId file{};
  uint64_t offset = 0;  // in `file`, of `start`
  Ref<Extent> extent;   // memory pages: their extent (kPrivate: with a use of each page)

  Range range() const { return {start, end}; }
  uint64_t size() const { return end - start; }
  uint64_t OffsetOf(uint64_t address) const { return offset + (address - start); }
  Range OffsetsOf(Range addresses) const {
    return {OffsetOf(addresses.start), OffsetOf(addresses.end)};
  }
  Range offsets() const { return {offset, offset + size()}; }
  bool CanMerge(const Segment& next) const;
};

// What the host may let the guest do there: never a write that copy-on-write must see.
int HostProt(const Vma& vma, const Segment& segment);

class SegmentSet {
 public:
  using Map = std::map<uint64_t, Segment>;
  using iterator = Map::iterator;

  iterator begin() { return map_.begin(); }
  iterator end() { return map_.end(); }
  size_t count() const { return map_.size(); }

  iterator Find(uint64_t address);  // the one that contains it, or end()
  iterator FirstEndingAfter(uint64_t x);
  void Split(uint64_t address);      // makes it a boundary
  iterator Insert(Segment segment);  // the place is free
  iterator Erase(iterator it) { return map_.erase(it); }
  // Takes everything in `range` out, split at its ends.
  void Take(Range range, std::vector<Segment>& out);
  // Joins neighbours in `range` and next to it, all of them in the VMA `within`.
  void Merge(Range range, Range within);

 private:
  Map map_;
};

}  // namespace skep::mm
