// Subject: the task that an inode of /proc is about, by number; and who may look at it.
#pragma once

#include "sentry/fs/proc/proc_fs.h"
#include "sentry/vfs/name_ops.h"

namespace skep::fs {

struct Subject {
  kernel::Kernel* kernel;
  const kernel::PidNamespace* pids;  // the ProcFs's: all numbers are as seen from there
  int tgid = 0, tid = 0;
  bool thread = false;    // /proc/<pid>/task/<tid>: of this thread alone
  uint64_t start_ns = 0;  // of the process: tells it from a later one with the same number

  // The task, alive or zombie; null: it is gone.
  kernel::Task* Find() const REQUIRES(tasks);
  bool Exists() const;
  // Its address space. ESRCH: the task is gone; a null Ref: it has none any more.
  Result<Ref<mm::MemoryManager>> Memory() const;

  // Linux: ptrace_may_access with PTRACE_MODE_*_FSCREDS. ESRCH, EPERM. `creds`: who asks; `task`:
  // for which thread (null: for none in particular).
  Result<void> MayInspect(const auth::Credentials& creds, const kernel::Task* task) const;
  Result<void> MayInspect(vfs::Caller& caller) const;

  // /proc/<pid> of any thread's number (Linux: proc_pid_lookup), and of a thread in its process.
  // ENOENT.
  static Result<Subject> OfPid(const ProcFs& fs, int pid);
  Result<Subject> Thread(int thread_id) const;
};

// The same.
Result<void> MayInspectTask(const kernel::Task& target, const auth::Credentials& creds,
                            const kernel::Task* task) REQUIRES(tasks);

// The caller as a task: null for callers that are none (tests).
kernel::Task* TaskOf(vfs::Caller& caller);
// The task that the current fiber executes for, or null.
kernel::Task* RunningTask();
// What '/' is for whoever reads a name.
vfs::Path RootOf(vfs::Caller& caller);

// A decimal number without leading zeros, as a name in /proc; -1: it is none.
int NumberOf(std::string_view name);

// The owner of /proc/<pid>/... (Linux: task_dump_owner). `mode`: of the inode.
void SetOwner(const Subject& subject, uint32_t mode, vfs::Attributes& attributes);

// An inode about a task: exists as long as that does, and belongs to whom it belongs to.
template <class Base>
class OfSubject : public Base {
 public:
  template <class... Args>
  explicit OfSubject(const Subject& subject, Args&&... args)
      : Base(std::forward<Args>(args)...), subject_(subject) {}
  const Subject& subject() const { return subject_; }
  bool Valid() override { return subject_.Exists(); }

 protected:
  void Adjust(vfs::Attributes& attributes) override {
    SetOwner(subject_, this->mode(), attributes);
  }

 private:
  const Subject subject_;
};

// A link that leads to a place, whatever its name is by now.
class MagicLink : public OfSubject<PseudoInode> {
 public:
  Result<std::string> ReadLink(vfs::Caller& caller) override {
    const vfs::Path path = TRY(Target(caller));
    return vfs::NameOf(path, RootOf(caller));
  }

  Result<std::optional<vfs::Path>> FollowMagic(vfs::Caller& caller) override {
    vfs::Path path = TRY(Target(caller));
    return std::optional<vfs::Path>(std::move(path));
  }

 protected:
  using OfSubject::OfSubject;

 private:
  virtual Result<vfs::Path> Target(vfs::Caller& caller) const = 0;
};

}  // namespace skep::fs
