// Who starts a sandbox, and which ids its processes get for it.
#pragma once

#include <cstdint>
#include <vector>

#include "base/result.h"
#include "jail/identity.h"
#include "runtime/process.h"

namespace skep::runtime {

struct Caller {
  uint32_t uid = 0, gid = 0;
  std::vector<uint32_t> groups;
  // Root with CAP_SYS_ADMIN in the first user namespace: it may map any id.
  bool privileged = false;
};
Caller WhoCalls();
// Whether this process has the capability (CAP_*) in effect.
bool HasCapability(int capability);

// The ids of a child's user namespace, and who it is in there.
struct ChildIds {
  std::vector<IdMap> uids, gids;
  bool deny_setgroups = false;
  jail::Identity identity;
};
// One user and one group, and nobody else: for a privileged caller's, ones that own nothing on the
// host and that no other sandbox has; else the caller's own.
HostResult<ChildIds> IdsOfItsOwn(const Caller& caller);
// Those of a file tree: as `uids` and `gids` map them, or (for a privileged caller, when they are
// empty) every one for itself. An ordinary caller may map his own only.
ChildIds IdsOfTree(const Caller& caller, const std::vector<IdMap>& uids,
                   const std::vector<IdMap>& gids);
// How the namespace shows an id of ours; 65534 if it has none for it.
uint32_t InsideOf(const std::vector<IdMap>& maps, uint32_t outside);

}  // namespace skep::runtime
