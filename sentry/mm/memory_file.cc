#include "sentry/mm/memory_file.h"

#include <fcntl.h>
#include <linux/falloc.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>
#include <algorithm>
#include <array>
#include <atomic>
#include <deque>
#include <iterator>
#include <optional>
#include <utility>

#include "base/check.h"
#include "base/host_call.h"
#include "base/missing_defs.h"
#include "sentry/arena/arena.h"
#include "sentry/mm/copy.h"
#include "sentry/mm/extent_allocator.h"
#include "sentry/mm/range_set.h"
#include "sentry/sched/scheduler.h"
#include "sentry/sched/timer.h"

namespace skep::mm {
namespace {

constexpr uint64_t kFileSize = arena::kWindowSize;
constexpr uint64_t kHugeAlignment = uint64_t{2} << 20;  // so that the host may use huge pages
constexpr int kSlots = 2;
constexpr uint64_t kPunchedGap = 256 << 10;
constexpr size_t kMaxKeptHomes = 64;
constexpr uint64_t kGiveBackStep = 4 << 20;  // punched under the Mutex at a time
constexpr uint64_t kIdleNs = 1'000'000'000;
constexpr uint64_t kGiveBackPauseNs = 2'000'000;
constexpr size_t kMaxRuns = 128;  // kept of what is freed at once
// What is known to be resident: short runs too while there are few.
constexpr size_t kFewResidentRuns = 1 << 14, kMaxResidentRuns = 1 << 16;
constexpr uint64_t kLongResidentRun = 64 << 10;
constexpr size_t kMaxRunsFound = 1024;

HostResult<OwnedFd> MakeMemfd() {
  Result<OwnedFd> fd = host::MemfdCreate("skep-memory", MFD_CLOEXEC | MFD_NOEXEC_SEAL);
  if (!fd) fd = host::MemfdCreate("skep-memory", MFD_CLOEXEC);  // Linux < 6.3
  if (!fd) return HostFail("cannot make the sandbox's memory file", fd.error().code());
  const Result<void> sized = host::Truncate(fd->get(), kFileSize);
  if (!sized) return HostFail("cannot size the sandbox's memory file", sized.error().code());
  return std::move(*fd);
}

// Calls step(run) for the parts of `offsets` that have pages, until it says false. SEEK_HOLE would
// look at all that follows, however long; neighbours may come as several runs.
template <class Step>
void ForEachRun(int fd, const std::byte* window, Range offsets, Step step) {
  std::array<std::byte, 512> resident;
  for (uint64_t at = offsets.start; at < offsets.end;) {
    const Result<int64_t> data = host::Call(SYS_lseek, fd, at, SEEK_DATA);
    if (!data || static_cast<uint64_t>(*data) >= offsets.end) return;
    at = static_cast<uint64_t>(*data);
    const size_t pages = std::min(resident.size(), (offsets.end - at) / kPageSize);
    CHECK(host::Call(SYS_mincore, window + at, pages * kPageSize, resident.data()));
    const auto present = [&](size_t i) { return (resident[i] & std::byte{1}) != std::byte{0}; };
    for (size_t i = 0; i < pages;) {
      size_t next = i;
      while (next < pages && present(next)) ++next;
      if (next > i && !step(Range{at + i * kPageSize, at + next * kPageSize})) return;
      i = next + 1;
    }
    at += pages * kPageSize;
  }
}

// Whether the host puts more than was touched into an empty file.
bool GivesHugePages(int fd, std::byte* window) {
  if (ZeroTolerant(window, 1) != 1) return false;
  const Result<struct stat> status = host::Stat(fd);
  (void)host::Fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, kHugeAlignment);
  return status && static_cast<uint64_t>(status->st_blocks) * 512 >= kHugeAlignment;
}

}  // namespace

// -- Extent --

// Pages without a use are punched or kept already. The host looks through the page tables of all
// that it is to punch: only small gaps between uses go along.
Extent::~Extent() {
  MutexLock lock(mutex_);
  if (!counts_uses_) file_->Punch(offsets_);
  Range used;
  for (auto it = uses_.begin(); it != uses_.end(); ++it) {
    if (it->second == 0) continue;
    if (used.empty() || it->first - used.end > kPunchedGap) {
      if (!used.empty()) LetGo(used);
      used.start = it->first;
    }
    used.end = std::next(it)->first;
  }
  if (!used.empty()) LetGo(used);
  file_->Free(*this);
}

