// Mappable: a file whose contents guests can map. Implemented by vfs/fs files.
#pragma once

#include <cstdint>
#include <string>

#include "base/range.h"
#include "base/ref.h"
#include "base/result.h"
#include "platform/platform.h"

namespace skep::mm {

class Extent;  // sentry/mm/memory_file.h
class MemoryManager;

// Where a piece of a file is: `size` bytes at `offset` of a host file or of a memory file.
struct Piece {
  platform::HostFileId file{};
  uint64_t offset = 0;
  uint64_t size = 0;
  Ref<Extent> hold;  // memory files: keeps the pages from being given away
};

// What /proc/<pid>/maps shows.
struct MappableName {
  uint32_t dev_major = 0, dev_minor = 0;
  uint64_t inode = 0;
  std::string path;
};

class Mappable : public RefCounted<Mappable> {
 public:
  virtual ~Mappable() = default;
  // The first piece of [range) of the file, page-aligned: starts at range.start, at least one page.
  // `write`: it will be mapped writable and shared (allocates holes). ENXIO: range.start is at or
  // beyond the end of the file (SIGBUS). May do I/O (suspends the fiber).
  virtual Result<Piece> Translate(Range range, bool write) = 0;
  // MAP_SHARED mappings (and private ones of pages not yet copied) that must be invalidated when
  // the file shrinks: the file calls mm.InvalidateMapping for each.
  virtual void AddMapping(MemoryManager& mm, Range addresses, uint64_t offset) = 0;
  virtual void RemoveMapping(MemoryManager& mm, Range addresses, uint64_t offset) = 0;
  virtual MappableName NameForMaps() = 0;
  // What shared futexes in it are told apart by: the same for every Mappable of one file.
  virtual const void* Identity() const { return this; }
  // madvise(MADV_REMOVE) on a shared mapping: [range) of the file becomes a hole.
  virtual Result<void> PunchHole(Range range) {
    (void)range;
    return Fail(EOPNOTSUPP);
  }
  virtual Result<void> Sync(Range range) {
    (void)range;
    return {};
  }  // msync(MS_SYNC)
};

}  // namespace skep::mm
