// Kernel: the one object all kernel state hangs off (DESIGN.md 4), in the arena.
#pragma once

#include <atomic>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <unordered_map>

#include "base/mutex.h"
#include "sentry/anon/epoll.h"
#include "sentry/ipc/futex.h"
#include "sentry/ipc/pi_futex.h"
#include "sentry/kernel/task.h"
#include "sentry/mm/memory_file.h"
#include "sentry/net/net_namespace.h"
#include "sentry/sched/scheduler.h"
#include "sentry/vfs/anon_fs.h"
#include "sentry/vfs/mount.h"

namespace skep::kernel {

struct KernelConfig {
  int workers = 1;
  std::string hostname = "skep";
  uint64_t memory_limit = 0;  // bytes; 0: none
  uint64_t pids_limit = 0;    // tasks; 0: none
  // The first process is the init of a container: as in a pid namespace, signals from inside that
  // it does not catch leave it alone. If not, it is a command like any other: a signal may end it
  // or stop it, and whoever started the sandbox is told.
  bool init_is_spared = true;
  std::string engine_name;
  bool scrub_stacks = false;  // checkpoint tests: no stale words of the host's in fibers' stacks
};

// How kernel/ reaches what is above it; set once by boot (code addresses, the same in every run of
// this build).
struct Hooks {
  // Executes a system call; kernel/run_loop.cc deals with the result.
  Result<uint64_t> (*syscall)(Task& task, uint64_t number, const std::array<uint64_t, 6>& args,
                              bool compat) = nullptr;
  // A session's leader is going: its terminal is let go; the foreground group to hang up, or 0.
  // Called without locks.
  int (*session_ended)(Kernel& kernel, int sid) = nullptr;
};

// Who is told what guests do (--strace); syscalls/strace.h.
class StraceSink {
 public:
  virtual ~StraceSink() = default;
  // The execve of the first program, which no guest calls.
  virtual void Started(Task& init, const std::string& path,
                       const std::vector<std::string>& argv) = 0;
  virtual void Signal(Task& task, const siginfo_t& info) = 0;
  virtual void Exited(Task& task) = 0;
};

// What vDSO and the syscalls read time from; kernel/vdso_clock.h.
class VdsoClock;
class KernelSignalSource;
class OomKiller;  // kernel/oom.h

class Kernel {
 public:
  explicit Kernel(const KernelConfig& config);
  ~Kernel();

  KernelConfig config;
  Hooks hooks;
  sched::Scheduler scheduler;
  std::unique_ptr<mm::MemoryFile> memory;
  std::unique_ptr<OomKiller> oom;  // null: there is no memory limit
  ipc::FutexTable futexes;
  ipc::PiFutexTable pi_futexes;
  Ref<vfs::MountNamespace> mounts;
  std::unique_ptr<VdsoClock> vdso_clock;
  std::unique_ptr<KernelSignalSource> signal_source;  // signalfd reads from it
  void* boot = nullptr;                // what boot keeps beside the kernel, for its hooks
  std::unique_ptr<StraceSink> strace;  // null: off
  uint64_t boot_realtime_ns = 0, boot_monotonic_ns = 0;
  Ref<vfs::AnonFs> anon_fs;  // pipes, sockets, eventfds, ...
  anon::EpollNesting epoll_nesting;
  Ref<net::NetNamespace> network;
  uint32_t last_dev_minor = 20;  // of anonymous devices (boot)
  std::atomic<uint64_t> forks{0};

  struct PidEntry {
    Task* task = nullptr;          // the thread with this id
    ThreadGroup* group = nullptr;  // the process (alive or zombie) with this id
    int group_members = 0;         // processes whose pgid this is
    int session_members = 0;       // processes whose sid this is
    bool empty() const {
      return task == nullptr && group == nullptr && group_members == 0 && session_members == 0;
    }
  };
  std::map<int, PidEntry> pids GUARDED_BY(tasks);
  int last_pid GUARDED_BY(tasks) = 0;
  Ref<ThreadGroup> init GUARDED_BY(tasks);
  size_t task_count GUARDED_BY(tasks) = 0;
  Usage ended GUARDED_BY(tasks);  // of all threads that are gone
  std::string hostname GUARDED_BY(tasks), domainname GUARDED_BY(tasks) = "(none)";

  Task* FindTask(int tid) REQUIRES(tasks);
  ThreadGroup* FindGroup(int tgid) REQUIRES(tasks);
  Result<int> AllocatePid() REQUIRES(tasks);  // EAGAIN
  void DropPidIfEmpty(int pid) REQUIRES(tasks);
  void JoinProcessGroup(ThreadGroup& group, int pgid) REQUIRES(tasks);
  void JoinSession(ThreadGroup& group, int sid) REQUIRES(tasks);
  void LeaveProcessGroup(ThreadGroup& group) REQUIRES(tasks);
  // Calls fn(ThreadGroup&) for each member of a process group.
  void ForEachInProcessGroup(int pgid, const std::function<void(ThreadGroup&)>& fn) REQUIRES(tasks);

  // The exit status of init, once it is gone: what `skep do` returns.
  std::atomic<bool> init_exited{false};
  std::atomic<int> init_status{0};
  // An init that is not spared was stopped by this signal (0: it was not, or that has been told).
  std::atomic<int> init_stop_signal{0};
  sched::WaitQueue init_queue;
  // After init: no task is left.
  sched::WaitQueue empty_queue;

  // membarrier(2) (kernel/membarrier.h): how many wait in the queue for guests to stop once.
  std::atomic<int> barriers_wanted{0};
  sched::WaitQueue barrier_queue;

  // Freezing (checkpoint, kernel/freeze.h): fibers that see it park in `freeze_queue` before their
  // guest runs.
  std::atomic<bool> freezing{false};
  sched::WaitQueue freeze_queue;

 private:
  friend class TasksLock;
  TasksMutex tasks_mutex_;
};

inline TasksLock::TasksLock(const Kernel& kernel) : mutex_(kernel.tasks_mutex_) {
  mutex_.mutex_.Lock();
}
inline TasksLock::~TasksLock() { mutex_.mutex_.Unlock(); }

}  // namespace skep::kernel