// The last use is gone. Pages of a home are kept, because the same addresses will ask for them
// again; others are punched.
void Extent::LetGo(Range pages) {
  if (home_) {
    file_->Keep(pages);
  } else {
    file_->Punch(pages);
  }
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

bool Extent::TryUse(Range pages, Contents contents, std::vector<Range>* present) {
  DCHECK(offsets_.Contains(pages) && !pages.empty());
  std::vector<Range> kept;
  {
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
    if (home_) file_->TakeKept(pages, kept);
  }
  // From here on they are ours, and nobody can see them.
  if (contents == Contents::kZeros) {
    for (const Range run : kept) file_->Zero(run);
  }
  if (present != nullptr) *present = std::move(kept);
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
    // Under the lock: TryUse must not hand out a page that is yet to be punched or kept.
    if (!unused.empty()) LetGo(unused);
    unused = it->second == 0 ? run : Range{run.end, run.end};
  }
  if (!unused.empty()) LetGo(unused);
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
  bool huge_pages = false;  // the host gives them
  Mutex mutex{LockRank::kMemoryFile};
  ExtentAllocator offsets GUARDED_BY(mutex){kFileSize};
  // Offsets of pages that nobody uses and that hold what their last user wrote. They leave the set
  // under the Mutex when they are taken or punched, so no page is ever both.
  RangeSet kept GUARDED_BY(mutex);
  std::atomic<uint64_t> kept_bytes{0};  // kept.total()
  struct KeptHome {
    Range offsets;
    HomePlace place;
  };
  std::deque<KeptHome> kept_homes GUARDED_BY(mutex);  // of no Extent, the last freed at the end
  // Offsets that the host was seen to have pages for. It keeps them until they are punched, so that
  // they are looked at once, however often resident memory is asked for. (What it swaps out counts
  // on.)
  RangeSet resident GUARDED_BY(mutex);
  uint64_t punches GUARDED_BY(mutex) = 0;

  // Pages are kept for as long as some come and go.
  std::unique_ptr<sched::Timer> idle_timer;
  const sched::Clock* clock = nullptr;
  std::atomic<bool> idle_timer_armed{false};
  std::atomic<uint64_t> keeps{0};
  uint64_t keeps_seen = 0;  // the timer's

  void ArmIdleTimer(const sched::Clock& now, uint64_t delay_ns);
  void CountKept() REQUIRES(mutex) { kept_bytes.store(kept.total(), std::memory_order_relaxed); }
  void GiveToHost(Range range) const;
  void Punch(Range range);
  void PunchLocked(Range range) REQUIRES(mutex);
  void NotePunched(Range range) REQUIRES(mutex);
  void NoteResident(const std::vector<Range>& runs, uint64_t punches_then);
  void PunchKept(Range range, uint64_t most) REQUIRES(mutex);
  void ForgetHome() REQUIRES(mutex);
};

void MemoryFile::State::GiveToHost(Range range) const {
  // The pages must read as zeros when they are used again: nothing can go on if the host says no.
  CHECK(host::Fallocate(arena::HostTable::Get().Get(fd), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                        range.start, range.size()));
}

void MemoryFile::State::NotePunched(Range range) {
  resident.Remove(range);
  ++punches;
}

void MemoryFile::State::PunchLocked(Range range) {
  GiveToHost(range);
  NotePunched(range);
}

// A thread that looked at these pages before the punch must not count them: it sees `punches`.
void MemoryFile::State::Punch(Range range) {
  GiveToHost(range);
  MutexLock lock(mutex);
  NotePunched(range);
}

void MemoryFile::State::NoteResident(const std::vector<Range>& runs, uint64_t punches_then) {
  MutexLock lock(mutex);
  if (punches != punches_then) return;
  for (const Range run : runs) {
    const size_t known = resident.runs();
    if (known >= kMaxResidentRuns) return;
    if (known < kFewResidentRuns || run.size() >= kLongResidentRun) resident.Add(run);
  }
}

