// MemoryManager::State: the tree of VMAs and segments, and every change of it.
//
// Changes are made with `mmap_lock` held, and with `vmas_lock` besides while the tree itself is
// touched; so either lock is enough to read. A change collects what the host must do into a Batch,
// and Commit does it in one round trip, still under `mmap_lock`. Pages go back to the memory file
// after that: no guest has them mapped any more.
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "base/mutex.h"
#include "sentry/mm/hot_pages.h"
#include "sentry/mm/memory_manager.h"
#include "sentry/mm/range_set.h"
#include "sentry/mm/segment.h"
#include "sentry/mm/vma.h"
#include "sentry/sched/sleep_lock.h"
#include "sentry/sched/wait_queue.h"

namespace skep::mm {

// An anonymous mapping up to kEagerMax takes its pages when it is made, with one host mapping; what
// is larger (address space that nobody means to fill) takes them window by window, at faults.
inline constexpr uint64_t kEagerMax = uint64_t{64} << 30;
// Private writable file mappings are copied at once up to kCopyAtMapMax; data segments, most of
// which is written soon, up to kCopySegmentMax. A fault costs as much as copying a hundred
// kilobytes.
inline constexpr uint64_t kCopyAtMapMax = 64 << 10;
inline constexpr uint64_t kCopySegmentMax = uint64_t{4} << 20;
inline constexpr uint64_t kCopyStreakMax = 64 << 10;  // of one copy-on-write fault
inline constexpr uint64_t kCrowdedBlock = 256 << 10;  // the same, near the host's limit of mappings
inline constexpr size_t kCrowded = 40000;
inline constexpr int kMaxPieces = 64;  // of a file, mapped ahead of faults
// A longer population or transfer is done in steps of this size; others run between two.
inline constexpr uint64_t kPopulateStep = uint64_t{4} << 20;
inline constexpr size_t kTransferStep = 1 << 20;
// The host is first told to take away this much of a mapping at a time; then more or less, as long
// as each step takes it between kShortStepNs and kLongStepNs.
inline constexpr uint64_t kUnmapStep = uint64_t{16} << 20;
inline constexpr uint64_t kShortStepNs = 100'000, kLongStepNs = 400'000;
// Pages that are given back, and mappings that are removed, while nobody else runs.
inline constexpr uint64_t kPunchStep = uint64_t{16} << 20;
inline constexpr size_t kRemoveStep = 1024;

// What a change of the tree asks of the host, and what may go when the host has done it.
struct Batch {
  struct Note {  // Mappable::AddMapping or RemoveMapping
    bool add;
    Ref<Mappable> file;
    Range addresses;
    uint64_t offset;
  };
  std::vector<platform::MapOp> ops;
  std::vector<Note> notes;
  std::vector<Segment> doomed;
  struct Punched {
    Ref<Extent> extent;
    Range offsets;
  };
  std::vector<Punched> punched;  // to become zeros where they are

  void Map(const Segment& segment, int prot, bool populate);
  void Unmap(Range range);
  void Protect(Range range, int prot);
};

// What guest copies found last, so that most of them look at no tree.
struct CopyCache {
  struct Entry {
    Range addresses;
    std::byte* window = nullptr;  // of addresses.start
    bool readable = false;
    bool writable = false;
  };
  std::array<Entry, 4> entries;
  unsigned next = 0;

  void Clear() { entries = {}; }
};

struct MemoryManager::State {
  State(MemoryManager& manager, MemoryFile& file) : mm(manager), memory(file) {}

  // -- batches (state.cc) --
  bool alive() const { return bool{mm.space_} && !dead; }
  bool active() const { return alive() && !held; }
  // What Apply said: 0, or the errno. The tree is right either way: what the host could not map is
  // marked so and maps at the next fault.
  int Commit(Batch& batch);
  void Release(Batch& batch);
  void Repair(const Batch& batch, size_t done);
  void LimitPopulation(Batch& batch);
  platform::AddressSpace::Applied Apply(std::span<const platform::MapOp> ops);
  platform::AddressSpace::Applied ApplyInSteps(Batch& batch);
  platform::AddressSpace::Applied TakeAwayInSteps(Batch& batch);
  void UnmapLarge();
  void KillSpace();

