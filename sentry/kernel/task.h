// Task: a guest thread; ThreadGroup: a process. Composed of parts with owners.
//
// Who holds whom: fibers hold Tasks until they have ended, a ThreadGroup its leader until it is
// reaped; Task -> ThreadGroup -> ProcessGroup -> Session, Container; parents hold children,
// children point to parents by bare pointer, both under `tasks`.
//
// Locks: GUARDED_BY(tasks) (kernel/tasks_lock.h; sections are short and two workers rarely meet
// there). OwnFiberWrites: the task's own fiber writes it under `tasks` and reads it without.
// "Fiber": only the task's own fiber touches it. "Constant": set before the object is published.
#pragma once

#include <sys/resource.h>
#include <array>
#include <atomic>
#include <cstdint>
#include <list>
#include <memory>
#include <string>
#include <vector>

#include "base/check.h"
#include "base/ref.h"
#include "platform/platform.h"
#include "sentry/arena/host_table.h"
#include "sentry/auth/credentials.h"
#include "sentry/kernel/group_stop.h"
#include "sentry/kernel/limits.h"
#include "sentry/kernel/pid.h"
#include "sentry/kernel/signal.h"
#include "sentry/kernel/task_start.h"
#include "sentry/kernel/tasks_lock.h"
#include "sentry/mm/memory_manager.h"
#include "sentry/sched/fiber.h"
#include "sentry/sched/timer.h"
#include "sentry/sched/wait_queue.h"
#include "sentry/vfs/fd_table.h"
#include "sentry/vfs/fs_context.h"
#include "sentry/vfs/types.h"

namespace skep::kernel {

class Container;
class Kernel;
class Task;
class ThreadGroup;
class PosixTimer;
class StartedProcess;
struct Namespaces;

// Dispositions; shared by the threads of a group and by CLONE_SIGHAND (Linux: sighand_struct).
struct SignalHandlers : RefCounted<SignalHandlers> {
  std::array<SignalAction, kSignals> actions GUARDED_BY(tasks);
  SignalAction& Of(int signo) REQUIRES(tasks) {
    CHECK(signo >= 1 && signo <= kSignals);
    return actions[static_cast<size_t>(signo - 1)];
  }
};

struct Usage {  // ns
  uint64_t user_ns = 0, system_ns = 0;
  uint64_t minor_faults = 0, major_faults = 0, voluntary_switches = 0, involuntary_switches = 0;
  uint64_t max_rss = 0;  // bytes
  void Add(const Usage& o);
};

// What setpriority(2), sched_setscheduler(2), ioprio_set(2) and sched_setaffinity(2) have set. Kept
// and told back; workers schedule guests.
struct Scheduling {
  int nice = 0;
  int policy = 0;  // SCHED_OTHER, SCHED_BATCH or SCHED_IDLE
  bool reset_on_fork = false;
  uint16_t io_priority = 0;  // as ioprio_set(2) packs it
  uint64_t cpu_mask = ~uint64_t{0};

  Scheduling ForChild() const;  // Linux: sched_fork
};

class ThreadGroup final : public RefCounted<ThreadGroup> {
 public:
  ThreadGroup(Kernel& kernel_in, Ref<Container> container_in);
  ~ThreadGroup();

  Kernel& kernel;
  // Constant.
  const Ref<Container> container;
  Ref<Pid> pid;
  int tgid = 0;           // pid->number(): as it sees itself
  uint64_t start_ns = 0;  // monotonic

