// Memory files: where guest pages live (DESIGN.md 5).
//
// One writable memfd per sandbox (and any number of frozen, read-only bases after a restore or a
// fork), each mapped whole in the sentry. A page is named (file, offset) everywhere. The offset
// space is free, the pages are not: extents are contiguous runs of offsets, zero-filled by the host
// at first touch, punched or cached when freed.
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

namespace skep::mm {

class MemoryFile;

// A contiguous run of offsets of a memory file, shared by count. The pages go back when the last
// Ref does.
//
// Private guest memory also counts uses page by page: how many address spaces have a page. A page
// that nobody uses is punched and reads as zeros when it is used again; one that is used once may
// be written in place. (Files that own their extents, such as FilePages, do not count uses.)
class Extent final : public RefCounted<Extent> {
 public:
  MemoryFile& file() const { return *file_; }
  Range offsets() const { return offsets_; }
  uint64_t size() const { return offsets_.size(); }
  ~Extent();

  // One use of each page of `pages`, if none of them has one. Their contents are zeros.
  bool TryUse(Range pages);
  void AddUse(Range pages);
  // Pages whose last use this was are punched: no guest may have them mapped any more.
  void DropUse(Range pages);
  bool UsedOnce(Range pages);  // every page of `pages` has exactly one use

 private:
  friend class MemoryFile;
  using Uses = std::map<uint64_t, uint32_t>;  // offset -> count, up to the next key; before: 0
  Extent(MemoryFile& file, Range offsets) : file_(&file), offsets_(offsets) {}
  Uses::iterator SplitUses(uint64_t offset) REQUIRES(mutex_);
  void MergeUses(Range pages) REQUIRES(mutex_);

  MemoryFile* file_;
  Range offsets_;
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
  Result<Ref<Extent>> Allocate(uint64_t size);
  // The sentry's view of it. Touching it may fault (memory limit): only through the fault-tolerant
  // copies of sentry/mm/copy.h.
  std::byte* Window(uint64_t offset) const;
  // A number no other file in this memory has: inodes of shared anonymous mappings.
  uint64_t NextInode();
  // Gives pages back to the host; they read as zeros again.
  void Punch(Range offsets);
  uint64_t UsedBytes() const;  // resident pages, as the host counts them
  // How much of it there may be: none unless it is set.
  MemoryLimit& limit() { return limit_; }
  // Resident bytes of a part of it, as the host counts them.
  uint64_t ResidentBytes(Range offsets) const;

 private:
  friend class Extent;
  struct State;
  explicit MemoryFile(std::unique_ptr<State> state);
  void Free(Range offsets);  // which hold no pages any more
  std::unique_ptr<State> state_;
  MemoryLimit limit_{*this};
};

}  // namespace skep::mm
