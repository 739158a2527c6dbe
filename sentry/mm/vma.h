// VMAs: what each guest address is (Linux: struct vm_area_struct), and the set of them.
#pragma once

#include <sys/mman.h>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <utility>

#include "base/range.h"
#include "base/ref.h"
#include "sentry/mm/mappable.h"

namespace skep::mm {

inline constexpr uint64_t kStackGuardGap = 256 * kPageSize;

struct Vma {
  uint64_t start = 0, end = 0;
  int prot = 0;  // PROT_*
  int max_prot = PROT_READ | PROT_WRITE | PROT_EXEC;
  bool shared = false;
  bool grows_down = false;
  bool locked = false;
  bool lock_on_fault = false;
  bool dont_fork = false;
  bool wipe_on_fork = false;
  bool no_reserve = false;
  bool dont_dump = false;
  uint64_t offset = 0;  // file: of `start`
  Ref<Mappable> file;   // none: anonymous (and private)
  std::string name;

  Range range() const { return {start, end}; }
  uint64_t size() const { return end - start; }
  bool anonymous() const { return !file; }
  bool accessible() const { return prot != PROT_NONE; }
  uint64_t OffsetOf(uint64_t address) const { return offset + (address - start); }
  // Private, writable and no stack: what RLIMIT_DATA limits (Linux: is_data_mapping).
  bool is_data() const { return (prot & PROT_WRITE) != 0 && !shared && !grows_down; }
  // Whether `next`, which starts where this ends, may become part of it.
  bool CanMerge(const Vma& next) const;
};

// Free ranges by size class, so that a gap is found quickly among thousands of VMAs.
class GapIndex {
 public:
  void Insert(Range gap);
  void Erase(Range gap);
  // Highest start of `size` free bytes within `within`. `usable` cuts a gap (stack guards).
  template <class Usable>
  std::optional<uint64_t> FindHighest(uint64_t size, Range within, Usable usable) const {
    std::optional<uint64_t> best;
    for (auto next = gaps_.lower_bound({ClassOf(size), 0}); next != gaps_.end();) {
      // From the highest gap of this class downwards.
      const uint32_t size_class = next->first.first;
      const auto first = next;
      next = gaps_.lower_bound({size_class + 1, 0});
      for (auto it = next; it != first;) {
        --it;
        if (best && it->second <= *best + size) break;
        const Range room = usable(Range{it->first.second, it->second}).Intersect(within);
        if (room.size() < size) continue;
        if (!best || room.end - size > *best) best = room.end - size;
        break;
      }
    }
    return best;
  }

 private:
  static uint32_t ClassOf(uint64_t size);

  std::map<std::pair<uint32_t, uint64_t>, uint64_t> gaps_;  // (class, start) -> end
};

// Disjoint VMAs in order. It does not know of locks, hosts or pages.
class VmaSet {
 public:
  using Map = std::map<uint64_t, Vma>;
  using iterator = Map::iterator;

  VmaSet();

  iterator begin() { return map_.begin(); }
  iterator end() { return map_.end(); }
  size_t count() const { return map_.size(); }
  uint64_t total_bytes() const { return total_bytes_; }

  iterator Find(uint64_t address);        // the one that contains it, or end()
  iterator FirstEndingAfter(uint64_t x);  // Linux: find_vma
  bool AnyIn(Range range);
  uint64_t BytesIn(Range range);

  iterator Insert(Vma vma);     // the place is free
  iterator Erase(iterator it);  // returns the next
  // Makes `address` a boundary; returns the VMA that starts there or the next one after.
  iterator Split(uint64_t address);
  iterator GrowDown(iterator it, uint64_t start);
  void SetEnd(iterator it, uint64_t end);  // the place is free, or the VMA shrinks
  // Joins `it` with the one before it if they can be one; returns the result.
  iterator MergeWithPrevious(iterator it);

  // The highest free range of `size` within `within`.
  std::optional<uint64_t> FindGap(uint64_t size, Range within);

 private:
  Range GapBefore(iterator it);  // it may be end()

  Map map_;
  GapIndex gaps_;
  uint64_t total_bytes_ = 0;
};

}  // namespace skep::mm
