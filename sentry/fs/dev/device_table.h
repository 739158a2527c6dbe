// DeviceTable: which device a node's number leads to (Linux: chrdevs, bdev_map).
//
// Filled at boot, read-only afterwards. The kernel's vfs::SpecialFiles asks it; devices that other
// layers own (terminals) are registered by whoever puts the kernel together.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <utility>

#include "sentry/vfs/file.h"

namespace skep::fs {

class DeviceTable {
 public:
  // Opens minor number `minor` of a registered range.
  using Opener = std::function<Result<Ref<vfs::File>>(vfs::Caller& caller, const vfs::Path& path,
                                                      uint32_t flags, uint32_t minor)>;

  // type: S_IFCHR or S_IFBLK. Minors [first, first + count).
  void Register(uint32_t type, uint32_t major, uint32_t first, uint32_t count, Opener open);

  // ENXIO: no such device.
  Result<Ref<vfs::File>> Open(uint32_t type, uint32_t major, uint32_t minor, vfs::Caller& caller,
                              const vfs::Path& path, uint32_t flags) const;

 private:
  struct Range {
    uint32_t count;
    Opener open;
  };
  std::map<std::pair<uint64_t, uint32_t>, Range> ranges_;  // by (type, major) and first minor
};

}  // namespace skep::fs
