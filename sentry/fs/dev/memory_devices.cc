#include "sentry/fs/dev/memory_devices.h"

#include <linux/random.h>
#include <sys/epoll.h>
#include <sys/syscall.h>
#include <algorithm>
#include <vector>

#include "base/host_call.h"
#include "sentry/mm/file_pages.h"
#include "sentry/sched/fiber.h"

namespace skep::fs {
namespace {

constexpr uint32_t kNullMinor = 3, kZeroMinor = 5, kFullMinor = 7, kRandomMinor = 8,
                   kUrandomMinor = 9;
constexpr size_t kChunk = 64 << 10;
constexpr size_t kYieldEvery = 1 << 20;
// How far a mapping of /dev/zero may reach: its pages exist when touched.
constexpr uint64_t kZeroMappableSize = uint64_t{1} << 40;

class MemoryDevice : public vfs::File {
 public:
  using File::File;
  Result<size_t> Write(vfs::Caller&, mm::IoSequence& from, uint64_t*) override {
    const size_t n = from.size();
    from.DropFirst(n);
    return n;
  }
  Result<uint64_t> Seek(int64_t, int) override REQUIRES(position_lock()) {  // Linux: null_lseek
    position = 0;
    return 0;
  }
  bool stream() const override { return true; }
};

class NullFile final : public MemoryDevice {
 public:
  using MemoryDevice::MemoryDevice;
  Result<size_t> Read(vfs::Caller&, mm::IoSequence&, uint64_t) override { return 0; }
};

Result<size_t> ReadZeros(mm::IoSequence& to) {
  size_t done = 0;
  while (!to.empty()) {
    const size_t wanted = std::min(to.size(), kYieldEvery);
    const mm::CopyResult zeroed = to.ZeroOut(wanted);
    done += zeroed.bytes;
    if (zeroed.bytes < wanted) return mm::CopyResult{done, zeroed.fault}.OrFault();
    if (!to.empty()) sched::Yield();
    if (sched::Fiber::Current().interrupted()) break;
  }
  return done;
}

class ZeroFile final : public MemoryDevice {
 public:
  ZeroFile(vfs::Path path, uint32_t flags, mm::MemoryFile& memory)
      : MemoryDevice(std::move(path), flags), memory_(memory) {}
  Result<size_t> Read(vfs::Caller&, mm::IoSequence& to, uint64_t) override { return ReadZeros(to); }
  // Each mapping is of new memory, shared only with children.
  Result<Ref<mm::Mappable>> Mappable() override {
    auto pages = MakeRef<mm::FilePages>(memory_);
    TRY(pages->Truncate(kZeroMappableSize));
    return Ref<mm::Mappable>(std::move(pages));
  }

 private:
  mm::MemoryFile& memory_;
};

class FullFile final : public MemoryDevice {
 public:
  using MemoryDevice::MemoryDevice;
  Result<size_t> Read(vfs::Caller&, mm::IoSequence& to, uint64_t) override { return ReadZeros(to); }
  Result<size_t> Write(vfs::Caller&, mm::IoSequence& from, uint64_t*) override {
    if (from.empty()) return 0;
    return Fail(ENOSPC);
  }
};

class RandomFile final : public MemoryDevice {
 public:
  using MemoryDevice::MemoryDevice;
  Result<size_t> Read(vfs::Caller&, mm::IoSequence& to, uint64_t) override {
    std::vector<std::byte> buffer(std::min(to.size(), kChunk));
    size_t done = 0;
    while (!to.empty()) {
      const size_t wanted = std::min(to.size(), kChunk);
      const auto got =
          static_cast<size_t>(TRY(host::Call(SYS_getrandom, buffer.data(), wanted, 0)));
      const mm::CopyResult copied = to.CopyOut(std::span(buffer).first(got));
      done += copied.bytes;
      if (copied.bytes < got) return mm::CopyResult{done, copied.fault}.OrFault();
      if (!to.empty()) sched::Yield();
      if (sched::Fiber::Current().interrupted()) break;
    }
    return done;
  }
  Result<uint64_t> Ioctl(vfs::Caller& caller, uint64_t command, uint64_t argument) override {
    if (command != RNDGETENTCNT) return Fail(command == RNDADDTOENTCNT ? EPERM : EINVAL);
    constexpr int32_t kFull = 256;  // bits in the pool
    TRY(caller.memory().CopyOut(mm::UserPtr<int32_t>(argument), kFull));
    return 0;
  }
};

template <class T>
DeviceTable::Opener Simple() {
  return [](vfs::Caller&, const vfs::Path& path, uint32_t flags,
            uint32_t) -> Result<Ref<vfs::File>> { return Ref<vfs::File>(MakeRef<T>(path, flags)); };
}

}  // namespace

void RegisterMemoryDevices(DeviceTable& table, mm::MemoryFile& memory) {
  table.Register(S_IFCHR, kMemoryMajor, kNullMinor, 1, Simple<NullFile>());
  table.Register(S_IFCHR, kMemoryMajor, kFullMinor, 1, Simple<FullFile>());
  table.Register(S_IFCHR, kMemoryMajor, kRandomMinor, 1, Simple<RandomFile>());
  table.Register(S_IFCHR, kMemoryMajor, kUrandomMinor, 1, Simple<RandomFile>());
  table.Register(S_IFCHR, kMemoryMajor, kZeroMinor, 1,
                 [&memory](vfs::Caller&, const vfs::Path& path, uint32_t flags,
                           uint32_t) -> Result<Ref<vfs::File>> {
                   return Ref<vfs::File>(MakeRef<ZeroFile>(path, flags, memory));
                 });
}

}  // namespace skep::fs