// Gives back what is kept in `range`, `most` bytes at most.
void MemoryFile::State::PunchKept(Range range, uint64_t most) {
  while (most != 0) {
    Range run = kept.NextFrom(range.start);
    if (run.empty() || run.start >= range.end) break;
    run.end = std::min({run.end, range.end, run.start + most});
    PunchLocked(run);
    most -= kept.Remove(run);
  }
  CountKept();
}

// The oldest of the kept homes goes, with what is kept in it.
void MemoryFile::State::ForgetHome() {
  const Range home = kept_homes.front().offsets;
  kept_homes.pop_front();
  PunchKept(home, kHomeSize);
  offsets.Free(home);
}

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
    state->huge_pages = GivesHugePages(fd.get(), static_cast<std::byte*>(*window));
    state->fd = arena::HostTable::Get().Add(std::move(fd));
    arena::HostTable::Get().LendWindow(state->fd, static_cast<std::byte*>(*window), kFileSize);
    return std::unique_ptr<MemoryFile>(new MemoryFile(std::move(state)));
  }
  return HostFail("cannot map the sandbox's memory file", error);
}

MemoryFile::~MemoryFile() {
  GiveBackKept();
  {
    MutexLock lock(state_->mutex);
    CHECK(state_->offsets.free_bytes() == kFileSize);
  }
  (void)host::Munmap(reinterpret_cast<void*>(state_->window), kFileSize);
  const arena::HostHeapScope host;
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
  arena::HostTable::Get().LendWindow(state_->fd, static_cast<std::byte*>(*window), kFileSize);
  MutexLock lock(state_->mutex);
  state_->NotePunched({0, kFileSize});
  return {};
}

HostResult<OwnedFd> MemoryFile::MakeHostFile() { return MakeMemfd(); }

HostResult<std::vector<Range>> MemoryFile::DataRanges() const {
  const int fd = arena::HostTable::Get().Get(state_->fd);
  std::vector<Range> ranges;
  for (uint64_t at = 0;;) {
    const Result<int64_t> data = host::Call(SYS_lseek, fd, at, SEEK_DATA);
    if (!data && data.error() == Errno(ENXIO)) return ranges;
    if (!data) return HostFail("cannot look for guest pages", data.error().code());
    const Result<int64_t> hole = host::Call(SYS_lseek, fd, *data, SEEK_HOLE);
    if (!hole) return HostFail("cannot look for guest pages", hole.error().code());
    at = static_cast<uint64_t>(*hole);
    ranges.push_back({static_cast<uint64_t>(*data), at});
  }
}

platform::HostFileId MemoryFile::id() const { return arena::HostTable::FileIdOf(state_->fd); }

Result<Ref<Extent>> MemoryFile::Allocate(uint64_t size, uint64_t address) {
  if (size == 0 || size > kFileSize) return Fail(ENOMEM);
  size = PageCeil(size);
  const uint64_t alignment = size >= kHugeAlignment ? kHugeAlignment : kPageSize;
  MutexLock lock(state_->mutex);
  const Range offsets = TRY(state_->offsets.Allocate(size, alignment, address % alignment));
  return Ref<Extent>(new Extent(*this, offsets));
}

Result<MemoryFile::Home> MemoryFile::TakeHome(Range first) {
  const uint64_t window = first.start / kHomeSize;
  const uint64_t within = first.start % kHomeSize;
  // Huge pages must lie in the home as they do in the window.
  const uint64_t turns = state_->huge_pages ? kHugeAlignment : kPageSize;
  HomePlace place{window, 0, within, first.size()};
  std::optional<Range> kept;
  {
    MutexLock lock(state_->mutex);
    std::deque<State::KeptHome>& homes = state_->kept_homes;
    auto found = std::find_if(homes.rbegin(), homes.rend(), [&](const State::KeptHome& home) {
      return home.place.window == window;
    });
    if (found == homes.rend()) {
      found = std::find_if(homes.rbegin(), homes.rend(), [&](const State::KeptHome& home) {
        return home.place.first_size == first.size() && (home.place.first - within) % turns == 0;
      });
    }
    if (found != homes.rend()) {
      kept = found->offsets;
      place.skew = found->place.window == window ? found->place.skew
                                                 : (found->place.first - within) % kHomeSize;
      place.first = (within + place.skew) % kHomeSize;
      homes.erase(std::next(found).base());
    }
  }
  Ref<Extent> extent;
  if (kept) {
    extent = Ref<Extent>(new Extent(*this, *kept));
  } else {
    extent = TRY(Allocate(kHomeSize));
  }
  extent->home_ = true;
  extent->place_ = place;
  return Home{std::move(extent), place.skew};
}

