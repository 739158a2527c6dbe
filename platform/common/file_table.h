// Which descriptor of the stubs' table stands for a HostFileId. The worker adds; any thread
// forgets, without waiting for the worker, which closes what was forgotten later.
#pragma once

#include <atomic>
#include <cstdint>
#include <optional>

#include "base/result.h"
#include "platform/platform.h"

namespace skep::platform {

class FileTable {
 public:
  FileTable() = default;
  ~FileTable();
  FileTable(const FileTable&) = delete;
  FileTable& operator=(const FileTable&) = delete;

  HostResult<void> Create();

  std::optional<int> Find(HostFileId file) const;
  // ENFILE: numbers of this size are not kept.
  Result<void> Add(HostFileId file, int stub_fd);
  // True if there was one: it will come out of TakeForgotten.
  bool Forget(HostFileId file);
  // The worker's: a descriptor to close, or nullopt.
  std::optional<int> TakeForgotten();

 private:
  static constexpr uint32_t kMaxFiles = 1 << 22;
  static constexpr uint32_t kMaxStubFds = 1 << 20;

  // Reserved address space, filled with zeroes on demand: no allocation when called on a fiber.
  std::atomic<int32_t>* stub_fd_ = nullptr;  // by file: stub descriptor + 1, or 0
  int32_t* next_forgotten_ = nullptr;        // by stub descriptor: the next in the stack
  std::atomic<int32_t> forgotten_ = -1;      // a stack that is pushed one by one and taken whole
  int32_t taken_ = -1;                       // what the worker has taken of it
};

}  // namespace skep::platform
