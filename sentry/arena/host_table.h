// Host resources by number: what kernel objects hold instead of descriptors and engine objects.
//
// A HostRef<T> is plain words and may live in the arena; the resource itself lives in malloc's
// heap. After a restore every entry is empty: whoever owns the reference re-creates the resource
// (an address space from its VMAs, a context from its saved registers, a file through the gofer)
// and installs it under the same number.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <memory>

#include "base/mutex.h"
#include "base/owned_fd.h"
#include "base/result.h"
#include "platform/platform.h"

namespace skep::arena {

template <class T>
class HostRef {
 public:
  constexpr HostRef() = default;
  explicit constexpr HostRef(uint32_t index) : index_(index) {}
  constexpr explicit operator bool() const { return index_ != 0; }
  constexpr uint32_t index() const { return index_; }
  friend constexpr bool operator==(HostRef, HostRef) = default;

 private:
  uint32_t index_ = 0;  // 0: none
};

using HostFd = HostRef<OwnedFd>;
using HostContext = HostRef<platform::Context>;
using HostAddressSpace = HostRef<platform::AddressSpace>;

// The table of one sandbox; thread-safe. There is one per process (host state, not in the arena):
// the numbers survive a checkpoint, the resources do not.
class HostTable final : public platform::HostFiles {
 public:
  static HostTable& Get();  // the process's table

  HostFd Add(OwnedFd fd);
  HostContext Add(std::unique_ptr<platform::Context> context);
  HostAddressSpace Add(std::unique_ptr<platform::AddressSpace> space);
  // Puts a re-created resource under the number it had before the checkpoint.
  void Restore(HostFd ref, OwnedFd fd);
  void Restore(HostContext ref, std::unique_ptr<platform::Context> context);
  void Restore(HostAddressSpace ref, std::unique_ptr<platform::AddressSpace> space);

  // The resource, or -1 / nullptr if it is empty (after a restore) or was removed.
  int Get(HostFd ref) const;
  platform::Context* Get(HostContext ref) const;
  platform::AddressSpace* Get(HostAddressSpace ref) const;

  // Frees the number and gives the resource to the caller (who destroys it under HostHeapScope).
  OwnedFd Remove(HostFd ref);
  std::unique_ptr<platform::Context> Remove(HostContext ref);
  std::unique_ptr<platform::AddressSpace> Remove(HostAddressSpace ref);

  // A mappable file is named by the number of its descriptor.
  static platform::HostFileId FileIdOf(HostFd ref) { return platform::HostFileId{ref.index()}; }
  Result<int> DescriptorOf(platform::HostFileId file) override;
  // The file's bytes from `offset`, mapped in this process to be read: a reader must expect SIGBUS,
  // as the file may shrink. Made at first use and valid while the caller keeps the number in use.
  // nullptr: not (all) mapped; read the descriptor instead.
  const std::byte* Window(platform::HostFileId file, uint64_t offset, size_t size) override;
  // The owner of the file has it mapped: Window gives that. The owner unmaps it after Remove.
  void LendWindow(HostFd file, std::byte* window, uint64_t size);

  // For checkpoint and restore. The highest number travels in the image (kept by whoever writes
  // it); in the new process ResetNumbers(highest) keeps Add from handing out numbers that are
  // referred to, and FinishRestore frees those that nobody restored.
  uint32_t HighestNumber() const;
  void ResetNumbers(uint32_t highest);
  void FinishRestore();

 private:
  enum class Kind : uint8_t { kFree, kReserved, kFd, kContext, kAddressSpace };
  struct Entry {
    std::atomic<uint64_t> value{0};  // descriptor + 1, or a pointer; 0: empty
    Kind kind = Kind::kFree;
    uint32_t next_free = 0;
    uint64_t window_size = 0;  // set before `window`
    bool window_is_lent = false;
    std::atomic<std::byte*> window{nullptr};
  };
  static constexpr size_t kChunkEntries = 1024;
  static constexpr size_t kMaxChunks = 4096;
  // Guests choose how many files there are; the host bounds the mappings of a process.
  static constexpr size_t kMaxWindows = 1024;
  static constexpr uint64_t kMaxWindowSize = uint64_t{64} << 20;

  HostTable() = default;
  Entry* Find(uint32_t index) const;
  Entry& Slot(uint32_t index) REQUIRES(mutex_);
  uint32_t AddValue(Kind kind, uint64_t value);
  const std::byte* MakeWindow(uint32_t index);
  void RestoreValue(Kind kind, uint32_t index, uint64_t value);
  uint64_t RemoveValue(Kind kind, uint32_t index);
  uint64_t ValueOf(uint32_t index) const;

  mutable Mutex mutex_{LockRank::kHostTable};
  uint32_t highest_ GUARDED_BY(mutex_) = 0;
  uint32_t first_free_ GUARDED_BY(mutex_) = 0;
  size_t windows_ GUARDED_BY(mutex_) = 0;
  std::array<std::atomic<Entry*>, kMaxChunks> chunks_{};  // grows only; read without the lock
};

}  // namespace skep::arena