  Ref<Task> leader GUARDED_BY(tasks);            // also while a zombie; cut when reaped
  std::vector<Task*> threads GUARDED_BY(tasks);  // alive (not yet past ExitTask)
  // How many of them have not begun to exit (Linux: live).
  size_t live GUARDED_BY(tasks) = 0;
  Ref<ProcessGroup> process_group GUARDED_BY(tasks);  // null once reaped
  ThreadGroup* parent GUARDED_BY(tasks) = nullptr;    // null: outside the sandbox, or gone
  // The outside has started it: a container's init, an exec session's first process.
  Ref<StartedProcess> started GUARDED_BY(tasks);
  // A pid namespace's init: signals from inside that it does not catch leave it alone (Linux:
  // SIGNAL_UNKILLABLE).
  bool unkillable GUARDED_BY(tasks) = false;
  // The thread that forked it, for PDEATHSIG and __WNOTHREAD; null: gone.
  Task* parent_thread GUARDED_BY(tasks) = nullptr;
  std::list<Ref<ThreadGroup>> children GUARDED_BY(tasks);  // alive and zombies
  int exit_signal GUARDED_BY(tasks) = SIGCHLD;             // to the parent; 0: none
  // How often this process has called execve, and how often its parent had when it was forked: a
  // parent that has become another program is told by SIGCHLD alone.
  uint32_t self_exec_id GUARDED_BY(tasks) = 0, parent_exec_id GUARDED_BY(tasks) = 0;
  bool is_subreaper GUARDED_BY(tasks) = false;
  // execve since fork: setpgid by the parent answers EACCES.
  bool has_exec GUARDED_BY(tasks) = false;

  bool exiting GUARDED_BY(tasks) = false;  // exit_group or a fatal signal
  // The wait status, once exiting or the last thread is gone.
  int exit_status GUARDED_BY(tasks) = 0;
  Task* exec_by GUARDED_BY(tasks) = nullptr;  // this thread's execve is ending the others
  // A session's leader that ends: the foreground group of its terminal, or none.
  Ref<Pid> hang_up GUARDED_BY(tasks);
  // All threads are gone; waits for its parent. Written under `tasks`.
  std::atomic<bool> zombie{false};
  bool reaped GUARDED_BY(tasks) = false;

  GroupStop stop;
  sched::WaitQueue child_queue;  // wait4 sleeps here: a child changed state
  sched::WaitQueue exec_queue;   // execve waits for the other threads

  Ref<SignalHandlers> handlers GUARDED_BY(tasks);
  PendingSignals pending GUARDED_BY(tasks);  // of the group
  ProcessLimits limits;
  Usage dead_threads GUARDED_BY(tasks);
  Usage children_usage GUARDED_BY(tasks);  // of those that were waited for

  // ITIMER_REAL; POSIX timers by id.
  struct IntervalTimer {
    std::unique_ptr<sched::Timer> timer;        // of ITIMER_REAL only
    uint64_t interval_ns = 0, deadline_ns = 0;  // of VIRTUAL and PROF: CPU time
  };
  std::array<IntervalTimer, 3> itimers GUARDED_BY(tasks);
  std::vector<Ref<PosixTimer>> posix_timers GUARDED_BY(tasks);  // index: timer id; null: free

  // Waits for CPU time to pass (kernel/cpu_timer.h).
  std::unique_ptr<sched::Timer> cpu_timer GUARDED_BY(tasks);
  uint64_t cpu_seen_ns GUARDED_BY(tasks) = 0;  // when cpu_timer last fired
  // There is something to watch for and cpu_timer is not armed: nothing ran. A thread that lets its
  // guest run arms it.
  std::atomic<bool> cpu_watch_wanted{false};

  sched::WaitQueue exit_watch;  // pidfds: it has become a zombie

  int oom_score_adj GUARDED_BY(tasks) = 0;

  PidNamespace& pid_namespace() const { return pid->space(); }
  // As it sees that process, thread, group or session; 0: it cannot.
  int NumberOf(const Pid& other) const { return other.NumberIn(pid_namespace()); }

  Session& session() const REQUIRES(tasks) { return process_group->session(); }
  bool IsSessionLeader() const REQUIRES(tasks) { return session().id() == pid; }
  // Leaves the group that it is in, if any.
  void JoinProcessGroup(Ref<ProcessGroup> joined) REQUIRES(tasks);
  void LeaveProcessGroup() REQUIRES(tasks);

