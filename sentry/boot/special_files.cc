#include "sentry/boot/special_files.h"

#include "sentry/anon/pipe.h"

namespace skep::boot {

Result<Ref<vfs::File>> KernelSpecialFiles::OpenFifo(vfs::Inode& inode, vfs::Caller& caller,
                                                    const vfs::Path& path, uint32_t flags) {
  (void)caller;
  return anon::OpenFifo(anon::PipeOf(inode), path, flags);
}

Result<Ref<vfs::File>> KernelSpecialFiles::OpenDevice(uint32_t type, uint32_t rdev_major,
                                                      uint32_t rdev_minor, vfs::Caller& caller,
                                                      const vfs::Path& path, uint32_t flags) {
  return devices_.Open(type, rdev_major, rdev_minor, caller, path, flags);
}

}  // namespace skep::boot
