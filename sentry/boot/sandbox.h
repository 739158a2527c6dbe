// Sandbox: what boot makes, in the arena: the kernel and what is kept beside it. The arena's root.
#pragma once

#include <atomic>
#include <memory>
#include <vector>

#include "sentry/boot/caller_watch.h"
#include "sentry/boot/control.h"
#include "sentry/boot/server.h"
#include "sentry/boot/special_files.h"
#include "sentry/boot/stdio.h"
#include "sentry/boot/terminals.h"
#include "sentry/fs/gofer/gofer_fs.h"
#include "sentry/kernel/container.h"
#include "sentry/kernel/kernel.h"
#include "sentry/vfs/mount.h"

namespace skep::boot {

struct Sandbox {
  explicit Sandbox(const kernel::KernelConfig& kernel_config)
      : kernel(kernel_config), terminals(kernel), server(std::make_unique<ControlServer>(*this)) {}
  kernel::Kernel kernel;
  Ref<kernel::Container> container;
  Ref<vfs::MountNamespace> mounts;
  SandboxTerminals terminals;
  KernelSpecialFiles special_files;
  BootConfig config;
  std::unique_ptr<ControlServer> server;
  fs::GoferConnection gofer;
  Ref<fs::DonatedFiles> donated;
  std::vector<Ref<fs::GoferFs>> gofer_trees;
  std::string failed_step;  // of the start: what could not be done
  ProcessStdio stdio;
  arena::HostFd strace;
  std::unique_ptr<CallerWatch> caller_watch;  // null: the CLI is not watched
  // The guests are being stopped because the CLI was: it need not be told.
  std::atomic<bool> suspending{false};
  std::atomic<bool> suspended{false};  // by the CLI, which will let them go on
  uint32_t highest_host_number = 0;    // of the HostTable, at a checkpoint
};

}  // namespace skep::boot
