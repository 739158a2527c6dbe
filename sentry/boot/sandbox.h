// Sandbox: what boot makes, in the arena: the kernel and what is kept beside it. The arena's root.
#pragma once

#include <vector>

#include "sentry/boot/control.h"
#include "sentry/boot/special_files.h"
#include "sentry/boot/terminals.h"
#include "sentry/fs/gofer/gofer_fs.h"
#include "sentry/kernel/container.h"
#include "sentry/kernel/kernel.h"
#include "sentry/vfs/mount.h"

namespace skep::boot {

struct Sandbox {
  explicit Sandbox(const kernel::KernelConfig& kernel_config)
      : kernel(kernel_config), terminals(kernel) {}
  kernel::Kernel kernel;
  Ref<kernel::Container> container;
  Ref<vfs::MountNamespace> mounts;
  SandboxTerminals terminals;
  KernelSpecialFiles special_files;
  BootConfig config;
  fs::GoferConnection gofer;
  Ref<fs::DonatedFiles> donated;
  std::vector<Ref<fs::GoferFs>> gofer_trees;
  arena::HostFd stdio[3], strace;
  // Keep the numbers of `stdio` theirs, whatever guests close.
  Ref<vfs::File> stdio_files[3];
  uint32_t highest_host_number = 0;  // of the HostTable, at a checkpoint
};

}  // namespace skep::boot
