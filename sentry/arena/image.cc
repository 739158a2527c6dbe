#include "sentry/arena/image.h"

#include <sys/mman.h>
#include <algorithm>

#include "base/host_call.h"
#include "base/range.h"
#include "sentry/arena/arena.h"
#include "sentry/arena/layout.h"

#ifndef SKEP_NO_ARENA
namespace skep::arena {
namespace {

// Runs that are this close become one extent: a mapping costs more than a few pages of a file.
constexpr uint64_t kMaxGap = 16 * kPageSize;
// Smaller extents are read at Attach, larger ones mapped and loaded on demand.
constexpr uint64_t kMapFrom = 8 * kPageSize;

void Append(std::vector<ImageExtent>& extents, uint64_t from, uint64_t to, uint64_t max_gap) {
  from = PageFloor(from);
  to = PageCeil(to);
  if (!extents.empty()) {
    ImageExtent& last = extents.back();
    if (from <= last.address + last.size + max_gap) {
      last.size = std::max(last.size, to - last.address);
      return;
    }
  }
  extents.push_back({from, to - from, 0});
}

void AppendHeap(std::vector<ImageExtent>& extents) {
  const uint32_t end = TheHeader().heap.end_page();
  Append(extents, kBase, kBase + sizeof(Header), 0);
  if (end > kFirstPage) {
    Append(extents, kRunsBase + kFirstPage * sizeof(Run), kRunsBase + end * sizeof(Run), 0);
  }
  if (TheHeader().stacks.slots() > 0) {
    Append(extents, kSlotsBase, kSlotsBase + TheHeader().stacks.slots() * sizeof(StackSlot), 0);
  }
  for (uint32_t page = kFirstPage; page < end; page += Runs()[page].pages) {
    const Run& run = Runs()[page];
    if (run.kind == RunKind::kFree) continue;
    Append(extents, PageAddress(page), PageAddress(page + run.pages), kMaxGap);
  }
}

void AppendStacks(std::vector<ImageExtent>& extents) {
  for (uint32_t i = 0; i < TheHeader().stacks.slots(); ++i) {
    const StackSlot& slot = Slots()[i];
    if (!slot.used) continue;
    const uint64_t top = kStacksBase + (i + 1) * kStackStride;
    const auto saved = reinterpret_cast<uint64_t>(slot.saved_sp);
    Append(extents, saved != 0 ? saved : top - kStackSize, top, 0);
  }
}

HostResult<void> WriteAt(int fd, uint64_t offset, const void* from, uint64_t size) {
  const auto* bytes = static_cast<const std::byte*>(from);
  while (size > 0) {
    Result<size_t> n = host::PWrite(fd, {bytes, size}, offset);
    if (!n) return HostFail("cannot write the kernel arena", n.error().code());
    bytes += *n;
    offset += *n;
    size -= *n;
  }
  return {};
}

uint64_t DataStart(uint64_t extent_count) {
  return PageCeil(sizeof(ImageHeader) + extent_count * sizeof(ImageExtent));
}

HostResult<void> LoadExtents(int fd, uint64_t offset, const std::vector<ImageExtent>& extents) {
  for (const ImageExtent& e : extents) {
    void* at = reinterpret_cast<void*>(e.address);
    if (e.size < kMapFrom) {
      TRY(ReadImage(fd, offset + e.offset, at, e.size));
      continue;
    }
    // SAFETY: InRegions held; the regions are ours and empty.
    Result<void*> mapped =
        host::Mmap(at, e.size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_FIXED | MAP_NORESERVE, fd,
                   offset + e.offset);
    if (!mapped) return HostFail("cannot map the kernel arena's image", mapped.error().code());
  }
  return {};
}

}  // namespace

std::vector<ImageExtent> UsedExtents() {
  std::vector<ImageExtent> extents;
  AppendHeap(extents);
  AppendStacks(extents);
  return extents;
}

HostResult<uint64_t> Freeze(int fd, uint64_t offset) {
  const HostHeapScope host;
  if (!IsPageAligned(offset)) return HostFail("an arena image starts at a page boundary");
  std::vector<ImageExtent> extents = UsedExtents();
  uint64_t end = DataStart(extents.size());
  for (ImageExtent& e : extents) {
    e.offset = end;
    end += e.size;
  }
  const ImageHeader header = HeaderOfThisBuild(extents.size());
  TRY(WriteAt(fd, offset, &header, sizeof header));
  TRY(WriteAt(fd, offset + sizeof header, extents.data(), extents.size() * sizeof(ImageExtent)));
  for (const ImageExtent& e : extents) {
    TRY(WriteAt(fd, offset + e.offset, reinterpret_cast<const void*>(e.address), e.size));
  }
  return end;
}

HostResult<void> Attach(int fd, uint64_t offset) {
  const HostHeapScope host;
  const std::vector<ImageExtent> extents = TRY(ReadExtents(fd, offset));
  TRY(MapRegions());
  TRY(LoadExtents(fd, offset, extents));
  ++TheHeader().generation;
  if (Result<void> guarded = TheHeader().stacks.GuardUsed(); !guarded) {
    return HostFail("cannot guard fiber stacks", guarded.error().code());
  }
  return {};
}

}  // namespace skep::arena
#endif  // SKEP_NO_ARENA