void MemoryFile::Free(const Extent& extent) {
  const Range offsets = extent.offsets_;
  MutexLock lock(state_->mutex);
  const Range kept = state_->kept.NextFrom(offsets.start);
  if (kept.empty() || kept.start >= offsets.end) {
    state_->offsets.Free(offsets);
    return;
  }
  state_->kept_homes.push_back({offsets, extent.place_});
  if (state_->kept_homes.size() > kMaxKeptHomes) state_->ForgetHome();
}

// -- kept pages --

// Nobody uses `pages`, and no guest has them mapped.
void MemoryFile::Keep(Range pages) {
  const uint64_t most = PageFloor(std::min(kMaxKept, limit_.KeepAtMost(pages.size())));
  std::vector<Range> runs;
  uint64_t bytes = 0;
  uint64_t end = pages.start;
  ForEachRun(arena::HostTable::Get().Get(state_->fd), Window(0), pages, [&](Range run) {
    if (runs.size() == kMaxRuns || bytes == most) return false;
    run.end = std::min(run.end, run.start + (most - bytes));
    runs.push_back(run);
    bytes += run.size();
    end = run.end;
    return true;
  });
  if ((runs.size() == kMaxRuns || bytes == most) && end != pages.end) {
    const Range rest{end, pages.end};
    {
      MutexLock lock(state_->mutex);
      state_->kept.Remove(rest);  // a gap between what was in use
      state_->CountKept();
    }
    Punch(rest);
  }
  if (runs.empty()) return;
  {
    MutexLock lock(state_->mutex);
    for (const Range run : runs) state_->kept.Add(run);
    state_->CountKept();
  }
  GiveBackKept(most);
  state_->keeps.fetch_add(1, std::memory_order_relaxed);
  if (state_->idle_timer) state_->ArmIdleTimer(*state_->clock, kIdleNs);
}

// What is kept of `pages`, which somebody uses now.
void MemoryFile::TakeKept(Range pages, std::vector<Range>& taken) {
  MutexLock lock(state_->mutex);
  for (Range run = state_->kept.NextFrom(pages.start); !run.empty() && run.start < pages.end;
       run = state_->kept.NextFrom(run.end)) {
    taken.push_back(run.Intersect(pages));
  }
  if (taken.empty()) return;
  state_->kept.Remove(pages);
  state_->CountKept();
}

// Pages that are there become zeros where they are.
void MemoryFile::Zero(Range pages) {
  std::byte* const window = Window(pages.start);
  // The window may not have them mapped yet, which costs fewer faults in this way.
  if (pages.size() > kPageSize) {
    (void)host::Call(SYS_madvise, window, pages.size(), MADV_POPULATE_READ);
  }
  if (ZeroTolerant(window, pages.size()) != pages.size()) Punch(pages);
}

uint64_t MemoryFile::KeptBytes() const {
  return state_->kept_bytes.load(std::memory_order_relaxed);
}

void MemoryFile::GiveBackKept(uint64_t most) {
  most = PageFloor(most);
  while (KeptBytes() > most) {
    MutexLock lock(state_->mutex);
    if (state_->kept.total() <= most) return;
    const uint64_t bytes = std::min(state_->kept.total() - most, kGiveBackStep);
    if (state_->kept_homes.empty()) {
      state_->PunchKept({0, kFileSize}, bytes);
      continue;
    }
    const Range oldest = state_->kept_homes.front().offsets;
    state_->PunchKept(oldest, bytes);
    if (state_->kept.CountIn(oldest) == 0) state_->ForgetHome();
  }
}

void MemoryFile::GiveBackWhenIdle(sched::Scheduler& scheduler) {
  const sched::Clock& clock = scheduler.clock();
  state_->idle_timer = std::make_unique<sched::Timer>(scheduler, [this, &clock] {
    const uint64_t keeps = state_->keeps.load();
    const bool idle = keeps == state_->keeps_seen;
    state_->keeps_seen = keeps;
    const uint64_t kept = KeptBytes();
    if (idle) GiveBackKept(kept - std::min(kept, kGiveBackStep));
    state_->idle_timer_armed = false;
    if (KeptBytes() != 0) state_->ArmIdleTimer(clock, idle ? kGiveBackPauseNs : kIdleNs);
  });
  state_->clock = &clock;
}

