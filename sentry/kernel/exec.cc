// execve(2) from the point where the arguments are in the kernel (Linux: fs/exec.c), and init.
#include <linux/capability.h>
#include <sys/auxv.h>
#include <sys/mount.h>
#include <algorithm>
#include <cstring>

#include "base/host_call.h"
#include "sentry/kernel/clone.h"
#include "sentry/kernel/cpu_time.h"
#include "sentry/kernel/exit.h"
#include "sentry/kernel/posix_timer.h"
#include "sentry/kernel/signals.h"
#include "sentry/kernel/vdso_clock.h"

namespace skep::kernel {
namespace {

void FillRandom(std::span<std::byte> to) {
  while (!to.empty()) {
    auto n = host::Call(SYS_getrandom, to.data(), to.size());
    CHECK(n.has_value());
    to = to.subspan(static_cast<size_t>(*n));
  }
}

// Linux: de_thread. The other threads end; the caller becomes the leader with the leader's id.
Result<void> EndOtherThreads(Task& task) {
  Kernel& kernel = task.kernel;
  ThreadGroup& group = *task.group;
  {
    TasksLock lock(kernel);
    if (group.exiting || group.exec_by != nullptr) return Fail(kKilled);
    if (group.threads.size() == 1 && task.IsLeader()) return {};
    group.exec_by = &task;
    for (Task* t : group.threads) {
      if (t != &task) t->fiber->Kill();
    }
  }
  const auto end = sched::WaitUntil(group.exec_queue, sched::kAllEvents, std::nullopt,
                                    sched::Sleep::kKillable, [&] {
                                      TasksLock lock(kernel);
                                      return group.threads.size() == 1 || group.exiting;
                                    });
  TasksLock lock(kernel);
  group.exec_by = nullptr;
  if (end != sched::WakeReason::kWoken || group.exiting) return Fail(kKilled);
  if (!task.IsLeader()) {
    const int old_tid = task.tid;
    kernel.pids[group.tgid].task = &task;
    kernel.pids[old_tid].task = nullptr;
    kernel.DropPidIfEmpty(old_tid);
    task.tid = group.tgid;
    group.leader = Ref<Task>(&task);
  }
  return {};
}

void ResetSignals(Task& task) {
  Kernel& kernel = task.kernel;
  ThreadGroup& group = *task.group;
  TasksLock lock(kernel);
  auto fresh = MakeRef<SignalHandlers>();
  for (int signo = 1; signo <= kSignals; ++signo) {
    if (group.handlers->Of(signo).IsIgnored()) {
      fresh->Of(signo).handler = SignalAction::kIgnore;
    }
  }
  group.handlers = std::move(fresh);
  group.has_exec = true;
  group.exit_signal = SIGCHLD;
  task.alt_stack = {};
}

struct NewIds {
  auth::Credentials creds;
  bool secure = false;
  bool changed = false;
};

// Linux: bprm_fill_uid and cap_bprm_creds_from_file.
NewIds CredentialsFor(Task& task, const Ref<vfs::File>& file) {
  NewIds ids{*task.credentials};
  bool setuid_root = false;
  const uint64_t mount_flags = file->path().mount ? file->path().mount->flags() : 0;
  auto attributes = file->inode() != nullptr ? file->inode()->GetAttributes()
                                             : Result<vfs::Attributes>(Fail(ENOENT));
  if (attributes && (mount_flags & MS_NOSUID) == 0 && !ids.creds.no_new_privs) {
    if ((attributes->mode & S_ISUID) != 0) {
      ids.creds.euid = attributes->uid;
      setuid_root = attributes->uid == 0;
    }
    if ((attributes->mode & (S_ISGID | S_IXGRP)) == (S_ISGID | S_IXGRP)) {
      ids.creds.egid = attributes->gid;
    }
  }
  auth::OnExec(ids.creds, setuid_root && ids.creds.uid != 0);
  ids.changed =
      ids.creds.euid != task.credentials->euid || ids.creds.egid != task.credentials->egid;
  ids.secure = ids.creds.uid != ids.creds.euid || ids.creds.gid != ids.creds.egid;
  return ids;
}

void CloseOnExec(Task& task) {
  if (task.files.Mine().shared()) ReplaceFiles(task, task.files->Clone());
  for (Ref<vfs::File>& file : task.files->RemoveIf([](int, bool cloexec) { return cloexec; })) {
    (void)vfs::FinishClose(task, *task.files, *file);
  }
}

Result<void> ReplaceMemory(Task& task, const NewIds& ids) {
  Kernel& kernel = task.kernel;
  LeaveFutexes(task);
  task.left_futexes = false;
  bool reuse = false;
  {
    TasksLock lock(kernel);
    SettleUsage(task);
    // Who looks at this program's memory now (/proc/<pid>/mem, process_vm_writev) may be in the
    // middle of it and must not get to the next one's; who comes later is asked for his rights.
    reuse = task.mm && task.mm->users.load() == 1 && task.mm->RefCount() == 1 && task.context_ref;
    if (ids.changed) task.group->dumpable = 0;
  }
  if (reuse) return task.mm->Clear();
  if (task.mm) ReleaseMemory(task);
  Ref<mm::MemoryManager> fresh = mm::MemoryManager::Make(*kernel.memory);
  fresh->users = 1;
  {
    TasksLock lock(kernel);
    task.mm.Set(std::move(fresh));
  }
  return {};
}

// A new program's first registers, as Linux's start_thread leaves them.
platform::Registers FirstRegisters(const loader::Loaded& loaded) {
  platform::Registers r{};
  r.rip = loaded.entry;
  r.rsp = loaded.stack_pointer;
  r.rflags = 0x202;
  return r;
}

Result<void> EnterProgram(Task& task, const platform::Registers& first) {
  if (!task.context_ref) {
    TRY(task.mm->Activate(task.fiber->worker()));
    StartCpuAccount(task);
    task.context_ref = TRY(task.mm->NewContext(task.fiber->worker().engine(), first, {}));
    return {};
  }
  TRY(task.mm->MapProgram());
  platform::Registers* r = task.LoadRegisters(platform::LoadXsave::kYes);
  if (r == nullptr) return Fail(kKilled);
  *r = first;
  std::span<std::byte> xsave = task.context().xsave();
  // The initial x87 and SSE state; the software-reserved words stay.
  std::array<std::byte, 48> reserved;
  memcpy(reserved.data(), xsave.data() + 464, reserved.size());
  memset(xsave.data(), 0, xsave.size());
  const uint16_t control = 0x37f;
  const uint32_t mxcsr = 0x1f80;
  memcpy(xsave.data(), &control, sizeof control);
  memcpy(xsave.data() + 24, &mxcsr, sizeof mxcsr);
  memcpy(xsave.data() + 464, reserved.data(), reserved.size());
  return {};
}

loader::LoadContext LoadContextFor(Task& task, const NewIds& ids) {
  loader::LoadContext context;
  context.vdso = &task.kernel.vdso_clock->pages();
  context.uid = ids.creds.uid, context.euid = ids.creds.euid;
  context.gid = ids.creds.gid, context.egid = ids.creds.egid;
  context.secure = ids.secure;
  context.stack_limit = task.Limit(RLIMIT_STACK);
  FillRandom(context.random_bytes);
  constexpr uint32_t kNoRandomize = 0x0040000;
  if ((task.personality & kNoRandomize) == 0) {
    FillRandom(std::as_writable_bytes(std::span(&context.random, 1)));
  }
  context.hwcap = getauxval(AT_HWCAP);
  context.hwcap2 = getauxval(AT_HWCAP2);
  context.minsigstksz = getauxval(51 /* AT_MINSIGSTKSZ */);
  return context;
}

// Past the point of no return: an error kills the process.
Result<void> Commit(Task& task, const loader::Program& program, const NewIds& ids) {
  Kernel& kernel = task.kernel;
  DeleteAllTimers(*task.group);
  TRY(ReplaceMemory(task, ids));
  if (task.vfork_pending.exchange(false)) task.vfork_queue.Wake();
  ResetSignals(task);
  CloseOnExec(task);
  Ref<vfs::File> old_executable;
  {
    TasksLock lock(kernel);
    task.credentials.Set(std::make_shared<const auth::Credentials>(ids.creds));
    task.comm.fill(0);
    program.comm.copy(task.comm.data(), task.comm.size() - 1);
    old_executable = task.executable.Exchange(program.main.file);
    task.group->dumpable = ids.changed ? 0 : 1;
    if (ids.changed) task.parent_death_signal.Set(0);
    task.group->posix_timers.clear();
  }
  task.restart = {};
  const loader::LoadContext context = LoadContextFor(task, ids);
  const loader::Loaded loaded = TRY(loader::Load(*task.mm, task, program, context));
  // Linux: only the program itself stays protected from being written to.
  if (program.script) program.script->AllowWrites();
  if (program.interpreter.file) program.interpreter.file->AllowWrites();
  {
    TasksLock lock(kernel);
    task.auxv = loaded.auxv;
  }
  return EnterProgram(task, FirstRegisters(loaded));
}

}  // namespace

Result<void> Exec(Task& task, loader::Program program, Ref<vfs::File> executable) {
  const NewIds ids = CredentialsFor(task, executable);
  TRY(EndOtherThreads(task));
  if (auto done = Commit(task, program, ids); !done) {
    TasksLock lock(task.kernel);
    StartGroupExit(*task.group, SIGKILL);
    return Fail(kKilled);
  }
  task.keep_registers = true;
  return {};
}

namespace {

// The body of init's fiber up to its first instruction.
Result<void> LoadInit(Task& task, InitRequest& request) {
  vfs::Walker walker(task, *task.fs);
  const vfs::Path path = TRY(walker.Resolve(request.path, {}));
  Ref<vfs::File> file = TRY(loader::OpenExecutable(walker, path));
  loader::Program program = TRY(loader::Prepare(walker, file, request.path, std::move(request.argv),
                                                std::move(request.envp)));
  const Ref<vfs::File> main = program.main.file;
  TRY(Exec(task, std::move(program), main));
  task.keep_registers = false;
  return {};
}

void RunInit(Task& task, InitRequest request) {
  sched::Fiber::Current().cookie = &task;
  const Result<void> prepared = request.prepare(task);
  const Result<void> loaded = prepared ? LoadInit(task, request) : prepared;
  request.started(loaded ? 0 : loaded.error().code(), !prepared);
  if (loaded) {
    task.Main();
    return;
  }
  ExitGroup(task, 127);
  ExitTask(task);
}

}  // namespace

Result<Ref<Task>> StartInit(Kernel& kernel, InitRequest request) {
  auto task = MakeRef<Task>(kernel);
  task->group = MakeRef<ThreadGroup>(kernel);
  ThreadGroup& group = *task->group;
  group.start_ns = kernel.scheduler.clock().MonotonicNs();
  {
    TasksLock lock(kernel);
    group.handlers = MakeRef<SignalHandlers>();
    group.limits.SetAll(request.limits);
    group.oom_score_adj = request.oom_score_adj;
    task->credentials.Set(std::move(request.credentials));
    const int pid = TRY(kernel.AllocatePid());
    task->tid = group.tgid = pid;
    group.leader = task;
    group.threads.push_back(task.get());
    group.live = 1;
    group.cpu_watch_wanted = group.limits.Soft(RLIMIT_CPU) != RLIM_INFINITY;
    kernel.pids[pid].task = task.get();
    kernel.pids[pid].group = &group;
    kernel.JoinProcessGroup(group, pid);
    kernel.JoinSession(group, pid);
    kernel.init = task->group;
    ++kernel.task_count;
  }
  // The fiber may run on another thread before Spawn returns: it waits for its own reference.
  auto body = [task, request = std::move(request)]() mutable {
    sched::WaitUntil(task->started_queue, sched::kAllEvents, std::nullopt,
                     sched::Sleep::kUninterruptible, [&] { return task->may_start.load(); });
    RunInit(*task, std::move(request));
  };
  task->fiber = TRY(sched::Fiber::Spawn(kernel.scheduler.worker(0), std::move(body)));
  task->may_start = true;
  task->started_queue.Wake();
  return task;
}

}  // namespace skep::kernel
