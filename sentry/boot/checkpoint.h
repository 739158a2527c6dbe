// Checkpoints: a sandbox at rest, in a file, and back in another process (docs/design/arena.md).
//
// The file is that of boot/image.h: the guest's pages (those that exist), what the sandbox needs of
// the outside, by name, and the arena. It is as trusted as the binary: it holds the kernel's own
// pointers. A restorer gives the same things by the same names, in whatever order.
#pragma once

#include "base/owned_fd.h"
#include "base/result.h"
#include "sentry/boot/sandbox.h"

namespace skep::boot {

struct SaveOptions {
  // Where to read /proc/self/maps, to look for pointers to what will not be there again: a
  // checkpoint of a heap that has some fails. -1: not looked for.
  int scan_maps_fd = -1;
  uint64_t timeout_ns = 5'000'000'000;  // for all guests and calls to come to rest
};

// From a thread that is not a worker. All is at rest afterwards, if it succeeded: _exit.
// On an error the guests go on, and the file is worth nothing.
HostResult<void> SaveSandbox(Sandbox& sandbox, int fd, const SaveOptions& options);

// In a new process without an arena: the sandbox of the file, whose guests wait until the
// scheduler has been started kFrozen and FinishRestore was called. `config` has the descriptors of
// the new process.
HostResult<Sandbox*> RestoreSandbox(int fd, const BootConfig& config, OwnedFd gofer);
// The workers are started: makes guests anew and lets them go on.
HostResult<void> FinishRestore(Sandbox& sandbox);

}  // namespace skep::boot
