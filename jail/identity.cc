#include "jail/identity.h"

#include <sys/prctl.h>
#include <sys/syscall.h>
#include <csignal>

#include "base/host_call.h"

namespace skep::jail {

HostResult<void> EnterIdentity(const Identity& identity) {
  const auto step = [](const Result<int64_t>& done, const char* what) -> HostResult<void> {
    if (!done)
      return HostFail(std::string("cannot enter its own identity: ") + what, done.error().code());
    return {};
  };
  if (identity.drop_groups) TRY(step(host::Call(SYS_setgroups, 0, nullptr), "setgroups"));
  const int64_t gid = identity.gid;
  const int64_t uid = identity.uid;
  if (gid >= 0) TRY(step(host::Call(SYS_setresgid, gid, gid, gid), "setresgid"));
  if (uid >= 0) TRY(step(host::Call(SYS_setresuid, uid, uid, uid), "setresuid"));
  // A change of ids (Linux: commit_creds) has undone both.
  const int at_parents_death = identity.outlives_parent ? 0 : SIGKILL;
  TRY(step(host::Call(SYS_prctl, PR_SET_PDEATHSIG, at_parents_death, 0, 0, 0), "PR_SET_PDEATHSIG"));
  return step(host::Call(SYS_prctl, PR_SET_DUMPABLE, 1, 0, 0, 0), "PR_SET_DUMPABLE");
}

HostResult<void> StayUndumped() {
  const Result<int64_t> set = host::Call(SYS_prctl, PR_SET_DUMPABLE, 0, 0, 0, 0);
  if (!set) return HostFail("cannot make the process undumpable", set.error().code());
  return {};
}

}  // namespace skep::jail
