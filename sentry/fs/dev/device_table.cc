#include "sentry/fs/dev/device_table.h"

namespace skep::fs {
namespace {

uint64_t Kind(uint32_t type, uint32_t major) { return uint64_t{type} << 32 | major; }

}  // namespace

void DeviceTable::Register(uint32_t type, uint32_t major, uint32_t first, uint32_t count,
                           Opener open) {
  ranges_.insert_or_assign({Kind(type, major), first}, Range{count, std::move(open)});
}

Result<Ref<vfs::File>> DeviceTable::Open(uint32_t type, uint32_t major, uint32_t minor,
                                         vfs::Caller& caller, const vfs::Path& path,
                                         uint32_t flags) const {
  auto after = ranges_.upper_bound({Kind(type, major), minor});
  if (after == ranges_.begin()) return Fail(ENXIO);
  const auto& [key, range] = *--after;
  if (key.first != Kind(type, major) || minor - key.second >= range.count) return Fail(ENXIO);
  return range.open(caller, path, flags, minor);
}

}  // namespace skep::fs
