// Host resources by number: what kernel objects hold instead of descriptors and engine objects.
//
// A HostRef<T> is plain words and may live in the arena; the resource itself lives in malloc's heap.
// After a restore every entry is empty: whoever owns the reference re-creates the resource (an
// address space from its VMAs, a context from its saved registers, a file through the gofer) and
// installs it under the same number.
#pragma once

#include <cstdint>
#include <memory>

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

  // Frees the number and gives the resource to the caller (who destroys it under HostScope).
  OwnedFd Remove(HostFd ref);
  std::unique_ptr<platform::Context> Remove(HostContext ref);
  std::unique_ptr<platform::AddressSpace> Remove(HostAddressSpace ref);

  // A mappable file is named by the number of its descriptor.
  static platform::HostFileId FileIdOf(HostFd ref) { return platform::HostFileId{ref.index()}; }
  Result<int> DescriptorOf(platform::HostFileId file) override;

  // For checkpoint and restore: the numbers in use travel in the image.
  struct Numbers;
  uint32_t HighestNumber() const;
};

}  // namespace skep::arena
