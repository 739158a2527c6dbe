#include "sentry/kernel/container.h"

#include "sentry/kernel/clone.h"
#include "sentry/kernel/exit.h"
#include "sentry/kernel/kernel.h"
#include "sentry/kernel/signals.h"

namespace skep::kernel {

void StartedProcess::NoteExit(int status) {
  group_ = {};
  status_ = status;
  exited_ = true;
  stop_signal_ = 0;
  changes_.WakeAll();
}

void StartedProcess::NoteStop(int signo) {
  stop_signal_ = signo;
  changes_.WakeAll();
}

Container::Container(Kernel& kernel, ContainerRequest request)
    : kernel_(kernel),
      id_(std::move(request.id)),
      pids_limit_(request.pids_limit),
      unkillable_init_(request.unkillable_init),
      user_(request.user ? std::move(request.user) : kernel.user_namespace),
      namespaces_(MakeRef<Namespaces>()) {
  Namespaces& own = *namespaces_;
  own.uts = std::move(request.uts);
  if (!own.uts) {
    own.uts = MakeRef<UtsNamespace>(user_, kernel.NextNamespaceNumber(),
                                    std::move(request.hostname), std::move(request.domainname));
  }
  own.ipc = std::move(request.ipc);
  if (!own.ipc) own.ipc = MakeRef<IpcNamespace>(user_, kernel.NextNamespaceNumber());
  own.cgroup = std::move(request.cgroup);
  if (!own.cgroup) own.cgroup = MakeRef<CgroupNamespace>(user_, kernel.NextNamespaceNumber());
  own.net = request.net ? std::move(request.net) : kernel.NewNetNamespace(user_);
  own.pids_of_children = std::move(request.pids);
  if (!own.pids_of_children) {
    own.pids_of_children =
        MakeRef<PidNamespace>(kernel.pid_namespace, user_, kernel.NextNamespaceNumber());
  }
}

Container::~Container() = default;

Result<Ref<Container>> Container::Make(Kernel& kernel, ContainerRequest request) {
  auto container = MakeRef<Container>(kernel, std::move(request));
  TasksLock lock(kernel);
  TRY(kernel.Register(container));
  return container;
}

ThreadGroup* Container::init() const {
  const Ref<StartedProcess> found = Find("");
  return found ? found->group() : nullptr;
}

Ref<StartedProcess> Container::Find(const std::string& exec_id) const {
  const auto found = started_.find(exec_id);
  return found == started_.end() ? Ref<StartedProcess>() : found->second;
}

void Container::Forget(const StartedProcess& process) {
  const auto found = started_.find(process.exec_id());
  if (found != started_.end() && found->second.get() == &process) started_.erase(found);
}

Result<void> Container::AddTask() {
  if (pids_limit_ != 0 && task_count_ >= pids_limit_) return Fail(EAGAIN);
  ++task_count_;
  kernel_.NoteTask();
  return {};
}

void Container::RemoveTask() {
  kernel_.NoteTaskGone();
  if (--task_count_ == 0) empty_queue_.WakeAll();
}

void Container::KillAll() {
  pids().ForEachGroup([this](ThreadGroup& group) REQUIRES(tasks) {
    if (group.container.get() == this && !group.zombie) StartGroupExit(group, SIGKILL);
  });
}

Result<void> Container::Remove() {
  Ref<Container> self;
  TasksLock lock(kernel_);
  if (task_count_ != 0) return Fail(EBUSY);
  self = kernel_.Unregister(*this);
  if (self) started_.clear();
  return {};
}

namespace {

// The body of a started process's fiber up to its first instruction.
Result<void> LoadFirst(Task& task, ProcessRequest& request) {
  if (request.find) request.path = TRY(request.find(task));
  vfs::NameOps walker(task, *task.fs);
  const vfs::Path path = TRY(walker.Resolve(request.path, {}));
  Ref<vfs::File> file = TRY(loader::OpenExecutable(walker, path));
  loader::Program program = TRY(loader::Prepare(walker, file, request.path, std::move(request.argv),
                                                std::move(request.envp)));
  TRY(Exec(task, std::move(program)));
  task.keep_registers = false;
  return {};
}

void RunFirst(Task& task, ProcessRequest request) {
  sched::Fiber::Current().cookie = &task;
  const Result<void> prepared = request.prepare(task);
  if (task.kernel.strace) task.kernel.strace->Started(task, request.path, request.argv);
  const Result<void> loaded = prepared ? LoadFirst(task, request) : prepared;
  request.started(loaded ? 0 : loaded.error().code(), !prepared);
  if (loaded) {
    task.Main();
    return;
  }
  ExitGroup(task, 127);
  ExitTask(task);
}

// Before the task has a number: nobody else knows it.
Ref<Task> NewFirstTask(Container& container, ProcessRequest& request) {
  Kernel& kernel = container.kernel();
  auto task = MakeRef<Task>(kernel);
  task->group = MakeRef<ThreadGroup>(kernel, Ref<Container>(&container));
  ThreadGroup& group = *task->group;
  group.start_ns = kernel.scheduler.clock().MonotonicNs();
  auto creds = std::make_shared<auth::Credentials>(*request.credentials);
  creds->user_namespace = container.user_namespace();
  TasksLock lock(kernel);
  group.handlers = MakeRef<SignalHandlers>();
  group.limits.SetAll(request.limits);
  group.oom_score_adj = request.oom_score_adj;
  group.cpu_watch_wanted = group.limits.Soft(RLIMIT_CPU) != RLIM_INFINITY;
  task->credentials.Set(std::move(creds));
  task->namespaces.Set(container.namespaces());
  return task;
}

}  // namespace

Result<void> Container::Publish(Task& task, StartedProcess& started) {
  const bool init = started.is_init();
  if (started_.contains(started.exec_id())) return Fail(init ? EBUSY : EEXIST);
  if (!init && this->init() == nullptr) return Fail(ESRCH);
  const Ref<Pid> pid = TRY(Pid::Allocate(pids()));
  if (auto added = AddTask(); !added) {
    pid->SetTask(nullptr);  // nobody bears it: the numbers are taken back
    return added;
  }
  ThreadGroup& group = *task.group;
  PublishLeader(task, pid);
  group.JoinProcessGroup(ProcessGroup::Make(pid, Session::Make(pid)));
  group.started = Ref<StartedProcess>(&started);
  if (init && pids().reaper() == nullptr) {
    pids().SetReaper(group);
    group.unkillable = unkillable_init_;
  }
  started.SetGroup(task.group);
  started_[started.exec_id()] = Ref<StartedProcess>(&started);
  return {};
}

Result<Ref<StartedProcess>> Container::Start(const std::string& exec_id, ProcessRequest request) {
  auto started = MakeRef<StartedProcess>(*this, exec_id, request.job_control);
  Ref<Task> task = NewFirstTask(*this, request);
  auto body = [task, request = std::move(request)]() mutable {
    if (task->start.AwaitPermission()) RunFirst(*task, std::move(request));
  };
  task->fiber = TRY(sched::Fiber::Spawn(kernel_.scheduler.worker(0), std::move(body)));
  Result<void> published;
  {
    TasksLock lock(kernel_);
    published = Publish(*task, *started);
  }
  if (published) {
    task->start.Allow();
  } else {
    task->start.GiveUp();
  }
  if (!published) return std::unexpected(published.error());
  return started;
}

Result<Ref<StartedProcess>> Container::StartInit(ProcessRequest request) {
  return Start("", std::move(request));
}

Result<Ref<StartedProcess>> Container::StartExec(const std::string& exec_id,
                                                 ProcessRequest request) {
  if (exec_id.empty()) return Fail(EINVAL);
  return Start(exec_id, std::move(request));
}

}  // namespace skep::kernel
