// Room in the process's descriptor table ahead of need. A table that several threads or processes
// share grows only after the host has waited until no CPU looks at the old one (Linux:
// expand_fdtable), which takes milliseconds.
#pragma once

namespace skep::host {

// For this many descriptors, or as many as the process's limit allows. While it has one thread.
void ReserveFds(unsigned count);

}  // namespace skep::host
