#include "sentry/arena/heap.h"

#include <sys/mman.h>
#include <sys/syscall.h>
#include <algorithm>
#include <bit>
#include <cstring>

#include "base/check.h"
#include "base/host_call.h"
#include "sentry/arena/layout.h"

namespace skep::arena {
namespace {

// 16, 32, ... 128, then four steps for each doubling up to kMaxSmall.
constexpr int ClassOf(size_t size) {
  if (size <= 128) return static_cast<int>((size + 15) / 16) - (size == 0 ? 0 : 1);
  const int log = 63 - std::countl_zero(size - 1);
  const size_t step = size_t{1} << (log - 2);
  return 8 + 4 * (log - 7) + static_cast<int>((size - 1 - (size_t{1} << log)) / step);
}

constexpr std::array<uint16_t, kClassCount> MakeClassSizes() {
  std::array<uint16_t, kClassCount> sizes{};
  for (size_t size = 16; size <= kMaxSmall; size += 16) {
    sizes[static_cast<size_t>(ClassOf(size))] = static_cast<uint16_t>(size);
  }
  return sizes;
}
constexpr std::array<uint16_t, kClassCount> kClassSizes = MakeClassSizes();
static_assert(kClassSizes[0] == 16 && kClassSizes[8] == 160 && kClassSizes[31] == kMaxSmall);
static_assert(ClassOf(0) == 0 && ClassOf(1) == 0 && ClassOf(128) == 7 && ClassOf(129) == 8);

constexpr uint32_t SlabPages(size_t size) {
  if (size <= 256) return 1;
  if (size <= 1024) return 2;
  if (size <= 2048) return 4;
  return size <= 4096 ? 8 : 16;
}
// How many objects move between a cache and its class at a time; a cache holds twice that.
constexpr uint32_t BatchOf(size_t size) {
  return static_cast<uint32_t>(std::clamp<size_t>(4096 / size, 2, 32));
}

uint32_t PageOf(const void* p) {
  return static_cast<uint32_t>((reinterpret_cast<uintptr_t>(p) - kBase) / kPageSize);
}
// SAFETY: free objects belong to the heap and are at least 16 bytes, 16-aligned.
void*& NextOf(void* object) { return *static_cast<void**>(object); }

void PoisonFreed([[maybe_unused]] void* object, [[maybe_unused]] size_t size) {
#ifndef NDEBUG
  memset(object, 0xdf, size);
#endif
}

// New objects are zero, as far as that is cheap: padding and unused capacity would else carry stale
// words, host pointers among them, into images.
void* Cleared(void* object, size_t size) {
#ifdef NDEBUG
  constexpr size_t kCheap = 1024;
#else
  constexpr size_t kCheap = kMaxSmall;
#endif
  if (size <= kCheap && object != nullptr) memset(object, 0, size);
  return object;
}

void Discard(uint32_t first, uint32_t pages) {
  // Best effort: the memory stays if the host refuses.
  (void)host::Call(SYS_madvise, PageAddress(first), uint64_t{pages} * kPageSize, MADV_DONTNEED);
}

}  // namespace

size_t ClassSize(int size_class) { return kClassSizes[static_cast<size_t>(size_class)]; }

void* PageHeap::Allocate(size_t size, size_t align, ObjectCache* cache) {
  if (align > 16) size = (std::max<size_t>(size, 1) + align - 1) & ~(align - 1);
  if (size > kMaxSmall || align > kPageSize) return AllocateLarge(size, align);
  int size_class = ClassOf(size);
  if (align > 16) {
    while (ClassSize(size_class) % align != 0) ++size_class;
  }
  void* object = nullptr;
  if (cache == nullptr) {
    TakeObjects(size_class, 1, &object);
    return Cleared(object, ClassSize(size_class));
  }
  ObjectCache::Bin& bin = cache->bins[static_cast<size_t>(size_class)];
  if (bin.head == nullptr) {
    bin.count = TakeObjects(size_class, BatchOf(ClassSize(size_class)), &bin.head);
    if (bin.count == 0) return nullptr;
  }
  object = bin.head;
  bin.head = NextOf(object);
  --bin.count;
  return Cleared(object, ClassSize(size_class));
}

void PageHeap::Free(void* object, ObjectCache* cache) {
  const uint32_t page = PageOf(object);
  const Run& run = Runs()[page];
  if (run.kind == RunKind::kLarge) {
    CHECK(run.first == page);
    FreeRun(page, run.pages);
    return;
  }
  CHECK(run.kind == RunKind::kSlab && "delete of what the arena did not allocate");
  const int size_class = run.size_class;
  const size_t size = ClassSize(size_class);
  PoisonFreed(object, size);
  if (cache == nullptr) {
    NextOf(object) = nullptr;
    ReturnObjects(size_class, object);
    return;
  }
  ObjectCache::Bin& bin = cache->bins[static_cast<size_t>(size_class)];
  NextOf(object) = bin.head;
  bin.head = object;
  const uint32_t batch = BatchOf(size);
  if (++bin.count < 2 * batch) return;
  // Keeps the half that was freed last: it is in the CPU's cache.
  void* last = bin.head;
  for (uint32_t i = 1; i < batch; ++i) last = NextOf(last);
  void* rest = NextOf(last);
  NextOf(last) = nullptr;
  bin.count = batch;
  ReturnObjects(size_class, rest);
}

uint32_t PageHeap::TakeObjects(int size_class, uint32_t count, void** list) {
  SizeClass& c = classes_[static_cast<size_t>(size_class)];
  const size_t size = ClassSize(size_class);
  uint32_t taken = 0;
  MutexLock lock(c.lock);
  while (taken < count) {
    if (c.with_room == 0) {
      const uint32_t slab = NewSlab(size_class);
      if (slab == 0) break;
      LinkSlab(c, slab);
    }
    const uint32_t page = c.with_room;
    Run& run = Runs()[page];
    const auto capacity = static_cast<uint16_t>(run.pages * kPageSize / size);
    while (taken < count && run.used < capacity) {
      void* object = run.free_list;
      if (object != nullptr) {
        run.free_list = NextOf(object);
      } else {
        object = reinterpret_cast<void*>(PageAddress(page) + run.carved * size);
        ++run.carved;
      }
      ++run.used;
      ++taken;
      NextOf(object) = *list;
      *list = object;
    }
    if (run.used == capacity) UnlinkSlab(c, page);
  }
  return taken;
}

void PageHeap::ReturnObjects(int size_class, void* list) {
  SizeClass& c = classes_[static_cast<size_t>(size_class)];
  const size_t size = ClassSize(size_class);
  MutexLock lock(c.lock);
  while (list != nullptr) {
    void* object = list;
    list = NextOf(object);
    const uint32_t page = Runs()[PageOf(object)].first;
    Run& run = Runs()[page];
    const auto capacity = static_cast<uint16_t>(run.pages * kPageSize / size);
    NextOf(object) = run.free_list;
    run.free_list = object;
    if (run.used == capacity) LinkSlab(c, page);
    --run.used;
    // The last slab with room stays, so that one object that comes and goes costs no page run.
    if (run.used == 0 && (run.next != 0 || run.previous != 0)) {
      UnlinkSlab(c, page);
      FreeRun(page, run.pages);
    }
  }
}

uint32_t PageHeap::NewSlab(int size_class) {
  const uint32_t pages = SlabPages(ClassSize(size_class));
  const uint32_t first = AllocateRun(pages, RunKind::kSlab);
  if (first == 0) return 0;
  for (uint32_t i = 0; i < pages; ++i) {
    Run& run = Runs()[first + i];
    run.kind = RunKind::kSlab;
    run.first = first;
    run.size_class = static_cast<uint8_t>(size_class);
  }
  Run& run = Runs()[first];
  run.free_list = nullptr;
  run.used = 0;
  run.carved = 0;
  return first;
}

void PageHeap::LinkSlab(SizeClass& c, uint32_t page) {
  Run& run = Runs()[page];
  run.previous = 0;
  run.next = c.with_room;
  if (c.with_room != 0) Runs()[c.with_room].previous = page;
  c.with_room = page;
}

void PageHeap::UnlinkSlab(SizeClass& c, uint32_t page) {
  Run& run = Runs()[page];
  if (run.previous != 0) {
    Runs()[run.previous].next = run.next;
  } else {
    c.with_room = run.next;
  }
  if (run.next != 0) Runs()[run.next].previous = run.previous;
  run.next = run.previous = 0;
}

void* PageHeap::AllocateLarge(size_t size, size_t align) {
  if (size > kHeapSize || align > kHeapSize) return nullptr;
  const auto pages = static_cast<uint32_t>((size + kPageSize - 1) / kPageSize);
  if (align <= kPageSize) {
    const uint32_t first = AllocateRun(pages, RunKind::kLarge);
    return first == 0 ? nullptr : reinterpret_cast<void*>(PageAddress(first));
  }
  // Too much, then what is not needed at both ends goes back.
  const auto slack = static_cast<uint32_t>(align / kPageSize);
  MutexLock lock(page_lock_);
  const uint32_t all = TakeRun(pages + slack);
  if (all == 0) return nullptr;
  const uint64_t address = (PageAddress(all) + align - 1) & ~(align - 1);
  const uint32_t first = PageOf(reinterpret_cast<void*>(address));
  const uint32_t tail = all + slack - first;
  MarkRun(first, pages, RunKind::kLarge);
  if (first > all) GiveRun(all, first - all, true);
  if (tail > 0) GiveRun(first + pages, tail, true);
  used_pages_ += pages;
  return reinterpret_cast<void*>(address);
}

uint32_t PageHeap::AllocateRun(uint32_t pages, RunKind kind) {
  MutexLock lock(page_lock_);
  const uint32_t first = TakeRun(pages);
  if (first == 0) return 0;
  MarkRun(first, pages, kind);
  used_pages_ += pages;
  return first;
}

// Both ends say what the run is: its neighbours look when they are freed.
void PageHeap::MarkRun(uint32_t first, uint32_t pages, RunKind kind) {
  Run& run = Runs()[first];
  run.kind = kind;
  run.first = first;
  run.pages = pages;
  run.next = run.previous = 0;
  Runs()[first + pages - 1].kind = kind;
  Runs()[first + pages - 1].first = first;
}

void PageHeap::FreeRun(uint32_t first, uint32_t pages) {
  MutexLock lock(page_lock_);
  used_pages_ -= pages;
  dirty_pages_ += pages;
  GiveRun(first, pages, true);
  if (dirty_pages_ > kMaxDirtyPages) Purge();
}

uint32_t PageHeap::BinOf(uint32_t pages) {
  if (pages <= kExactBins) return pages - 1;
  const auto log = static_cast<uint32_t>(31 - std::countl_zero(pages));  // >= 6
  return std::min(kExactBins + log - 6, kBins - 1);
}

void PageHeap::LinkFree(uint32_t first) {
  Run& run = Runs()[first];
  uint32_t& head = bins_[BinOf(run.pages)];
  run.previous = 0;
  run.next = head;
  if (head != 0) Runs()[head].previous = first;
  head = first;
}

void PageHeap::UnlinkFree(uint32_t first) {
  Run& run = Runs()[first];
  if (run.previous != 0) {
    Runs()[run.previous].next = run.next;
  } else {
    bins_[BinOf(run.pages)] = run.next;
  }
  if (run.next != 0) Runs()[run.next].previous = run.previous;
}

uint32_t PageHeap::TakeRun(uint32_t pages) {
  if (end_page_ == 0) end_page_ = kFirstPage;
  for (uint32_t bin = BinOf(pages); bin < kBins; ++bin) {
    uint32_t found = bins_[bin];
    while (found != 0 && Runs()[found].pages < pages) found = Runs()[found].next;
    if (found == 0) continue;
    UnlinkFree(found);
    const uint32_t rest = Runs()[found].pages - pages;
    MarkRun(found, pages, RunKind::kLarge);
    if (rest > 0) GiveRun(found + pages, rest, Runs()[found].dirty);
    return found;
  }
  if (pages > kHeapPages - end_page_) return 0;
  const uint32_t first = end_page_;
  end_page_ += pages;
  return first;
}

void PageHeap::GiveRun(uint32_t first, uint32_t pages, bool dirty) {
  const Run& before = Runs()[first - 1];
  if (first > kFirstPage && before.kind == RunKind::kFree) {
    const uint32_t start = before.first;
    UnlinkFree(start);
    dirty = dirty || Runs()[start].dirty;
    pages += first - start;
    first = start;
  }
  if (first + pages == end_page_) {
    dirty_end_ = std::max(dirty_end_, end_page_);
    end_page_ = first;
    return;
  }
  const Run& after = Runs()[first + pages];
  if (after.kind == RunKind::kFree) {
    UnlinkFree(first + pages);
    dirty = dirty || after.dirty;
    pages += after.pages;
  }
  MarkRun(first, pages, RunKind::kFree);
  Runs()[first].dirty = dirty;
  LinkFree(first);
}

void PageHeap::Purge() {
  constexpr uint32_t kLeastPages = 8;
  for (uint32_t bin = BinOf(kLeastPages); bin < kBins; ++bin) {
    for (uint32_t first = bins_[bin]; first != 0; first = Runs()[first].next) {
      if (!Runs()[first].dirty) continue;
      Discard(first, Runs()[first].pages);
      Runs()[first].dirty = false;
    }
  }
  if (dirty_end_ > end_page_) Discard(end_page_, dirty_end_ - end_page_);
  dirty_end_ = 0;
  dirty_pages_ = 0;
}

}  // namespace skep::arena
