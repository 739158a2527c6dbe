// For mm/'s unit tests: guests whose loads and stores are function calls, which look at what the
// fake engine has mapped.
#pragma once

#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>
#include <cstring>
#include <map>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "base/check.h"
#include "base/host_call.h"
#include "platform/fake/fake_engine.h"
#include "sentry/mm/file_pages.h"
#include "sentry/mm/memory_manager.h"

namespace skep::mm {

using platform::fake::FakeEngine;
using platform::fake::FakeSpace;

inline FakeSpace& SpaceOf(const MemoryManager& mm) {
  return *static_cast<FakeSpace*>(arena::HostTable::Get().Get(mm.space()));
}

// What the host has mapped in one page.
struct HostPage {
  platform::HostFileId file;
  uint64_t offset;
  int prot;
  bool operator==(const HostPage&) const = default;
};
inline std::optional<HostPage> HostPageAt(const FakeSpace& space, uint64_t address) {
  auto next = space.mappings().upper_bound(address);
  if (next == space.mappings().begin()) return std::nullopt;
  const auto& [start, mapping] = *std::prev(next);
  if (address - start >= mapping.size) return std::nullopt;
  return HostPage{mapping.file, mapping.offset + PageFloor(address) - start, mapping.prot};
}
inline std::optional<HostPage> HostPageAt(const MemoryManager& mm, uint64_t address) {
  return HostPageAt(SpaceOf(mm), address);
}

// A donated host file: here a memfd.
class HostFile final : public Mappable {
 public:
  explicit HostFile(uint64_t size) : size_(size) {
    OwnedFd fd = host::MemfdCreate("test", MFD_CLOEXEC).value();
    EXPECT_TRUE(host::Truncate(fd.get(), size));
    fd_ = arena::HostTable::Get().Add(std::move(fd));
  }
  ~HostFile() override {
    EXPECT_EQ(mappings, 0);
    const OwnedFd fd = arena::HostTable::Get().Remove(fd_);
  }
  int fd() const { return arena::HostTable::Get().Get(fd_); }
  void Put(uint64_t offset, uint64_t value) {
    EXPECT_TRUE(host::PWrite(fd(), std::as_bytes(std::span(&value, 1)), offset));
  }
  uint64_t Get(uint64_t offset) {
    uint64_t value = 0;
    EXPECT_TRUE(host::PRead(fd(), std::as_writable_bytes(std::span(&value, 1)), offset));
    return value;
  }
  void SetSize(uint64_t size) {
    size_ = size;
    EXPECT_TRUE(host::Truncate(fd(), size));
  }
  Result<Piece> Translate(Range range, bool) override {
    ++translates;
    if (range.start >= PageCeil(size_)) return Fail(ENXIO);
    const uint64_t end = std::min(range.end, PageCeil(size_));
    return Piece{arena::HostTable::FileIdOf(fd_), range.start, end - range.start, {}};
  }
  void AddMapping(MemoryManager&, Range, uint64_t) override { ++mappings; }
  void RemoveMapping(MemoryManager&, Range, uint64_t) override { --mappings; }
  MappableName NameForMaps() override { return {8, 1, 1234, "/lib/test.so"}; }

  int mappings = 0;
  int translates = 0;

 private:
  uint64_t size_;
  arena::HostFd fd_;
};

// What a guest's access ended in: 0, or the signal (code in `code`).
struct AccessEnd {
  int signo = 0;
  int code = 0;
  int faults = 0;
};

// One load or store of a word by a guest of `mm`, which must be active. `sure`: the engine says
// whether it was a write.
inline AccessEnd Access(MemoryManager& mm, uint64_t address, uint64_t& value, bool write,
                        bool sure = true, const MemoryLimits& limits = {}) {
  AccessEnd end;
  for (; end.faults < 200; ++end.faults) {
    const auto page = HostPageAt(mm, address);
    const int need = write ? PROT_WRITE : PROT_READ | PROT_WRITE | PROT_EXEC;
    if (page && (page->prot & need) != 0) {
      const int fd = arena::HostTable::Get().DescriptorOf(page->file).value();
      const uint64_t offset = page->offset + (address & (kPageSize - 1));
      const auto size = static_cast<uint64_t>(host::Stat(fd)->st_size);
      if (page->offset < PageCeil(size)) {
        if (write) {
          EXPECT_TRUE(host::PWrite(fd, std::as_bytes(std::span(&value, 1)), offset));
        } else {
          value = 0;
          EXPECT_TRUE(host::PRead(fd, std::as_writable_bytes(std::span(&value, 1)), offset));
        }
        return end;
      }
    }
    const FaultResult r = mm.HandleFault(address,
                                         {.write = !sure   ? Did::kUnknown
                                                   : write ? Did::kYes
                                                           : Did::kNo,
                                          .fetch = sure ? Did::kNo : Did::kUnknown,
                                          .protection = page.has_value()},
                                         limits);
    if (r.outcome == FaultOutcome::kRetry) continue;
    end.signo = r.outcome == FaultOutcome::kKilled ? SIGKILL : r.signo;
    end.code = r.code;
    return end;
  }
  ADD_FAILURE() << "a fault that repeats";
  return end;
}

class MmTest : public ::testing::Test {
 protected:
  void SetUp() override {
    auto made = MemoryFile::Make();
    ASSERT_TRUE(made) << made.error().message;
    memory = std::move(*made);
  }
  void TearDown() override {
    spaces.clear();
    EXPECT_EQ(memory->UsedBytes(), 0u) << "pages leaked";
    memory->GiveBackKept();
    EXPECT_EQ(memory->UsedBytes(), 0u) << "pages that were thought to be kept";
  }
  Ref<MemoryManager> NewSpace() {
    Ref<MemoryManager> mm = MemoryManager::Make(*memory);
    EXPECT_TRUE(mm->Activate(engine));
    return mm;
  }
  uint64_t Map(MemoryManager& mm, uint64_t size, int prot = PROT_READ | PROT_WRITE,
               int flags = MAP_PRIVATE | MAP_ANONYMOUS, uint64_t address = 0,
               Ref<Mappable> file = {}, uint64_t offset = 0) {
    const Result<uint64_t> at = mm.Mmap({.address = address,
                                         .size = size,
                                         .prot = prot,
                                         .flags = flags,
                                         .file = std::move(file),
                                         .offset = offset},
                                        limits);
    EXPECT_TRUE(at) << at.error().code();
    return at.value_or(0);
  }
  int MapError(MemoryManager& mm, const MmapRequest& request) {
    const Result<uint64_t> at = mm.Mmap(request, limits);
    return at ? 0 : at.error().code();
  }
  static uint64_t Load(MemoryManager& mm, uint64_t address) {
    uint64_t value = 0;
    EXPECT_EQ(Access(mm, address, value, false).signo, 0) << std::hex << address;
    return value;
  }
  static void Store(MemoryManager& mm, uint64_t address, uint64_t value) {
    EXPECT_EQ(Access(mm, address, value, true).signo, 0) << std::hex << address;
  }
  static AccessEnd Try(MemoryManager& mm, uint64_t address, bool write, bool sure = true) {
    uint64_t value = 0x5a5a;
    return Access(mm, address, value, write, sure);
  }
  static int Code(const Result<void>& result) { return result ? 0 : result.error().code(); }
  template <class T>
  static int Code(const Result<T>& result) {
    return result ? 0 : result.error().code();
  }

  std::unique_ptr<MemoryFile> memory;
  FakeEngine engine;
  MemoryLimits limits;
  std::vector<Ref<MemoryManager>> spaces;
};

}  // namespace skep::mm