  // -- the tree; under both locks (state.cc) --
  void SplitAt(uint64_t address, Batch& batch);
  VmaSet::iterator MergeAt(uint64_t address, Batch& batch);
  void MergeAround(Range range, Batch& batch);
  void Remove(Range range, Batch& batch);
  void RemoveAll(Batch& batch) EXCLUDES(vmas_lock);  // a part at a time
  void CopyHot(State& child, Batch& batch);
  void CopyHotPiece(Range piece, State& child, Batch& batch);
  void ForkVma(const Vma& vma, State& child, Batch& batch);
  void Install(const Vma& vma, std::vector<Segment>&& fresh, bool populate, Batch& batch);

  // -- pages; under mmap_lock (pages.cc) --
  struct Pages {
    Ref<Extent> extent;
    uint64_t offset;
    uint64_t size;
    std::vector<Range> present;  // offsets that the host has already
  };
  // For the start of `range`; used once.
  Result<Pages> TakePages(Range range, Contents contents);
  Result<void> MakeAnonymous(Range range, std::vector<Segment>& fresh,
                             Contents contents = Contents::kZeros);
  Result<void> MakeFile(const Vma& vma, Range range, bool write, int max_pieces,
                        std::vector<Segment>& fresh);
  Result<void> CopyPrivate(const Segment& source, Range range, std::vector<Segment>& fresh);
  // Pages for the holes of `range`, which lies in `vma`.
  Result<void> FillHoles(const Vma& vma, Range range, std::vector<Segment>& fresh);
  void GiveBack(std::vector<Segment>& fresh);
  void DetachAhead(Batch& batch, std::vector<Segment>& detached);
  void PunchZeros(Range pages, std::span<std::byte> buffer);
  int ReadPage(platform::HostFileId file, uint64_t offset, std::span<std::byte> to);

  // -- calls (map.cc, remap.cc, protect.cc, advise.cc) --
  Result<uint64_t> PickAddress(const MmapRequest& request, uint64_t size);
  Result<void> CheckLimits(const Vma& vma, uint64_t replaced, const MemoryLimits& limits);
  Result<void> CheckLocked(uint64_t more, const MemoryLimits& limits);
  Result<void> FirstPages(const Vma& vma, std::vector<Segment>& fresh,
                          uint64_t copy_max = kCopyAtMapMax);
  Result<uint64_t> MapVma(Vma vma, bool populate, Batch& batch, uint64_t copy_max = kCopyAtMapMax);
  Result<void> Unmap(Range range);
  uint64_t LockedBytes();
  Result<void> ProtectPart(VmaSet::iterator it, Range range, int prot, Batch& batch);
  struct RemapArgs {
    uint64_t old_start, old_size, new_size;
    int flags;
    uint64_t new_start;
  };
  Result<uint64_t> RemapTo(RemapArgs args, const MemoryLimits& limits);
  Result<VmaSet::iterator> Resizable(const RemapArgs& args, const MemoryLimits& limits);
  Result<uint64_t> MoveVma(const RemapArgs& args, uint64_t target);
  Result<bool> ExpandInPlace(VmaSet::iterator it, const RemapArgs& args);
  struct Hole {  // of MADV_REMOVE: made when the locks are free
    Ref<Mappable> file;
    Range range;
  };
  Result<void> AdviseRange(Range range, int advice, std::vector<Hole>& holes, Batch& batch);
  Result<void> AdvisePart(VmaSet::iterator it, Range range, int advice, Batch& batch);
  void SetFlag(Range range, bool Vma::* flag, bool value, Batch& batch);
  void DropPages(const Vma& vma, Range range, Batch& batch);
  Result<void> LockRange(Range range, bool lock, bool on_fault);
  void PopulateRange(Range range, Batch& batch);

  // -- faults; under mmap_lock (fault.cc) --
  FaultResult Fault(uint64_t address, FaultAccess access);
  VmaSet::iterator ExpandStack(uint64_t address);
  FaultResult FillFault(VmaSet::iterator it, uint64_t address);
  FaultResult WriteFault(VmaSet::iterator it, uint64_t address);
  FaultResult Copy(VmaSet::iterator it, Range range, const Segment& source);
  FaultResult UpToDate(const Vma& vma, SegmentSet::iterator segment, uint64_t address,
                       FaultAccess access);
  Range CopyRange(uint64_t address, Range within);

