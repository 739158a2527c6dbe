// One pointer for each fiber, and for each thread that runs none: where vfs keeps the list of files
// that are being destroyed (vfs/file_observer.cc). Null when nothing is.
#pragma once

namespace skep::sched {

// The current fiber's, which follows it to another thread; outside of fibers the thread's.
void*& ReleaseSlot();

}  // namespace skep::sched
