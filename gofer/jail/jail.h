// The gofer's jail: what is left to it if its client takes it over.
//
// Each attach point becomes a mount of its own that hangs nowhere (so ".." ends at its root), with
// no devices and no set-id programs, read-only if the attach point is. The root directory is an
// empty, read-only tmpfs in a new mount namespace. Capabilities shrink to those that file modes and
// owners need. A seccomp allow-list has neither exec, sockets, new processes nor signals.
//
// Steps that the host does not permit (an ordinary user outside a user namespace) are reported, not
// fatal: the caller decides by the JailReport what is enough.
#pragma once

#include <sys/types.h>
#include <cstdint>
#include <span>

#include "base/owned_fd.h"
#include "base/result.h"
#include "jail/filter.h"

namespace skep::gofer {

// What became of each step. Sent over the control socket as it is.
struct JailReport {
  uint32_t trees_isolated = 0;  // every attach point is a detached mount
  uint32_t namespaces = 0;      // CLONE_NEW* that were entered
  uint32_t root_empty = 0;
  uint32_t capabilities_dropped = 0;
  uint32_t filtered = 0;  // seccomp
  uint32_t breaches = 0;  // self test: Breach bits; 0 if it was not asked for
};

enum class Breach : uint32_t {
  kOpenOutside = 1,  // a path of the host was opened
  kLeaveTree = 2,    // ".." of an attach point led somewhere else
  kSocket = 4,
  kExec = 8,
  kKill = 16,
  kFork = 32,
  kPtrace = 64,
  kExecutableMemory = 128,
  kMount = 256,
};

// A detached clone of the tree below `root`, with its own mounts. EPERM, EINVAL: not here.
Result<OwnedFd> IsolateTree(int root, bool read_only);

// A private descriptor of this process's /proc/self/fd, detached where permitted. To be called in
// the process that will use it.
Result<OwnedFd> OpenProcSelfFd();

// Replaces the root directory. In a mount namespace of our own only (or it falls back to chroot).
Result<void> EmptyRoot();

Result<void> DropCapabilities();
std::span<const FilterRow> FilterRows();
// The allow-list, no_new_privs, not dumpable.
HostResult<void> InstallFilter(jail::Refusal refusal, const jail::FilterUse& use = {});

// From inside: tries what must not work. `trees`: attach roots. Returns Breach bits.
uint32_t TryToBreakOut(std::span<const int> trees, int proc_self_fd);

}  // namespace skep::gofer
