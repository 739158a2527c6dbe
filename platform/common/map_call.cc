#include "platform/common/map_call.h"

#include <sys/syscall.h>

#include "base/range.h"

namespace skep::platform {
namespace {

constexpr uint64_t kGuestProt = PROT_READ | PROT_WRITE | PROT_EXEC;

}  // namespace

Result<void> CheckMapOp(const MapOp& op) {
  if (!IsPageAligned(op.start) || !IsPageAligned(op.size) || op.size == 0 ||
      op.size > kGuestAddressEnd || op.start > kGuestAddressEnd - op.size ||
      (op.prot & ~kGuestProt) != 0) {
    return Fail(EINVAL);
  }
  switch (op.kind) {
    case MapOp::Kind::kMap:
      if (!IsPageAligned(op.offset)) return Fail(EINVAL);
      return {};
    case MapOp::Kind::kUnmap:
    case MapOp::Kind::kProtect:
      return {};
  }
  return Fail(EINVAL);
}

StubCall CallFor(const MapOp& op, int fd) {
  if (op.kind == MapOp::Kind::kUnmap) return {SYS_munmap, {op.start, op.size}};
  if (op.kind == MapOp::Kind::kProtect) return {SYS_mprotect, {op.start, op.size, op.prot}};
  const uint64_t flags = op.populate ? kMapPopulateFlags : kMapFlags;
  return {SYS_mmap, {op.start, op.size, op.prot, flags, static_cast<uint64_t>(fd), op.offset}};
}

}  // namespace skep::platform