 private:
  friend class ProcessGroup;
  ThreadGroup* next_in_group_ GUARDED_BY(tasks) = nullptr;
  ThreadGroup* previous_in_group_ GUARDED_BY(tasks) = nullptr;
};

// What restart_syscall(2) goes on with.
struct RestartBlock {
  enum class Kind : uint8_t { kNone, kNanosleep, kCpuSleep, kFutexWait, kPoll } kind = Kind::kNone;
  uint64_t deadline_ns = 0;
  uint64_t address = 0;  // nanosleep: where the rest goes; futex: uaddr; poll: fds
  uint32_t value = 0;    // futex value; nfds
  uint32_t bits = 0;     // futex bitset
  uint32_t flags = 0;
};

class Task final : public vfs::Caller, public vfs::JobControlCaller, public RefCounted<Task> {
 public:
  explicit Task(Kernel& kernel_in);
  ~Task();

  Kernel& kernel;
  // Its own execve changes them, when another thread led the process. tid: pid->number(), as the
  // thread sees itself.
  Ref<Pid> pid GUARDED_BY(tasks);
  std::atomic<int> tid{0};
  Ref<ThreadGroup> group;
  Ref<sched::Fiber> fiber;

  OwnFiberWrites<Ref<mm::MemoryManager>> mm;
  OwnFiberWrites<Ref<vfs::FsContext>> fs;
  OwnFiberWrites<vfs::FdTableHold> files;
  OwnFiberWrites<Ref<Namespaces>> namespaces;
  OwnFiberWrites<SignalSet> blocked;
  OwnFiberWrites<auth::CredentialsRef> credentials;  // published whole
  OwnFiberWrites<Ref<vfs::File>> executable;         // /proc/<pid>/exe
  OwnFiberWrites<int> parent_death_signal;

  // -- fiber --
  arena::HostContext context_ref;
  platform::Registers saved_registers{};  // what a new context starts with (start, execve, restore)
  std::vector<std::byte> saved_xsave;
  uint64_t clear_child_tid = 0;
  uint64_t robust_list = 0;
  RestartBlock restart;
  platform::Stop last_stop = platform::Interrupted{};  // survives the context it came from
  // registers().rax is the call's number until the result is set. Written by the own fiber only.
  std::atomic<bool> in_syscall{false};
  uint64_t syscall_number = 0;
  bool no_thp = false;
  stack_t alt_stack{};        // ss_flags as sigaltstack tells it back, without SS_ONSTACK
  SignalSet mask_to_restore;  // sigsuspend, pselect...: back to this after the handler
  bool restore_mask = false;
  // It became a user who had more processes than RLIMIT_NPROC (Linux: PF_NPROC_EXCEEDED): execve
  // fails as long as he has.
  bool too_many_processes = false;

  std::atomic<uint32_t> personality{0};
  std::atomic<uint64_t> timer_slack_ns{50000};
  Scheduling scheduling GUARDED_BY(tasks);
  PendingSignals pending GUARDED_BY(tasks);
  // sigtimedwait waits for these although they are blocked.
  SignalSet sigwait_set GUARDED_BY(tasks);
  std::array<char, 16> comm GUARDED_BY(tasks){};
  bool stopped GUARDED_BY(tasks) = false;  // sleeps in its group's stop
  bool exited GUARDED_BY(tasks) = false;
  std::vector<uint64_t> auxv GUARDED_BY(tasks);  // /proc/<pid>/auxv
  Usage usage GUARDED_BY(tasks);                 // as of the last SettleUsage (kernel/cpu_time.h)
  // How much of fiber->costs() `usage` has.
  uint64_t settled_kernel_ticks GUARDED_BY(tasks) = 0, settled_guest_ticks GUARDED_BY(tasks) = 0;

