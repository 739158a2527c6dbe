#include "sentry/boot/container_devices.h"

#include "sentry/anon/pipe.h"
#include "sentry/fs/dev/memory_devices.h"

namespace skep::boot {

using vfs::Caller;
using vfs::File;
using vfs::Path;

ContainerDevices::ContainerDevices(kernel::Kernel& kernel) : terminals_(kernel) {
  terminals_.RegisterDevices(devices_);
  fs::RegisterMemoryDevices(devices_, *kernel.memory);
}

Result<Ref<File>> ContainerDevices::OpenFifo(vfs::Inode& inode, Caller&, const Path& path,
                                             uint32_t flags) {
  return anon::OpenFifo(anon::PipeOf(inode), path, flags);
}

Result<Ref<File>> ContainerDevices::OpenDevice(uint32_t type, uint32_t rdev_major,
                                               uint32_t rdev_minor, Caller& caller,
                                               const Path& path, uint32_t flags) {
  return devices_.Open(type, rdev_major, rdev_minor, caller, path, flags);
}

Result<Ref<File>> AnonymousSpecialFiles::OpenFifo(vfs::Inode& inode, Caller&, const Path& path,
                                                  uint32_t flags) {
  return anon::OpenFifo(anon::PipeOf(inode), path, flags);
}

Result<Ref<File>> AnonymousSpecialFiles::OpenDevice(uint32_t, uint32_t, uint32_t, Caller&,
                                                    const Path&, uint32_t) {
  return Fail(ENXIO);
}

}  // namespace skep::boot
