// The arena's heap: size classes carved from page runs, page runs that coalesce, and a small cache
// of free objects for each worker. Everything about it lies in the arena.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

#include "base/mutex.h"

namespace skep::arena {

enum class RunKind : uint8_t { kNone, kFree, kLarge, kSlab };

// One per page; meaningful for the first and the last page of a run, and for every page of a slab.
struct Run {
  void* free_list;          // kSlab: objects that came back, linked through their first word
  uint32_t first;           // the run's first page
  uint32_t pages;           // first page only: its length
  uint32_t next, previous;  // kFree: bin; kSlab: the class's list of slabs with room. 0: none
  uint16_t used;            // kSlab: objects that are out (or in a cache)
  uint16_t carved;          // kSlab: objects that were ever handed out
  RunKind kind;
  uint8_t size_class;
  bool dirty;  // kFree: the host has memory behind it
};
static_assert(sizeof(Run) == 32);

inline constexpr size_t kMaxSmall = 8192;
inline constexpr int kClassCount = 32;
inline constexpr int kMaxCaches = 64;

size_t ClassSize(int size_class);

// Free objects of one worker: touched by its thread only.
struct ObjectCache {
  struct Bin {
    void* head = nullptr;
    uint32_t count = 0;
  };
  std::array<Bin, kClassCount> bins;
};

class PageHeap {
 public:
  // nullptr when the arena is full. `cache` may be nullptr. `align` is a power of two.
  void* Allocate(size_t size, size_t align, ObjectCache* cache);
  void Free(void* object, ObjectCache* cache);

  ObjectCache& cache(int index) { return caches_[static_cast<size_t>(index)]; }
  size_t used_pages() const { return used_pages_; }
  uint32_t end_page() const { return end_page_; }

 private:
  static constexpr uint32_t kExactBins = 64;  // bins_[n]: runs of n pages; above: by powers of two
  static constexpr uint32_t kBins = kExactBins + 24;
  static constexpr uint32_t kMaxDirtyPages = 2048;
  struct SizeClass {
    Mutex lock{LockRank::kHeap};
    uint32_t with_room GUARDED_BY(lock) = 0;  // slabs that have a free object
  };

  void* AllocateLarge(size_t size, size_t align);
  // Moves up to `count` objects onto `*list`; returns how many.
  uint32_t TakeObjects(int size_class, uint32_t count, void** list);
  void ReturnObjects(int size_class, void* list);
  uint32_t NewSlab(int size_class);
  void LinkSlab(SizeClass& c, uint32_t page) REQUIRES(c.lock);
  void UnlinkSlab(SizeClass& c, uint32_t page) REQUIRES(c.lock);

  uint32_t AllocateRun(uint32_t pages, RunKind kind);  // 0: full
  static void MarkRun(uint32_t first, uint32_t pages, RunKind kind);
  void FreeRun(uint32_t first, uint32_t pages);
  uint32_t TakeRun(uint32_t pages) REQUIRES(page_lock_);
  void GiveRun(uint32_t first, uint32_t pages, bool dirty) REQUIRES(page_lock_);
  static uint32_t BinOf(uint32_t pages);
  void LinkFree(uint32_t first) REQUIRES(page_lock_);
  void UnlinkFree(uint32_t first) REQUIRES(page_lock_);
  void Purge() REQUIRES(page_lock_);

  std::array<SizeClass, kClassCount> classes_;
  std::array<ObjectCache, kMaxCaches> caches_;

  Mutex page_lock_{LockRank::kLeaf};
  std::array<uint32_t, kBins> bins_ GUARDED_BY(page_lock_) = {};
  uint32_t end_page_ = 0;  // pages from here up were never used or came back
  uint32_t dirty_end_ GUARDED_BY(page_lock_) = 0;    // above end_page_: memory is behind up to here
  uint32_t dirty_pages_ GUARDED_BY(page_lock_) = 0;  // of free runs, since the last Purge
  size_t used_pages_ = 0;
};

}  // namespace skep::arena
