#include "runtime/roles.h"

#include <linux/capability.h>
#include <sched.h>

#include "base/check.h"
#include "base/missing_defs.h"

namespace skep::runtime {
namespace {

// Nothing of the host's: no user, mount, process, network, System V object, host name, control
// group or clock offset.
constexpr uint64_t kEveryNamespace = uint64_t{CLONE_NEWUSER} | CLONE_NEWNS | CLONE_NEWPID |
                                     CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS | CLONE_NEWCGROUP |
                                     CLONE_NEWTIME;

constexpr uint64_t Bit(int capability) { return uint64_t{1} << capability; }
// Owners and modes of files are the guest's matter, which the sentry has judged.
constexpr uint64_t kFileCapabilities = Bit(CAP_CHOWN) | Bit(CAP_DAC_OVERRIDE) |
                                       Bit(CAP_DAC_READ_SEARCH) | Bit(CAP_FOWNER) |
                                       Bit(CAP_FSETID) | Bit(CAP_SETFCAP);

constexpr RoleRow kRoles[] = {
    {Role::kSentry, "skep-sentry", "boot", RoleIds::kOwn, kEveryNamespace, 0,
     "an empty read-only tmpfs",
     "the client's end of each gofer's socket, the control socket, the guest's standard files, "
     "logs, "
     "memory files, what the gofer donated",
     "the sandbox ends, and its starter says why"},
    {Role::kGofer, "skep-gofer", "gofer", RoleIds::kTree, kEveryNamespace, kFileCapabilities,
     "an empty read-only tmpfs",
     "its end of the socket, the trees as detached mounts, a private /proc/self/fd, the log",
     "its container ends, without its files; with it a sandbox that has no name"},
    {Role::kStub, "skep-stub", nullptr, RoleIds::kSentrys, 0, 0, "the sentry's",
     "memory files of the sandbox, donated files that are mapped, a socket to the sentry",
     "the guest process in it ends by SIGKILL"},
};

}  // namespace

std::span<const RoleRow> Roles() { return kRoles; }

const RoleRow& RowOf(Role role) {
  for (const RoleRow& row : kRoles) {
    if (row.role == role) return row;
  }
  CHECK(false);
  __builtin_unreachable();
}

std::string NamesOfNamespaces(uint64_t namespaces) {
  struct Name {
    uint64_t bit;
    const char* name;
  };
  constexpr Name kNames[] = {{CLONE_NEWUSER, "user"},     {CLONE_NEWNS, "mnt"},
                             {CLONE_NEWPID, "pid"},       {CLONE_NEWNET, "net"},
                             {CLONE_NEWIPC, "ipc"},       {CLONE_NEWUTS, "uts"},
                             {CLONE_NEWCGROUP, "cgroup"}, {CLONE_NEWTIME, "time"}};
  std::string text;
  for (const Name& name : kNames) {
    if ((namespaces & name.bit) == 0) continue;
    if (!text.empty()) text += ' ';
    text += name.name;
  }
  return text;
}

}  // namespace skep::runtime
