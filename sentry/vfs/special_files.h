// SpecialFiles: who opens FIFOs and device nodes that have a name in some file system. The file
// system only keeps the inode; other layers implement this, for each container, and boot hands it
// to the container's file systems (FileSystem::special_files).
#pragma once

#include <cstdint>

#include "sentry/vfs/file.h"

namespace skep::vfs {

class SpecialFiles : public RefCounted<SpecialFiles> {
 public:
  virtual ~SpecialFiles() = default;
  // Linux: fifo_open. The pipe hangs off the inode (Inode::attachment). Waits for the other end as
  // open(2) does unless O_NONBLOCK; kRestartSys when a signal ends the wait.
  virtual Result<Ref<File>> OpenFifo(Inode& inode, Caller& caller, const Path& path,
                                     uint32_t flags) = 0;
  // type: S_IFCHR or S_IFBLK. ENXIO: no such device.
  virtual Result<Ref<File>> OpenDevice(uint32_t type, uint32_t rdev_major, uint32_t rdev_minor,
                                       Caller& caller, const Path& path, uint32_t flags) = 0;
};

// What Inode::Open does for an inode that is neither a regular file nor a directory: asks the file
// system's SpecialFiles; ENXIO for sockets.
Result<Ref<File>> OpenSpecial(Inode& inode, Caller& caller, const Path& path, uint32_t flags);

}  // namespace skep::vfs
