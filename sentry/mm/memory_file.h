// Memory files: where guest pages live (docs/design/memory.md).
//
// One writable memfd per sandbox (and any number of frozen, read-only bases after a restore or a
// fork), each mapped whole in the sentry. A page is named (file, offset) everywhere. The offset
// space is free, the pages are not: extents are contiguous runs of offsets, zero-filled by the host
// at first touch, punched or kept when freed.
//
// A page that costs the host a fault, an allocation and zeros is made once and used often: pages of
// homes that nobody uses any more are *kept*, with what was written to them, and are cleared when
// they are next taken, before any guest has them mapped. Kept pages do not count as used; there are
// kMaxKept bytes of them at most, fewer under a memory limit (memory_limit.h), none in an image.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <vector>

#include "base/mutex.h"
#include "base/range.h"
#include "base/ref.h"
#include "platform/platform.h"
#include "sentry/arena/host_table.h"
#include "sentry/mm/memory_limit.h"

namespace skep::sched {
class Scheduler;
}

namespace skep::mm {

class MemoryFile;

// What TryUse has to see to: zeros, or nothing, because all of it is written before a guest maps
// it.
enum class Contents : uint8_t { kZeros, kOverwritten };

// The pages of private memory come from the *home* of their window of addresses: an extent of
// kHomeSize in which they have the window's own order, so that neighbours are one host mapping
// however they came to be. A home may be turned by `skew` bytes: the page at address A is at
// (A + skew) % kHomeSize of it.
inline constexpr uint64_t kHomeSize = uint64_t{256} << 20;

// What a home was made for: how one that is kept is found again. A forked child uses the addresses
// of its parent; a program that is run again has other addresses, but asks for the same sizes.
struct HomePlace {
  uint64_t window = 0;  // address / kHomeSize
  uint64_t skew = 0;
  uint64_t first = 0;  // where its first pages are in the home, and how much that was
  uint64_t first_size = 0;
};

// A contiguous run of offsets of a memory file, shared by count. The pages go back when the last
// Ref does.
//
// Private guest memory also counts uses page by page: how many address spaces have a page. A page
// that nobody uses is punched or kept, and reads as zeros when it is used again; one that is used
// once may be written in place. (Files that own their extents, such as FilePages, do not count
// uses.)
class Extent final : public RefCounted<Extent> {
 public:
  MemoryFile& file() const { return *file_; }
  Range offsets() const { return offsets_; }
  uint64_t size() const { return offsets_.size(); }
  ~Extent();

  // One use of each page of `pages`, if none of them has one. `present`: those that the host has
  // already, in order.
  bool TryUse(Range pages, Contents contents = Contents::kZeros,
              std::vector<Range>* present = nullptr);
  void AddUse(Range pages);
  // Pages whose last use this was are punched or kept: no guest may have them mapped any more.
  void DropUse(Range pages);
  bool UsedOnce(Range pages);  // every page of `pages` has exactly one use

 private:
  friend class MemoryFile;
  using Uses = std::map<uint64_t, uint32_t>;  // offset -> count, up to the next key; before: 0
  Extent(MemoryFile& file, Range offsets) : file_(&file), offsets_(offsets) {}
  void LetGo(Range pages) REQUIRES(mutex_);
  Uses::iterator SplitUses(uint64_t offset) REQUIRES(mutex_);
  void MergeUses(Range pages) REQUIRES(mutex_);

  MemoryFile* file_;
  Range offsets_;
  bool home_ = false;
  HomePlace place_;  // of a home
  Mutex mutex_{LockRank::kExtents};
  Uses uses_ GUARDED_BY(mutex_);
  bool counts_uses_ GUARDED_BY(mutex_) = false;
};

// The sandbox's writable memory. In the arena; its descriptor is in the HostTable, its window at a
// fixed address.
class MemoryFile {
 public:
  // Makes the memfd and maps its window at the first free slot from arena::kWindowBase. Installs
  // the fault handler of sentry/mm/copy.h.
  static HostResult<std::unique_ptr<MemoryFile>> Make();
  ~MemoryFile();  // no extent may be left
  // Checkpoint: the offsets that have pages. Restore: an empty host file for Reattach, and the same
  // window over it; whoever has the image fills that.
  HostResult<std::vector<Range>> DataRanges() const;
  static HostResult<OwnedFd> MakeHostFile();
  HostResult<void> Reattach(OwnedFd fd);

  platform::HostFileId id() const;
  // Zero-filled pages; size is rounded up. ENOMEM when the sandbox's memory is used up.
  // `address`: where they will be mapped: an extent that could have huge pages begins at the same
  // place of one.
  Result<Ref<Extent>> Allocate(uint64_t size, uint64_t address = 0);
  // A home for the window of `first`, whose pages are taken next: one that is kept, or a new one.
  struct Home {
    Ref<Extent> extent;
    uint64_t skew = 0;
  };
  Result<Home> TakeHome(Range first);
  // The sentry's view of it. Touching it may fault (memory limit): only through the fault-tolerant
  // copies of sentry/mm/copy.h.
  std::byte* Window(uint64_t offset) const;
  // A number no other file in this memory has: inodes of shared anonymous mappings.
  uint64_t NextInode();
  // Gives pages back to the host; they read as zeros again.
  void Punch(Range offsets);
  // Resident pages, as the host counts them, but for those that are kept.
  uint64_t UsedBytes() const;
  // Pages that nobody uses. GiveBackKept punches until no more than `most` bytes are left.
  static constexpr uint64_t kMaxKept = uint64_t{80} << 20;
  uint64_t KeptBytes() const;
  void GiveBackKept(uint64_t most = 0);
  // From now on, all of them a second or two after pages were last kept.
  void GiveBackWhenIdle(sched::Scheduler& scheduler);
  // How much of it there may be: none unless it is set.
  MemoryLimit& limit() { return limit_; }
  // Parts of it that are resident: in order, neighbours perhaps apart.
  std::vector<Range> ResidentRuns(Range offsets) const;
  // The start of `offsets`: a hole, pages that the host does not have (they read as zeros), or
  // pages that it has. Bytes, not only whole pages; at least one.
  struct Run {
    Range offsets;
    bool hole = false;
  };
  Run RunAt(Range offsets) const;
  // Copies from it without making the pages that are not there: holes are zeros. `to` may be a
  // window. How much was done, as CopyTolerant.
  size_t CopyPresent(Range offsets, std::byte* to) const;
  // Resident bytes of a part of it. Each page is looked for until it was seen once: the cost is
  // that of pages that are new since, and of runs.
  uint64_t ResidentBytes(Range offsets) const;

 private:
  friend class Extent;
  struct State;
  explicit MemoryFile(std::unique_ptr<State> state);
  void Free(const Extent& extent);  // which has no pages any more but such as are kept
  void Keep(Range pages);
  void TakeKept(Range pages, std::vector<Range>& taken);
  void Zero(Range pages);
  std::unique_ptr<State> state_;
  MemoryLimit limit_{*this};
};

}  // namespace skep::mm
