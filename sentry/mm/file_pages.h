// FilePages: the contents of a file that lives in memory (tmpfs, memfd, System V shm, the memory
// upper layer of an overlay, MAP_SHARED|MAP_ANONYMOUS), in extents of the sandbox's memory file.
//
// Chunks of offsets grow with the file, so that a mapping of it is few host mappings; pages become
// resident at their first touch. It is a Mappable: pass it to MemoryManager::Mmap.
//
// Locking: the caller serialises Write, Truncate, Allocate and PunchHole with each other (the
// inode's kInodeIo SleepLock); Read, size() and the seeks need no lock and see, as on Linux, either
// side of a concurrent change. No Mutex may be held: all but size() may suspend the fiber.
#pragma once

#include <atomic>
#include <cstdint>
#include <map>
#include <vector>

#include "base/mutex.h"
#include "sentry/mm/mappable.h"
#include "sentry/mm/memory_file.h"
#include "sentry/mm/range_set.h"
#include "sentry/mm/user_memory.h"

namespace skep::mm {

class FilePages : public Mappable {
 public:
  // Who pays for the pages, for example the size= of a tmpfs mount. Called with LockRank::kMappable
  // held: takes locks above that rank only. Sizes are multiples of the page size.
  class Budget {
   public:
    virtual Result<void> Charge(uint64_t bytes) = 0;  // ENOSPC
    virtual void Uncharge(uint64_t bytes) = 0;

   protected:
    ~Budget() = default;
  };

  // An empty file. `budget` (if any) outlives it.
  explicit FilePages(MemoryFile& memory, Budget* budget = nullptr);
  ~FilePages() override;

  uint64_t size() const { return size_.load(std::memory_order_acquire); }
  // Bytes of memory it takes, as st_blocks * 512.
  uint64_t BytesUsed() const;

  // Up to to.size() bytes; 0 at or beyond the end. EFAULT if nothing could be copied.
  Result<size_t> Read(uint64_t offset, IoSequence& to);
  // All of `from`; grows the file. Short, or ENOSPC, ENOMEM or EFAULT if nothing was written.
  // Limits on the size (RLIMIT_FSIZE, s_maxbytes) are the caller's.
  Result<size_t> Write(uint64_t offset, IoSequence& from);
  // ftruncate: frees what is beyond, zeroes the rest of the last page, and unmaps pages beyond from
  // every guest that has them mapped.
  Result<void> Truncate(uint64_t size);
  // fallocate: [range) takes memory (or its budget) from now on; grows the file unless keep_size.
  Result<void> Allocate(Range range, bool keep_size);
  // fallocate(FALLOC_FL_PUNCH_HOLE): [range) reads as zeros and takes no memory.
  Result<void> PunchHole(Range range) override;
  // SEEK_DATA and SEEK_HOLE: ENXIO as lseek(2) says.
  Result<uint64_t> SeekData(uint64_t offset) const;
  Result<uint64_t> SeekHole(uint64_t offset) const;

  // What /proc/<pid>/maps shows for mappings that were not given a name of their own.
  void SetName(MappableName name);
  // Whether some guest maps it MAP_SHARED and may write (F_SEAL_WRITE: EBUSY).
  bool HasWritableMapping();

  // Mappable
  Result<Piece> Translate(Range range, bool write) override;
  void AddMapping(MemoryManager& mm, Range addresses, uint64_t offset) override;
  void RemoveMapping(MemoryManager& mm, Range addresses, uint64_t offset) override;
  MappableName NameForMaps() override;

 private:
  struct Chunk {
    uint64_t end = 0;  // file offset
    Ref<Extent> extent;
  };
  struct Mapping {
    MemoryManager* mm;  // alive: it removes its mappings before it dies
    Range addresses;
    uint64_t offset;
  };
  using Chunks = std::map<uint64_t, Chunk>;  // by file offset of the start

  // The memory of the start of a range of the file.
  struct Part {
    Ref<Extent> extent;  // none: a hole
    uint64_t offset = 0;
    uint64_t size = 0;
  };
  Chunks::iterator FindChunk(uint64_t offset) REQUIRES(mutex_);
  Result<Chunks::iterator> ChunkFor(uint64_t offset) REQUIRES(mutex_);
  enum class From : bool { kGuest, kSentry };  // who will touch them first
  Result<void> Claim(Range pages, From from) REQUIRES(mutex_);
  void Uncharge(uint64_t bytes);
  void Free(Range pages) REQUIRES(mutex_);
  void FreeInSteps(Range pages) EXCLUDES(mutex_);
  Part PartAt(const Chunks::value_type& chunk, Range range) REQUIRES(mutex_);
  Part PartForRead(Range range);
  Result<Part> PartForWrite(Range range);
  void ZeroBytes(Range bytes);  // within one page
  void Unmap(Range file_range, bool private_copies);

  MemoryFile& memory_;
  Budget* const budget_;
  std::atomic<uint64_t> size_{0};
  mutable Mutex mutex_{LockRank::kMappable};
  Chunks chunks_ GUARDED_BY(mutex_);
  RangeSet data_ GUARDED_BY(mutex_);  // pages that were written, allocated or mapped writable
  bool exposed_ GUARDED_BY(mutex_) =
      false;  // some of data_ was mapped: the host knows what is there
  std::vector<Mapping> mappings_ GUARDED_BY(mutex_);
  uint64_t mappings_version_ GUARDED_BY(mutex_) = 0;
  MappableName name_ GUARDED_BY(mutex_);
};

}  // namespace skep::mm
