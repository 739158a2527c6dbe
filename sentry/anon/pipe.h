// Pipes: a ring of pages between writers and readers; what pipe2(2) makes and what a FIFO's inode
// leads to (Linux: fs/pipe.c).
//
// `lock_` (a SleepLock, Linux: pipe->mutex) is held over copies of guest memory; what poll looks at
// is atomic. Readers and writers share one wait queue and are told apart by their event masks.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <memory>
#include <vector>

#include "base/limits.h"
#include "sentry/sched/sleep_lock.h"
#include "sentry/vfs/file.h"
#include "sentry/vfs/mount.h"

namespace skep::anon {

inline constexpr uint32_t kDefaultPipeSlots = 16;            // Linux: PIPE_DEF_BUFFERS
inline constexpr uint64_t kMaxPipeSize = uint64_t{1} << 20;  // /proc/sys/fs/pipe-max-size
inline constexpr uint64_t kHardMaxPipeSize = uint64_t{1} << 31;

class Pipe final : public RefCountedAny {
 public:
  Pipe() : slots_(kDefaultPipeSlots) {}

  Result<size_t> Read(mm::IoSequence& to);
  // EPIPE (the caller raises SIGPIPE); `packet`: O_DIRECT.
  Result<size_t> Write(mm::IoSequence& from, bool packet);

  uint32_t readers() const { return readers_.load(); }
  uint32_t writers() const { return writers_.load(); }
  bool Empty() const { return used_slots_.load() == 0; }
  bool Full() const { return used_slots_.load() >= slot_count_.load(); }
  uint64_t ByteCount() const { return bytes_.load(); }

  uint64_t Capacity() const { return uint64_t{slot_count_.load()} * kPageSize; }
  // F_SETPIPE_SZ: the new capacity. EPERM over kMaxPipeSize unless `privileged`; EBUSY; EINVAL.
  Result<uint64_t> SetCapacity(uint64_t size, bool privileged);

  sched::WaitQueue& waiters() { return waiters_; }
  void NotePolled() { polled_.store(true, std::memory_order_relaxed); }

  // Ends come and go. The counters tell an opener that waits for its peer that one has been there.
  void AddReader();
  void AddWriter();
  void DropEnds(bool reader, bool writer);
  uint32_t reader_count_ever() const { return reader_count_ever_.load(); }
  uint32_t writer_count_ever() const { return writer_count_ever_.load(); }

 private:
  using Page = std::array<std::byte, kPageSize>;
  struct Slot {
    std::unique_ptr<Page> page;
    uint32_t offset = 0, length = 0;
    bool packet = false;
  };
  struct Progress {
    size_t bytes = 0;
    int error = 0;
  };

  Slot& At(uint32_t i) REQUIRES(lock_) {
    return slots_[i & (static_cast<uint32_t>(slots_.size()) - 1)];
  }
  std::unique_ptr<Page> TakePage() REQUIRES(lock_);
  void GivePage(std::unique_ptr<Page> page) REQUIRES(lock_);
  bool Merge(mm::IoSequence& from, Progress& progress) REQUIRES(lock_);
  void Append(mm::IoSequence& from, bool packet, Progress& progress) REQUIRES(lock_);
  void Consume(mm::IoSequence& to, Progress& progress, bool& was_full) REQUIRES(lock_);
  std::vector<std::unique_ptr<Page>> TakeAll();

  sched::SleepLock lock_{LockRank::kInodeIo};
  std::vector<Slot> slots_ GUARDED_BY(lock_);  // a power of two of them
  uint32_t head_ GUARDED_BY(lock_) = 0, tail_ GUARDED_BY(lock_) = 0;
  std::array<std::unique_ptr<Page>, 2> spare_ GUARDED_BY(lock_);

  // Written under lock_ (ends: under ends_mutex_), read by anybody.
  std::atomic<uint32_t> used_slots_{0}, slot_count_{kDefaultPipeSlots};
  std::atomic<uint64_t> bytes_{0};
  // tidy: allow(guards) makes the counts below change together with the ends' being told
  Mutex ends_mutex_{LockRank::kFile};
  std::atomic<uint32_t> readers_{0}, writers_{0};
  std::atomic<uint32_t> reader_count_ever_{0}, writer_count_ever_{0};
  std::atomic<bool> polled_{false};
  sched::WaitQueue waiters_;
};

// One open end (or, of a FIFO opened O_RDWR, both).
class PipeFile final : public vfs::File {
 public:
  // Counts itself in; see MakePipe and OpenFifo.
  PipeFile(Ref<Pipe> pipe, vfs::Path path, uint32_t flags);
  ~PipeFile() override;

  bool seekable() const override { return false; }
  Result<size_t> Read(vfs::Caller& caller, mm::IoSequence& to, uint64_t offset) override;
  Result<size_t> Write(vfs::Caller& caller, mm::IoSequence& from, uint64_t* offset) override;
  Result<uint64_t> Ioctl(vfs::Caller& caller, uint64_t command, uint64_t argument) override;
  vfs::EventMask Poll(vfs::EventMask wanted) override;
  sched::WaitQueue* Waiters() override { return &pipe_->waiters(); }
  Pipe& pipe() { return *pipe_; }

 private:
  const Ref<Pipe> pipe_;
  // For a reader that was opened without a writer: how many writers there had been. It sees no
  // hang-up until another one comes (Linux: f_version).
  uint32_t writers_seen_;
  friend Result<Ref<vfs::File>> OpenFifo(Ref<Pipe>, vfs::Path, uint32_t);
};

struct PipeEnds {
  Ref<vfs::File> reader, writer;
};
// pipe2(2): flags O_NONBLOCK and O_DIRECT. `path` names both ends ("pipe:[n]").
PipeEnds MakePipe(const vfs::Path& path, uint32_t flags);

// open(2) of a FIFO, or of a pipe through /proc/<pid>/fd (then both ends are there already):
// suspends the fiber until the other end is open. ENXIO; kRestartSys.
Result<Ref<vfs::File>> OpenFifo(Ref<Pipe> pipe, vfs::Path path, uint32_t flags);
// The pipe behind a FIFO's inode, made at its first open.
Ref<Pipe> PipeOf(vfs::Inode& inode);

}  // namespace skep::anon
