// execve(2) from the point where the arguments are in the kernel (Linux: fs/exec.c).
#include <sys/personality.h>
#include <algorithm>
#include <cstring>

#include "base/host_call.h"
#include "base/missing_defs.h"
#include "platform/xsave.h"
#include "sentry/kernel/clone.h"
#include "sentry/kernel/cpu_time.h"
#include "sentry/kernel/credentials.h"
#include "sentry/kernel/exit.h"
#include "sentry/kernel/posix_timer.h"
#include "sentry/kernel/signals.h"
#include "sentry/kernel/vdso_clock.h"

namespace skep::kernel {
namespace {

// Flags of personality(2) that weaken a program (Linux: PER_CLEAR_ON_SETID).
constexpr uint32_t kClearOnSetId =
    READ_IMPLIES_EXEC | ADDR_NO_RANDOMIZE | ADDR_COMPAT_LAYOUT | MMAP_PAGE_ZERO;
constexpr rlim_t kDefaultStack = rlim_t{8} << 20;  // Linux: _STK_LIM

void FillRandom(std::span<std::byte> to) {
  while (!to.empty()) {
    auto n = host::Call(SYS_getrandom, to.data(), to.size());
    CHECK(n.has_value());
    to = to.subspan(static_cast<size_t>(*n));
  }
}

// Linux: de_thread. The other threads end; the caller becomes the leader with the leader's id.
// False: there were none.
Result<bool> EndOtherThreads(Task& task) {
  Kernel& kernel = task.kernel;
  ThreadGroup& group = *task.group;
  {
    TasksLock lock(kernel);
    if (group.exiting || group.exec_by != nullptr) return Fail(kKilled);
    if (group.threads.size() == 1 && task.IsLeader()) return false;
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
    group.pid->SetTask(&task);
    task.pid->SetTask(nullptr);
    task.pid = group.pid;
    task.tid = group.tgid;
    group.leader = Ref<Task>(&task);
  }
  return true;
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

// What is new about the program beside its memory.
struct Identity {
  auth::ExecCredentials ids;
  bool readable = true;  // by who executes it
};

Result<Identity> IdentityFor(Task& task, const loader::Program& program) {
  Identity identity;
  identity.ids = TRY(ExecCredentialsFor(task, *program.main.file));
  identity.readable = MayRead(task, *program.main.file) &&
                      (!program.interpreter.file || MayRead(task, *program.interpreter.file));
  return identity;
}

// Linux: the part of begin_new_exec that protects a program from who started it. Before its memory
// is there.
void ChangeIdentity(Task& task, const loader::Program& program, const Identity& identity) {
  Ref<vfs::File> old_executable;
  TasksLock lock(task.kernel);
  const auth::Credentials& old = task.creds();
  uint32_t personality = task.personality;
  personality &= ~uint32_t{READ_IMPLIES_EXEC};  // set_personality_64bit
  if (identity.ids.clear_personality) personality &= ~kClearOnSetId;
  task.personality = personality;
  if (identity.ids.secure) {
    task.parent_death_signal.Set(0);
    rlimit stack = task.group->limits.Get(RLIMIT_STACK);
    stack.rlim_cur = std::min(stack.rlim_cur, kDefaultStack);
    task.group->limits.Set(RLIMIT_STACK, stack);
  }
  // As Linux has it: the ids of who calls execve. Those that the file brings come below.
  const bool own = old.uid == old.euid && old.gid == old.egid;
  task.mm->dumpable = identity.readable && own ? mm::Dumpable::kUser : mm::Dumpable::kNo;
  ++task.group->self_exec_id;
  CommitCredentials(task, std::make_shared<const auth::Credentials>(identity.ids.creds));
  task.comm.fill(0);
  program.comm.copy(task.comm.data(), task.comm.size() - 1);
  old_executable = task.executable.Exchange(program.main.file);
  task.group->posix_timers.clear();
}

void CloseOnExec(Task& task) {
  if (task.files.Mine().shared()) ReplaceFiles(task, task.files->Clone());
  FinishCloses(task, *task.files, task.files->RemoveIf([](int, bool cloexec) { return cloexec; }));
}

Result<void> ReplaceMemory(Task& task) {
  Kernel& kernel = task.kernel;
  LeaveFutexes(task);
  task.left_futexes = false;
  bool reuse = false;
  {
    TasksLock lock(kernel);
    SettleUsage(task);
    // Reuse the address space only if nobody else holds it: a reader of /proc/<pid>/mem must not
    // see the next program. Later readers pass the permission check again.
    reuse = task.mm && task.mm->users.load() == 1 && task.mm->RefCount() == 1 && task.context_ref;
    if (reuse) task.mm->dumpable = mm::Dumpable::kNo;  // until ChangeIdentity
  }
  if (reuse) return task.mm->Clear();
  if (task.mm) ReleaseMemory(task);
  Ref<mm::MemoryManager> fresh = mm::MemoryManager::Make(*kernel.memory);
  fresh->users = 1;
  fresh->dumpable = mm::Dumpable::kNo;
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
  platform::xsave::Clear(task.context().xsave());
  return {};
}

loader::LoadContext LoadContextFor(Task& task, const auth::ExecCredentials& ids) {
  loader::LoadContext context;
  context.vdso = &task.kernel.vdso_clock->pages();
  const auth::Credentials& creds = ids.creds;
  context.uid = creds.ShownUser(creds.uid), context.euid = creds.ShownUser(creds.euid);
  context.gid = creds.ShownGroup(creds.gid), context.egid = creds.ShownGroup(creds.egid);
  context.secure = ids.secure;
  context.stack_limit = task.Limit(RLIMIT_STACK);
  FillRandom(context.random_bytes);
  if ((task.personality & ADDR_NO_RANDOMIZE) == 0) {
    FillRandom(std::as_writable_bytes(std::span(&context.random, 1)));
  }
  context.hwcap = getauxval(AT_HWCAP);
  context.hwcap2 = getauxval(AT_HWCAP2);
  context.minsigstksz = getauxval(AT_MINSIGSTKSZ);
  return context;
}

// Past the point of no return: an error kills the process.
Result<void> Commit(Task& task, const loader::Program& program, const Identity& identity) {
  Kernel& kernel = task.kernel;
  DeleteAllTimers(*task.group);
  TRY(ReplaceMemory(task));
  task.loan.End();
  ResetSignals(task);
  CloseOnExec(task);
  ChangeIdentity(task, program, identity);
  task.restart = {};
  const loader::LoadContext context = LoadContextFor(task, identity.ids);
  const loader::Loaded loaded = TRY(loader::Load(*task.mm, program, context));
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

Result<void> Exec(Task& task, loader::Program program) {
  // Before anything is lost, and again if other threads could change what it depends on.
  Result<Identity> identity = IdentityFor(task, program);
  if (!identity) return std::unexpected(identity.error());
  const bool had_others = TRY(EndOtherThreads(task));
  if (had_others) identity = IdentityFor(task, program);
  Result<void> done =
      identity ? Commit(task, program, *identity) : Result<void>(std::unexpected(identity.error()));
  if (!done) {
    TasksLock lock(task.kernel);
    StartGroupExit(*task.group, SIGSEGV);  // Linux: bprm_execve
    return Fail(kKilled);
  }
  task.keep_registers = true;
  return {};
}

}  // namespace skep::kernel
