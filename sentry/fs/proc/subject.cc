#include "sentry/fs/proc/subject.h"

#include "sentry/kernel/access.h"

namespace skep::fs {

kernel::Task* Subject::Find() const {
  kernel::ThreadGroup* group = pids->FindGroup(tgid);
  if (group == nullptr || group->start_ns != start_ns) return nullptr;
  if (tid == tgid) return group->leader.get();
  kernel::Task* task = pids->FindTask(tid);
  return task != nullptr && task->group.get() == group ? task : nullptr;
}

bool Subject::Exists() const {
  TasksLock lock(*kernel);
  return Find() != nullptr;
}

Result<Ref<mm::MemoryManager>> Subject::Memory() const {
  TasksLock lock(*kernel);
  kernel::Task* task = Find();
  if (task == nullptr) return Fail(ESRCH);
  return task->mm.Get();
}

Result<void> MayInspectTask(const kernel::Task& target, const auth::Credentials& creds,
                            const kernel::Task* task) {
  return kernel::MayAccess(target, creds, task, kernel::AccessIds::kFs);
}

Result<void> Subject::MayInspect(const auth::Credentials& creds, const kernel::Task* task) const {
  TasksLock lock(*kernel);
  const kernel::Task* target = Find();
  if (target == nullptr) return Fail(ESRCH);
  return MayInspectTask(*target, creds, task);
}

Result<void> Subject::MayInspect(vfs::Caller& caller) const {
  return MayInspect(caller.creds(), TaskOf(caller));
}

Result<Subject> Subject::OfPid(const ProcFs& fs, int pid) {
  Subject subject{.kernel = &fs.kernel(), .pids = &fs.pids(), .tid = pid};
  TasksLock lock(*subject.kernel);
  const kernel::Pid* found = fs.pids().Find(pid);
  if (found == nullptr) return Fail(ENOENT);
  const kernel::ThreadGroup* group = found->group();
  if (group == nullptr && found->task() != nullptr) group = found->task()->group.get();
  if (group == nullptr) return Fail(ENOENT);
  subject.tgid = group->pid->NumberIn(fs.pids());
  subject.start_ns = group->start_ns;
  if (subject.Find() == nullptr) return Fail(ENOENT);
  return subject;
}

Result<Subject> Subject::Thread(int thread_id) const {
  Subject found = *this;
  found.tid = thread_id;
  found.thread = true;
  if (!found.Exists()) return Fail(ENOENT);
  return found;
}

kernel::Task* TaskOf(vfs::Caller& caller) { return dynamic_cast<kernel::Task*>(&caller); }

kernel::Task* RunningTask() {
  sched::Fiber* fiber = sched::Fiber::CurrentOrNull();
  return fiber == nullptr ? nullptr : static_cast<kernel::Task*>(fiber->cookie);
}

vfs::Path RootOf(vfs::Caller& caller) {
  const vfs::FsContext* fs = caller.fs_context();
  return fs != nullptr ? fs->root() : vfs::Path();
}

int NumberOf(std::string_view name) {
  constexpr size_t kDigits = 9;
  if (name.empty() || name.size() > kDigits || (name[0] == '0' && name.size() > 1)) return -1;
  int number = 0;
  for (const char c : name) {
    if (c < '0' || c > '9') return -1;
    number = number * 10 + (c - '0');
  }
  return number;
}

void SetOwner(const Subject& subject, uint32_t mode, vfs::Attributes& attributes) {
  attributes.uid = attributes.gid = 0;
  TasksLock lock(*subject.kernel);
  const kernel::Task* task = subject.Find();
  if (task == nullptr) return;
  // Directories that everybody may read tell the effective ids, whatever else is true: programs
  // stat(2) /proc/<pid> for them.
  const bool open_directory = mode == (S_IFDIR | 0555);
  if (!open_directory && (!task->mm.Get() || task->mm.Get()->dumpable != mm::Dumpable::kUser))
    return;
  attributes.uid = task->credentials.Get()->euid;
  attributes.gid = task->credentials.Get()->egid;
}

}  // namespace skep::fs
