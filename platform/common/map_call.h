// A MapOp as the host call that a stub makes for it.
#pragma once

#include <sys/mman.h>
#include <cstdint>

#include "base/result.h"
#include "platform/platform.h"
#include "platform/stub/stub.h"

namespace skep::platform {

// How managers map: the only flags that their filters let through.
inline constexpr uint64_t kMapFlags = MAP_SHARED | MAP_FIXED;
inline constexpr uint64_t kMapPopulateFlags = kMapFlags | MAP_POPULATE;

Result<void> CheckMapOp(const MapOp& op);  // EINVAL: outside of what guests are given, not aligned
// `fd`: of op.file in the stub's table (kMap).
StubCall CallFor(const MapOp& op, int fd);

}  // namespace skep::platform