void MemoryFile::State::ArmIdleTimer(const sched::Clock& now, uint64_t delay_ns) {
  if (!idle_timer_armed.exchange(true)) idle_timer->Arm(now.MonotonicNs() + delay_ns);
}

std::byte* MemoryFile::Window(uint64_t offset) const {
  return reinterpret_cast<std::byte*>(state_->window + offset);
}

uint64_t MemoryFile::NextInode() {
  return state_->next_inode.fetch_add(1, std::memory_order_relaxed);
}

void MemoryFile::Punch(Range offsets) { state_->Punch(offsets); }

uint64_t MemoryFile::UsedBytes() const {
  const uint64_t kept = KeptBytes();
  const Result<struct stat> status = host::Stat(arena::HostTable::Get().Get(state_->fd));
  const uint64_t bytes = status ? static_cast<uint64_t>(status->st_blocks) * 512 : 0;
  return bytes - std::min(bytes, kept);
}

std::vector<Range> MemoryFile::ResidentRuns(Range offsets) const {
  std::vector<Range> runs;
  ForEachRun(arena::HostTable::Get().Get(state_->fd), Window(0), offsets, [&](Range run) {
    runs.push_back(run);
    return true;
  });
  return runs;
}

// A page that was swapped out is one that the host has, but mincore(2) does not say so: only
// SEEK_DATA tells a hole.
MemoryFile::Run MemoryFile::RunAt(Range offsets) const {
  const uint64_t page = PageFloor(offsets.start);
  const Result<int64_t> data =
      host::Call(SYS_lseek, static_cast<uint64_t>(arena::HostTable::Get().Get(state_->fd)), page,
                 static_cast<uint64_t>(SEEK_DATA));
  const uint64_t next = data ? static_cast<uint64_t>(*data) : offsets.end;
  if (next > page) return {{offsets.start, std::min(next, offsets.end)}, true};
  std::array<std::byte, 64> resident;
  const size_t pages = std::min(resident.size(), (PageCeil(offsets.end) - page) / kPageSize);
  CHECK(host::Call(SYS_mincore, reinterpret_cast<uint64_t>(Window(page)), pages * kPageSize,
                   reinterpret_cast<uint64_t>(resident.data())));
  size_t n = 1;
  while (n < pages && (resident[n] & std::byte{1}) != std::byte{0}) ++n;
  return {{offsets.start, std::min(page + n * kPageSize, offsets.end)}, false};
}

size_t MemoryFile::CopyPresent(Range offsets, std::byte* to) const {
  for (uint64_t at = offsets.start; at < offsets.end;) {
    std::byte* const part = to + (at - offsets.start);
    const Run run = RunAt({at, offsets.end});
    const size_t wanted = run.offsets.size();
    const size_t n = run.hole ? ZeroTolerant(part, wanted) : CopyTolerant(part, Window(at), wanted);
    at += n;
    if (n != wanted) return at - offsets.start;
  }
  return offsets.size();
}

uint64_t MemoryFile::ResidentBytes(Range offsets) const {
  uint64_t bytes = 0;
  for (uint64_t at = offsets.start; at < offsets.end;) {
    Range known;
    uint64_t punches = 0;
    {
      MutexLock lock(state_->mutex);
      known = state_->resident.NextFrom(at).Intersect(offsets);
      punches = state_->punches;
    }
    const Range unknown{at, known.empty() ? offsets.end : known.start};
    if (!unknown.empty()) {
      std::vector<Range> found;
      ForEachRun(arena::HostTable::Get().Get(state_->fd), Window(0), unknown, [&](Range run) {
        bytes += run.size();
        if (found.size() < kMaxRunsFound) found.push_back(run);
        return true;
      });
      if (!found.empty()) state_->NoteResident(found, punches);
    }
    bytes += known.size(), at = known.empty() ? offsets.end : known.end;
  }
  return bytes;
}

}  // namespace skep::mm
