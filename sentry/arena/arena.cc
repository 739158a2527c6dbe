#include "sentry/arena/arena.h"

#include <sys/mman.h>
#include <sys/random.h>
#include <sys/syscall.h>
#include <new>

#include "base/check.h"
#include "base/host_call.h"
#include "sentry/arena/image.h"
#include "sentry/arena/layout.h"

namespace skep::arena {

HeapScope::HeapScope(Heap heap) : saved_(SetThreadHeap(heap)) {}
HeapScope::~HeapScope() { SetThreadHeap(saved_); }

#ifndef SKEP_NO_ARENA
namespace {

bool exists = false;  // of this process: host state

}  // namespace

bool Exists() { return exists; }

HostResult<void> MapRegions() {
  CHECK(!exists && "one arena for each process");
  const struct {
    uintptr_t base;
    size_t size;
  } regions[] = {{kBase, kHeapSize}, {kStacksBase, kStacksSize}};
  for (const auto& region : regions) {
    Result<void*> mapped =
        host::Mmap(reinterpret_cast<void*>(region.base), region.size, PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED_NOREPLACE, -1, 0);
    if (!mapped) return HostFail("cannot map the kernel arena", mapped.error().code());
    // A huge page behind every stack and slab would be mostly waste.
    (void)host::Call(SYS_madvise, region.base, region.size, MADV_NOHUGEPAGE);
  }
  exists = true;
  return {};
}

HostResult<void> Create() {
  TRY(MapRegions());
  auto* header = new (reinterpret_cast<void*>(kBase)) Header;
  Result<int64_t> filled = host::Call(SYS_getrandom, &header->canary, sizeof header->canary, 0);
  if (!filled) return HostFail("getrandom", filled.error().code());
  header->canary &= ~uint64_t{0xff};  // as glibc: a string copy stops at it
  return {};
}

void SetRoot(void* root) { TheHeader().root = root; }
void* Root() { return TheHeader().root; }

bool Contains(const void* p) {
  const auto address = reinterpret_cast<uintptr_t>(p);
  return address - kBase < kHeapSize || address - kStacksBase < kStacksSize;
}

Result<std::byte*> AllocateStack() { return TheHeader().stacks.Allocate(); }
void FreeStack(std::byte* bottom) { TheHeader().stacks.Free(bottom); }

void*& SavedStackPointer(std::byte* bottom) {
  return Slots()[(reinterpret_cast<uintptr_t>(bottom) - kStacksBase) / kStackStride].saved_sp;
}

uint64_t StackCanary() { return TheHeader().canary; }
uint64_t Generation() { return TheHeader().generation; }

Usage CurrentUsage() {
  return {TheHeader().heap.used_pages() * kPageSize, TheHeader().stacks.used()};
}

#endif  // SKEP_NO_ARENA
}  // namespace skep::arena
