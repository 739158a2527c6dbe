// Container: a set of processes that was started together, with its namespaces and limits, and
// the processes in it that the outside has started: its init and exec sessions.
//
// What a container has of the host (its gofer, terminals, standard streams) is boot's:
// boot/sandbox.h.
#pragma once

#include <atomic>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "base/ref.h"
#include "base/result.h"
#include "sentry/kernel/namespaces.h"
#include "sentry/kernel/task.h"

namespace skep::kernel {

class Container;

// A process whose parent is outside the sandbox. It is reaped as it ends; its status stays here.
class StartedProcess final : public RefCounted<StartedProcess> {
 public:
  StartedProcess(Container& container, std::string exec_id, bool job_control)
      : container_(&container), exec_id_(std::move(exec_id)), job_control_(job_control) {}

  Container& container() const { return *container_; }
  const std::string& exec_id() const { return exec_id_; }  // "": the container's init
  bool is_init() const { return exec_id_.empty(); }
  // The command that started it is told of its stops and can continue it, as a shell would.
  bool job_control() const { return job_control_; }

  // Null: it has ended.
  ThreadGroup* group() const REQUIRES(tasks) { return group_.get(); }
  void SetGroup(Ref<ThreadGroup> group) REQUIRES(tasks) { group_ = std::move(group); }

  // A wait status; once exited() only.
  int status() const { return status_.load(); }
  bool exited() const { return exited_.load(); }
  // The signal that has stopped it since this was last asked; 0: none. Needs job_control.
  int TakeStop() { return stop_signal_.exchange(0); }
  bool stopped() const { return stop_signal_.load() != 0; }
  // It has exited, or stopped.
  sched::WaitQueue& changes() { return changes_; }

  void NoteExit(int status) REQUIRES(tasks);
  void NoteStop(int signo);  // 0: it goes on

 private:
  const Ref<Container> container_;
  const std::string exec_id_;
  const bool job_control_;
  Ref<ThreadGroup> group_ GUARDED_BY(tasks);
  std::atomic<int> status_{0};
  std::atomic<bool> exited_{false};
  std::atomic<int> stop_signal_{0};
  sched::WaitQueue changes_;
};

// A process from outside. The caller is boot (arena heap).
struct ProcessRequest {
  auth::CredentialsRef credentials;  // its user namespace becomes the container's
  Limits limits;
  std::string path;
  std::vector<std::string> argv, envp;
  int oom_score_adj = 0;
  bool job_control = false;  // StartedProcess::job_control
  // Runs first on its fiber: mounts, task.fs and task.files.
  std::move_only_function<Result<void>(Task& task)> prepare;
  // Runs after `prepare`: the program in place of `path`. None: `path` it is.
  std::move_only_function<Result<std::string>(Task& task)> find;
  // Runs on its fiber before its first instruction; `error`: 0, or the errno of the step that
  // failed (the process then exits with 127).
  std::move_only_function<void(int error, bool in_prepare)> started;
};
struct ContainerRequest {
  std::string id;
  std::string hostname = "skep", domainname = "(none)";
  uint64_t pids_limit = 0;  // tasks; 0: none
  // As in a pid namespace: signals from inside that init does not catch leave it alone. If not, it
  // is a command like any other: a signal may end it or stop it, and its starter is told.
  bool unkillable_init = true;
  // Shared with other containers; null: of its own. user: null: the kernel's first.
  Ref<auth::UserNamespace> user;
  Ref<PidNamespace> pids;
  Ref<UtsNamespace> uts;
  Ref<IpcNamespace> ipc;
  Ref<NetNamespace> net;
  Ref<CgroupNamespace> cgroup;
};

class Container final : public RefCounted<Container> {
 public:
  // Registers it with the kernel under its id, without a process. EEXIST.
  static Result<Ref<Container>> Make(Kernel& kernel, ContainerRequest request) EXCLUDES(tasks);
  Container(Kernel& kernel, ContainerRequest request);
  ~Container();

  Kernel& kernel() const { return kernel_; }
  const std::string& id() const { return id_; }
  const Ref<Namespaces>& namespaces() const { return namespaces_; }
  const Ref<auth::UserNamespace>& user_namespace() const { return user_; }
  PidNamespace& pids() const { return *namespaces_->pids_of_children; }
  bool unkillable_init() const { return unkillable_init_; }

  // The container's first process. EBUSY: it has had one.
  Result<Ref<StartedProcess>> StartInit(ProcessRequest request) EXCLUDES(tasks);
  // Another one beside it, in its namespaces, and with a session of its own. `exec_id` is not
  // empty. EEXIST: the name is taken; ESRCH: the container's init does not run; EAGAIN: too many
  // tasks.
  Result<Ref<StartedProcess>> StartExec(const std::string& exec_id, ProcessRequest request)
      EXCLUDES(tasks);

  // Null: not started, or ended.
  ThreadGroup* init() const REQUIRES(tasks);
  // Null: there is no such process, or it was forgotten. `exec_id`: "" is the init.
  Ref<StartedProcess> Find(const std::string& exec_id) const REQUIRES(tasks);
  // Once its status was told: an exec session's name is free again.
  void Forget(const StartedProcess& process) REQUIRES(tasks);

  // EAGAIN: the limit of tasks is reached.
  Result<void> AddTask() REQUIRES(tasks);
  void RemoveTask() REQUIRES(tasks);
  size_t task_count() const REQUIRES(tasks) { return task_count_; }
  // Woken when the last task is gone.
  sched::WaitQueue& empty_queue() { return empty_queue_; }
  // Ends all its processes (an init's end does that, and `delete --force`).
  void KillAll() REQUIRES(tasks);
  // Nothing of it is left to look at: the id is free again. EBUSY: there are tasks.
  Result<void> Remove() EXCLUDES(tasks);

 private:
  Result<Ref<StartedProcess>> Start(const std::string& exec_id, ProcessRequest request)
      EXCLUDES(tasks);
  Result<void> Publish(Task& task, StartedProcess& started) REQUIRES(tasks);

  Kernel& kernel_;
  const std::string id_;
  const uint64_t pids_limit_;
  const bool unkillable_init_;
  const Ref<auth::UserNamespace> user_;
  Ref<Namespaces> namespaces_;  // constant
  size_t task_count_ GUARDED_BY(tasks) = 0;
  std::map<std::string, Ref<StartedProcess>> started_ GUARDED_BY(tasks);  // by exec id
  sched::WaitQueue empty_queue_;
};

}  // namespace skep::kernel
