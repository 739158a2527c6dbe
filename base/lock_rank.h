// Every lock in the sentry, outermost first. A lock may be taken only if its rank is greater than
// that of every lock already held. This list is the lock order: there is no other.
#pragma once

#include <cstdint>

namespace skep {

enum class LockRank : uint8_t {
  // SleepLocks (sentry/sched/sleep_lock.h). They belong to a fiber, which may copy guest memory and
  // be suspended under them.
  kPiFutex,       // PiFutexTable: a bucket, across what happens to the guest's word
  kFilePosition,  // FileDescription: f_pos
  kRename,        // Filesystem: rename, as Linux's s_vfs_rename_mutex
  kDirectory,     // Inode: a directory's entries; parent before child
  kInodeIo,       // Inode: i_rwsem of a regular file
  kMmap,          // MemoryManager: a change of the VMA tree and its Apply. Innermost SleepLock.

  // Mutexes (base/mutex.h). They belong to a thread: no Suspend(), no gofer call under them.
  kControl,       // boot::ControlServer: containers, exec sessions and who waits for them
  kGoferClient,   // gofer::Client: held across its round trip, hence before the kernel's Mutexes
  kKernel,        // Kernel: the table of tasks, pids, sessions (Linux: tasklist_lock)
  kSignals,       // SignalHandlers and pending signals of a thread group (Linux: siglock)
  kTask,          // Task: what other tasks may read or change
  kFsContext,     // FsContext: root, cwd, umask
  kFdTable,       // FdTable
  kEpollNesting,  // Epolls of the kernel: which watches which
  kEpoll,         // Epoll: interest list; a watching one before the one it watches
  kWatched,       // a file's list of those that watch it
  kFile,          // FileDescription and anonymous files: flags, pipes, ttys, sockets
  kNames,         // UnixNamespace: abstract names
  kMounts,        // MountNamespace
  kDentry,        // Dentry: parent before child
  kInode,         // Inode: attributes, locks on the file
  kFutex,         // FutexTable: a bucket
  kVmas,          // MemoryManager: the VMA tree, for readers that do not sleep
  kMappable,      // what Mappable's methods take
  kHotPages,      // mm::HotPages
  kExtents,       // Extent: uses of its pages
  kMemoryFile,    // MemoryFile: offsets, pages that are kept
  kStub,          // notify: a stub's batch in progress, its spare threads
  kHostTable,     // HostTable
  kStubTable,     // notify: the stubs' descriptor table, the roots' socket
  kTimers,        // TimerQueue of a worker
  kWaitQueue,     // WaitQueue
  kReady,         // Epoll: ready list, which a WaitEntry's OnWake fills
  kRunQueue,      // Worker
  kStubWatch,     // notify: an engine looks at what one event tells of
  kStubPool,      // notify: stubs for reuse; what an engine has to report
  kHeap,          // Arena heap
  kLeaf,          // takes nothing while held
};

}  // namespace skep
