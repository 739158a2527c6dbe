// Credentials, capabilities, resource limits and usage.
#include <linux/capability.h>
#include <sys/resource.h>
#include <algorithm>

#include "base/limits.h"
#include "sentry/kernel/cpu_time.h"
#include "sentry/kernel/cpu_timer.h"
#include "sentry/kernel/kernel.h"
#include "sentry/kernel/posix_timer.h"
#include "sentry/syscalls/abi.h"
#include "sentry/syscalls/families.h"
#include "sentry/syscalls/util.h"

namespace skep::syscalls {
namespace {

using auth::Credentials;

using auth::kNoId;

Result<uint32_t> GetUid(Task& task) { return task.creds().ShownUser(task.creds().uid); }
Result<uint32_t> GetEuid(Task& task) { return task.creds().ShownUser(task.creds().euid); }
Result<uint32_t> GetGid(Task& task) { return task.creds().ShownGroup(task.creds().gid); }
Result<uint32_t> GetEgid(Task& task) { return task.creds().ShownGroup(task.creds().egid); }

// An id that a guest names, or kNoId for "as it is"; EINVAL: its user namespace does not map it.
Result<uint32_t> UserOrKeep(const Credentials& creds, uint32_t id) {
  const uint32_t user = id == kNoId ? kNoId : creds.KernelUser(id);
  if (user == kNoId && id != kNoId) return Fail(EINVAL);
  return user;
}
Result<uint32_t> GroupOrKeep(const Credentials& creds, uint32_t id) {
  const uint32_t group = id == kNoId ? kNoId : creds.KernelGroup(id);
  if (group == kNoId && id != kNoId) return Fail(EINVAL);
  return group;
}

// Linux: kernel/sys.c, in its order of checks.
Result<void> SetUid(Task& task, uint32_t id) {
  const Credentials& old = task.creds();
  const uint32_t uid = old.KernelUser(id);
  if (uid == kNoId) return Fail(EINVAL);
  Credentials changed = old;
  if (old.HasInOwn(CAP_SETUID)) {
    changed.uid = changed.suid = uid;
  } else if (uid != old.uid && uid != old.suid) {
    return Fail(EPERM);
  }
  changed.euid = changed.fsuid = uid;
  auth::AfterUidChange(old, changed);
  ChangeCredentials(task, [&](Credentials& c) { c = changed; });
  return {};
}

Result<void> SetGid(Task& task, uint32_t id) {
  const Credentials& old = task.creds();
  const uint32_t gid = old.KernelGroup(id);
  if (gid == kNoId) return Fail(EINVAL);
  Credentials changed = old;
  if (old.HasInOwn(CAP_SETGID)) {
    changed.gid = changed.sgid = gid;
  } else if (gid != old.gid && gid != old.sgid) {
    return Fail(EPERM);
  }
  changed.egid = changed.fsgid = gid;
  ChangeCredentials(task, [&](Credentials& c) { c = changed; });
  return {};
}

Result<void> SetReuid(Task& task, uint32_t ruid, uint32_t euid) {
  const Credentials& old = task.creds();
  ruid = TRY(UserOrKeep(old, ruid));
  euid = TRY(UserOrKeep(old, euid));
  const bool privileged = old.HasInOwn(CAP_SETUID);
  Credentials changed = old;
  if (ruid != kNoId) {
    changed.uid = ruid;
    if (ruid != old.uid && ruid != old.euid && !privileged) return Fail(EPERM);
  }
  if (euid != kNoId) {
    changed.euid = euid;
    if (euid != old.uid && euid != old.euid && euid != old.suid && !privileged) return Fail(EPERM);
  }
  if (ruid != kNoId || (euid != kNoId && euid != old.uid)) changed.suid = changed.euid;
  changed.fsuid = changed.euid;
  auth::AfterUidChange(old, changed);
  ChangeCredentials(task, [&](Credentials& c) { c = changed; });
  return {};
}

Result<void> SetRegid(Task& task, uint32_t rgid, uint32_t egid) {
  const Credentials& old = task.creds();
  rgid = TRY(GroupOrKeep(old, rgid));
  egid = TRY(GroupOrKeep(old, egid));
  const bool privileged = old.HasInOwn(CAP_SETGID);
  Credentials changed = old;
  if (rgid != kNoId) {
    if (rgid != old.gid && rgid != old.egid && !privileged) return Fail(EPERM);
    changed.gid = rgid;
  }
  if (egid != kNoId) {
    if (egid != old.gid && egid != old.egid && egid != old.sgid && !privileged) return Fail(EPERM);
    changed.egid = egid;
  }
  if (rgid != kNoId || (egid != kNoId && egid != old.gid)) changed.sgid = changed.egid;
  changed.fsgid = changed.egid;
  ChangeCredentials(task, [&](Credentials& c) { c = changed; });
  return {};
}

Result<void> SetResuid(Task& task, uint32_t ruid, uint32_t euid, uint32_t suid) {
  const Credentials& old = task.creds();
  ruid = TRY(UserOrKeep(old, ruid));
  euid = TRY(UserOrKeep(old, euid));
  suid = TRY(UserOrKeep(old, suid));
  if (!old.HasInOwn(CAP_SETUID)) {
    for (uint32_t id : {ruid, euid, suid}) {
      if (id != kNoId && id != old.uid && id != old.euid && id != old.suid) return Fail(EPERM);
    }
  }
  Credentials changed = old;
  if (ruid != kNoId) changed.uid = ruid;
  if (euid != kNoId) changed.euid = euid;
  changed.fsuid = changed.euid;
  if (suid != kNoId) changed.suid = suid;
  auth::AfterUidChange(old, changed);
  ChangeCredentials(task, [&](Credentials& c) { c = changed; });
  return {};
}

Result<void> SetResgid(Task& task, uint32_t rgid, uint32_t egid, uint32_t sgid) {
  const Credentials& old = task.creds();
  rgid = TRY(GroupOrKeep(old, rgid));
  egid = TRY(GroupOrKeep(old, egid));
  sgid = TRY(GroupOrKeep(old, sgid));
  if (!old.HasInOwn(CAP_SETGID)) {
    for (uint32_t id : {rgid, egid, sgid}) {
      if (id != kNoId && id != old.gid && id != old.egid && id != old.sgid) return Fail(EPERM);
    }
  }
  Credentials changed = old;
  if (rgid != kNoId) changed.gid = rgid;
  if (egid != kNoId) changed.egid = egid;
  changed.fsgid = changed.egid;
  if (sgid != kNoId) changed.sgid = sgid;
  ChangeCredentials(task, [&](Credentials& c) { c = changed; });
  return {};
}

Result<void> GetResuid(Task& task, UserPtr<uint32_t> r, UserPtr<uint32_t> e, UserPtr<uint32_t> s) {
  const Credentials& c = task.creds();
  TRY(task.mm->CopyOut(r, c.ShownUser(c.uid)));
  TRY(task.mm->CopyOut(e, c.ShownUser(c.euid)));
  return task.mm->CopyOut(s, c.ShownUser(c.suid));
}

Result<void> GetResgid(Task& task, UserPtr<uint32_t> r, UserPtr<uint32_t> e, UserPtr<uint32_t> s) {
  const Credentials& c = task.creds();
  TRY(task.mm->CopyOut(r, c.ShownGroup(c.gid)));
  TRY(task.mm->CopyOut(e, c.ShownGroup(c.egid)));
  return task.mm->CopyOut(s, c.ShownGroup(c.sgid));
}

Result<uint32_t> SetFsuid(Task& task, uint32_t id) {
  const Credentials& old = task.creds();
  const uint32_t uid = old.KernelUser(id);
  const uint32_t before = old.ShownUser(old.fsuid);
  const bool allowed = uid == old.uid || uid == old.euid || uid == old.suid || uid == old.fsuid ||
                       old.HasInOwn(CAP_SETUID);
  if (uid == kNoId || !allowed || uid == old.fsuid) return before;
  Credentials changed = old;
  changed.fsuid = uid;
  auth::AfterFsuidChange(old, changed);
  ChangeCredentials(task, [&](Credentials& c) { c = changed; });
  return before;
}

Result<uint32_t> SetFsgid(Task& task, uint32_t id) {
  const Credentials& old = task.creds();
  const uint32_t gid = old.KernelGroup(id);
  const uint32_t before = old.ShownGroup(old.fsgid);
  const bool allowed = gid == old.gid || gid == old.egid || gid == old.sgid || gid == old.fsgid ||
                       old.HasInOwn(CAP_SETGID);
  if (gid == kNoId || !allowed) return before;
  ChangeCredentials(task, [&](Credentials& c) { c.fsgid = gid; });
  return before;
}

Result<int32_t> GetGroups(Task& task, int32_t size, UserPtr<uint32_t> list) {
  std::vector<uint32_t> groups = task.creds().groups;
  for (uint32_t& group : groups) group = task.creds().ShownGroup(group);
  if (size < 0) return Fail(EINVAL);
  const auto count = static_cast<int32_t>(groups.size());
  if (size == 0) return count;
  if (count > size) return Fail(EINVAL);
  TRY(task.mm->CopyOutArray(list, std::span<const uint32_t>(groups)));
  return count;
}

Result<void> SetGroups(Task& task, int32_t size, UserPtr<const uint32_t> list) {
  constexpr int32_t kGroupsMax = 65536;
  if (!task.creds().HasInOwn(CAP_SETGID)) return Fail(EPERM);
  if (size < 0 || size > kGroupsMax) return Fail(EINVAL);
  std::vector<uint32_t> groups(static_cast<size_t>(size));
  TRY(task.mm->CopyInArray(list, std::span(groups)));
  for (uint32_t& group : groups) {
    group = task.creds().KernelGroup(group);
    if (group == kNoId) return Fail(EINVAL);
  }
  std::sort(groups.begin(), groups.end());
  ChangeCredentials(task, [&](Credentials& c) { c.groups = groups; });
  return {};
}

// How many words of AbiCapData a header version has. EINVAL writes the preferred version back.
Result<size_t> CapWords(Task& task, UserPtr<AbiCapHeader> address, AbiCapHeader& header) {
  header = TRY(task.mm->CopyIn(address));
  switch (header.version) {
    case _LINUX_CAPABILITY_VERSION_1:
      return size_t{1};
    case _LINUX_CAPABILITY_VERSION_2:
    case _LINUX_CAPABILITY_VERSION_3:
      return size_t{2};
    default:
      TRY(task.mm->CopyOut(UserPtr<uint32_t>(address.addr()),
                           uint32_t{_LINUX_CAPABILITY_VERSION_3}));
      return Fail(EINVAL);
  }
}

Result<void> Capget(Task& task, UserPtr<AbiCapHeader> address, UserPtr<AbiCapData> data) {
  AbiCapHeader header{};
  auto words = CapWords(task, address, header);
  if (!words) {
    // Linux: a query for the version alone passes a null data pointer.
    if (data.is_null() && words.error().code() == EINVAL) return {};
    return std::unexpected(words.error());
  }
  if (header.pid < 0) return Fail(EINVAL);
  auth::CredentialsRef creds;
  {
    TasksLock lock(task.kernel);
    Task* target = header.pid == 0 ? &task : task.pid_namespace().FindTask(header.pid);
    if (target == nullptr) return Fail(ESRCH);
    creds = target->credentials.Get();
  }
  if (data.is_null()) return {};
  std::array<AbiCapData, 2> out{};
  for (size_t i = 0; i < 2; ++i) {
    out[i] = {static_cast<uint32_t>(creds->effective >> 32 * i),
              static_cast<uint32_t>(creds->permitted >> 32 * i),
              static_cast<uint32_t>(creds->inheritable >> 32 * i)};
  }
  return task.mm->CopyOutArray(data, std::span<const AbiCapData>(out).first(*words));
}

Result<void> Capset(Task& task, UserPtr<AbiCapHeader> address, UserPtr<const AbiCapData> data) {
  AbiCapHeader header{};
  const size_t words = TRY(CapWords(task, address, header));
  if (header.pid != 0 && header.pid != task.tid) return Fail(EPERM);
  std::array<AbiCapData, 2> in{};
  TRY(task.mm->CopyInArray(data, std::span(in).first(words)));
  const auto join = [&](uint32_t AbiCapData::* field) {
    return (uint64_t{in[1].*field} << 32 | in[0].*field) & auth::kAllCapabilities;
  };
  const uint64_t effective = join(&AbiCapData::effective), permitted = join(&AbiCapData::permitted),
                 inheritable = join(&AbiCapData::inheritable);
  const Credentials& old = task.creds();
  // Linux: cap_capset.
  if (!old.HasInOwn(CAP_SETPCAP) && (inheritable & ~(old.inheritable | old.permitted)) != 0)
    return Fail(EPERM);
  if ((inheritable & ~(old.inheritable | old.bounding)) != 0) return Fail(EPERM);
  if ((permitted & ~old.permitted) != 0 || (effective & ~permitted) != 0) return Fail(EPERM);
  ChangeCredentials(task, [&](Credentials& c) {
    c.effective = effective;
    c.permitted = permitted;
    c.inheritable = inheritable;
    c.ambient &= permitted & inheritable;
  });
  return {};
}

Result<void> Prlimit64(Task& task, int32_t pid, uint32_t resource, UserPtr<const rlimit> limit,
                       UserPtr<rlimit> old) {
  rlimit wanted{};
  if (!limit.is_null()) wanted = TRY(task.mm->CopyIn(limit));
  rlimit before{};
  {
    TasksLock lock(task.kernel);
    Task* target = pid == 0 ? &task : task.pid_namespace().FindTask(pid);
    if (target == nullptr) return Fail(ESRCH);
    const Credentials &mine = task.creds(), &theirs = *target->credentials.Get();
    const bool same = mine.uid == theirs.euid && mine.uid == theirs.suid &&
                      mine.uid == theirs.uid && mine.gid == theirs.egid &&
                      mine.gid == theirs.sgid && mine.gid == theirs.gid;
    if (target != &task && !same && !mine.HasIn(theirs.user_namespace.get(), CAP_SYS_RESOURCE)) {
      return Fail(EPERM);
    }
    if (resource >= RLIM_NLIMITS) return Fail(EINVAL);
    before = target->group->limits.Get(static_cast<int>(resource));
    if (!limit.is_null()) {
      if (wanted.rlim_cur > wanted.rlim_max) return Fail(EINVAL);
      if (resource == RLIMIT_NOFILE && wanted.rlim_max > static_cast<rlim_t>(kMaxFds))
        return Fail(EPERM);
      if (wanted.rlim_max > before.rlim_max && !mine.HasInFirst(CAP_SYS_RESOURCE))
        return Fail(EPERM);
      target->group->limits.Set(static_cast<int>(resource), wanted);
      if (resource == RLIMIT_CPU) kernel::WatchCpuTime(*target->group);
    }
  }
  if (!old.is_null()) TRY(task.mm->CopyOut(old, before));
  return {};
}

Result<void> Getrlimit(Task& task, uint32_t resource, UserPtr<rlimit> out) {
  return Prlimit64(task, 0, resource, UserPtr<const rlimit>(), out);
}

Result<void> Setrlimit(Task& task, uint32_t resource, UserPtr<const rlimit> limit) {
  if (limit.is_null()) return Fail(EFAULT);
  return Prlimit64(task, 0, resource, limit, UserPtr<rlimit>());
}

Result<void> Getrusage(Task& task, int32_t who, UserPtr<rusage> out) {
  if (who != RUSAGE_SELF && who != RUSAGE_CHILDREN && who != RUSAGE_THREAD) return Fail(EINVAL);
  kernel::Usage usage;
  {
    TasksLock lock(task.kernel);
    switch (who) {
      case RUSAGE_CHILDREN:
        usage = task.group->children_usage;
        break;
      case RUSAGE_THREAD:
        usage = kernel::UsageOf(task);
        break;
      default:
        usage = kernel::UsageOf(*task.group);
        break;
    }
  }
  if (who != RUSAGE_CHILDREN) {
    usage.max_rss = std::max(usage.max_rss, task.mm->Stats().resident);
  }
  return task.mm->CopyOut(out, ToRusage(usage));
}

constexpr Row kRows[] = {
    Full<Getrlimit>(SYSCALL(getrlimit)),
    Partial<Getrusage>(SYSCALL(getrusage), "no counts of blocks, messages and signals"),
    Full<GetUid>(SYSCALL(getuid)),
    Full<GetGid>(SYSCALL(getgid)),
    Full<SetUid>(SYSCALL(setuid)),
    Full<SetGid>(SYSCALL(setgid)),
    Full<GetEuid>(SYSCALL(geteuid)),
    Full<GetEgid>(SYSCALL(getegid)),
    Full<SetReuid>(SYSCALL(setreuid)),
    Full<SetRegid>(SYSCALL(setregid)),
    Full<GetGroups>(SYSCALL(getgroups)),
    Full<SetGroups>(SYSCALL(setgroups)),
    Full<SetResuid>(SYSCALL(setresuid)),
    Full<GetResuid>(SYSCALL(getresuid)),
    Full<SetResgid>(SYSCALL(setresgid)),
    Full<GetResgid>(SYSCALL(getresgid)),
    Full<SetFsuid>(SYSCALL(setfsuid)),
    Full<SetFsgid>(SYSCALL(setfsgid)),
    Full<Capget>(SYSCALL(capget)),
    Full<Capset>(SYSCALL(capset)),
    Full<Setrlimit>(SYSCALL(setrlimit)),
    Full<Prlimit64>(SYSCALL(prlimit64)),
};

}  // namespace

constinit const std::span<const Row> kIdsRows = kRows;

}  // namespace skep::syscalls
