// The kernel arena: one fixed-address region that holds all kernel state (heap and fiber stacks),
// so that a checkpoint is a copy of it and a restore maps it back (docs/design/arena.md).
//
// Which heap an allocation comes from is a per-thread flag: code on a fiber allocates from the
// arena, everything else (boot, workers' own stacks, engines, loggers, offloaded calls, anything
// inside HostHeapScope) from malloc. `delete` decides by address. Sanitizer builds (SKEP_NO_ARENA)
// use malloc throughout and cannot checkpoint.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "base/result.h"

namespace skep::arena {

inline constexpr uintptr_t kBase = 0x1000'0000'0000;        // the heap
inline constexpr size_t kHeapSize = size_t{64} << 30;       // reserved, not committed
inline constexpr uintptr_t kStacksBase = 0x1100'0000'0000;  // fiber stacks, with guard pages
inline constexpr size_t kStackSize = 64 << 10;              // usable bytes of one fiber stack
inline constexpr size_t kMaxStacks = 1 << 20;
inline constexpr uintptr_t kWorkersBase = 0x1200'0000'0000;  // workers' own stacks and TLS
inline constexpr uintptr_t kWindowBase = 0x2000'0000'0000;   // windows of memory files (sentry/mm)
inline constexpr size_t kWindowSize = size_t{32} << 40;

// Maps an empty arena. Once per process, before the first fiber.
HostResult<void> Create();
// Maps a frozen arena copy-on-write from `fd` (written by Freeze) at `offset`. Fails unless the
// image was made by this very build (build id) on a CPU with the same features.
HostResult<void> Attach(int fd, uint64_t offset);
// Writes the arena to `fd` at `offset`; returns the bytes used. Every fiber must be suspended and
// no worker may run. `root` comes back from Root() after Attach.
HostResult<uint64_t> Freeze(int fd, uint64_t offset);

// The one object that everything hangs off (boot::Sandbox).
void SetRoot(void* root);
void* Root();

bool Contains(const void* p);

// Allocations of this thread come from malloc (kHost) or the arena (kArena) while it lives. Not
// across a suspension.
enum class Heap : bool { kHost, kArena };
class HeapScope {
 public:
  explicit HeapScope(Heap heap);
  ~HeapScope();
  HeapScope(const HeapScope&) = delete;
  HeapScope& operator=(const HeapScope&) = delete;

 private:
  Heap saved_;
};
class HostHeapScope : public HeapScope {
 public:
  HostHeapScope() : HeapScope(Heap::kHost) {}
};
// For boot: kernel objects that are made before the first fiber runs.
class ArenaHeapScope : public HeapScope {
 public:
  ArenaHeapScope() : HeapScope(Heap::kArena) {}
};
// Sets the flag for good: sched/ does at every fiber switch.
Heap SetThreadHeap(Heap heap);

// Fiber stacks: [bottom, bottom + kStackSize), a guard page below. ENOMEM at kMaxStacks.
Result<std::byte*> AllocateStack();
void FreeStack(std::byte* bottom);

// Where the owner of a stack keeps the stack pointer of its suspended fiber: Freeze writes the
// stack from there up. nullptr (as after AllocateStack): all of it.
void*& SavedStackPointer(std::byte* bottom);

// For sched/'s threads. The stack-protector canary that code on fibers is compiled against, and the
// allocation cache of worker `index` (-1: none), which lives in the arena.
uint64_t StackCanary();
void SetThreadCache(int index);
// How often this arena has been attached: differs from a remembered value after a restore.
uint64_t Generation();

struct Usage {
  size_t heap_bytes, stack_count;
};
Usage CurrentUsage();

// Debug and checkpoint tests: looks at every word of the used arena for pointers into libc's heap,
// thread stacks, TLS or other mappings outside. Asks `report(address_of_word, value)` whether each
// counts (null: all do) and returns how many did. Free memory is skipped. Nothing may allocate or
// free meanwhile. A hit in a stack may be a stale word of an earlier, deeper call; one in the heap
// is a pointer or a number that looks like one.
// `maps_fd`: /proc/self/maps, opened by a process that cannot do so any more; -1: opened now.
size_t ScanForHostPointers(bool (*report)(uintptr_t where, uintptr_t value), int maps_fd = -1);

}  // namespace skep::arena
