// Sanitizer builds: malloc throughout, no snapshots.
#include "sentry/arena/arena.h"

#ifdef SKEP_NO_ARENA
#include <sanitizer/asan_interface.h>
#include <sys/mman.h>
#include <atomic>

#include "base/check.h"
#include "base/host_call.h"
#include "base/limits.h"

namespace skep::arena {
namespace {

void* root = nullptr;
std::atomic<size_t> stack_count{0};
thread_local Heap thread_heap = Heap::kHost;

}  // namespace

[[gnu::noinline]] Heap SetThreadHeap(Heap heap) {
  const Heap old = thread_heap;
  thread_heap = heap;
  return old;
}
HostResult<void> Create() { return {}; }
HostResult<void> Attach(int, uint64_t) { return HostFail("a sanitizer build has no kernel arena"); }
HostResult<uint64_t> Freeze(int, uint64_t) {
  return HostFail("a sanitizer build has no kernel arena");
}
void SetRoot(void* new_root) { root = new_root; }
void* Root() { return root; }
bool Contains(const void*) { return false; }

// The stack's first page is its guard; the word for the saved stack pointer is at its top.
constexpr size_t kStride = 4 * kStackSize + kPageSize;  // sanitizers need deep frames

Result<std::byte*> AllocateStack() {
  void* p =
      TRY(host::Mmap(nullptr, kStride, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
  TRY(host::Mprotect(p, kPageSize, PROT_NONE));
  // What an earlier fiber's frames at this address were.
  __asan_unpoison_memory_region(p, kStride);
  ++stack_count;
  return static_cast<std::byte*>(p) + kStride - kStackSize;
}
void FreeStack(std::byte* bottom) {
  --stack_count;
  CHECK(host::Munmap(bottom + kStackSize - kStride, kStride));
}
void*& SavedStackPointer(std::byte* bottom) {
  return *reinterpret_cast<void**>(bottom + kStackSize - sizeof(void*));
}
uint64_t StackCanary() { return 0; }
void SetThreadCache(int) {}
uint64_t Generation() { return 0; }
Usage CurrentUsage() { return {0, stack_count.load()}; }
size_t ScanForHostPointers(bool (*)(uintptr_t, uintptr_t), int) { return 0; }

}  // namespace skep::arena
#endif