  std::atomic<uint64_t> minor_faults{0}, major_faults{0};  // written by the own fiber only
  std::atomic<bool> in_guest{false};                       // the guest may run
  std::atomic<uint64_t> guest_runs{0};                     // how often it has begun to
  // It has let go of its robust and PI futexes and is about to be gone (Linux: futex_state).
  std::atomic<bool> left_futexes{false};

  MemoryLoan loan;  // of a child of vfork
  std::atomic<bool> work_pending{false};
  std::atomic<char> state_letter{'R'};  // for /proc

  // -- vfs::Caller --
  const auth::Credentials& creds() const override { return *credentials.Mine(); }
  auth::CredentialsRef shared_creds() const override { return credentials.Mine(); }
  mm::UserMemory& memory() override { return *mm; }
  Ref<vfs::ProcessId> Process() const override { return group->pid; }
  Result<Ref<vfs::ProcessId>> FindProcess(int number) const override;
  int NumberOf(const vfs::ProcessId& id) const override;
  vfs::JobControlCaller* job_control() override { return this; }
  void SignalSelf(int signo) override;
  uint64_t FileSizeLimit() const override { return Limit(RLIMIT_FSIZE); }
  uint64_t FileLimit() const override { return Limit(RLIMIT_NOFILE); }
  const vfs::FsContext* fs_context() const override { return fs.get(); }
  const auth::UserNamespace* PidNamespaceOwner() const override { return &pid_namespace().owner(); }

  // -- vfs::JobControlCaller --
  Ref<vfs::ProcessId> ProcessGroupId() const override;
  Ref<vfs::ProcessId> SessionId() const override;
  bool IsSessionLeader() const override;
  bool IsBlockedOrIgnored(int signo) const override;
  bool InOrphanedGroup() const override;
  void SignalOwnGroup(int signo) override;
  Result<Ref<vfs::ProcessId>> FindProcessGroup(int number,
                                               const vfs::ProcessId& session) const override;

  PidNamespace& pid_namespace() const { return group->pid_namespace(); }

  uint64_t Limit(int resource) const { return group->limits.Soft(resource); }
  mm::MemoryLimits MemoryLimits() const;
  platform::Context& context() const;
  // Registers of the stopped guest, loaded; null if the stub is dead (the task then dies).
  platform::Registers* LoadRegisters(platform::LoadXsave xsave = platform::LoadXsave::kNo);
  bool IsLeader() const REQUIRES(tasks) { return group->leader.get() == this; }

  // kernel/run_loop.cc: the body of the fiber.
  void Main();
  // Signals, stops, exits and freezes before the guest goes on. False: the task is to end.
  bool HandlePendingWork();
  // What the call in progress answered; becomes rax when the guest goes on.
  Result<uint64_t> pending_result = uint64_t{0};
  // The call has set all registers itself (rt_sigreturn, execve): rax is left alone.
  bool keep_registers = false;

  TaskStart start;

 private:
  bool Start();
  bool Calling() const { return in_syscall.load(std::memory_order_relaxed); }
  bool HasPendingWork() const;
  bool RunToStop();  // false: the guest's memory died
  void HandleStop(const platform::Stop& stop);
  void HandleFault(const platform::FaultStop& fault);
  void CompleteErrorCode(const mm::FaultResult& result);
  void HandleSyscall(const platform::SyscallStop& stop);
  void FinishCall();
  bool TakeSignal();  // false: the task is to end; sets took_signal_
  bool RunHandler(const PendingSignals::Item& item, const SignalAction& action);
  void RestartWithoutHandler();
  void ApplyRestart(platform::Registers& registers, bool handler, bool restartable);
  bool took_signal_ = false;
};

// A process's first thread gets their number, and the process is there.
void PublishLeader(Task& leader, const Ref<Pid>& pid) REQUIRES(tasks);

// The Task that the current fiber executes for.
Task& CurrentTask();

}  // namespace skep::kernel
