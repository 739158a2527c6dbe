// The sandbox's mount table from its configuration.
#pragma once

#include "sentry/boot/control.h"
#include "sentry/boot/terminals.h"
#include "sentry/fs/gofer/gofer_fs.h"
#include "sentry/kernel/container.h"
#include "sentry/kernel/kernel.h"
#include "sentry/vfs/special_files.h"

namespace skep::boot {

struct MountContext {
  kernel::Kernel& kernel;
  const BootConfig& config;
  fs::GoferConnection gofer;
  const Ref<fs::DonatedFiles>& donated;
  vfs::SpecialFiles& special_files;
  SandboxTerminals& terminals;
  const kernel::Container& container;
  Ref<vfs::MountNamespace>& mounts;            // is set
  std::vector<Ref<fs::GoferFs>>& gofer_trees;  // every GoferFs is noted here, for checkpoints
};

// On init's fiber: makes every file system, mounts it, and gives init its root and working
// directory. `*failed` says what could not be done, in words of the configuration.
Result<void> MountAll(const MountContext& context, kernel::Task& init, std::string* failed);

}  // namespace skep::boot
