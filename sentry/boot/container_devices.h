// What FIFOs and device nodes open: the vfs::SpecialFiles of a container's file systems. Device
// numbers mean the same in each container but for terminals, which are the container's own.
#pragma once

#include "sentry/boot/container_terminals.h"
#include "sentry/fs/dev/device_table.h"
#include "sentry/vfs/special_files.h"

namespace skep::boot {

class ContainerDevices final : public vfs::SpecialFiles {
 public:
  explicit ContainerDevices(kernel::Kernel& kernel);

  ContainerTerminals& terminals() { return terminals_; }

  Result<Ref<vfs::File>> OpenFifo(vfs::Inode& inode, vfs::Caller& caller, const vfs::Path& path,
                                  uint32_t flags) override;
  Result<Ref<vfs::File>> OpenDevice(uint32_t type, uint32_t rdev_major, uint32_t rdev_minor,
                                    vfs::Caller& caller, const vfs::Path& path,
                                    uint32_t flags) override;

 private:
  ContainerTerminals terminals_;
  fs::DeviceTable devices_;
};

// For files that have no name and so no container: pipes open again as FIFOs, devices do not.
class AnonymousSpecialFiles final : public vfs::SpecialFiles {
 public:
  Result<Ref<vfs::File>> OpenFifo(vfs::Inode& inode, vfs::Caller& caller, const vfs::Path& path,
                                  uint32_t flags) override;
  Result<Ref<vfs::File>> OpenDevice(uint32_t type, uint32_t rdev_major, uint32_t rdev_minor,
                                    vfs::Caller& caller, const vfs::Path& path,
                                    uint32_t flags) override;
};

}  // namespace skep::boot
