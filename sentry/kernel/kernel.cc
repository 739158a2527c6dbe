#include "sentry/kernel/kernel.h"

#include <linux/capability.h>
#include <algorithm>

#include "base/host_call.h"
#include "base/limits.h"
#include "sentry/kernel/container.h"
#include "sentry/kernel/oom.h"
#include "sentry/kernel/posix_timer.h"
#include "sentry/kernel/signal_source.h"
#include "sentry/kernel/signals.h"
#include "sentry/kernel/vdso_clock.h"

namespace skep::kernel {

Kernel::Kernel(const KernelConfig& config_in)
    : config(config_in),
      scheduler(config_in.workers),
      signal_source(std::make_unique<KernelSignalSource>()),
      // Linux: the numbers of the initial namespaces, PROC_USER_INIT_INO and PROC_PID_INIT_INO.
      user_namespace(MakeRef<auth::UserNamespace>(Ref<auth::UserNamespace>(), 0u, 0xeffffffdu)),
      pid_namespace(MakeRef<PidNamespace>(Ref<PidNamespace>(), user_namespace, 0xeffffffcu)),
      boot_realtime_ns_(host::RealtimeNs()),
      boot_monotonic_ns_(scheduler.clock().MonotonicNs()),
      in_flight_(MakeRef<net::InFlight>()),
      terminal_processes_(*this),
      terminals_(terminal_processes_) {}

Kernel::~Kernel() = default;

Result<void> Kernel::Register(const Ref<Container>& container) {
  if (!containers_.try_emplace(container->id(), container).second) return Fail(EEXIST);
  return {};
}

Ref<Container> Kernel::Unregister(const Container& container) {
  const auto found = containers_.find(container.id());
  if (found == containers_.end() || found->second.get() != &container) return {};
  Ref<Container> taken = std::move(found->second);
  containers_.erase(found);
  return taken;
}

Ref<NetNamespace> Kernel::NewNetNamespace(const Ref<auth::UserNamespace>& owner) {
  return MakeRef<NetNamespace>(owner, NextNamespaceNumber(),
                               MakeRef<net::NetNamespace>(*anon_fs, in_flight_, owner));
}

void Kernel::TerminalProcesses::SignalGroup(const vfs::ProcessId& group, int signo) {
  TasksLock lock(kernel_);
  const ProcessGroup* found = static_cast<const Pid&>(group).process_group();
  if (found == nullptr) return;
  found->ForEach([&](ThreadGroup& g) REQUIRES(tasks) { (void)SendFromTerminal(g, signo); });
}

void Kernel::TerminalProcesses::SignalLeader(const vfs::ProcessId& session, int signo) {
  TasksLock lock(kernel_);
  ThreadGroup* leader = static_cast<const Pid&>(session).group();
  if (leader != nullptr) (void)SendFromTerminal(*leader, signo);
}

void Usage::Add(const Usage& o) {
  user_ns += o.user_ns;
  system_ns += o.system_ns;
  minor_faults += o.minor_faults;
  major_faults += o.major_faults;
  voluntary_switches += o.voluntary_switches;
  involuntary_switches += o.involuntary_switches;
  max_rss = std::max(max_rss, o.max_rss);
}

Scheduling Scheduling::ForChild() const {
  Scheduling child = *this;
  if (reset_on_fork) child.nice = std::max(nice, 0);
  child.reset_on_fork = false;
  return child;
}

Limits Limits::Default() {
  Limits limits;
  for (rlimit& l : limits.values) l = {RLIM_INFINITY, RLIM_INFINITY};
  const auto set = [&](int resource, rlim_t soft, rlim_t hard) {
    limits.values[static_cast<size_t>(resource)] = {soft, hard};
  };
  set(RLIMIT_STACK, 8u << 20, RLIM_INFINITY);
  set(RLIMIT_CORE, 0, RLIM_INFINITY);
  set(RLIMIT_NOFILE, 1024, 1048576);
  set(RLIMIT_MEMLOCK, 8u << 20, 8u << 20);
  set(RLIMIT_SIGPENDING, 95000, 95000);
  set(RLIMIT_MSGQUEUE, 819200, 819200);
  set(RLIMIT_NICE, 0, 0);
  set(RLIMIT_RTPRIO, 0, 0);
  return limits;
}

ThreadGroup::ThreadGroup(Kernel& kernel_in, Ref<Container> container_in)
    : kernel(kernel_in), container(std::move(container_in)) {}
ThreadGroup::~ThreadGroup() = default;

Task::Task(Kernel& kernel_in) : kernel(kernel_in) {}
Task::~Task() = default;

void PublishLeader(Task& leader, const Ref<Pid>& pid) {
  ThreadGroup& group = *leader.group;
  leader.pid = group.pid = pid;
  leader.tid = group.tgid = pid->number();
  group.leader = Ref<Task>(&leader);
  group.threads.push_back(&leader);
  group.live = 1;
  pid->SetTask(&leader);
  pid->SetGroup(&group);
}

mm::MemoryLimits Task::MemoryLimits() const {
  mm::MemoryLimits limits;
  limits.address_space = Limit(RLIMIT_AS);
  limits.data = Limit(RLIMIT_DATA);
  limits.stack = Limit(RLIMIT_STACK);
  limits.locked = creds().HasInFirst(CAP_IPC_LOCK) ? ~uint64_t{0} : Limit(RLIMIT_MEMLOCK);
  return limits;
}

void Task::SignalSelf(int signo) {
  TasksLock lock(kernel);
  (void)SendToTask(*this, MakeInfo(signo, SI_KERNEL));
}

}  // namespace skep::kernel
