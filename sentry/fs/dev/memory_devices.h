// null, zero, full, random and urandom (Linux: drivers/char/mem.c, random.c).
#pragma once

#include "sentry/fs/dev/device_table.h"

namespace skep::mm {
class MemoryFile;
}

namespace skep::fs {

inline constexpr uint32_t kMemoryMajor = 1;  // Linux: MEM_MAJOR

// `memory`: where mappings of /dev/zero get their pages.
void RegisterMemoryDevices(DeviceTable& table, mm::MemoryFile& memory);

}  // namespace skep::fs
