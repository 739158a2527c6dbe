#include "sentry/mm/memory_file.h"

#include <fcntl.h>
#include <linux/falloc.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>
#include <atomic>
#include <iterator>
#include <utility>

#include "base/check.h"
#include "base/host_call.h"
#include "base/missing_defs.h"
#include "sentry/arena/arena.h"
#include "sentry/mm/copy.h"
#include "sentry/mm/extent_allocator.h"

namespace skep::mm {
namespace {

constexpr uint64_t kFileSize = arena::kWindowSize;
constexpr uint64_t kHugeAlignment = uint64_t{2} << 20;  // so that the host may use huge pages
constexpr int kSlots = 2;
constexpr uint64_t kPunchedGap = 256 << 10;

HostResult<OwnedFd> MakeMemfd() {
  Result<OwnedFd> fd = host::MemfdCreate("skep-memory", MFD_CLOEXEC | MFD_NOEXEC_SEAL);
  if (!fd) fd = host::MemfdCreate("skep-memory", MFD_CLOEXEC);  // Linux < 6.3
  if (!fd) return HostFail("cannot make the sandbox's memory file", fd.error().code());
  const Result<void> sized = host::Truncate(fd->get(), kFileSize);
  if (!sized) return HostFail("cannot size the sandbox's memory file", sized.error().code());
  return std::move(*fd);
}

}  // namespace

// -- Extent --

// Pages without a use are punched already. The host looks through the page tables of all that it
// is to punch: only small gaps between uses are punched along.
Extent::~Extent() {
  if (!counts_uses_) file_->Punch(offsets_);
  Range used;
  for (auto it = uses_.begin(); it != uses_.end(); ++it) {
    if (it->second == 0) continue;
    if (used.empty() || it->first - used.end > kPunchedGap) {
      if (!used.empty()) file_->Punch(used);
      used.start = it->first;
    }
    used.end = std::next(it)->first;
  }
  if (!used.empty()) file_->Punch(used);
  file_->Free(offsets_);
}

// The entry that starts at `offset`, with the count that was in force there.
Extent::Uses::iterator Extent::SplitUses(uint64_t offset) {
  auto it = uses_.lower_bound(offset);
  if (it != uses_.end() && it->first == offset) return it;
  const uint32_t count = it == uses_.begin() ? 0 : std::prev(it)->second;
  return uses_.emplace_hint(it, offset, count);
}

// Drops entries in and at the ends of `pages` that change nothing.
void Extent::MergeUses(Range pages) {
  auto it = uses_.lower_bound(pages.start);
  uint32_t before = it == uses_.begin() ? 0 : std::prev(it)->second;
  while (it != uses_.end() && it->first <= pages.end) {
    if (it->second == before) {
      it = uses_.erase(it);
    } else {
      before = it->second;
      ++it;
    }
  }
}

bool Extent::TryUse(Range pages) {
  DCHECK(offsets_.Contains(pages) && !pages.empty());
  MutexLock lock(mutex_);
  counts_uses_ = true;
  auto it = uses_.upper_bound(pages.start);
  if (it != uses_.begin() && std::prev(it)->second != 0) return false;
  for (; it != uses_.end() && it->first < pages.end; ++it) {
    if (it->second != 0) return false;
  }
  const auto first = SplitUses(pages.start);
  const auto last = SplitUses(pages.end);
  for (auto i = first; i != last; ++i) i->second = 1;
  MergeUses(pages);
  return true;
}

void Extent::AddUse(Range pages) {
  DCHECK(offsets_.Contains(pages) && !pages.empty());
  MutexLock lock(mutex_);
  const auto first = SplitUses(pages.start);
  const auto last = SplitUses(pages.end);
  for (auto it = first; it != last; ++it) ++it->second;
  MergeUses(pages);
}

void Extent::DropUse(Range pages) {
  DCHECK(offsets_.Contains(pages) && !pages.empty());
  MutexLock lock(mutex_);
  const auto first = SplitUses(pages.start);
  const auto last = SplitUses(pages.end);
  Range unused{pages.start, pages.start};
  for (auto it = first; it != last; ++it) {
    CHECK(it->second != 0);
    const Range run{it->first, std::next(it)->first};
    if (--it->second == 0 && unused.end == run.start) {
      unused.end = run.end;
      continue;
    }
    // Under the lock: TryUse must not hand out a page that is yet to be punched.
    if (!unused.empty()) file_->Punch(unused);
    unused = it->second == 0 ? run : Range{run.end, run.end};
  }
  if (!unused.empty()) file_->Punch(unused);
  MergeUses(pages);
}

bool Extent::UsedOnce(Range pages) {
  MutexLock lock(mutex_);
  auto it = uses_.upper_bound(pages.start);
  if (it == uses_.begin() || std::prev(it)->second != 1) return false;
  for (; it != uses_.end() && it->first < pages.end; ++it) {
    if (it->second != 1) return false;
  }
  return true;
}

// -- MemoryFile --

struct MemoryFile::State {
  arena::HostFd fd;
  uintptr_t window = 0;
  std::atomic<uint64_t> next_inode{1};
  Mutex mutex{LockRank::kExtents};
  ExtentAllocator offsets GUARDED_BY(mutex){kFileSize};
};

MemoryFile::MemoryFile(std::unique_ptr<State> state) : state_(std::move(state)) {}

HostResult<std::unique_ptr<MemoryFile>> MemoryFile::Make() {
  InstallCopyFaultHandler();
  OwnedFd fd = TRY(MakeMemfd());
  int error = 0;
  for (int slot = 0; slot < kSlots; ++slot) {
    const uintptr_t at = arena::kWindowBase + static_cast<uintptr_t>(slot) * kFileSize;
    const Result<void*> window =
        host::Mmap(reinterpret_cast<void*>(at), kFileSize, PROT_READ | PROT_WRITE,
                   MAP_SHARED | MAP_NORESERVE | MAP_FIXED_NOREPLACE, fd.get(), 0);
    if (!window) {
      error = window.error().code();
      continue;
    }
    auto state = std::make_unique<State>();
    state->window = at;
    state->fd = arena::HostTable::Get().Add(std::move(fd));
    return std::unique_ptr<MemoryFile>(new MemoryFile(std::move(state)));
  }
  return HostFail("cannot map the sandbox's memory file", error);
}

MemoryFile::~MemoryFile() {
  {
    MutexLock lock(state_->mutex);
    CHECK(state_->offsets.free_bytes() == kFileSize);
  }
  (void)host::Munmap(reinterpret_cast<void*>(state_->window), kFileSize);
  const arena::HostScope host;
  const OwnedFd fd = arena::HostTable::Get().Remove(state_->fd);
}

HostResult<void> MemoryFile::Reattach(OwnedFd fd) {
  InstallCopyFaultHandler();
  const Result<void> sized = host::Truncate(fd.get(), kFileSize);
  if (!sized) return HostFail("cannot size the restored memory file", sized.error().code());
  const Result<void*> window =
      host::Mmap(reinterpret_cast<void*>(state_->window), kFileSize, PROT_READ | PROT_WRITE,
                 MAP_SHARED | MAP_NORESERVE | MAP_FIXED_NOREPLACE, fd.get(), 0);
  if (!window) return HostFail("cannot map the restored memory file", window.error().code());
  arena::HostTable::Get().Restore(state_->fd, std::move(fd));
  return {};
}

HostResult<OwnedFd> MemoryFile::MakeHostFile() { return MakeMemfd(); }

HostResult<std::vector<Range>> MemoryFile::DataRanges() const {
  const auto fd = static_cast<uint64_t>(arena::HostTable::Get().Get(state_->fd));
  std::vector<Range> ranges;
  for (uint64_t at = 0;;) {
    const Result<int64_t> data = host::Call(SYS_lseek, fd, at, SEEK_DATA);
    if (!data && data.error() == Errno(ENXIO)) return ranges;
    if (!data) return HostFail("cannot look for guest pages", data.error().code());
    const Result<int64_t> hole = host::Call(SYS_lseek, fd, static_cast<uint64_t>(*data), SEEK_HOLE);
    if (!hole) return HostFail("cannot look for guest pages", hole.error().code());
    at = static_cast<uint64_t>(*hole);
    ranges.push_back({static_cast<uint64_t>(*data), at});
  }
}

platform::HostFileId MemoryFile::id() const { return arena::HostTable::FileIdOf(state_->fd); }

Result<Ref<Extent>> MemoryFile::Allocate(uint64_t size) {
  if (size == 0 || size > kFileSize) return Fail(ENOMEM);
  size = PageCeil(size);
  MutexLock lock(state_->mutex);
  const uint64_t alignment = size >= kHugeAlignment ? kHugeAlignment : kPageSize;
  const Range offsets = TRY(state_->offsets.Allocate(size, alignment));
  return Ref<Extent>(new Extent(*this, offsets));
}

void MemoryFile::Free(Range offsets) {
  MutexLock lock(state_->mutex);
  state_->offsets.Free(offsets);
}

std::byte* MemoryFile::Window(uint64_t offset) const {
  return reinterpret_cast<std::byte*>(state_->window + offset);
}

uint64_t MemoryFile::NextInode() {
  return state_->next_inode.fetch_add(1, std::memory_order_relaxed);
}

void MemoryFile::Punch(Range offsets) {
  // The pages must read as zeros when they are used again: nothing can go on if the host says no.
  CHECK(host::Fallocate(arena::HostTable::Get().Get(state_->fd),
                        FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, offsets.start, offsets.size()));
}

uint64_t MemoryFile::UsedBytes() const {
  const Result<struct stat> status = host::Stat(arena::HostTable::Get().Get(state_->fd));
  return status ? static_cast<uint64_t>(status->st_blocks) * 512 : 0;
}

uint64_t MemoryFile::ResidentBytes(Range offsets) const {
  const auto fd = static_cast<uint64_t>(arena::HostTable::Get().Get(state_->fd));
  uint64_t bytes = 0;
  for (uint64_t at = offsets.start; at < offsets.end;) {
    const Result<int64_t> data = host::Call(SYS_lseek, fd, at, SEEK_DATA);
    if (!data || static_cast<uint64_t>(*data) >= offsets.end) break;
    const Result<int64_t> hole = host::Call(SYS_lseek, fd, static_cast<uint64_t>(*data), SEEK_HOLE);
    if (!hole) break;
    const Range run =
        offsets.Intersect({static_cast<uint64_t>(*data), static_cast<uint64_t>(*hole)});
    bytes += run.size();
    at = run.end;
  }
  return bytes;
}

}  // namespace skep::mm
