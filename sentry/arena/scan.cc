#include <algorithm>
#include <cinttypes>
#include <cstdio>
#include <string>
#include <vector>

#include "base/host_call.h"
#include "base/range.h"
#include "sentry/arena/arena.h"
#include "sentry/arena/layout.h"

#ifndef SKEP_NO_ARENA
// SAFETY: the linker's symbols for the first and last byte of the binary; only addresses are used.
extern "C" const char __executable_start;
extern "C" const char _end;

namespace skep::arena {
namespace {

Result<std::string> ReadMaps(int fd) {
  std::string text;
  std::vector<std::byte> block(64 << 10);
  for (;;) {
    const size_t n = TRY(host::PRead(fd, block, text.size()));
    if (n == 0) return text;
    text.append(reinterpret_cast<const char*>(block.data()), n);
  }
}

// The mappings that do not survive a checkpoint: all but the arena, the windows and the binary.
std::vector<Range> HostRanges(int maps_fd) {
  std::vector<Range> ranges;
  const auto binary_start = reinterpret_cast<uintptr_t>(&__executable_start);
  const uint64_t binary_end = PageCeil(reinterpret_cast<uintptr_t>(&_end));
  Result<std::string> maps =
      maps_fd >= 0 ? ReadMaps(maps_fd) : host::ReadWholeFile("/proc/self/maps", 64 << 20);
  if (!maps) return ranges;
  for (size_t at = 0; at < maps->size(); at = maps->find('\n', at) + 1) {
    uint64_t start = 0, end = 0;
    if (sscanf(maps->c_str() + at, "%" SCNx64 "-%" SCNx64, &start, &end) != 2) break;
    if (Contains(reinterpret_cast<void*>(start))) continue;
    if (start - kWindowBase < kWindowSize) continue;
    if (start >= binary_start && end <= binary_end) continue;
    ranges.push_back({start, end});
  }
  return ranges;
}

class Scanner {
 public:
  Scanner(bool (*report)(uintptr_t, uintptr_t), int maps_fd)
      : report_(report), ranges_(HostRanges(maps_fd)) {
    std::sort(ranges_.begin(), ranges_.end(),
              [](const Range& a, const Range& b) { return a.start < b.start; });
    for (int i = 0; i < kMaxCaches; ++i) {
      for (const ObjectCache::Bin& bin : TheHeader().heap.cache(i).bins) AddFree(bin.head);
    }
    std::sort(free_.begin(), free_.end());
  }

  void ScanHeap() {
    const uint32_t end = TheHeader().heap.end_page();
    for (uint32_t page = kFirstPage; page < end; page += Runs()[page].pages) {
      const Run& run = Runs()[page];
      if (run.kind == RunKind::kLarge) {
        ScanWords(PageAddress(page), PageAddress(page + run.pages));
      } else if (run.kind == RunKind::kSlab) {
        ScanSlab(page);
      }
    }
  }

  void ScanStacks() {
    for (uint32_t i = 0; i < TheHeader().stacks.slots(); ++i) {
      const StackSlot& slot = Slots()[i];
      if (!slot.used) continue;
      const uint64_t top = kStacksBase + (i + 1) * kStackStride;
      const auto saved = reinterpret_cast<uint64_t>(slot.saved_sp);
      ScanWords(saved != 0 ? saved : top - kStackSize, top);
    }
  }

  size_t hits() const { return hits_; }

 private:
  void AddFree(void* list) {
    for (; list != nullptr; list = *static_cast<void**>(list)) {
      free_.push_back(reinterpret_cast<uintptr_t>(list));
    }
  }

  void ScanSlab(uint32_t page) {
    const Run& run = Runs()[page];
    const size_t size = ClassSize(run.size_class);
    std::vector<bool> is_free(run.carved);
    for (void* p = run.free_list; p != nullptr; p = *static_cast<void**>(p)) {
      is_free[(reinterpret_cast<uintptr_t>(p) - PageAddress(page)) / size] = true;
    }
    for (size_t i = 0; i < run.carved; ++i) {
      const uintptr_t object = PageAddress(page) + i * size;
      if (is_free[i] || std::binary_search(free_.begin(), free_.end(), object)) continue;
      ScanWords(object, object + size);
    }
  }

  // SAFETY: [from, to) is mapped arena memory, 8-aligned.
  void ScanWords(uintptr_t from, uintptr_t to) {
    for (uintptr_t at = from; at < to; at += sizeof(uintptr_t)) {
      const uintptr_t value = *reinterpret_cast<const uintptr_t*>(at);
      auto after = std::upper_bound(ranges_.begin(), ranges_.end(), value,
                                    [](uintptr_t v, const Range& r) { return v < r.start; });
      if (after == ranges_.begin() || !std::prev(after)->Contains(value)) continue;
      if (report_ == nullptr || report_(at, value)) ++hits_;
    }
  }

  bool (*report_)(uintptr_t, uintptr_t);
  std::vector<Range> ranges_;
  std::vector<uintptr_t> free_;  // objects in workers' caches
  size_t hits_ = 0;
};

}  // namespace

size_t ScanForHostPointers(bool (*report)(uintptr_t where, uintptr_t value), int maps_fd) {
  const HostHeapScope host;
  Scanner scanner(report, maps_fd);
  scanner.ScanHeap();
  scanner.ScanStacks();
  return scanner.hits();
}

}  // namespace skep::arena
#endif  // SKEP_NO_ARENA
