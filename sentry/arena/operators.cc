// The global operator new and delete: which heap is the thread's flag, whose it is the address.
#include <cstdlib>
#include <new>

#include "base/check.h"
#include "sentry/arena/arena.h"
#include "sentry/arena/layout.h"

#ifndef SKEP_NO_ARENA
namespace skep::arena {
namespace {

// Nobody but the functions of this file, which are never inlined, names these: a fiber may change
// threads between two calls.
thread_local Heap thread_heap = Heap::kHost;
thread_local ObjectCache* thread_cache = nullptr;

constexpr size_t kPlain = 16;  // what malloc aligns to

void* Allocate(size_t size, size_t align) {
  if (thread_heap == Heap::kArena) return TheHeader().heap.Allocate(size, align, thread_cache);
  if (align <= kPlain) return malloc(size == 0 ? 1 : size);
  return aligned_alloc(align, (size + align - 1) & ~(align - 1));
}

void* AllocateOrDie(size_t size, size_t align) {
  void* object = Allocate(size, align);
  CHECK(object != nullptr && "out of memory");
  return object;
}

void Free(void* object) {
  // SAFETY: nothing else is ever mapped in the heap's region.
  if (reinterpret_cast<uintptr_t>(object) - kBase < kHeapSize) {
    TheHeader().heap.Free(object, thread_cache);
  } else {
    free(object);
  }
}

}  // namespace

[[gnu::noinline]] Heap SetThreadHeap(Heap heap) {
  const Heap old = thread_heap;
  thread_heap = heap;
  return old;
}

[[gnu::noinline]] void SetThreadCache(int index) {
  thread_cache = index >= 0 && index < kMaxCaches ? &TheHeader().heap.cache(index) : nullptr;
}

}  // namespace skep::arena

using skep::arena::Allocate;
using skep::arena::AllocateOrDie;
using skep::arena::Free;
using skep::arena::kPlain;

void* operator new(size_t size) { return AllocateOrDie(size, kPlain); }
void* operator new[](size_t size) { return AllocateOrDie(size, kPlain); }
void* operator new(size_t size, const std::nothrow_t&) noexcept { return Allocate(size, kPlain); }
void* operator new[](size_t size, const std::nothrow_t&) noexcept { return Allocate(size, kPlain); }
void* operator new(size_t size, std::align_val_t align) {
  return AllocateOrDie(size, static_cast<size_t>(align));
}
void* operator new[](size_t size, std::align_val_t align) {
  return AllocateOrDie(size, static_cast<size_t>(align));
}
void* operator new(size_t size, std::align_val_t align, const std::nothrow_t&) noexcept {
  return Allocate(size, static_cast<size_t>(align));
}
void* operator new[](size_t size, std::align_val_t align, const std::nothrow_t&) noexcept {
  return Allocate(size, static_cast<size_t>(align));
}

void operator delete(void* p) noexcept { Free(p); }
void operator delete[](void* p) noexcept { Free(p); }
void operator delete(void* p, size_t) noexcept { Free(p); }
void operator delete[](void* p, size_t) noexcept { Free(p); }
void operator delete(void* p, const std::nothrow_t&) noexcept { Free(p); }
void operator delete[](void* p, const std::nothrow_t&) noexcept { Free(p); }
void operator delete(void* p, std::align_val_t) noexcept { Free(p); }
void operator delete[](void* p, std::align_val_t) noexcept { Free(p); }
void operator delete(void* p, size_t, std::align_val_t) noexcept { Free(p); }
void operator delete[](void* p, size_t, std::align_val_t) noexcept { Free(p); }
void operator delete(void* p, std::align_val_t, const std::nothrow_t&) noexcept { Free(p); }
void operator delete[](void* p, std::align_val_t, const std::nothrow_t&) noexcept { Free(p); }
#endif  // SKEP_NO_ARENA
