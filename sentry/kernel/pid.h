// Pid, ProcessGroup, Session and PidNamespace (Linux: kernel/pid.c, kernel/pid_namespace.c).
//
// A Pid is the identity of a thread, a process, a process group and a session that have, or had,
// the same number. It has a number in each namespace from its own up to the kernel's first. The
// numbers are taken back when nothing bears them any more; the object lives as long as somebody
// remembers it.
//
// Who holds whom: Task, ProcessGroup, Session -> Pid -> PidNamespace -> its parent. A Pid points
// back by bare pointers, and namespaces find Pids by bare pointers: both only while they bear
// something.
#pragma once

#include <functional>
#include <map>
#include <vector>

#include "base/ref.h"
#include "base/result.h"
#include "sentry/auth/user_namespace.h"
#include "sentry/ipc/pi_futex.h"
#include "sentry/kernel/tasks_lock.h"
#include "sentry/vfs/process_id.h"

namespace skep::kernel {

class PidNamespace;
class ProcessGroup;
class Session;
class Task;
class ThreadGroup;

class Pid final : public vfs::ProcessId {
 public:
  // A fresh one with a number in `space` and in each of its parents. EAGAIN: there is no free
  // number; ENOMEM: the namespace's init has ended (Linux: alloc_pid).
  static Result<Ref<Pid>> Allocate(PidNamespace& space) REQUIRES(tasks);
  ~Pid() override;

  // As seen from a namespace; 0: it cannot be seen from there.
  int NumberIn(const PidNamespace& space) const;
  // In the namespace that it was made in.
  int number() const { return levels_.back().number; }
  PidNamespace& space() const { return *space_; }
  // In the kernel's first namespace: no two that live have the same one.
  int global_number() const { return levels_.front().number; }

  Task* task() const REQUIRES(tasks) { return task_; }
  ThreadGroup* group() const REQUIRES(tasks) { return group_; }
  ProcessGroup* process_group() const REQUIRES(tasks) { return process_group_; }
  Session* session() const REQUIRES(tasks) { return session_; }

  // Its user now; null: none any more. Numbers without a user become free.
  void SetTask(Task* task) REQUIRES(tasks);
  void SetGroup(ThreadGroup* group) REQUIRES(tasks);

 private:
  friend class ProcessGroup;
  friend class Session;
  struct Level {
    PidNamespace* space;
    int number;
  };
  explicit Pid(Ref<PidNamespace> space) : space_(std::move(space)) {}
  void FreeIfUnused() REQUIRES(tasks);

  const Ref<PidNamespace> space_;
  std::vector<Level> levels_;  // the first namespace's first; constant
  Task* task_ GUARDED_BY(tasks) = nullptr;
  ThreadGroup* group_ GUARDED_BY(tasks) = nullptr;
  ProcessGroup* process_group_ GUARDED_BY(tasks) = nullptr;
  Session* session_ GUARDED_BY(tasks) = nullptr;
};

// Processes that setsid(2) has put apart; made of process groups, which hold it.
class Session final : public RefCounted<Session> {
 public:
  static Ref<Session> Make(Ref<Pid> id) REQUIRES(tasks) {
    return Ref<Session>(new Session(std::move(id)));
  }
  ~Session();
  const Ref<Pid>& id() const { return id_; }

 private:
  explicit Session(Ref<Pid> id) REQUIRES(tasks);
  const Ref<Pid> id_;
};

// Processes that a signal is sent to at once. Its members hold it.
class ProcessGroup final : public RefCounted<ProcessGroup> {
 public:
  // Without members.
  static Ref<ProcessGroup> Make(Ref<Pid> id, Ref<Session> session) REQUIRES(tasks) {
    return Ref<ProcessGroup>(new ProcessGroup(std::move(id), std::move(session)));
  }
  ~ProcessGroup();

  const Ref<Pid>& id() const { return id_; }
  Session& session() const { return *session_; }

  // Calls fn(ThreadGroup&) for each member, alive or zombie. fn may remove that member.
  template <class F>
  void ForEach(const F& fn) const REQUIRES(tasks) {
    for (ThreadGroup* member = first_; member != nullptr;) {
      ThreadGroup* const next = NextOf(*member);
      fn(*member);
      member = next;
    }
  }
  bool empty() const REQUIRES(tasks) { return first_ == nullptr; }

 private:
  friend class ThreadGroup;  // joins and leaves
  ProcessGroup(Ref<Pid> id, Ref<Session> session) REQUIRES(tasks);
  static ThreadGroup* NextOf(const ThreadGroup& member) REQUIRES(tasks);

  const Ref<Pid> id_;
  const Ref<Session> session_;
  ThreadGroup* first_ GUARDED_BY(tasks) = nullptr;  // linked through ThreadGroup::group_link
};

// Numbers of processes, and the process that adopts orphans.
class PidNamespace final : public RefCounted<PidNamespace> {
 public:
  // `parent`: null for the kernel's first. `number`: as /proc/<pid>/ns/pid shows it.
  PidNamespace(Ref<PidNamespace> parent, Ref<auth::UserNamespace> owner, uint64_t number);
  ~PidNamespace();

  PidNamespace* parent() const { return parent_.get(); }
  int level() const { return level_; }
  uint64_t number() const { return number_; }
  auth::UserNamespace& owner() const { return *owner_; }

  // Null: nobody bears this number.
  Pid* Find(int number) const REQUIRES(tasks);
  Task* FindTask(int tid) const REQUIRES(tasks);
  ThreadGroup* FindGroup(int tgid) const REQUIRES(tasks);
  ProcessGroup* FindProcessGroup(int pgid) const REQUIRES(tasks);

  // In the order of numbers; also what lives in namespaces below. Ends when fn returns false.
  void ForEach(const std::function<bool(Pid&)>& fn, int from = 1) const REQUIRES(tasks);
  void ForEachTask(const std::function<void(Task&)>& fn) const REQUIRES(tasks);
  void ForEachGroup(const std::function<void(ThreadGroup&)>& fn) const REQUIRES(tasks);

  // Its init (Linux: child_reaper); null: not yet, or it has ended, and with it the namespace.
  ThreadGroup* reaper() const REQUIRES(tasks) { return reaper_; }
  void SetReaper(ThreadGroup& init) REQUIRES(tasks) { reaper_ = &init; }
  // Linux: zap_pid_ns_processes: everybody in it is killed, and nobody can come into being.
  void Zap() REQUIRES(tasks);

  int last_pid() const REQUIRES(tasks) { return last_pid_; }
  size_t size() const REQUIRES(tasks) { return pids_.size(); }  // numbers in use
  // Their words name the owner by its number here.
  ipc::PiFutexTable& pi_futexes() { return pi_futexes_; }

 private:
  friend class Pid;
  Result<int> TakeNumber(Pid& pid) REQUIRES(tasks);

  const Ref<PidNamespace> parent_;
  const Ref<auth::UserNamespace> owner_;
  const int level_;
  const uint64_t number_;
  ipc::PiFutexTable pi_futexes_;
  std::map<int, Pid*> pids_ GUARDED_BY(tasks);
  int last_pid_ GUARDED_BY(tasks) = 0;
  ThreadGroup* reaper_ GUARDED_BY(tasks) = nullptr;
  bool ended_ GUARDED_BY(tasks) = false;
};

}  // namespace skep::kernel
