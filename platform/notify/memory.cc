#include "platform/notify/memory.h"

#include <cpuid.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <algorithm>
#include <cstring>

#include "base/check.h"
#include "base/host_call.h"
#include "base/missing_defs.h"
#include "base/range.h"
#include "platform/notify/filters.h"

namespace skep::platform::notify {
namespace {

constexpr size_t kStackReserve = 512;  // below the frame: alignment
constexpr size_t kOldMinStack = 2048;  // MINSIGSTKSZ, where the host does not tell
constexpr uint32_t kInitialMxcsr = 0x1f80;
constexpr size_t kMxcsrAt = 24;
constexpr size_t kXcompBvAt = 520;  // XCOMP_BV of the XSAVE header (Intel SDM, volume 1, 13.4.2)
constexpr uint64_t kCompacted = uint64_t{1} << 63;

bool HasXsavec() {
  uint32_t features = 0, unused = 0;
  __cpuid_count(0xd, 1, features, unused, unused, unused);
  return (features & 2) != 0;
}

}  // namespace

StubMemory::~StubMemory() {
  if (base_ != nullptr) (void)host::Munmap(base_, size_);
}

HostResult<void> StubMemory::Create() {
  const size_t least = std::max<size_t>(getauxval(AT_MINSIGSTKSZ), kOldMinStack) + kStackReserve;
  stack_size_ = (least + kPageSize - 1) & ~(kPageSize - 1);
  size_ = StackAt(kMaxThreads);
  auto fd = host::MemfdCreate("skep-stubs", MFD_CLOEXEC);
  if (!fd) return HostFail("memfd_create", fd.error().code());
  fd_ = std::move(*fd);
  if (auto r = host::Truncate(fd_.get(), size_); !r) {
    return HostFail("cannot size the stubs' memory file", r.error().code());
  }
  auto base =
      host::Mmap(nullptr, size_, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, fd_.get(), 0);
  if (!base) return HostFail("cannot map the stubs' memory file", base.error().code());
  base_ = static_cast<std::byte*>(*base);
  const auto code = NotifyStubCode();
  CHECK(code.size() <= kPageSize);
  memcpy(base_ + kCodeAt, code.data(), code.size());
  WriteShared();
  CHECK(stubs.Take() == 0u);  // the template's
  return {};
}

void StubMemory::WriteShared() {
  auto& shared = *reinterpret_cast<NotifyShared*>(base_ + kSharedAt);
  const std::vector<sock_filter> guest = GuestFilter(), manager = ManagerFilter();
  CHECK(guest.size() + manager.size() <= shared.instructions.size());
  std::copy(guest.begin(), guest.end(), shared.instructions.begin());
  std::copy(manager.begin(), manager.end(), shared.instructions.begin() + guest.size());
  const uint64_t code = kNotifyShared + offsetof(NotifyShared, instructions);
  shared.guest.length = static_cast<uint16_t>(guest.size());
  shared.guest.code = code;
  shared.manager.length = static_cast<uint16_t>(manager.size());
  shared.manager.code = code + guest.size() * sizeof(sock_filter);

  shared.millisecond = {0, 1'000'000};
  for (size_t i = 0; i < shared.bytes.size(); ++i) shared.bytes[i] = static_cast<uint8_t>(i);
  memcpy(shared.xsave.data() + kMxcsrAt, &kInitialMxcsr, sizeof(kInitialMxcsr));
  // XRSTOR of the standard format touches the area of every component that the CPU has, also of
  // those that it only initialises: 11 KB with AMX. A compacted area without components ends at its
  // header.
  if (HasXsavec()) memcpy(shared.xsave.data() + kXcompBvAt, &kCompacted, sizeof(kCompacted));

  const uint64_t message = kNotifyShared + offsetof(NotifyShared, message);
  msghdr header = {};
  header.msg_iov = reinterpret_cast<iovec*>(message + offsetof(decltype(shared.message), part));
  header.msg_iovlen = 1;
  header.msg_control =
      reinterpret_cast<void*>(message + offsetof(decltype(shared.message), control));
  header.msg_controllen = CMSG_LEN(sizeof(int));
  static_assert(sizeof(header) == sizeof(shared.message.header));
  memcpy(&shared.message.header, &header, sizeof(header));
  shared.message.part = {kNotifyShared + offsetof(NotifyShared, bytes), 1};
  cmsghdr control = {};
  control.cmsg_len = CMSG_LEN(sizeof(int));
  control.cmsg_level = SOL_SOCKET;
  control.cmsg_type = SCM_RIGHTS;
  memcpy(&shared.message.control, &control, sizeof(control));
  memcpy(&shared.message.control[CMSG_LEN(0)], &kListenerSlot, sizeof(kListenerSlot));
}

}  // namespace skep::platform::notify
