// Which open file a FIFO or device node leads to: the kernel's vfs::SpecialFiles.
#pragma once

#include "sentry/fs/dev/device_table.h"
#include "sentry/vfs/special_files.h"

namespace skep::boot {

class KernelSpecialFiles final : public vfs::SpecialFiles {
 public:
  fs::DeviceTable& devices() { return devices_; }

  Result<Ref<vfs::File>> OpenFifo(vfs::Inode& inode, vfs::Caller& caller, const vfs::Path& path,
                                  uint32_t flags) override;
  Result<Ref<vfs::File>> OpenDevice(uint32_t type, uint32_t rdev_major, uint32_t rdev_minor,
                                    vfs::Caller& caller, const vfs::Path& path,
                                    uint32_t flags) override;

 private:
  fs::DeviceTable devices_;
};

}  // namespace skep::boot
