// Kernel: the one object all kernel state hangs off, in the arena.
#pragma once

#include <atomic>
#include <functional>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/mutex.h"
#include "sentry/anon/epoll.h"
#include "sentry/anon/job_control.h"
#include "sentry/ipc/futex.h"
#include "sentry/kernel/guest_gates.h"
#include "sentry/kernel/namespaces.h"
#include "sentry/kernel/task.h"
#include "sentry/mm/memory_file.h"
#include "sentry/sched/scheduler.h"
#include "sentry/vfs/anon_fs.h"

namespace skep::kernel {

struct KernelConfig {
  int workers = 1;
  uint64_t memory_limit = 0;  // bytes; 0: none
  std::string engine_name;
  bool scrub_stacks = false;  // checkpoint tests: no stale words of the host's in fibers' stacks
};

struct FileSystemType;

// How kernel/ reaches what is above it; set once by boot (code addresses, the same in every run of
// this build).
struct Hooks {
  // Executes a system call; kernel/run_loop.cc deals with the result.
  Result<uint64_t> (*syscall)(Task& task, uint64_t number, const std::array<uint64_t, 6>& args,
                              bool compat) = nullptr;
  std::span<const FileSystemType> file_systems;  // kernel/file_systems.h
};

// Is told what guests do (--strace); syscalls/strace.h.
class StraceSink {
 public:
  virtual ~StraceSink() = default;
  // A system call begins, and ends. A call that does not return has no end.
  virtual void Enter(Task& task, uint64_t number, const std::array<uint64_t, 6>& args) = 0;
  virtual void Leave(Task& task, uint64_t number, const std::array<uint64_t, 6>& args,
                     const Result<uint64_t>& result) = 0;
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
  std::unique_ptr<VdsoClock> vdso_clock;
  std::unique_ptr<KernelSignalSource> signal_source;  // signalfd reads from it
  std::unique_ptr<StraceSink> strace;                 // null: off
  Ref<vfs::AnonFs> anon_fs;                           // pipes, sockets, eventfds, ...
  anon::EpollNesting epoll_nesting;

  // The first of each kind, which those of containers descend from. Every process of the kernel has
  // a number in pid_namespace; no guest is in it.
  const Ref<auth::UserNamespace> user_namespace;
  const Ref<PidNamespace> pid_namespace;
  uint64_t NextNamespaceNumber() { return next_namespace_.fetch_add(1); }
  Ref<NetNamespace> NewNetNamespace(const Ref<auth::UserNamespace>& owner);

  uint64_t boot_realtime_ns() const { return boot_realtime_ns_; }
  uint64_t boot_monotonic_ns() const { return boot_monotonic_ns_; }
  uint32_t NewDeviceMinor() { return ++last_dev_minor_; }  // of an anonymous device

  // EEXIST: there is one with this id.
  Result<void> Register(const Ref<Container>& container) REQUIRES(tasks);
  Ref<Container> Unregister(const Container& container) REQUIRES(tasks);  // null: it was not there

  // Those that live, in all containers.
  size_t task_count() const REQUIRES(tasks) { return task_count_; }
  void NoteTask() REQUIRES(tasks) { ++task_count_; }
  void NoteTaskGone() REQUIRES(tasks) { --task_count_; }
  void NoteFork() { forks_.fetch_add(1, std::memory_order_relaxed); }
  uint64_t forks() const { return forks_.load(std::memory_order_relaxed); }
  // The sum over all threads that are gone.
  const Usage& ended() const REQUIRES(tasks) { return ended_; }
  void NoteEnd(const Usage& usage) REQUIRES(tasks) { ended_.Add(usage); }

  // Who controls which terminal. Terminals::processes() is the kernel's own.
  anon::Terminals& terminals() { return terminals_; }

  GuestBarriers& barriers() { return barriers_; }
  FreezeGate& freeze_gate() { return freeze_gate_; }

 private:
  friend class TasksLock;
  // What terminals ask of processes.
  class TerminalProcesses final : public anon::JobControl {
   public:
    explicit TerminalProcesses(Kernel& kernel) : kernel_(kernel) {}
    void SignalGroup(const vfs::ProcessId& group, int signo) override;
    void SignalLeader(const vfs::ProcessId& session, int signo) override;

   private:
    Kernel& kernel_;
  };

  TasksMutex tasks_mutex_;
  const uint64_t boot_realtime_ns_, boot_monotonic_ns_;
  std::atomic<uint32_t> last_dev_minor_{20};
  std::map<std::string, Ref<Container>> containers_ GUARDED_BY(tasks);  // by id
  size_t task_count_ GUARDED_BY(tasks) = 0;
  Usage ended_ GUARDED_BY(tasks);
  std::atomic<uint64_t> forks_{0};
  GuestBarriers barriers_;
  FreezeGate freeze_gate_;
  std::atomic<uint64_t> next_namespace_{0xf0000000};  // Linux: PROC_DYNAMIC_FIRST
  // One for all, since sockets may be sent from one network namespace to another.
  const Ref<net::InFlight> in_flight_;
  TerminalProcesses terminal_processes_;
  anon::Terminals terminals_;
};

inline TasksLock::TasksLock(const Kernel& kernel) : mutex_(kernel.tasks_mutex_) {
  mutex_.mutex_.Lock();
}
inline TasksLock::~TasksLock() { mutex_.mutex_.Unlock(); }

}  // namespace skep::kernel
