#include "sentry/arena/host_table.h"

#include <sys/mman.h>
#include <algorithm>

#include "base/check.h"
#include "base/host_call.h"
#include "base/range.h"
#include "sentry/arena/arena.h"

namespace skep::arena {
namespace {

uint64_t ValueOf(const void* pointer) { return reinterpret_cast<uint64_t>(pointer); }

}  // namespace

HostTable& HostTable::Get() {
  // Never destroyed: engines' threads may still look things up while the process exits.
  static HostTable& table = []() -> HostTable& {
    const HostHeapScope host;
    return *new HostTable;
  }();
  return table;
}

HostTable::Entry* HostTable::Find(uint32_t index) const {
  if (index == 0 || index / kChunkEntries >= kMaxChunks) return nullptr;
  Entry* chunk = chunks_[index / kChunkEntries].load(std::memory_order_acquire);
  return chunk == nullptr ? nullptr : &chunk[index % kChunkEntries];
}

uint64_t HostTable::ValueOf(uint32_t index) const {
  const Entry* entry = Find(index);
  return entry == nullptr ? 0 : entry->value.load(std::memory_order_acquire);
}

// The entry of `index`, made if it is new.
HostTable::Entry& HostTable::Slot(uint32_t index) {
  CHECK(index / kChunkEntries < kMaxChunks);
  std::atomic<Entry*>& chunk = chunks_[index / kChunkEntries];
  if (chunk.load(std::memory_order_relaxed) == nullptr) {
    chunk.store(new Entry[kChunkEntries], std::memory_order_release);
  }
  return chunk.load(std::memory_order_relaxed)[index % kChunkEntries];
}

uint32_t HostTable::AddValue(Kind kind, uint64_t value) {
  CHECK(value != 0);
  const HostHeapScope host;
  MutexLock lock(mutex_);
  uint32_t index = first_free_;
  if (index != 0) {
    first_free_ = Slot(index).next_free;
  } else {
    index = ++highest_;
  }
  Entry& entry = Slot(index);
  entry.kind = kind;
  entry.value.store(value, std::memory_order_release);
  return index;
}

void HostTable::RestoreValue(Kind kind, uint32_t index, uint64_t value) {
  CHECK(index != 0 && value != 0);
  const HostHeapScope host;
  MutexLock lock(mutex_);
  CHECK(index <= highest_ && "ResetNumbers comes first");
  Entry& entry = Slot(index);
  CHECK(entry.value.load(std::memory_order_relaxed) == 0 && entry.kind != Kind::kFree);
  entry.kind = kind;
  entry.value.store(value, std::memory_order_release);
}

uint64_t HostTable::RemoveValue(Kind kind, uint32_t index) {
  const HostHeapScope host;
  std::byte* window = nullptr;
  uint64_t window_size = 0;
  uint64_t value = 0;
  {
    MutexLock lock(mutex_);
    CHECK(index != 0 && index <= highest_);
    Entry& entry = Slot(index);
    CHECK(entry.kind == kind || entry.kind == Kind::kReserved);
    entry.kind = Kind::kFree;
    entry.next_free = first_free_;
    first_free_ = index;
    value = entry.value.exchange(0, std::memory_order_acq_rel);
    window = entry.window.exchange(nullptr, std::memory_order_acq_rel);
    window_size = entry.window_size;
    if (entry.window_is_lent) window = nullptr;
    entry.window_is_lent = false;
    if (window != nullptr) --windows_;
  }
  if (window != nullptr) (void)host::Munmap(window, window_size);
  return value;
}

HostFd HostTable::Add(OwnedFd fd) {
  CHECK(fd);
  return HostFd(AddValue(Kind::kFd, static_cast<uint64_t>(fd.Release()) + 1));
}
HostContext HostTable::Add(std::unique_ptr<platform::Context> context) {
  return HostContext(AddValue(Kind::kContext, arena::ValueOf(context.release())));
}
HostAddressSpace HostTable::Add(std::unique_ptr<platform::AddressSpace> space) {
  return HostAddressSpace(AddValue(Kind::kAddressSpace, arena::ValueOf(space.release())));
}

void HostTable::Restore(HostFd ref, OwnedFd fd) {
  CHECK(fd);
  RestoreValue(Kind::kFd, ref.index(), static_cast<uint64_t>(fd.Release()) + 1);
}
void HostTable::Restore(HostContext ref, std::unique_ptr<platform::Context> context) {
  RestoreValue(Kind::kContext, ref.index(), arena::ValueOf(context.release()));
}
void HostTable::Restore(HostAddressSpace ref, std::unique_ptr<platform::AddressSpace> space) {
  RestoreValue(Kind::kAddressSpace, ref.index(), arena::ValueOf(space.release()));
}

// SAFETY (the casts below): a number's kind is fixed by the type of the HostRef it was made with.
int HostTable::Get(HostFd ref) const { return static_cast<int>(ValueOf(ref.index())) - 1; }
platform::Context* HostTable::Get(HostContext ref) const {
  return reinterpret_cast<platform::Context*>(ValueOf(ref.index()));
}
platform::AddressSpace* HostTable::Get(HostAddressSpace ref) const {
  return reinterpret_cast<platform::AddressSpace*>(ValueOf(ref.index()));
}

OwnedFd HostTable::Remove(HostFd ref) {
  return OwnedFd(static_cast<int>(RemoveValue(Kind::kFd, ref.index())) - 1);
}
std::unique_ptr<platform::Context> HostTable::Remove(HostContext ref) {
  return std::unique_ptr<platform::Context>(
      reinterpret_cast<platform::Context*>(RemoveValue(Kind::kContext, ref.index())));
}
std::unique_ptr<platform::AddressSpace> HostTable::Remove(HostAddressSpace ref) {
  return std::unique_ptr<platform::AddressSpace>(
      reinterpret_cast<platform::AddressSpace*>(RemoveValue(Kind::kAddressSpace, ref.index())));
}

Result<int> HostTable::DescriptorOf(platform::HostFileId file) {
  const uint32_t index = static_cast<uint32_t>(file);
  {
    MutexLock lock(mutex_);
    const Entry* entry = Find(index);
    if (entry == nullptr || entry->kind != Kind::kFd) return Fail(EBADF);
  }
  const int fd = Get(HostFd(index));
  if (fd < 0) return Fail(EBADF);
  return fd;
}

// The file from its start, as large as it is now. Pages come when they are read.
const std::byte* HostTable::MakeWindow(uint32_t index) {
  const int fd = Get(HostFd(index));
  if (fd < 0) return nullptr;
  const Result<struct stat> status = host::Stat(fd);
  if (!status || status->st_size <= 0) return nullptr;
  const uint64_t size = std::min(PageCeil(static_cast<uint64_t>(status->st_size)), kMaxWindowSize);
  {
    MutexLock lock(mutex_);
    if (windows_ == kMaxWindows) return nullptr;
    ++windows_;
  }
  const Result<void*> mapped = host::Mmap(nullptr, size, PROT_READ, MAP_SHARED, fd, 0);
  {
    MutexLock lock(mutex_);
    Entry& entry = Slot(index);
    std::byte* const known = entry.window.load(std::memory_order_relaxed);
    if (mapped && known == nullptr) {
      entry.window_size = size;
      entry.window.store(static_cast<std::byte*>(*mapped), std::memory_order_release);
      return static_cast<std::byte*>(*mapped);
    }
    --windows_;
    if (!mapped) return nullptr;
  }
  (void)host::Munmap(*mapped, size);
  return Find(index)->window.load(std::memory_order_acquire);
}

void HostTable::LendWindow(HostFd file, std::byte* window, uint64_t size) {
  MutexLock lock(mutex_);
  Entry& entry = Slot(file.index());
  CHECK(entry.window.load(std::memory_order_relaxed) == nullptr);
  entry.window_is_lent = true;
  entry.window_size = size;
  entry.window.store(window, std::memory_order_release);
}

const std::byte* HostTable::Window(platform::HostFileId file, uint64_t offset, size_t size) {
  const uint32_t index = static_cast<uint32_t>(file);
  const Entry* entry = Find(index);
  if (entry == nullptr) return nullptr;
  const std::byte* window = entry->window.load(std::memory_order_acquire);
  if (window == nullptr) window = MakeWindow(index);
  if (window == nullptr) return nullptr;
  const uint64_t end = entry->window_size;
  return offset > end || size > end - offset ? nullptr : window + offset;
}

uint32_t HostTable::HighestNumber() const {
  MutexLock lock(mutex_);
  return highest_;
}

void HostTable::ResetNumbers(uint32_t highest) {
  const HostHeapScope host;
  MutexLock lock(mutex_);
  CHECK(highest_ == 0 && "a restore comes before the first Add");
  highest_ = highest;
  for (uint32_t i = 1; i <= highest; ++i) Slot(i).kind = Kind::kReserved;
}

void HostTable::FinishRestore() {
  const HostHeapScope host;
  MutexLock lock(mutex_);
  for (uint32_t i = highest_; i > 0; --i) {
    Entry& entry = Slot(i);
    if (entry.kind != Kind::kReserved) continue;
    entry.kind = Kind::kFree;
    entry.next_free = first_free_;
    first_free_ = i;
  }
}

}  // namespace skep::arena
