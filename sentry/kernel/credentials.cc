#include "sentry/kernel/credentials.h"

#include <sys/mount.h>

#include "sentry/kernel/kernel.h"

namespace skep::kernel {
namespace {

// Linux: check_unsafe_exec. Another process could move the program's root and working directory
// while it runs.
bool SharesFs(Task& task) {
  Kernel& kernel = task.kernel;
  TasksLock lock(kernel);
  bool shares = false;
  kernel.pid_namespace->ForEachTask([&](const Task& other) REQUIRES(tasks) {
    shares = shares || (other.group != task.group && other.fs.Get() == task.fs.Get());
  });
  return shares;
}

bool MayBeSetId(const vfs::File& file) {
  return !file.path().mount || (file.path().mount->flags() & MS_NOSUID) == 0;
}

// Linux: bprm_fill_uid. Ids that nobody here can have are ignored.
Result<void> TakeSetIdBits(const Task& task, vfs::Inode& inode, auth::ExecFile& file) {
  const vfs::Attributes attributes = TRY(inode.GetAttributes());
  if ((attributes.mode & (S_ISUID | S_ISGID)) == 0) return {};
  // The file may have changed since it was opened.
  if (!inode.CheckPermission(task.creds(), vfs::kMayExec)) return {};
  if (attributes.uid == auth::kNoId || attributes.gid == auth::kNoId) return {};
  if (!task.creds().MapsUser(attributes.uid) || !task.creds().MapsGroup(attributes.gid)) return {};
  if ((attributes.mode & S_ISUID) != 0) file.set_uid = attributes.uid;
  constexpr uint32_t kSetgidExec = S_ISGID | S_IXGRP;
  if ((attributes.mode & kSetgidExec) == kSetgidExec) file.set_gid = attributes.gid;
  return {};
}

// Linux: get_file_caps.
Result<void> TakeCapabilities(const Task& task, vfs::Inode& inode, auth::ExecFile& file) {
  const Result<std::string> value = inode.GetXattr(auth::kFileCapabilitiesXattr);
  if (value) {
    file.capabilities = TRY(auth::ParseFileCapabilities(*value, task.creds()));
    return {};
  }
  const int error = value.error().code();
  if (error == ENODATA || error == EOPNOTSUPP) return {};
  return Fail(error);
}

}  // namespace

uint64_t ThreadsOf(const Kernel& kernel, const auth::Credentials& user) {
  uint64_t count = 0;
  kernel.pid_namespace->ForEachTask([&](const Task& task) REQUIRES(tasks) {
    const auth::Credentials& other = *task.credentials.Get();
    if (other.uid == user.uid && other.user_namespace == user.user_namespace) ++count;
  });
  return count;
}

Result<void> CheckProcessLimitOfExec(Task& task) {
  if (!task.too_many_processes) return {};
  TasksLock lock(task.kernel);
  if (ThreadsOf(task.kernel, task.creds()) > task.Limit(RLIMIT_NPROC)) return Fail(EAGAIN);
  task.too_many_processes = false;
  return {};
}

void CommitCredentials(Task& task, auth::CredentialsRef changed) {
  // Linux: flag_nproc_exceeded. No error: too many programs do not look at what setuid answers.
  if (changed->uid != task.creds().uid) {
    task.too_many_processes =
        changed->uid != 0 && ThreadsOf(task.kernel, *changed) > task.Limit(RLIMIT_NPROC);
  }
  if (auth::ChangesProtection(task.creds(), *changed)) {
    if (task.mm) task.mm->dumpable = mm::Dumpable::kNo;
    task.parent_death_signal.Set(0);
  }
  task.credentials.Set(std::move(changed));
}

Result<auth::ExecCredentials> ExecCredentialsFor(Task& task, const vfs::File& file) {
  auth::ExecFile asks;
  if (vfs::Inode* inode = file.inode(); inode != nullptr && MayBeSetId(file)) {
    TRY(TakeSetIdBits(task, *inode, asks));
    TRY(TakeCapabilities(task, *inode, asks));
  }
  const auth::Credentials& old = task.creds();
  auth::ExecCredentials exec = TRY(auth::CredentialsForExec(old, asks, false));
  const bool gains = exec.creds.euid != old.euid || exec.creds.egid != old.egid ||
                     (exec.creds.permitted & ~old.permitted) != 0;
  if (!gains || !SharesFs(task)) return exec;
  return auth::CredentialsForExec(old, asks, true);
}

bool MayRead(const Task& task, const vfs::File& file) {
  vfs::Inode* inode = file.inode();
  return inode == nullptr || inode->CheckPermission(task.creds(), vfs::kMayRead).has_value();
}

}  // namespace skep::kernel
