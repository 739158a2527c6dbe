// Bringing all guests of a kernel to rest for a checkpoint, and giving them their engine's objects
// back after a restore (docs/design/arena.md). Called from a thread that is not a worker.
//
// Tasks that run their guest are stopped and park at the gate; tasks that sleep in a call stay
// where they are, and wake up there after a restore.
#pragma once

#include <cstdint>

#include "base/result.h"

namespace skep::kernel {

class Kernel;

// False: `timeout_ns` was not enough; the guests go on.
bool Freeze(Kernel& kernel, uint64_t timeout_ns);
// Frozen: notes the registers and the vector state of every guest thread in its Task. An error
// means that a guest is just dying; a later try may do better.
Result<void> SaveContexts(Kernel& kernel);
// In a new process, workers started kFrozen, descriptors restored: makes every address space and
// every guest thread that the kernel's numbers speak of.
Result<void> RestoreContexts(Kernel& kernel);
void Thaw(Kernel& kernel);

}  // namespace skep::kernel
