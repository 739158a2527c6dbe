// Sandbox: what boot makes, in the arena: the kernel and what is kept beside it. The arena's root.
// Containers and who may ask for them are the ControlServer's.
#pragma once

#include <cstdint>
#include <memory>

#include "sentry/boot/caller_watch.h"
#include "sentry/boot/container_host.h"
#include "sentry/boot/server.h"
#include "sentry/kernel/kernel.h"

namespace skep::boot {

struct Sandbox {
  explicit Sandbox(const kernel::KernelConfig& kernel_config)
      : kernel(kernel_config), server(std::make_unique<ControlServer>(*this)) {}
  ContainerEvents& events() { return *server; }

  kernel::Kernel kernel;
  std::unique_ptr<ControlServer> server;
  uint64_t last_container = 0;  // ContainerNumber
  Ref<fs::DonatedFiles> donated;
  arena::HostFd strace;
  std::unique_ptr<CallerWatch> caller_watch;  // null: the CLI is not watched
  uint32_t highest_host_number = 0;           // of the HostTable, at a checkpoint
};

}  // namespace skep::boot
