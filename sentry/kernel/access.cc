#include "sentry/kernel/access.h"

#include <linux/capability.h>

namespace skep::kernel {

Result<void> MayAccess(const Task& target, const auth::Credentials& creds, const Task* task,
                       AccessIds ids) {
  if (task != nullptr && task->group.get() == target.group.get()) return {};
  const auth::Credentials& theirs = *target.credentials.Get();
  if (creds.HasIn(theirs.user_namespace.get(), CAP_SYS_PTRACE)) return {};
  const uint32_t uid = ids == AccessIds::kFs ? creds.fsuid : creds.uid;
  const uint32_t gid = ids == AccessIds::kFs ? creds.fsgid : creds.gid;
  const bool same = uid == theirs.uid && uid == theirs.euid && uid == theirs.suid &&
                    gid == theirs.gid && gid == theirs.egid && gid == theirs.sgid;
  if (!same) return Fail(EPERM);
  if (target.mm.Get() && target.mm.Get()->dumpable != mm::Dumpable::kUser) return Fail(EPERM);
  // Linux: cap_ptrace_access_check.
  if (creds.user_namespace != theirs.user_namespace) return Fail(EPERM);
  const uint64_t mine = ids == AccessIds::kFs ? creds.effective : creds.permitted;
  if ((theirs.permitted & ~mine) != 0) return Fail(EPERM);
  return {};
}

Result<void> MaySchedule(const Task& target, const auth::Credentials& creds) {
  const auth::Credentials& theirs = *target.credentials.Get();
  if (creds.HasIn(theirs.user_namespace.get(), CAP_SYS_NICE)) return {};
  if (creds.euid != theirs.uid && creds.euid != theirs.euid) return Fail(EPERM);
  if ((theirs.permitted & ~creds.permitted) != 0) return Fail(EPERM);
  return {};
}

bool MayLowerNice(const Task& target, const auth::Credentials& creds, int nice) {
  return static_cast<uint64_t>(20 - nice) <= target.Limit(RLIMIT_NICE) ||
         creds.HasInFirst(CAP_SYS_NICE);
}

}  // namespace skep::kernel
