// A container's mount table from its configuration.
#pragma once

#include "sentry/boot/container_devices.h"
#include "sentry/boot/control.h"
#include "sentry/fs/gofer/gofer_fs.h"
#include "sentry/kernel/container.h"
#include "sentry/kernel/kernel.h"

namespace skep::boot {

struct MountContext {
  kernel::Kernel& kernel;
  const ContainerConfig& config;
  const ProcessConfig& process;  // the first one
  const Ref<fs::GoferConnection>& gofer;
  const Ref<fs::DonatedFiles>& donated;
  const Ref<ContainerDevices>& devices;
  const kernel::Container& container;
  Ref<vfs::MountNamespace>& mounts;            // is set
  std::vector<Ref<fs::GoferFs>>& gofer_trees;  // every GoferFs is noted here, for checkpoints
};

// What the container's trees of the host are called, in the order of their mounts: by where they
// are mounted; a second one at the same place is "/data#2".
std::vector<std::string> NamesOfTrees(const std::vector<MountConfig>& mounts);

// On init's fiber: makes every file system, mounts it, and gives init its root and working
// directory. `*failed` says what could not be done, in words of the configuration.
Result<void> MountAll(const MountContext& context, kernel::Task& init, std::string* failed);

}  // namespace skep::boot