  // -- guest copies (access.cc) --
  // What is at an address: valid while vmas_lock is held.
  struct Found {
    enum class Kind : uint8_t { kWindow, kHostFile, kFault, kRefused } kind;
    std::byte* window = nullptr;
    size_t size = 0;
    uint64_t offset = 0;
    const Segment* segment = nullptr;
    const Vma* vma = nullptr;
  };
  struct HostPart {  // of a host file, with what keeps its descriptor
    platform::HostFileId file{};
    uint64_t offset = 0;
    size_t size = 0;
    Ref<Mappable> hold;
  };
  Found Find(uint64_t address, size_t size, bool write, bool force);
  bool Resolve(uint64_t address, bool write, bool force);
  bool QuickCopy(uint64_t address, std::byte* to, const std::byte* from, size_t size);
  Result<void> MakeRoomToTouch(size_t bytes);
  size_t CopyFound(const Found& found, std::byte* to, const std::byte* from);
  CopyResult CopyLoop(uint64_t address, std::byte* to, const std::byte* from, size_t size,
                      bool force);
  size_t HostFileCopy(const HostPart& part, std::byte* to, const std::byte* from);
  template <class Operate>
  Result<void> OnWord(uint64_t address, bool write, Operate operate);

  std::string NameOf(const Vma& vma);  // text.cc

  // -- host I/O into guest pages (transfer.cc) --
  struct Transfer;
  bool AddBlocks(Transfer& transfer, Range addresses, bool write);
  CopyResult Bounce(const HostPart& part, bool write,
                    const std::function<Result<size_t>(std::span<const iovec>)>& io);
  // Host I/O that has guest pages pinned for writing ends before a fork or a truncation goes on,
  // and none begins until that is over.
  void StopTransfers();
  void AllowTransfers();
  void BeginTransfer();
  void EndTransfer();

  // -- constant after construction --
  MemoryManager& mm;
  MemoryFile& memory;

  // tidy: allow(guards) a change of the tree takes both, a look either: no annotation says that
  sched::SleepLock mmap_lock{LockRank::kMmap};
  // tidy: allow(guards) as mmap_lock
  Mutex vmas_lock{LockRank::kVmas};

  // -- changed under both locks --
  VmaSet vmas;
  SegmentSet segments;
  uint64_t brk_start = 0, brk = 0;

  // -- under mmap_lock --
  // By address / kHomeSize. The one before the last is tried, too: after a fork, copies of pages
  // move from one to the other and back.
  struct Homes {
    MemoryFile::Home last, previous;
  };
  std::map<uint64_t, Homes> homes;
  RangeSet ahead;  // addresses that were given pages before they were touched, and perhaps more
  std::vector<Segment> stranded;  // of a dead space: until it is destroyed
  bool dead = false;
  bool held = false;  // the host is to map it all later
  bool lock_future = false, lock_future_on_fault = false;
  uint64_t mmap_top = kGuestAddressEnd - (uint64_t{256} << 20);
  // RLIMIT_STACK and RLIMIT_AS, as last heard.
  uint64_t stack_limit = 8u << 20, space_limit = ~uint64_t{0};
  uint64_t peak_virtual = 0;
  uint64_t generation = 0;  // of the host's mappings
  // Copy-on-write faults near the last one of a streak copy twice as much as that did.
  struct Streak {
    Range last;
    uint64_t next_size = kPageSize;
  };
  std::array<Streak, 4> streaks;
  unsigned next_streak = 0;
  Ref<HotPages> hot;                               // since the first fork of this program
  uint64_t idle_address = 0, idle_generation = 0;  // the last fault that found nothing to do
  int idle_count = 0;

  // -- under vmas_lock --
  CopyCache cache;
  uint64_t touched = 0;       // bytes of windows, since room for them was last made
  int transfers = 0;          // WithBlocks(write) under way
  int transfers_stopped = 0;  // forks and truncations that wait for them, or are under way
  sched::WaitQueue transfer_queue;
};

}  // namespace skep::mm
