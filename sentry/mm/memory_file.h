// Memory files: where guest pages live (DESIGN.md 5).
//
// One writable memfd per sandbox (and any number of frozen, read-only bases after a restore or a
// fork), each mapped whole in the sentry. A page is named (file, offset) everywhere. The offset
// space is free, the pages are not: extents are contiguous runs of offsets, zero-filled by the host
// at first touch, punched or cached when freed.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

#include "base/mutex.h"
#include "base/range.h"
#include "base/ref.h"
#include "platform/platform.h"
#include "sentry/arena/host_table.h"

namespace skep::mm {

class MemoryFile;

// A contiguous run of offsets of a memory file, shared by count. The pages go back when the last
// Ref does.
class Extent final : public RefCounted<Extent> {
 public:
  MemoryFile& file() const { return *file_; }
  Range offsets() const { return offsets_; }
  uint64_t size() const { return offsets_.size(); }
  ~Extent();

 private:
  friend class MemoryFile;
  Extent(MemoryFile& file, Range offsets) : file_(&file), offsets_(offsets) {}
  MemoryFile* file_;
  Range offsets_;
};

// The sandbox's writable memory. In the arena; its descriptor is in the HostTable, its window at a
// fixed address.
class MemoryFile {
 public:
  // memfd `fd` becomes this file; the window is mapped at arena::kWindowBase + slot * its size.
  static HostResult<std::unique_ptr<MemoryFile>> Make();
  // After a restore: the same offsets, contents from `image`.
  HostResult<void> Reattach(OwnedFd fd);

  platform::HostFileId id() const;
  // Zero-filled pages; size is rounded up. ENOMEM when the sandbox's memory is used up.
  Result<Ref<Extent>> Allocate(uint64_t size);
  // The sentry's view of it. Touching it may fault (memory limit): only through the fault-tolerant
  // copies of sentry/mm/copy.h.
  std::byte* Window(uint64_t offset) const;
  // Gives pages back to the host; they read as zeros again.
  void Punch(Range offsets);
  uint64_t UsedBytes() const;  // resident pages, as the host counts them

 private:
  friend class Extent;
  struct State;
  State* state_ = nullptr;
};

}  // namespace skep::mm
